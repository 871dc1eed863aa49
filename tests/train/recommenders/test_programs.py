"""Epochs and evaluation of a recommender, against NumPy."""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import losses
from tests.support import tiny_recommenders as tiny
from tests.support.asserts import close
from train.devices import Devices
from train.recommenders import programs as recommender
from train.recommenders import sampling
from train.shuffle import make_shuffle

RATE = 0.5


class Seen(NamedTuple):
    count: jax.Array
    watched: jax.Array  # float[steps]


def recorder(steps=40, blow_up_at=-1):
    """Gradient descent that keeps the margins it is shown."""

    def init(params):
        return Seen(jnp.int32(0), jnp.zeros(steps))

    def update(grads, state, params=None, switch_value=jnp.nan):
        updates = jax.tree.map(
            lambda g: jnp.where(state.count == blow_up_at, jnp.inf, -RATE * g), grads
        )
        watched = state.watched.at[state.count].set(switch_value)
        return updates, Seen(state.count + 1, watched)

    return optax.GradientTransformationExtraArgs(init, update)


def bce(logits, labels, smoothing=0.0):
    targets = losses.smooth_binary_labels(labels.astype(logits.dtype), smoothing)
    return optax.sigmoid_binary_cross_entropy(logits, targets)


def focal(logits, labels):
    return optax.sigmoid_focal_loss(logits, labels.astype(logits.dtype), gamma=2.0)


# Value and slope of each sample's loss, in NumPy.
def bce_numpy(z, labels, smoothing=0.0):
    targets = np.where(labels, 1 - smoothing, smoothing)
    return np.logaddexp(0, z) - targets * z, 1 / (1 + np.exp(-z)) - targets


def focal_numpy(z, labels):
    s = np.where(labels, z, -z)
    p = 1 / (1 + np.exp(-s))
    slope = 2 * p * (1 - p) ** 2 * np.log(p) - (1 - p) ** 3
    return -((1 - p) ** 2) * np.log(p), np.where(labels, slope, -slope)


def sgd_numpy(params, grads):
    return jax.tree.map(lambda w, g: w - RATE * g, params, grads)


def epoch_numpy(task, params, data, epoch, loss, flood=None, scale=lambda step: 1.0):
    """The parameters, each step's loss weighted by its samples, and its margins."""
    total, signs, margins = 0.0, [], []
    for i, (users, items, labels) in enumerate(tiny.batches(task, data, epoch)):
        factor = scale(epoch * task.steps_per_epoch + i)
        z = factor * tiny.logits(params, users, items)
        values, slopes = loss(z, labels)
        sign = -1.0 if flood is not None and values.mean() < flood else 1.0
        slopes = sign * factor * slopes / len(users)
        params = sgd_numpy(params, tiny.gradient(params, users, items, slopes))
        total += values.sum() / task.epoch_size
        signs.append(sign)
        margins.append(np.where(labels, z, -z))
    return params, total, signs, margins


