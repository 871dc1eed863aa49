"""JAX arms of `benchmarks.throughput.images`: the epochs of `python -m train image`.

The benchmark starts this program with its settings as JSON. For each line on standard
input, a number of epochs, the program trains them and answers with a line of JSON.
"""

import json
import sys
import time

import jax
import numpy as np

from benchmarks import environment
from train import hyperparameters, single_run
from train.devices import Devices
from train.images import experiment as image
from train.images.cifar_files import Images, Part
from train.images.options import Config, resolve


def main() -> None:
    optimizer, text = sys.argv[1:]
    settings = json.loads(text)
    jax.config.update("jax_enable_compilation_cache", False)
    file = np.load(settings["data"])
    part = Part(file["images"], file["labels"])
    images = Images("cifar10", 10, part, part)
    config = resolve(
        Config(
            model=settings["model"],
            dtype=settings["dtype"],
            optimizer=optimizer,
            batch_size=settings["batch_size"],
            learning_rate=settings["rate"],
            clip_norm=None,
            free_epochs=0.0,  # Constrained from the first update on.
            warmup_epochs=0.0,
            epochs=1_000_000,  # So long that the rate stays the same.
        )
    )
    devices = Devices(limit=1)
    task = image.make_task(config, images, devices)
    programs = image.make_programs(config, images, task)
    trial = hyperparameters.make_trial(config, programs.steps_per_epoch)
    data = image.on_device(images)
    state = jax.jit(programs.start)(trial)
    advance = single_run.make_advance(programs, devices)
    done = 0

    def train(number: int) -> dict:
        nonlocal state, done
        began = time.perf_counter()
        state, loss = advance(state, trial, data, done, done + number)
        jax.block_until_ready(state)
        done += number
        seconds = time.perf_counter() - began
        samples = number * programs.epoch_size
        return {"seconds": seconds, "samples": samples, "loss": loss}

    compiled = train(0)  # Without epochs, it only compiles.
    first = train(1)
    about = {"compile_seconds": compiled["seconds"]} | environment.describe()
    print(json.dumps(first | about), flush=True)
    for line in sys.stdin:
        print(json.dumps(train(int(line))), flush=True)


if __name__ == "__main__":
    main()
