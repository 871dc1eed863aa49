"""Margins and calibration against brute force in float64 NumPy and values by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import roc_auc_score

from lawn_optax import metrics
from tests.support import asserts
from tests.support.optional import enable_x64

# Compiled whole: run operation by operation, these tests would take minutes.
multiclass_margin = jax.jit(metrics.multiclass_margin)
calibration_error = jax.jit(metrics.expected_calibration_error, static_argnums=2)


close = functools.partial(asserts.close, rtol=1e-5)


# Margins


def test_binary_margin_by_hand():
    logits = jnp.array([2.0, -1.0, 3.0, 0.0])
    for labels in ([1, 1, 0, 0], [1, 1, -1, -1], [True, True, False, False]):
        close(metrics.binary_margin(logits, jnp.array(labels)), [2, -1, -3, 0])


def test_multiclass_margin_is_brute_force():
    rng = np.random.default_rng(0)
    logits = rng.integers(-3, 4, (40, 5)).astype(np.float32)  # with ties
    labels = rng.integers(0, 5, 40)
    expected = [
        row[y] - max(row[k] for k in range(5) if k != y)
        for row, y in zip(logits, labels, strict=True)
    ]
    close(multiclass_margin(logits, labels), expected)
    close(jax.vmap(multiclass_margin)(logits, labels), expected)
    folded = multiclass_margin(logits.reshape(8, 5, 5), labels.reshape(8, 5))
    close(folded.ravel(), expected)


def test_two_class_margin_is_the_binary_margin_of_the_difference():
    z = jnp.array([0.5, -2.0, 3.0])
    labels = jnp.array([1, 1, 0])
    pair = jnp.stack([jnp.zeros_like(z), z], -1)
    close(multiclass_margin(pair, labels), metrics.binary_margin(z, labels))


def test_margins_of_low_precision_are_float32():
    logits = jnp.array([[300.0, 1.0]], jnp.bfloat16)  # 299 is no bfloat16 number
    margin = multiclass_margin(logits, jnp.array([0]))
    assert margin.dtype == jnp.float32 and margin[0] == 299
    assert metrics.binary_margin(logits[:, 0], jnp.array([1])).dtype == jnp.float32


def test_margin_of_an_unknown_class_or_of_nan_is_nan():
    margins = multiclass_margin(jnp.zeros((3, 4)), jnp.array([-1, 4, 0]))
    np.testing.assert_array_equal(np.isnan(margins), [True, True, False])
    for column in range(3):
        logits = jnp.zeros((1, 3)).at[0, column].set(jnp.nan)
        assert np.isnan(multiclass_margin(logits, jnp.array([1]))).all()


def test_margin_quantiles_are_numpy_quantiles():
    margins = np.random.default_rng(1).normal(size=(7, 9)).astype(np.float32)
    q = np.array([0.0, 0.1, 0.5, 0.99, 1.0])
    close(jax.jit(metrics.margin_quantiles)(margins, q), np.quantile(margins, q))
    median = metrics.margin_quantiles(margins)
    assert median.shape == ()
    close(median, np.median(margins))
    # 1.0 and 1.0078125 are neighbours in bfloat16; the median lies between them.
    low = jnp.array([1.0, 1.0078125], jnp.bfloat16)
    close(metrics.margin_quantiles(low), 1.00390625, rtol=0)
    assert np.isnan(metrics.margin_quantiles(jnp.array([1.0, jnp.nan])))


# Normalized margins


def test_normalized_margin_by_hand():
    margins, norms = jnp.array([6.0, -3.0, 0.0]), jnp.array([2.0, 1.5])
    close(metrics.normalized_margin(margins, norms), [2, -1, 0])
    close(jax.jit(metrics.normalized_margin)(margins, norms), [2, -1, 0])
    per_norms = jax.vmap(metrics.normalized_margin, (None, 0))(
        margins, jnp.array([[2.0, 1.5], [1.0, 2.0]])
    )
    close(per_norms, [[2, -1, 0], [3, -1.5, 0]])


def test_normalized_margin_survives_products_beyond_float32():
    # The product of norms is 10^60, of margin and inverse norms 10^-20 to 10^20.
    close(metrics.normalized_margin(1e38, jnp.full(60, 10.0)), 1e-22, rtol=1e-4)
    norms = jnp.array([1e30, 1e30, 1e-30, 1e-30])
    close(metrics.normalized_margin(3.0, norms), 3.0, rtol=1e-4)


def test_normalized_margin_of_a_homogeneous_net_ignores_the_scale_of_layers():
    rng = np.random.default_rng(2)
    w1, w2 = rng.normal(size=(4, 8)), rng.normal(size=(8, 3))
    x, labels = rng.normal(size=(5, 4)), rng.integers(0, 3, 5)

    def value(w1, w2):
        logits = np.maximum(x @ w1, 0) @ w2
        margins = multiclass_margin(logits, labels)
        norms = jnp.array([np.linalg.norm(w1), np.linalg.norm(w2)])
        return metrics.normalized_margin(margins, norms)

    close(value(w1, w2), value(7 * w1, w2 / 30), rtol=1e-4)


def test_l2_margin_ignores_one_scale_of_all_layers():
    margins, norms = jnp.array([6.0, -3.0, 0.0]), jnp.array([2.0, 1.0, 2.0])
    expected = np.array([6, -3, 0]) / 27  # The norm of all is 3, and there are 3.
    close(metrics.l2_margin(margins, norms), expected)
    # A homogeneous net of 3 layers: its logits grow with the third power.
    close(metrics.l2_margin(1000 * margins, 10 * norms), expected)
    assert metrics.l2_margin(margins, 2 * norms)[0] < expected[0]
    # Among all norms with one product, equal ones give the largest margin.
    equal = jnp.full(3, 4 ** (1 / 3))
    most = metrics.l2_margin(margins, equal)
    close(most, metrics.normalized_margin(margins, equal) / 3**1.5)
    assert metrics.l2_margin(margins, norms)[0] < most[0]
    close(metrics.l2_margin(3.0, jnp.array([1e30, 1e-30])), 0, atol=1e-30)
    infinite = jnp.array([float("inf"), 1.0])
    for norms in (jnp.ones(0), jnp.zeros(2), infinite):  # as the other margin
        assert metrics.l2_margin(3.0, norms) == metrics.normalized_margin(3.0, norms)


def test_scaling_the_weights_leaves_the_error_and_lowers_the_loss():
    # arXiv:2108.05839, section 3: along a radial direction the error stays, and the
    # loss of a network that is right falls from log(number of classes) to 0.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 5))
    layers = rng.normal(size=(5, 8)), rng.normal(size=(8, 3))
    logits = lambda scale: (  # noqa: E731
        np.maximum(x @ (scale * layers[0]), 0) @ (scale * layers[1])
    )
    labels = logits(1.0).argmax(1)
    losses = []
    for scale in (1e-4, 0.1, 0.3, 1.0, 3.0, 30.0):
        assert np.all(np.asarray(multiclass_margin(logits(scale), labels)) > 0)
        loss = optax.softmax_cross_entropy_with_integer_labels(
            jnp.asarray(logits(scale)), jnp.asarray(labels)
        )
        losses.append(float(loss.mean()))
    assert losses[0] == pytest.approx(np.log(3), rel=1e-5)
    assert np.all(np.diff(losses) < 0)
    assert losses[-1] < 0.03


def test_smoothed_normalized_margin_inverts_the_logistic_loss():
    # Margins from -50 to 80: losses from 50 down to 2e-35.
    margins = np.array([-50.0, -3.0, -0.1, 0.1, 1.0, 3.0, 20.0, 80.0])
    loss = np.logaddexp(0, -margins).astype(np.float32)
    for smoothed in (
        metrics.smoothed_normalized_margin,
        jax.jit(metrics.smoothed_normalized_margin),
    ):
        close(smoothed(loss, jnp.array([2.0, 0.5])), margins, rtol=2e-6, atol=2e-6)
        close(smoothed(loss, jnp.array([2.0, 4.0])), margins / 8, rtol=1e-5, atol=1e-6)


def test_smoothed_normalized_margin_at_the_ends():
    one = jnp.ones(1)
    assert metrics.smoothed_normalized_margin(0.0, one) == np.inf
    close(metrics.smoothed_normalized_margin(1e4, one), -1e4)
    assert np.isnan(metrics.smoothed_normalized_margin(-0.1, one))


def test_summed_loss_bounds_the_smallest_margin():
    margins = np.array([1.5, 2.0, 4.0])
    loss = np.logaddexp(0, -margins).sum()
    bound = float(metrics.smoothed_normalized_margin(loss, jnp.ones(1)))
    assert 0.5 < bound < 1.5


# Calibration


def brute_force_ece(confidence, correct, num_bins):
    """Guo et al. 2017, with bins ((m-1)/M, m/M] whose edges are float32."""
    edges = (np.arange(num_bins + 1) / num_bins).astype(np.float32)
    error = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = correct[inside].mean() - confidence[inside].astype(np.float64).mean()
            error += inside.mean() * abs(gap)
    return error


@pytest.mark.parametrize("num_bins", [1, 2, 10, 15])
def test_ece_is_brute_force(num_bins):
    rng = np.random.default_rng(3)
    logits = (2 * rng.normal(size=(500, 4))).astype(np.float32)
    labels = np.where(rng.random(500) < 0.4, logits.argmax(-1), rng.integers(0, 4, 500))
    p = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
    correct = p.argmax(-1) == labels
    expected = brute_force_ece(p.max(-1), correct, num_bins)
    ours = calibration_error(logits, labels, num_bins)
    assert ours.shape == ()
    close(ours, expected, rtol=1e-4)
    folded = calibration_error(
        logits.reshape(5, 100, 4), labels.reshape(5, 100), num_bins
    )
    close(folded, expected, rtol=1e-4)


def test_ece_by_hand_and_under_vmap():
    # All say 0.75; three of four are right, then one of four.
    p = jnp.tile(jnp.array([0.75, 0.25]), (4, 1))
    labels = jnp.array([[0, 0, 0, 1], [0, 1, 1, 1]])
    ece = jax.vmap(calibration_error, (None, 0))(jnp.log(p), labels)
    close(ece, [0, 0.5], atol=1e-6)


def test_ece_puts_an_edge_into_the_bin_below():
    # Binary logit 0 is a confidence of exactly 1/2. With two bins the lower one holds
    # it: |0 - 0.5| / 2 there and |1 - c| / 2 above; in one bin they would mix.
    c = float(jax.nn.sigmoid(1.0))
    logits, labels = jnp.array([0.0, 1.0]), jnp.array([1, 1])
    two = calibration_error(logits, labels, 2)
    close(two, (0.5 + (1 - c)) / 2)
    one = calibration_error(logits, labels, 1)
    close(one, abs(0.5 - (c + 0.5) / 2))


def test_binary_ece_is_that_of_the_pair_of_logits():
    rng = np.random.default_rng(4)
    z = (3 * rng.normal(size=300)).astype(np.float32)
    labels = rng.integers(0, 2, 300)
    pair = np.stack([np.zeros_like(z), z], -1)
    binary = calibration_error(z, labels)
    close(binary, calibration_error(pair, labels), rtol=1e-4)
    assert binary > 0.1


def test_ece_shows_nan():
    logits = jnp.zeros((3, 2)).at[1, 0].set(jnp.nan)
    labels = jnp.zeros(3, int)
    assert np.isnan(calibration_error(logits, labels))
    assert np.isnan(calibration_error(logits[:, 0], labels))


# All


def every_metric(scores, labels):
    return (
        metrics.binary_margin(scores[:, 0], labels),
        metrics.multiclass_margin(scores, labels),
        metrics.margin_quantiles(scores, 0.5),
        metrics.normalized_margin(scores[:, 0], jnp.abs(scores[0])),
        metrics.smoothed_normalized_margin(jnp.abs(scores[:, 0]), jnp.abs(scores[0])),
        metrics.expected_calibration_error(scores, labels),
        metrics.hit_ratio(scores, 2),
        metrics.ndcg(scores, 2),
        metrics.auc(scores[:, 0], labels),
    )


def random_scores():
    rng = np.random.default_rng(9)
    return rng.normal(size=(3000, 3)), rng.integers(0, 2, 3000)


def test_float64_scores_give_float64_metrics():
    with enable_x64(True):
        scores, labels = random_scores()
        values = jax.jit(every_metric)(scores, labels)
        assert all(value.dtype == jnp.float64 for value in values)
        close(values[-1], roc_auc_score(labels, scores[:, 0]), rtol=1e-14)
        rank = (scores[:, 1:] > scores[:, :1]).sum(-1)
        close(values[-2], np.where(rank < 2, 1 / np.log2(rank + 2), 0), rtol=1e-14)
        h = -np.log(np.expm1(np.abs(scores[:, 0])))
        close(values[4], h / np.abs(scores[0]).prod(), rtol=1e-12, atol=1e-14)


def test_low_precision_scores_give_float32_metrics():
    scores, labels = random_scores()
    scores = jnp.asarray(scores, jnp.bfloat16)
    low = jax.jit(every_metric)(scores, labels)
    wide = jax.jit(every_metric)(scores.astype(jnp.float32), labels)
    for value, expected in zip(low, wide, strict=True):
        assert value.dtype == jnp.float32
        close(value, expected, rtol=1e-6)


def test_bad_arguments_are_refused():
    logits, labels = jnp.zeros((3, 4)), jnp.zeros(3, int)
    with pytest.raises(ValueError, match=r"got \(3, 4\) and \(3,\)"):
        metrics.binary_margin(logits, labels)
    with pytest.raises(ValueError, match=r"got logits \(3, 4\) and labels \(4,\)"):
        multiclass_margin(logits, jnp.zeros(4, int))
    with pytest.raises(TypeError, match="integer classes; got float"):
        multiclass_margin(logits, jnp.zeros(3))
    with pytest.raises(ValueError, match="one class axis more"):
        calibration_error(logits, jnp.zeros(4, int))
    with pytest.raises(ValueError, match="`num_bins`.*got 0"):
        calibration_error(logits, labels, 0)
