"""Hit ratio, NDCG and AUC against brute force, scikit-learn and values by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lawn_optax import metrics
from tests.support import asserts

# Compiled whole: run operation by operation, these tests would take minutes.
hit_ratio = jax.jit(metrics.hit_ratio, static_argnames="k")
ndcg = jax.jit(metrics.ndcg, static_argnames="k")
auc = jax.jit(metrics.auc)


close = functools.partial(asserts.close, rtol=1e-5)


def brute_force_ranking(scores, target, k):
    """Mean hit and gain over every order of equal scores: 1 and 1/log2(rank + 2)."""
    hits, gains = [], []
    for noise in itertools.permutations(range(len(scores))):
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], noise[i]))
        rank = order.index(target)
        hits.append(rank < k)
        gains.append(1 / np.log2(rank + 2) if rank < k else 0)
    return np.mean(hits), np.mean(gains)


@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_hit_ratio_and_ndcg_are_brute_force_over_orders_of_ties(k):
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 3, (20, 5)).astype(np.float32)
    target = rng.integers(0, 5, 20)
    both = [
        brute_force_ranking(row, i, k) for row, i in zip(scores, target, strict=True)
    ]
    for metric, expected in zip(
        (hit_ratio, ndcg), zip(*both, strict=True), strict=True
    ):
        close(metric(scores, k, target=target), expected)
        if k == 2:
            rows = jax.vmap(lambda s, t, metric=metric: metric(s, 2, target=t))
            close(rows(scores, jnp.asarray(target)), expected)
            folded = metric(scores.reshape(4, 5, 5), k, target=target.reshape(4, 5))
            close(folded.ravel(), expected)


def test_ranking_by_hand():
    scores = jnp.array([[5.0, 1, 2, 3], [2.5, 1, 2, 3], [0.0, 1, 2, 3]])
    close(hit_ratio(scores, 2), [1, 1, 0])
    close(ndcg(scores, 2), [1, 1 / np.log2(3), 0])
    close(hit_ratio(scores[0], 2), 1)


def test_dead_model_gets_chance():
    scores = jnp.full((3, 100), 0.25)
    close(hit_ratio(scores, 10), np.full(3, 0.1))
    gain = sum(1 / np.log2(rank + 2) for rank in range(10)) / 100
    close(ndcg(scores, 10), np.full(3, gain))


def test_mask_removes_candidates():
    rng = np.random.default_rng(6)
    scores = rng.integers(0, 3, (30, 6)).astype(np.float32)
    mask = rng.random((30, 6)) < 0.6
    mask[:, 0] = True
    both = [brute_force_ranking(s[m], 0, 2) for s, m in zip(scores, mask, strict=True)]
    for metric, expected in zip(
        (hit_ratio, ndcg), zip(*both, strict=True), strict=True
    ):
        close(metric(scores, 2, mask=mask), expected)
        # What stands in a masked place must not matter.
        close(metric(np.where(mask, scores, np.nan), 2, mask=mask), expected)
    one_mask = np.array([True, True, False, False, False, False])
    alone = hit_ratio(scores, 1, mask=one_mask)
    close(alone, hit_ratio(scores[:, :2], 1))


@pytest.mark.parametrize("metric", [hit_ratio, ndcg])
def test_nan_scores_never_help(metric):
    nan = jnp.nan
    scores = jnp.array([[nan, 1, 2], [nan, nan, nan], [5, nan, nan], [5, nan, 1]])
    close(metric(scores, 2), [0, 0, 0, metric(jnp.array([5.0, 9, 1]), 2)])
    close(metric(scores, 3)[:2], [0, 0])  # though fewer than 3 can rank above it
    # A positive at infinity is a score like any other.
    assert metric(jnp.array([jnp.inf, 1, 2]), 1) == 1
    assert metric(jnp.array([-jnp.inf, -jnp.inf]), 1) == 0.5


def test_row_without_its_positive_is_nan():
    scores = jnp.zeros((3, 4))
    mask = jnp.ones((3, 4), bool).at[1, 0].set(False)
    hits = hit_ratio(scores, 2, mask=mask)
    np.testing.assert_array_equal(np.isnan(hits), [False, True, False])
    hits = hit_ratio(scores, 2, target=jnp.array([0, 4, -1]))
    np.testing.assert_array_equal(np.isnan(hits), [False, True, True])


# AUC


@pytest.mark.parametrize("levels", [2, 10, 10_000])
def test_auc_is_that_of_sklearn_and_of_all_pairs(levels):
    rng = np.random.default_rng(7)
    scores = (rng.integers(0, levels, 400) / 4).astype(np.float32)
    labels = (rng.random(400) < 0.3).astype(int)
    difference = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    pairs = ((difference > 0) + 0.5 * (difference == 0)).mean()
    close(roc_auc_score(labels, scores), pairs, rtol=1e-12)
    close(auc(scores, labels), pairs)
    close(auc(scores, 2 * labels - 1), pairs)
    close(auc(-scores, labels), 1 - pairs)
    if levels == 10:
        close(auc(scores.reshape(20, 20), labels.reshape(20, 20)), pairs)


def test_auc_by_hand_and_under_vmap():
    labels = jnp.array([0, 0, 1, 1])
    scores = jnp.array([[1.0, 2, 3, 4], [4, 3, 2, 1], [1, 1, 1, 1], [1, 3, 2, 3]])
    expected = [1, 0, 0.5, 0.625]
    close(jax.vmap(auc, (0, None))(scores, labels), expected)
    assert auc(jnp.array([0.0, -0.0]), jnp.array([0, 1])) == 0.5


def test_auc_is_accurate_with_few_negatives_among_many():
    # Rank sums of 2e10 would lose the 20 negatives in float32.
    rng = np.random.default_rng(8)
    scores = rng.normal(size=200_000).astype(np.float32)
    labels = np.ones(200_000, int)
    labels[:20] = 0
    ours = auc(scores, labels)
    close(ours, roc_auc_score(labels, scores), rtol=1e-5)


def test_auc_without_order_is_nan():
    scores = jnp.array([0.1, 0.2, 0.3])
    assert np.isnan(auc(scores, jnp.ones(3, int)))
    assert np.isnan(auc(scores, jnp.zeros(3, int)))
    labels = jnp.array([0, 1, 1])
    for place in range(3):
        assert np.isnan(auc(scores.at[place].set(jnp.nan), labels))
    infinite = jnp.array([-jnp.inf, 0.0, jnp.inf])
    assert auc(infinite, labels) == 1


def test_bad_arguments_are_refused():
    scores = jnp.zeros((3, 4))
    with pytest.raises(ValueError, match="`k`.*got 0"):
        hit_ratio(scores, 0)
    with pytest.raises(ValueError, match="`k`.*got -1"):
        ndcg(scores, -1)
    with pytest.raises(ValueError, match="`scores` and `labels`.*same shape"):
        auc(scores, jnp.zeros(3, int))
