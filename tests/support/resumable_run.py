"""A tiny training run in a resumable folder, also as a program to be killed."""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import lawn_optax as lawn
from tests.support import events
from tests.support.compilation import fast
from train.runs import folder as runs
from train.runs.writers import EVENTS

CONFIG = {"experiment": "toy", "rate": 0.1}
EPOCHS = 21


def optimizer():
    return lawn.adam(0.1, switch_step=10)


def initial_state():
    params = {"dense": {"kernel": jnp.linspace(-1.0, 2.0, 12).reshape(4, 3)}}
    return {"params": params, "opt": optimizer().init(params), "loss": jnp.zeros([])}


@jax.jit
def step(state):
    wave = lambda w: jnp.sin(3.0 * w) + jnp.cos(w * w)  # noqa: E731
    grads = jax.tree.map(wave, state["params"])
    updates, opt = optimizer().update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    loss = state["loss"] + params["dense"]["kernel"].sum()
    return {"params": params, "opt": opt, "loss": loss}


def toy(folder, *, epochs=EPOCHS, minutes=60.0, after=lambda epoch: None):
    """Trains; rows of three epochs each, so that checkpoints fall between them."""
    with runs.open_run(folder, CONFIG, checkpoint_minutes=minutes) as run:
        state, epoch = run.restore(initial_state())
        if run.finished:
            return state, epoch
        while epoch < epochs:
            state, epoch = step(state), epoch + 1
            if epoch % 3 == 0:
                loss = float(state["loss"])
                run.record({"epoch": epoch, "loss": loss, "none": float("nan")})
                state["loss"] = jnp.zeros([])
            run.save(epoch, state)
            after(epoch)
        run.save(epoch, state, force=True)
        if epochs == EPOCHS:
            run.finish({"last": run.rows()[-1]}, hits={"hr": [0.5]})
    return state, epoch


def assert_same(first, second):
    def same(a, b):
        np.testing.assert_array_equal(a, b, strict=True)

    jax.tree.map(same, first, second)


def contents(folder):
    """The files that the promise of the same bytes is about, events without times."""
    found = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()
    }
    if EVENTS in found:
        found[EVENTS] = events.without_times(folder)
    return found


def member(folder, port, index):
    """One of two processes that hold half of an array each, and all of another."""
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        num_processes=2,
        process_id=index,
        coordinator_bind_address=f"127.0.0.1:{port}",
    )
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    split, whole = (NamedSharding(mesh, PartitionSpec(*s)) for s in (["data"], []))
    state = jax.jit(
        lambda: {"w": jnp.arange(64.0), "n": jnp.int32(0)},
        out_shardings={"w": split, "n": whole},
    )()
    with runs.open_run(folder, CONFIG, checkpoint_minutes=0) as run:
        state, epoch = run.restore(state)
        for epoch in range(epoch + 1, epoch + 4):  # noqa: B020
            state = jax.tree.map(lambda x: x + 1, state)
            run.record({"epoch": epoch, "n": int(state["n"])})
            run.save(epoch, state)
        local = np.asarray(state["w"].addressable_shards[0].data)
        np.testing.assert_array_equal(local, np.arange(64.0)[: local.size] + local[0])
        print(epoch, len(run.rows()), int(state["n"]), int(local[0]), run.finished)
        if epoch == 6:
            run.finish({})
    jax.distributed.shutdown()


def report(epoch):
    print("epoch", epoch, flush=True)
    time.sleep(0.03)


if __name__ == "__main__":
    with fast():
        if len(sys.argv) == 2:
            toy(Path(sys.argv[1]), minutes=0, after=report)
        else:
            member(Path(sys.argv[1]), *map(int, sys.argv[2:]))
