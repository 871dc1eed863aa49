"""Epochs and evaluation of an image classifier, against NumPy."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import metrics
from tests.support import tiny_images as tiny
from tests.support.asserts import close
from train.devices import MODES, Devices
from train.images import augmentation
from train.images import programs as classifier

RATE = 0.3

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_loss(z, labels):
    return -np.log(softmax(z)[np.arange(len(z)), labels])


def linear(head, images, mean):
    rows = tiny.pixels(images, mean).reshape(len(images), -1)
    return rows, rows @ np.asarray(head["kernel"]) + np.asarray(head["bias"])


@cache
def program(task):
    return jax.jit(partial(classifier.advance, task))


def advance(task, state, data, first, last, trial=tiny.TRIAL):
    return program(task)(state, trial, data, jnp.int32(first), jnp.int32(last))


def epoch_numpy(task, head, data, epoch, flood=None):
    total = 0.0
    for rows in tiny.batches(task, epoch):
        labels = np.asarray(data.labels)[rows]
        inputs, z = linear(head, np.asarray(data.images)[rows], data.mean)
        losses = log_loss(z, labels)
        slopes = (softmax(z) - np.eye(tiny.CLASSES)[labels]) / len(rows)
        sign = -1 if flood is not None and losses.mean() < flood else 1
        head = {
            "kernel": head["kernel"] - sign * RATE * inputs.T @ slopes,
            "bias": head["bias"] - sign * RATE * slopes.sum(0),
        }
        total += losses.mean() / task.steps_per_epoch
    return head, total


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"parts": 4}, marks=pytest.mark.slow),
        pytest.param({"parts": 4, "unrolled": True}, marks=pytest.mark.slow),
        pytest.param({"batch_size": 50}, marks=pytest.mark.slow),
        {"flood": 1.0},
    ],
    ids=str,
)
def test_epochs_equal_numpy(options):
    data = tiny.data()
    task = tiny.make_task(optax.sgd(RATE), cross_entropy, **options)
    state = tiny.start(task)
    head = {k: np.asarray(v, np.float64) for k, v in state.params["head"].items()}
    losses = []
    for epoch in range(6):
        state, loss = advance(task, state, data, epoch, epoch + 1)
        head, expected = epoch_numpy(task, head, data, epoch, options.get("flood"))
        losses.append(expected)
        close(loss, expected, 1e-5)
    # Float32 over at most 18 steps.
    for key in head:
        close(state.params["head"][key], head[key], 1e-4, atol=1e-5)
    flood = options.get("flood")
    assert losses[-1] < 0.8 * losses[0] if flood is None else losses[-1] > 0.9 * flood
    assert state.diverged_step == -1


@pytest.mark.parametrize("watch", [None, "median-margin"])
def test_the_parts_of_a_batch_are_one_program(watch, monkeypatch):
    def see():  # An optimizer whose state is the margin that it was shown.
        def update(grads, _, params=None, switch_value=0.0):
            return jax.tree.map(lambda g: -RATE * g, grads), switch_value

        return optax.GradientTransformationExtraArgs(lambda _: jnp.zeros([]), update)

    options = {"parts": 4, "unrolled": True, "watch": watch}
    task = tiny.make_task(see(), cross_entropy, tiny.Normalised(), **options)
    arguments = tiny.start(task), tiny.TRIAL, tiny.data(), jnp.int32(1), jnp.int32(2)
    expected = jax.jit(partial(classifier.step, task))(*arguments)
    traced, add_part = [], classifier._add_part
    monkeypatch.setattr(
        classifier,
        "_add_part",
        lambda *arguments: traced.append(1) or add_part(*arguments),
    )
    step = classifier.compile_step(task, Devices(limit=1), *arguments)
    found = step(*arguments)
    assert len(traced) == 1
    jax.tree.map(partial(close, rtol=1e-5, atol=1e-7), found, expected)


def test_the_order_and_the_changes_have_keys_of_their_own(monkeypatch):
    task = tiny.make_task(optax.sgd(RATE), cross_entropy)
    keys, at_positions = [], classifier.inputs.at_positions

    def see(data, positions, epoch, order_key, change_key, degrees):
        found = map(jax.random.key_data, (order_key, change_key))
        jax.debug.callback(lambda *values: keys.extend(values), *found)
        return at_positions(data, positions, epoch, order_key, change_key, degrees)

    monkeypatch.setattr(classifier.inputs, "at_positions", see)
    state, zero = tiny.start(task), jnp.int32(0)
    step = jax.jit(partial(classifier.step, task))
    jax.block_until_ready(step(state, tiny.TRIAL, tiny.data(), zero, zero))
    jax.effects_barrier()
    seed = jax.random.key(tiny.TRIAL["seed"])
    expected = [jax.random.key_data(jax.random.fold_in(seed, n)) for n in (1, 2)]
    np.testing.assert_array_equal(keys, expected)


def test_an_epoch_has_different_images_and_leaves_out_others_each_time():
    task = tiny.make_task(optax.sgd(RATE), cross_entropy)
    epochs = [tiny.batches(task, epoch) for epoch in range(8)]
    for found in epochs:
        assert found.shape == (3, 16) and len(set(found.flat)) == 48
    left_out = {frozenset(range(tiny.IMAGES)) - set(x.flat) for x in epochs}
    assert len(left_out) > 4


def test_the_first_update_with_a_loss_that_is_not_finite_is_reported():
    def explode(step):
        return optax.GradientTransformation(
            lambda params: jnp.int32(0),
            lambda grads, count, params=None: (
                jax.tree.map(lambda g: jnp.where(count == step, jnp.inf, 0 * g), grads),
                count + 1,
            ),
        )

    task = tiny.make_task(explode(3), cross_entropy)
    state, loss = advance(task, tiny.start(task), tiny.data(), 0, 3)
    assert state.diverged_step == 5  # After the fourth update, found by the fifth.
    assert not np.isfinite(loss)


WATCHED = {
    "mean-margin": np.mean,
    "median-margin": np.median,
    "accuracy-plateau": lambda margins: np.mean(margins > 0),
}


@pytest.mark.parametrize(
    "watch",
    [
        pytest.param("mean-margin", marks=pytest.mark.slow),
        *("median-margin", "accuracy-plateau"),
    ],
)
def test_the_switch_sees_the_margins_of_the_batch(watch):
    def keep():
        def update(grads, state, params=None, switch_value=jnp.nan):
            return jax.tree.map(jnp.zeros_like, grads), jnp.append(
                state[1:], switch_value
            )

        return optax.GradientTransformationExtraArgs(lambda _: jnp.zeros(3), update)

    task = tiny.make_task(keep(), cross_entropy, watch=watch, parts=2)
    data, first = tiny.data(), tiny.start(task)
    state, _ = advance(task, first, data, 0, 1)
    expected = []
    for rows in tiny.batches(task, 0):
        labels = np.asarray(data.labels)[rows]
        _, z = linear(first.params["head"], np.asarray(data.images)[rows], data.mean)
        own = z[np.arange(16), labels]
        others = np.where(np.eye(tiny.CLASSES)[labels] > 0, -np.inf, z).max(-1)
        expected.append(WATCHED[watch](own - others))
    close(state.opt_state, expected, 1e-4, atol=1e-5)


def test_alpha_multiplies_the_logits_from_the_switch_on():
    data = tiny.data()
    tx = lawn.wrap(optax.sgd(0.0), switch_step=3)
    task = tiny.make_task(tx, cross_entropy, alpha=0.5)
    plain = tiny.make_task(tx, cross_entropy)
    state = tiny.start(task)
    evaluate = jax.jit(partial(classifier.evaluate, task))
    before, _ = evaluate(state, tiny.TRIAL, data)
    state, free = advance(task, state, data, 0, 1)
    after, _ = evaluate(state, tiny.TRIAL, data)
    assert (before["logit_scale"], after["logit_scale"]) == (1.0, 0.5)
    close(after["margin_p50"], 0.5 * before["margin_p50"], 1e-5)
    assert after["accuracy"] == before["accuracy"]
    _, scaled = advance(task, state, data, 1, 2)
    _, unscaled = advance(plain, state, data, 1, 2)
    assert abs(scaled - unscaled) > 1e-2
    close(free, advance(plain, tiny.start(plain), data, 0, 1)[1], 1e-6)


def test_evaluation_equals_numpy():
    data = tiny.data()
    task = tiny.make_task(optax.sgd(RATE), cross_entropy)
    state = tiny.start(task)
    values, right = jax.jit(partial(classifier.evaluate, task))(state, tiny.TRIAL, data)
    head = jax.tree.map(np.asarray, state.params["head"])
    labels = np.asarray(data.test_labels)
    _, z = linear(head, np.asarray(data.test_images), data.mean)
    np.testing.assert_array_equal(right, z.argmax(-1) == labels)
    close(values["accuracy"], (z.argmax(-1) == labels).mean(), 1e-6)
    close(values["test_loss"], log_loss(z, labels).mean(), 1e-5)
    ece = metrics.expected_calibration_error(
        jnp.asarray(z, jnp.float32), data.test_labels, 15
    )
    close(values["ece"], ece, 1e-5)
    _, z = linear(head, np.asarray(data.images), data.mean)
    labels = np.asarray(data.labels)
    close(values["train_accuracy"], (z.argmax(-1) == labels).mean(), 1e-6)
    own = z[np.arange(len(z)), labels]
    margins = own - np.where(np.eye(tiny.CLASSES)[labels] > 0, -np.inf, z).max(-1)
    for name, q in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
        close(values[f"margin_{name}"], np.quantile(margins, q), 1e-4, atol=1e-5)
    norm = np.sqrt((head["kernel"] ** 2).sum() + (head["bias"] ** 2).sum())
    assert [key for key in values if key.startswith("norm/")] == ["norm/head"]
    close(values["norm/head"], norm, 1e-6)


def trained(devices):
    """What some epochs give, on the host."""
    task = tiny.make_task(
        *(lawn.adam(0.01, switch_step=3), cross_entropy),
        tiny.Normalised(devices.axis),
        degrees=augmentation.DEGREES,
        devices=devices.count,
        axis=devices.axis,
        per_device=devices.per_device,
    )
    state, trial, arrays = devices.replicate(
        (tiny.start(task), tiny.TRIAL, tiny.data())
    )
    epochs = [devices.replicate(np.int32(x)) for x in (0, 4)]
    run = devices.compile(partial(classifier.advance, task))
    state, loss = run(state, trial, arrays, *epochs)
    evaluate = devices.compile(partial(classifier.evaluate, task))
    values, right = evaluate(state, trial, arrays)
    return devices.gather((state.params, state.statistics, loss, values, right))


@pytest.fixture(scope="module")
def one():
    return trained(Devices(limit=1))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_eight_devices_train_as_one_does(mode, one):
    """Batch norm has the statistics of the whole batch, changes are each image's."""
    eight = trained(Devices(mode))
    assert len(jax.devices()) == 8
    # Adam's first steps turn rounding of a gradient near zero into a step.
    jax.tree.map(partial(close, rtol=1e-3, atol=2e-4), eight[:3], one[:3])
    np.testing.assert_array_equal(eight[4], one[4])
    jax.tree.map(partial(close, rtol=1e-3, atol=1e-3), eight[3], one[3])
