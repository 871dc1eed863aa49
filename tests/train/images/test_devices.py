"""Image classifiers in two processes, and their weights in parts on eight devices."""

import re
from functools import partial

import jax
import numpy as np
import optax
import pytest

import lawn_optax as lawn
import models
from tests.support import image_files as images
from tests.support import interruptions as killed
from tests.support import tiny_images as tiny
from tests.support.asserts import close
from tests.support.two_processes import one_and_two
from train.__main__ import main
from train.devices import Devices
from train.images import programs as classifier

OPTIONS = "image --learning-rate 0.01 --batch-size 16 --eval-every 1 --quiet"
OPTIONS += " --free-epochs 1 --warmup-epochs 1"


@pytest.mark.slow
@pytest.mark.parametrize(
    "dataset, how", [("cifar10", "--shard-state"), ("imagenet", "--parallel pmap")]
)
def test_two_processes_give_the_metrics_of_one(dataset, how, tmp_path):
    data = tmp_path / "data"
    if dataset == "imagenet":  # Each process decodes its own rows of a batch.
        images.write_folder(data, train=20)
        how += " --workers 0"
    else:
        images.write_binary(data, images.some_tables("cifar10", count=12))
    # More steps would let differences by rounding grow, and Adam's do so sooner.
    how += " --epochs 2 --optimizer sgd-lawn"
    command = f"{OPTIONS} --dataset {dataset} {how} --data-dir {data}"
    first, second = one_and_two(command.split(), tmp_path)
    assert [row["constrained"] for row in second] == [0, 1]
    for one, two in zip(first, second, strict=True):
        assert one.keys() == two.keys()
        # One image may change sides: of four or six, and of sixty.
        loose = {"accuracy": 0.26, "ece": 0.26, "train_accuracy": 0.02}
        for name in one:
            close(two[name], one[name], rtol=1e-4, atol=loose.get(name, 1e-4))


# --------------------------------------------------------- the state in parts

EPOCHS = 4  # Of three steps.


def trained(devices):
    """The state, what came out on the host, and the program that trains; float64."""
    # Clipped by the global norm; a trust ratio and a fixed norm for each layer.
    optimizer = optax.chain(
        optax.clip_by_global_norm(0.5),
        lawn.lamb(0.01, weight_decay=0.01, switch_step=3),
    )
    task = tiny.make_task(
        *(optimizer, optax.softmax_cross_entropy_with_integer_labels),
        models.CNN((32, 32), tiny.CLASSES, axis_name=devices.axis),
        devices=devices.count,
        axis=devices.axis,
        per_device=devices.per_device,
    )
    state = jax.tree.map(
        lambda x: x.astype("float64") if x.dtype == "float32" else x, tiny.start(task)
    )
    state = devices.place_state(state)
    trial, data = devices.replicate((tiny.TRIAL, tiny.data()))
    arguments = state, trial, data, *map(devices.replicate, np.int32([0, EPOCHS]))
    program = devices.compile(partial(classifier.advance, task), donate=True)
    program = program.lower(*arguments).compile()
    state, loss = program(*arguments)
    values, right = devices.compile(partial(classifier.evaluate, task))(
        state, trial, data
    )
    return state, devices.gather((state.params, loss, values, right)), program


def bytes_per_device(state):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))


@pytest.mark.slow
def test_a_state_in_parts_trains_as_a_whole_one():
    with jax.enable_x64(True):
        (whole, one, _), (parts, eight, program) = (
            trained(Devices(limit=1)),
            trained(Devices(shard_state=True)),
        )
    assert len(jax.devices()) == 8
    # Float64, but images and metrics are float32.
    jax.tree.map(partial(close, rtol=1e-10, atol=1e-10), eight[:2], one[:2])
    jax.tree.map(partial(close, rtol=1e-6, atol=1e-6), eight[2:], one[2:])
    assert np.ptp([value for key, value in one[2].items() if "norm" in key]) > 1
    # Weights and both moments of one layer of 9,216 are in parts, among them in every
    # step: each device reads and writes its own, and only the weights are ever whole.
    kernel = 8 * 9 * 32 * 32
    assert bytes_per_device(whole) - bytes_per_device(parts) == 3 * kernel * 7 // 8
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes == bytes_per_device(parts) < kernel
    found = re.findall(r"= f64\[(\S+)\]\S* all-gather\(", program.as_text())
    assert found == ["3,3,32,32"]


@pytest.mark.slow
def test_an_interrupted_run_with_its_state_in_parts_ends_in_the_same_bits(tmp_path):
    tables = images.some_tables("cifar10", count=12)
    files = images.write_binary(tmp_path / "data", tables)
    command = [*OPTIONS.split(), f"--data-dir={files}", "--epochs=4"]
    command += ["--shard-state", "--checkpoint-minutes=0"]
    whole, parts = (tmp_path / name for name in ("whole", "parts"))
    assert main([*command, f"--out={whole}"]) == 0

    with killed.interrupted_at(3):
        assert main([*command, f"--out={parts}"]) == 130
    assert main([*command, f"--out={parts}"]) == 0
    for name in ("metrics.jsonl", "errors.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()

    states = (killed.checkpoint(folder, 4) for folder in (parts, whole))
    jax.tree.map(np.testing.assert_array_equal, *states)
