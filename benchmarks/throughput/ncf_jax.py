"""JAX arm of `benchmarks.throughput.ncf`: the epochs of `python -m train recsys`.

The benchmark starts this program with its settings as JSON. For each line on standard
input, a number of epochs, the program trains them and answers with a line of JSON.
"""

import dataclasses
import json
import sys
import time
from functools import partial

import jax
import numpy as np
import optax

from benchmarks import environment
from train import hyperparameters
from train.devices import Devices
from train.recommenders import experiment as recsys
from train.recommenders import programs as recommender
from train.recommenders.data import Interactions
from train.recommenders.options import Config, resolve


def main() -> None:
    settings = json.loads(sys.argv[1])
    jax.config.update("jax_enable_compilation_cache", False)
    file = np.load(settings["data"])
    users = int(file["num_users"])
    nobody = np.zeros(users, np.int32)
    interacted = Interactions(
        "ncf", users, int(file["num_items"]), file["train"], nobody, None, {}
    )
    config = resolve(Config(optimizer="adam", batch_size=settings["batch_size"]))
    devices = Devices(limit=1)
    task = recsys.make_task(config, interacted, devices)
    # A fixed rate, so that the first epoch's loss can be compared.
    task = dataclasses.replace(
        task, optimizer=lambda trial: optax.adam(settings["rate"])
    )
    trial = hyperparameters.make_trial(config, task.steps_per_epoch)
    data = recsys.on_device(interacted, np.zeros((1, users, 2), np.int32))
    state = jax.jit(partial(recommender.start, task))(trial)
    advance = devices.compile(partial(recommender.advance, task), donate=True)
    done = 0

    def train(number: int) -> dict:
        nonlocal state, done
        began = time.perf_counter()
        ends = np.int32(done), np.int32(done + number)
        state, loss = advance(state, trial, data, *ends)
        loss = float(loss)  # This waits for the device.
        done += number
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "samples": number * task.epoch_size, "loss": loss}

    compiled = train(0)  # Without epochs, it only compiles.
    first = train(1)
    about = {
        "compile_seconds": compiled["seconds"],
        "tower": config.tower,
        "jax_micro_batch": -(-task.batch_size // task.parts),
    }
    print(json.dumps(first | about | environment.describe()), flush=True)
    for line in sys.stdin:
        print(json.dumps(train(int(line))), flush=True)


if __name__ == "__main__":
    main()
