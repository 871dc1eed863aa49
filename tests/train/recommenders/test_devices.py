"""One run on one device, on several, in parts, and in two processes."""

import socket
from functools import partial

import jax
import numpy as np
import pytest

from tests.support import tiny_recommenders as tiny
from tests.support.asserts import close
from tests.support.two_processes import one_and_two
from train import devices as parallel
from train import hyperparameters
from train.__main__ import main
from train.devices import Devices
from train.recommenders import experiment as recsys
from train.recommenders import options as recsys_options
from train.recommenders import programs as recommender

EPOCHS = 7  # Of three steps; the last one is a part batch.


def trained(devices, micro_batch=None):
    """The state after 21 steps, on the host, and the mean loss."""
    config = recsys_options.resolve(
        recsys_options.Config(
            optimizer="adam-lawn",
            batch_size=250,
            epochs=EPOCHS,
            free_epochs=2.0,
            warmup_epochs=1.0,
            init="torch",
            clip_norm=0.05,
            flood=0.3,
            micro_batch=micro_batch,
        )
    )
    data = tiny.interactions()
    task = recsys.make_task(config, data, devices)
    trial = hyperparameters.make_trial(config, task.steps_per_epoch)
    state = devices.place_state(tiny.start(task, trial))
    ends = np.int32(0), np.int32(EPOCHS)
    advance = devices.compile(partial(recommender.advance, task))
    rest = devices.replicate((trial, tiny.device_data(data), *ends))
    state, loss = devices.gather(advance(state, *rest))
    # It trained, and switched after two epochs.
    assert 0.1 < loss < 0.8 and state.diverged_step == -1
    assert np.abs(state.params["dense_0"]["bias"]).max() > 0
    return state.params, loss


def assert_close(first, second, rtol):
    """Relative to the largest entry of each array."""

    def same(a, b):
        close(a, b, rtol=0, atol=rtol * np.abs(np.asarray(b)).max())

    jax.tree.map(same, first, second)


@pytest.fixture(scope="module")
def double():
    with jax.enable_x64(True):
        return trained(Devices(limit=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode, devices, micro_batch, shard_state",
    [
        ("jit", 8, None, False),
        ("jit", 8, None, True),
        ("pmap", 8, None, False),
        ("jit", 1, 60, False),
        ("pmap", 3, 32, False),
    ],
)
def test_devices_and_parts_change_nothing_in_float64(
    mode, devices, micro_batch, shard_state, double
):
    with jax.enable_x64(True):
        several = Devices(mode, devices, shard_state)
        assert several.count == devices
        found = trained(several, micro_batch)
    assert found[0]["dense_0"]["kernel"].dtype == np.float64
    assert_close(found, double, 1e-10)


def test_devices_change_the_loss_by_rounding_only_in_float32(double):
    params, loss = trained(Devices("jit", 8), 20)
    assert params["dense_0"]["kernel"].dtype == np.float32
    close(loss, double[1], rtol=1e-4)


@pytest.mark.parametrize("shard_state", [False, True])
def test_results_are_whole_or_split_along_the_largest_dimension(shard_state):
    devices = Devices("jit", 8, shard_state)
    large, odd, small = np.ones([8, 1024]), np.ones([999, 9]), np.arange(8.0)
    rows = devices.shard_batch((large, small))
    program = devices.compile(lambda rows, odd: (rows[0] + 1, rows[1], odd + 1))
    found = program(rows, devices.place_state(odd))
    specs = [tuple(x.sharding.spec) for x in found]
    assert specs == [(None, parallel.AXIS) if shard_state else (), (), ()]
    for x, y in zip(devices.gather(found), (large + 1, small, odd + 1), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="options for CPUs")
def test_options_of_the_compiler_are_used_if_it_knows_them(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "CPU_OPTIONS", {"xla_dump_to": str(tmp_path)})
    assert Devices(limit=1).compile(lambda x: x + 1)(1) == 2
    assert list(tmp_path.glob("*placed*"))
    monkeypatch.setattr(parallel, "CPU_OPTIONS", {"xla_of_another_version": "1"})
    assert Devices(limit=1).compile(lambda x: x + 1)(1) == 2


# ------------------------------------------------------------- two processes

OPTIONS = "recsys --optimizer adamw --learning-rate 0.01 --batch-size 500 --epochs 4"
OPTIONS += " --warmup-epochs 1 --eval-every 2 --candidate-draws 1 --quiet"


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(tmp_path):
    tiny.write_ratings(tmp_path / "data")
    command = f"{OPTIONS} --parallel jit --data-dir {tmp_path / 'data'}"
    first, second = one_and_two(command.split(), tmp_path)
    assert [row["epoch"] for row in second] == [2, 4]
    for one, two in zip(first, second, strict=True):
        assert one.keys() == two.keys()
        close(two["loss"], one["loss"], rtol=1e-4)
        for name in set(one) - {"hr", "train_hr"}:
            close(two[name], one[name], rtol=2e-3, atol=2e-3)
        # One of thirty users may change sides.
        close(two["hr"], one["hr"], 0, atol=1 / 30 + 1e-6)


def test_a_process_without_fellows_ends_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parallel, "TIMEOUT", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # Bound, but nobody listens.
        place = f"127.0.0.1:{free.getsockname()[1]}"
        command = f"{OPTIONS} --processes 2 --process 1 --coordinator {place}"
        assert main([*command.split(), f"--out={tmp_path / 'run'}"]) == 2
    output, error = capsys.readouterr()
    assert output == "" and error.count("\n") == 1
    assert error.startswith(f"error: process 1 of 2 could not join at {place} (")
    assert error.endswith("); start all processes with the same --coordinator\n")
    assert not (tmp_path / "run").exists()
