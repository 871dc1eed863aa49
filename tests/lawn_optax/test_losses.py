"""Losses against float64 formulas written out, and at the ends of the number range."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lawn_optax import losses, metrics
from tests.support import asserts
from tests.support.optional import enable_x64

focal_loss = jax.jit(losses.focal_loss)
exponential_loss = jax.jit(losses.exponential_loss)
BINARY_LABELS = np.array([0, 1, 1, 0, 1, 0, 1])


def random_problem(rows=7, classes=5, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(rows, classes))).astype(np.float32)
    return logits, rng.integers(0, classes, rows)


def softmax64(logits):
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


close = functools.partial(asserts.close, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_is_its_formula(gamma):
    logits, labels = random_problem()
    p = softmax64(logits)[np.arange(7), labels]
    expected = -((1 - p) ** gamma) * np.log(p)
    ours = focal_loss(logits, labels, gamma)
    assert ours.shape == (7,)
    close(ours, expected)
    close(losses.focal_loss(logits, labels, gamma), expected)
    close(jax.vmap(losses.focal_loss, (0, 0, None))(logits, labels, gamma), expected)


def test_focal_agrees_with_optax():
    logits, labels = random_problem()
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
        jnp.asarray(logits), jnp.asarray(labels)
    )
    close(losses.focal_loss(logits, labels, 0), cross_entropy)
    # For two classes, it is Optax's binary focal loss of the logits' difference.
    z = jnp.asarray(logits[:, 0])
    two = jnp.stack([jnp.zeros_like(z), z], -1)
    binary = optax.sigmoid_focal_loss(z, jnp.asarray(BINARY_LABELS), gamma=2.0)
    close(losses.focal_loss(two, BINARY_LABELS, 2.0), binary)


def test_focal_keeps_the_tiny_losses_of_confident_examples():
    # -log p is 2e-11 here; computed as logsumexp - logit it would be 0 in float32.
    loss = losses.focal_loss(jnp.array([25.0, 0.0, 0.0]), jnp.array(0), 0.0)
    close(loss, np.log1p(2 * np.exp(-25.0)))


extreme_focal_loss = jax.jit(
    jax.vmap(jax.value_and_grad(losses.focal_loss), (0, 0, None))
)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_gradient_is_finite_and_right_at_extreme_logits(gamma):
    logits = jnp.array([[1e4, 0, -1e4], [1e4, 0, -1e4], [0, 0, 0], [1e4, 1e4, -1e4]])
    labels = jnp.array([0, 2, 1, 0])
    loss, grads = extreme_focal_loss(logits, labels, gamma)
    # Rows: right beyond doubt, wrong beyond doubt, undecided, tied at the top.
    undecided = (2 / 3) ** gamma * np.log(3)
    close(loss, [0, 2e4, undecided, 0.5**gamma * np.log(2)])
    close(grads[:2], [[0, 0, 0], [1, 0, -1]], atol=1e-30)
    assert np.isfinite(grads).all()
    close(grads.sum(-1), np.zeros(4), atol=1e-6)


def test_focal_gradient_is_that_of_float64_differences():
    logits, labels = random_problem(scale=1.0)
    grads = jax.grad(lambda z: focal_loss(z, labels, 2.0).sum())(logits)
    z = logits.astype(np.float64)

    def loss(z):
        p = softmax64(z)[np.arange(7), labels]
        return (-((1 - p) ** 2) * np.log(p)).sum()

    h = 1e-6
    for i, k in np.ndindex(*z.shape):
        step = np.zeros_like(z)
        step[i, k] = h
        slope = (loss(z + step) - loss(z - step)) / (2 * h)
        close(grads[i, k], slope, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_low_precision_logits_give_float32_losses(dtype):
    logits, labels = random_problem()
    low = jnp.asarray(logits, dtype)
    wide = low.astype(jnp.float32)
    signs = BINARY_LABELS
    for loss in (focal_loss, exponential_loss):
        assert loss(low, labels).dtype == jnp.float32
        close(loss(low, labels), loss(wide, labels), rtol=0)
        gradient = jax.grad(lambda z, loss=loss: loss(z, labels).mean())(low)
        assert gradient.dtype == dtype and np.isfinite(gradient).all()
    binary = losses.binary_exponential_loss(low[:, 0], signs)
    assert binary.dtype == jnp.float32
    close(binary, losses.binary_exponential_loss(wide[:, 0], signs), rtol=0)
    assert losses.smooth_labels(jnp.eye(3, dtype=dtype), 0.1).dtype == jnp.float32


def test_float64_logits_give_float64_losses():
    with enable_x64(True):
        logits, labels = random_problem()
        z = logits.astype(np.float64)
        p = softmax64(z)[np.arange(7), labels]
        focal = losses.focal_loss(z, labels, 2.0)
        assert focal.dtype == jnp.float64
        close(focal, -((1 - p) ** 2) * np.log(p), rtol=1e-13)
        close(losses.exponential_loss(z, labels), 1 / p - 1, rtol=1e-13)


def test_exponential_is_its_formula():
    logits, labels = random_problem()
    z = logits.astype(np.float64)
    expected = [
        sum(np.exp(-(row[y] - row[k])) for k in range(5) if k != y)
        for row, y in zip(z, labels, strict=True)
    ]
    close(losses.exponential_loss(logits, labels), expected)
    close(exponential_loss(logits, labels), expected)
    close(jax.vmap(exponential_loss)(logits, labels), expected)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
        jnp.asarray(logits), jnp.asarray(labels)
    )
    close(losses.exponential_loss(logits, labels), np.expm1(cross_entropy), rtol=1e-4)


def test_exponential_ignores_a_common_shift():
    logits = jnp.array([3.0, 1.0, 0.0])
    for shift in (0.0, 1e4, -1e4):
        loss = losses.exponential_loss(logits + shift, jnp.array(0))
        close(loss, np.exp(-2) + np.exp(-3))


def test_exponential_gradient_is_its_formula_and_never_nan():
    logits, labels = jnp.array([3.0, 1.0, 0.0]), jnp.array(0)
    grads = jax.grad(losses.exponential_loss)(logits, labels)
    close(grads, [-np.exp(-2) - np.exp(-3), np.exp(-2), np.exp(-3)])
    for row in ([1e4, 0, -1e4], [-1e4, 0, 1e4], [-1e4, 1e4, -1e4]):
        loss, grads = jax.value_and_grad(exponential_loss)(jnp.array(row), labels)
        assert not np.isnan(loss) and not np.isnan(grads).any()
    assert loss == np.inf and grads[0] == -np.inf and grads[1] == np.inf


def test_binary_exponential_by_hand():
    logits = jnp.array([2.0, 2.0, -1.0, 0.0])
    expected = np.exp([-2.0, 2.0, -1.0, 0.0])
    close(losses.binary_exponential_loss(logits, jnp.array([1, 0, 0, 1])), expected)
    close(losses.binary_exponential_loss(logits, jnp.array([1, -1, -1, 1])), expected)
    labels = jnp.array([True, False, False, True])
    close(losses.binary_exponential_loss(logits, labels), expected)
    close(expected, np.exp(-np.asarray(metrics.binary_margin(logits, labels))))
    slope = jax.grad(losses.binary_exponential_loss)(jnp.array(2.0), jnp.array(1))
    close(slope, -np.exp(-2))


def test_smooth_labels_by_hand():
    smooth = losses.smooth_labels(jax.nn.one_hot(jnp.array([1, 4]), 5), 0.1)
    rest = 0.1 / 4
    close(smooth, [[rest, 0.9, rest, rest, rest], [rest, rest, rest, rest, 0.9]])
    close(losses.smooth_binary_labels(jnp.array([1, 0]), 0.05), [0.95, 0.05])


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_smooth_labels_maps_to_optax(classes):
    labels = jax.nn.one_hot(jnp.arange(classes), classes)
    epsilon = 0.05
    ours = losses.smooth_labels(labels, epsilon)
    close(ours, optax.smooth_labels(labels, epsilon * classes / (classes - 1)))
    close(ours.sum(-1), np.ones(classes))
    close(np.diag(ours), np.full(classes, 0.95))


def test_binary_smoothing_is_two_class_smoothing():
    labels = jnp.array([0, 1, 1])
    two = losses.smooth_labels(jax.nn.one_hot(labels, 2), 0.2)
    close(losses.smooth_binary_labels(labels, 0.2), two[:, 1])
    # And the losses built on them agree: a logit z is the pair (0, z).
    z = jnp.array([0.3, -2.0, 4.0])
    pair = jnp.stack([jnp.zeros_like(z), z], -1)
    binary = optax.sigmoid_binary_cross_entropy(
        z, losses.smooth_binary_labels(labels, 0.2)
    )
    close(optax.softmax_cross_entropy(pair, two), binary)


def test_smoothing_puts_the_minimum_at_finite_logits():
    # The optimal gap between the target and another is log((1 - eps)(K - 1) / eps).
    epsilon, classes = 0.05, 4
    gap = np.log((1 - epsilon) * (classes - 1) / epsilon)
    labels = losses.smooth_labels(jax.nn.one_hot(0, classes), epsilon)
    at_minimum = jnp.zeros(classes).at[0].set(gap)
    close(jax.grad(optax.softmax_cross_entropy)(at_minimum, labels), 0, atol=1e-6)


def test_smoothing_strength_may_be_traced():
    labels = jax.nn.one_hot(jnp.array([1, 2]), 3)
    swept = jax.vmap(losses.smooth_labels, (None, 0))(labels, jnp.array([0.0, 0.2]))
    close(swept[0], labels)
    close(swept[1], losses.smooth_labels(labels, 0.2))


def test_flood_by_hand():
    # At and above the level the loss itself, below it the mirror image.
    for loss, flooded in [(0.5, 0.5), (0.25, 0.25), (0.125, 0.375), (0.0, 0.5)]:
        assert losses.flood(jnp.array(loss), 0.25) == flooded
        assert flooded == abs(loss - 0.25) + 0.25
    assert np.isnan(losses.flood(jnp.array(np.nan), 0.25))
    value = jnp.array(0.3)
    assert losses.flood(value, 0.1) == value  # to the bit


def test_flood_turns_the_gradient_below_the_level():
    def loss(w, level):
        return losses.flood(jnp.mean(w**2), level)

    w = jnp.array([1.0, 0.0])
    slope = jax.grad(loss)
    np.testing.assert_array_equal(slope(w, 0.25), [1, 0])
    np.testing.assert_array_equal(jax.jit(slope)(w, 0.75), [-1, 0])
    np.testing.assert_array_equal(slope(w, 0.5), [1, 0])
    levels = jax.vmap(slope, (None, 0))(w, jnp.array([0.25, 0.75]))
    np.testing.assert_array_equal(levels, [[1, 0], [-1, 0]])


def test_labels_outside_the_classes_give_nan():
    logits = jnp.zeros((3, 4))
    labels = jnp.array([-1, 4, 3])
    for loss in (focal_loss, exponential_loss):
        np.testing.assert_array_equal(
            np.isnan(loss(logits, labels)), [True, True, False]
        )


def test_bad_arguments_are_refused_with_a_remedy():
    logits = jnp.zeros((3, 4))
    labels = jnp.zeros(3, int)
    for loss in (losses.focal_loss, losses.exponential_loss):
        with pytest.raises(ValueError, match=r"got logits \(3, 4\) and labels \(4,\)"):
            loss(logits, jnp.zeros(4, int))
        with pytest.raises(ValueError, match="at least 2 classes"):
            loss(jnp.zeros((3, 1)), labels)
        with pytest.raises(TypeError, match="argmax"):
            loss(logits, jnp.zeros(3))
    with pytest.raises(ValueError, match=r"`gamma`.*got -1"):
        losses.focal_loss(logits, labels, -1)
    with pytest.raises(ValueError, match=r"`gamma`.*got nan"):
        losses.focal_loss(logits, labels, float("nan"))
    with pytest.raises(ValueError, match="same shape"):
        losses.binary_exponential_loss(logits, labels)
    for epsilon in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`epsilon`.*0 to 1"):
            losses.smooth_labels(logits, epsilon)
        with pytest.raises(ValueError, match="`epsilon`.*0 to 1"):
            losses.smooth_binary_labels(labels, epsilon)
    with pytest.raises(ValueError, match="smooth_binary_labels"):
        losses.smooth_labels(jnp.zeros((3, 1)), 0.1)
    with pytest.raises(ValueError, match=r"shape \(3,\).*Take the mean"):
        losses.flood(jnp.zeros(3), 0.1)
    for level in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="`level`"):
            losses.flood(jnp.zeros(()), level)
