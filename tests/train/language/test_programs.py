"""Steps, evaluation and samples of language models, on one device and on several."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support import tiny_texts as tiny
from tests.support.asserts import assert_close, close
from train import hyperparameters
from train.devices import Devices
from train.language import experiment, programs
from train.language.data import Text

STEPS = 20


def text(count=300):
    content = np.frombuffer(tiny.words(count), np.uint8)
    return Text("files", content[:-200], content[-200:], (1, 1), "words", "")


def made(devices=None, **changes):
    """Options, task, trial and data."""
    config = tiny.settings(depth=1, **changes)
    task = experiment.make_task(config, devices or Devices(limit=1))
    trial = hyperparameters.make_trial(config, 1)
    return config, task, trial, experiment.on_device(config, text())


def test_places_are_within_the_text_and_new_at_each_step():
    _, task, trial, _ = made(batch_size=500)
    draw = jax.jit(lambda trial, number: programs.places(task, trial, number, 20))
    found = np.asarray(draw(trial, 0))
    # A sequence and the byte after it: 9 of 20 bytes.
    assert sorted(set(found.tolist())) == list(range(12))
    assert (found != draw(trial, 1)).any()
    assert (found != draw(trial | {"seed": np.uint32(1)}, 0)).any()
    np.testing.assert_array_equal(found, draw(trial, 0))


def start(task, trial):
    return jax.jit(partial(programs.start, task))(trial)


def plain_loss(task, params, tokens):
    logits = task.model.apply({"params": params}, tokens[:, :-1].astype(jnp.int32))
    chances = jax.nn.log_softmax(logits)
    rows, times = np.indices(tokens[:, 1:].shape)
    return -chances[rows, times, tokens[:, 1:]].mean()


@pytest.mark.slow
def test_a_step_of_sgd_goes_down_the_gradient_of_the_mean_loss():
    config, task, trial, data = made(
        optimizer="sgd", learning_rate=0.5, momentum=0.0, warmup_epochs=0.0
    )
    state = start(task, trial)
    after, loss = jax.jit(partial(programs.advance, task))(state, trial, data, 0, 1)
    begins = np.asarray(programs.places(task, trial, jnp.int32(0), len(data.train)))
    tokens = np.stack([data.train[i : i + config.block + 1] for i in begins])
    expected, grads = jax.jit(jax.value_and_grad(partial(plain_loss, task)))(
        state.params, tokens
    )
    close(loss, expected, 1e-5)
    moved = jax.tree.map(lambda w, g: w - 0.5 * g, state.params, grads)
    assert_close(after.params, moved, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_evaluation_covers_the_windows_and_counts_right_bytes():
    config, task, trial, data = made()
    assert data.windows.shape == (24, 9)  # 199 of 200 bytes have one after them.
    held_out = text().test
    np.testing.assert_array_equal(data.windows[-1], held_out[184:193])
    state = start(task, trial)
    values, details = jax.jit(partial(programs.evaluate, task))(state, trial, data)
    expected = jax.jit(partial(plain_loss, task))(state.params, data.windows)
    close(values["test_loss"], expected, 1e-5)
    close(values["bits_per_byte"], values["test_loss"] / np.log(2), 1e-6)
    close(details.losses.mean(), values["test_loss"], 1e-6)
    logits = jax.jit(task.model.apply)(
        {"params": state.params}, data.windows[:, :-1].astype(int)
    )
    right = logits.argmax(-1) == data.windows[:, 1:]
    close(values["accuracy"], right.mean(), 1e-6)
    close(values["norm/head"], optax.tree.norm(state.params["head"]), 1e-5)
    some = experiment.on_device(tiny.settings(eval_bytes=40), text())
    assert len(some.windows) == 5 and some.windows[2].tolist() == [
        *held_out[72:81]  # Window 9 of 24.
    ]


def test_a_sample_continues_the_prompt_byte_by_byte():
    _, task, trial, data = made(sample_bytes=5)
    params = start(task, trial).params
    write = jax.jit(partial(programs.sample, task))
    assert data.prompt.tolist()[-1] == ord("\n")
    # Large logits leave no choice.
    found = write(params, jnp.float32(1e6), trial, data.prompt).tolist()
    known, apply = data.prompt.astype(jnp.int32), jax.jit(task.model.apply)
    for byte in found:
        logits = apply({"params": params}, known[None, -8:])
        assert byte == int(logits[0, -1].argmax())
        known = jnp.append(known, byte)
    scale, other = jnp.float32(1), trial | {"seed": np.uint32(9)}
    first = write(params, scale, trial, data.prompt)
    assert (first != write(params, scale, other, data.prompt)).any()
    assert first.tolist() == write(params, scale, trial, data.prompt).tolist()


# ----------------------------------------------------------- devices and parts


def trained(devices, **changes):
    """Parameters and metrics after some steps, on the host."""
    _, task, trial, data = made(
        devices,
        **{"optimizer": "muon-lawn", "free_epochs": 2.0, "epochs": STEPS}
        | {"clip_norm": 0.5, "dropout": 0.2, "flood": 0.1}
        | changes,
    )
    x64 = jax.config.read("jax_enable_x64")
    wide = lambda x: x.astype("float64") if x64 and x.dtype == "float32" else x  # noqa: E731
    state = start(task, trial)
    state = devices.place_state(jax.tree.map(lambda x: wide(np.asarray(x)), state))
    advance = devices.compile(partial(programs.advance, task))
    rest = devices.replicate((trial, data, np.int32(0), np.int32(STEPS)))
    state, loss = advance(state, *rest)
    values, details = devices.compile(partial(programs.evaluate, task))(
        state, *rest[:2]
    )
    state, loss, values, details = devices.gather((state, loss, values, details))
    assert state.diverged_step == -1 and len(details.losses) == 24
    return state.params, loss, values["test_loss"], details.sample


@pytest.fixture(scope="module")
def double():
    with jax.enable_x64(True):
        return trained(Devices(limit=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode, devices, micro_batch, shard_state",
    [("jit", 8, None, True), ("pmap", 2, 2, False)],
)
def test_devices_and_parts_change_nothing_in_float64(
    mode, devices, micro_batch, shard_state, double
):
    with jax.enable_x64(True):
        found = trained(Devices(mode, devices, shard_state), micro_batch=micro_batch)
    assert found[0]["head"]["kernel"].dtype == np.float64
    assert_close(found, double, rtol=1e-8, atol=1e-9)