CASES = {  # Losses in JAX and NumPy, options of the task; 72 users and items.
    "one part": (bce, bce_numpy, {"watch": "mean-margin"}),
    "parts, focal, flood": (
        *(focal, focal_numpy),
        {"parts": 3, "flood": 0.139, "watch": "median-margin"},
    ),
    "small batch": (
        partial(bce, smoothing=0.1),
        partial(bce_numpy, smoothing=0.1),
        {"batch_size": 64, "watch": "median-margin"},
    ),
    "small batch, parts": (bce, bce_numpy, {"batch_size": 64, "parts": 3}),
    "one batch": (bce, bce_numpy, {"batch_size": 600, "parts": 7}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_epoch_equals_numpy(case, x64):
    loss, in_numpy, options = CASES[case]
    task = tiny.make_task(recorder(), loss, **options)
    data = tiny.device_data(tiny.interactions())
    state = tiny.start(task)
    params, expected, signs, margins = epoch_numpy(
        task, state.params, data, 2, in_numpy, task.flood
    )
    advance = jax.jit(partial(recommender.advance, task))
    state, loss = advance(state, tiny.TRIAL, data, np.int32(2), np.int32(3))
    if task.flood:  # Both sides of the flood level occur.
        assert len(set(signs)) == 2
    close(loss, expected, 1e-7)  # Weighted in float32.
    jax.tree.map(lambda a, b: close(a, b, 1e-9, 1e-12), state.params, params)
    assert state.diverged_step == -1
    seen = state.opt_state.watched[: len(margins)]
    if task.watch:
        middle = {"mean-margin": np.mean, "median-margin": np.median}[task.watch]
        close(seen, [middle(x) for x in margins], 1e-9)
    else:
        assert np.isnan(seen).all()


@pytest.mark.slow
def test_alpha_multiplies_the_logits_from_the_switch_on(x64):
    tx = lawn.wrap(optax.sgd(RATE), switch_step=2)
    task = tiny.make_task(tx, bce, alpha=0.5)
    data = tiny.device_data(tiny.interactions())
    first = tiny.start(task)
    advance = jax.jit(partial(recommender.advance, task))
    state, loss = advance(first, tiny.TRIAL, data, np.int32(0), np.int32(1))
    opt_state, update = first.opt_state, jax.jit(tx.update)
    params, expected = first.params, 0.0
    for i, (users, items, labels) in enumerate(tiny.batches(task, data, 0)):
        scale = (1, 1, 0.5)[i]
        z = scale * tiny.logits(params, users, items)
        values, slopes = bce_numpy(z, labels)
        grads = tiny.gradient(params, users, items, scale * slopes / len(users))
        updates, opt_state = update(grads, opt_state, params)
        params = jax.tree.map(np.asarray, optax.apply_updates(params, updates))
        expected += values.sum() / task.epoch_size
    close(loss, expected, 1e-7)  # Weighted in float32.
    jax.tree.map(lambda a, b: close(a, b, 1e-9, 1e-12), state.params, params)
    for some, scale in ((first, 1), (state, 0.5)):
        values, _ = evaluation(task)(some, tiny.TRIAL, data)
        close(values["logit_scale"], scale, 0)
    users, items, labels = margin_samples(task, data)
    z = tiny.logits(params, users, items)
    median = np.median(np.where(labels, z, -z))
    close(values["margin_p50"], 0.5 * median, 1e-6)
    items = np.asarray(data.candidates[0, :, 0])
    median = np.median(tiny.logits(params, np.arange(tiny.USERS), items))
    close(values["test_margin_p50"], 0.5 * median, 1e-6)


@pytest.fixture(scope="module")
def single():
    """A program for any epochs, in float32."""
    task = tiny.make_task(recorder(), bce)
    devices = Devices(limit=1)
    advance = devices.compile(partial(recommender.advance, task))
    state, trial, data = devices.replicate(
        (tiny.start(task), tiny.TRIAL, tiny.device_data(tiny.interactions()))
    )

    def run(state, first, last):
        first, last = devices.replicate((np.int32(first), np.int32(last)))
        return advance(state, trial, data, first, last)

    return state, run, advance


@pytest.mark.slow
def test_epochs_in_one_call_or_in_several_give_the_same_bits(single):
    initial, run, advance = single
    whole, mean = run(initial, 0, 3)
    state, total = initial, 0.0
    for epoch in range(3):
        state, loss = run(state, epoch, epoch + 1)
        total += float(loss)
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    close(mean, total / 3, 1e-6)
    kept, _ = run(whole, 3, 3)
    jax.tree.map(np.testing.assert_array_equal, kept, whole)
    other, _ = run(initial, 1, 4)
    assert not np.array_equal(
        other.params["dense_0"]["kernel"], whole.params["dense_0"]["kernel"]
    )
    assert advance._cache_size() == 1


def test_the_first_update_with_a_loss_that_is_not_finite_is_reported():
    task = tiny.make_task(recorder(blow_up_at=3), bce)  # The fourth of three an epoch.
    data = tiny.device_data(tiny.interactions())
    advance = jax.jit(partial(recommender.advance, task))
    state, trial = tiny.start(task), tiny.TRIAL
    found = []
    for epoch in range(3):
        state, loss = advance(state, trial, data, np.int32(epoch), np.int32(epoch + 1))
        found.append((int(state.diverged_step), bool(np.isfinite(loss))))
    assert found == [(-1, True), (5, False), (5, False)]


# ---------------------------------------------------------------- evaluation


@cache
def evaluation(task):
    return jax.jit(partial(recommender.evaluate, task))


def margin_samples(task, data):
    key, count = jax.random.key(0), task.epoch_size
    return sampling.samples(
        data.train,
        make_shuffle(key, count),
        jnp.arange(count, dtype=jnp.int32),
        jax.random.bits(key, (count,), jnp.uint32),
        tiny.ITEMS,
    )


def whole_numbers(params, seed=4):
    """Small ones, so that sums are exact in any order and scores often tie."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda w: rng.choice([-1.0, 0.0, 1.0], w.shape, p=[0.1, 0.8, 0.1]).astype(
            "float32"
        ),
        params,
    )


def rank_numpy(scores, items):
    """Hit ratio, NDCG and AUC of the first, ties by their expectation."""
    others = scores[1:][items[1:] != items[0]]
    above, equal = (others > scores[0]).sum(), (others == scores[0]).sum()
    ranks = above + np.arange(equal + 1)
    gains = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0)
    auc = ((others < scores[0]).sum() + equal / 2) / len(others)
    return (ranks < 10).mean(), gains.mean(), auc


def test_evaluation_equals_numpy(monkeypatch):
    monkeypatch.setattr(recommender, "_USERS_AT_ONCE", 5)  # Of twelve.
    task = tiny.make_task(recorder(), bce)
    data = tiny.device_data(tiny.interactions())
    state = tiny.start(task)
    params = whole_numbers(state.params)
    program = jax.jit(partial(recommender.evaluate, task))
    values, hits = program(state._replace(params=params), tiny.TRIAL, data)

    ranked = np.zeros((tiny.DRAWS, tiny.USERS, 3))
    scores = np.zeros((tiny.DRAWS, tiny.USERS, 100))
    for draw, user in np.ndindex(tiny.DRAWS, tiny.USERS):
        items = np.asarray(data.candidates[draw, user])
        scores[draw, user] = tiny.logits(params, np.full(100, user), items)
        ranked[draw, user] = rank_numpy(scores[draw, user], items)
    again = np.asarray(data.candidates)[..., 1:] == np.asarray(data.candidates)[..., :1]
    ties = scores[..., 1:] == scores[..., :1]
    assert again.any() and (ties & ~again).any()
    assert 0.1 < ranked[..., 0].mean() < 0.9
    close(values["hr"], ranked[..., 0].mean(), 1e-6)
    close(values["ndcg"], ranked[..., 1].mean(), 1e-6)
    close(values["auc"], ranked[..., 2].mean(), 1e-6)
    close(hits, ranked[..., 0].mean(0), 1e-6)
    close(values["test_margin_p50"], np.median(scores[0, :, 0]), 1e-6)

    seen = []
    for user, probe in enumerate(np.asarray(data.probes)):
        items = np.append(probe, data.candidates[0, user, 1:])
        z = tiny.logits(params, np.full(100, user), items)
        seen.append(rank_numpy(z, items)[0])
    close(values["train_hr"], np.mean(seen), 1e-6)

    users, items, labels = margin_samples(task, data)
    z = tiny.logits(params, users, items)
    margins = np.where(labels, z, -z)
    for quantile in (10, 50, 90):
        expected = np.quantile(margins, quantile / 100)
        close(values[f"margin_p{quantile}"], expected, 1e-5, 1e-5)
    for name, layer in params.items():
        norm = sum(np.square(w).sum() for w in layer.values()) ** 0.5
        close(values[f"norm/{name}"], norm, 1e-6)
    assert set(values) == {
        *("hr", "ndcg", "auc", "train_hr", "test_margin_p50", "logit_scale"),
        *("margin_p10", "margin_p50", "margin_p90"),
        *(f"norm/{name}" for name in params),
    }
    assert values["logit_scale"] == 1


def test_a_model_without_opinion_ranks_at_random():
    task = tiny.make_task(recorder(), bce)
    data = tiny.device_data(tiny.interactions())
    others = (np.asarray(data.candidates[:, :, :1]) + np.arange(1, 100)) % tiny.ITEMS
    others = np.where(others == data.candidates[:, :, :1], 0, others)
    test = np.full_like(others[:, :, :1], tiny.ITEMS - 1)
    candidates = np.concatenate([test, others % (tiny.ITEMS - 1)], axis=2)
    data = data._replace(candidates=jnp.asarray(candidates))
    state = tiny.start(task)
    dead = state._replace(params=jax.tree.map(np.zeros_like, state.params))
    values, hits = evaluation(task)(dead, tiny.TRIAL, data)
    close(hits, np.full(tiny.USERS, 0.1), 1e-6)
    close([values["hr"], values["auc"], values["margin_p50"]], [0.1, 0.5, 0], 1e-6)
    lost = state._replace(params=jax.tree.map(lambda x: x * np.nan, state.params))
    values, hits = evaluation(task)(lost, tiny.TRIAL, data)
    assert values["hr"] == 0 and values["ndcg"] == 0
