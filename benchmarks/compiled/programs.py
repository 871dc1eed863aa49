"""The training programs of GPU commands, made from shapes alone.

Data flow: an optimizer and the options of a command -> the program that the command
compiles, and the shapes of what it takes (`Training`). There need be neither the data
nor the memory.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from train import hyperparameters
from train.devices import Devices
from train.images import experiment as image
from train.images import options as image_options
from train.images import programs as image_programs
from train.images.cifar_files import Images, Part
from train.images.inputs import DeviceImages, PhotoBatch
from train.images.photo_files import PhotoSet
from train.language import experiment as language
from train.language import options as language_options
from train.language import programs as language_programs
from train.optimizers import Trial
from train.recommenders import experiment as recsys
from train.recommenders import options as recsys_options
from train.recommenders import programs as recsys_programs
from train.recommenders.data import Interactions
from train.recommenders.sampling import Positives
from train.studies import (
    cifar,
    exponential,
    flattening,
    margins_network,
    margins_noise,
    margins_trials,
    rayleigh_cifar,
)

Shape = jax.ShapeDtypeStruct
# Users, items, training interactions.
ML_100K, ML_1M = (943, 1682, 99_057), (6040, 3706, 994_169)
CIFAR, TESTS, IMAGENET = 50_000, 10_000, 1_281_167  # images
SHAKESPEARE = 1_003_854  # bytes of the training text


class Training(NamedTuple):
    """A program, and what it takes.

    Attributes:
        start: Makes the state from a trial.
        advance: Program: state, trial and `rest` -> the new state, and measurements.
        trial: Hyperparameters, or their shapes.
        rest: Shapes of the further arguments.
        steps: Number of updates that one execution makes.
    """

    start: Callable[..., Any]
    advance: Callable[..., Any]
    trial: Any
    rest: tuple[Any, ...]
    steps: int


Build = Callable[..., Training]  # `(optimizer, devices, **options)` -> training


def numbers(*shape: int, dtype: Any = np.int32) -> Any:
    """The shape of an array, of whole numbers if nothing is said."""
    return Shape(shape, dtype)


def _training(
    config: Any, task: Any, start: Any, advance: Any, data: Any, steps: int
) -> Training:
    trial = hyperparameters.make_trial(config, steps)
    rest = data, numbers(), numbers()  # the data, and where it starts and ends
    return Training(partial(start, task), partial(advance, task), trial, rest, steps)


def _recommender(
    optimizer: str, devices: Devices, sizes: tuple[int, int, int], **options: Any
) -> tuple[Any, recsys_programs.Task, recsys_programs.Data]:
    users, items, count = sizes
    data = Interactions(
        "ml-1m", users, items, np.zeros((count, 2), np.int32), np.zeros(users), None, {}
    )
    config = recsys_options.resolve(
        recsys_options.Config(optimizer=optimizer, **options)
    )
    positives = Positives(
        numbers(count), numbers(count), numbers(users + 1), numbers(count)
    )
    arrays = recsys_programs.Data(positives, numbers(1, users, 100), numbers(users))
    return config, recsys.make_task(config, data, devices), arrays


def recommender(
    optimizer: str,
    devices: Devices,
    sizes: tuple[int, int, int] = ML_1M,
    **options: Any,
) -> Training:
    """Epochs of `python -m train recsys`."""
    config, task, data = _recommender(optimizer, devices, sizes, **options)
    start, advance = recsys_programs.start, recsys_programs.advance
    return _training(config, task, start, advance, data, task.steps_per_epoch)


def _cifar_arrays(count: int) -> DeviceImages:
    bytes_of = partial(numbers, dtype=np.uint8)
    return DeviceImages(
        bytes_of(count, 32, 32, 3),
        numbers(count),
        bytes_of(TESTS, 32, 32, 3),
        numbers(TESTS),
        numbers(3, dtype=np.float32),
    )


def images(
    optimizer: str, devices: Devices, count: int = CIFAR, **options: Any
) -> Training:
    """Epochs of `python -m train image` on CIFAR-10."""
    # An array without memory of its own: only its shape is read.
    pictures = np.broadcast_to(np.uint8(0), (count, 32, 32, 3))
    part = Part(pictures, np.broadcast_to(np.int32(0), count))
    config = image_options.resolve(image_options.Config(optimizer=optimizer, **options))
    task = image.make_task(config, Images("cifar10", 10, part, part), devices)
    arrays, steps = _cifar_arrays(count), task.steps_per_epoch
    start, advance = image_programs.start, image_programs.advance
    return _training(config, task, start, advance, arrays, steps)


def photographs(
    optimizer: str, devices: Devices, count: int = IMAGENET, **options: Any
) -> Training:
    """Steps of `python -m train image --dataset imagenet`."""
    config = image_options.resolve(image_options.Config(optimizer=optimizer, **options))
    part: Any = range(count)  # Only its length is read.
    names = tuple(map(str, range(1000)))
    task = image.make_task(config, PhotoSet(names, part, part), devices)
    size = config.batch_size
    batch = PhotoBatch(numbers(size, 224, 224, 3, dtype=np.uint8), numbers(size))
    start, step = image_programs.start, image_programs.step
    return _training(config, task, start, step, batch, 1)


def texts(
    optimizer: str, devices: Devices, steps: int | None = None, **options: Any
) -> Training:
    """Steps of `python -m train language`."""
    options |= {"optimizer": optimizer, "epochs": steps, "text_sha256": ""}
    config = language_options.resolve(language_options.Config(**options))
    task = language.make_task(config, devices)
    bytes_of = partial(numbers, dtype=np.uint8)
    arrays = language_programs.Data(
        bytes_of(SHAKESPEARE), bytes_of(1, config.block + 1), bytes_of(config.block)
    )
    # A loop of unknown length, which the counts take for one step.
    start, advance = language_programs.start, language_programs.advance
    return _training(config, task, start, advance, arrays, 1)


# --------------------------------------------------------------------- studies

# Where a study has an optimizer of its own, and always one device, its functions ignore
# these two arguments.


def flattened(
    optimizer: str,
    devices: Devices,
    sizes: tuple[int, int, int] = ML_100K,
    measured: bool = False,
    **options: Any,
) -> Training:
    """Epochs of `python -m train study flattening --full`, or one measurement."""
    choices = flattening.FULL
    options = flattening.movielens_options(choices, optimizer, full=True) | options
    config, task, data = _recommender(optimizer, devices, sizes, **options)
    steps = task.steps_per_epoch
    trial = hyperparameters.make_trial(config, steps)
    trial |= {"seed": numbers(choices.seeds, dtype=np.uint32)}
    start, advance = flattening.programs(task, trial)
    ends = numbers(), numbers()
    if not measured:
        return Training(start, advance, trial, (data, *ends), steps)

    def measure(state: Any, trial: Trial, data: recsys_programs.Data) -> Any:
        problem = flattening.samples(task, data)
        one = partial(flattening.measure, problem, choices)
        return state, jax.vmap(one)(state.params)

    return Training(start, measure, trial, (data,), 1)


def _network_of_study(task: cifar.Task, trial: Trial, data: DeviceImages) -> Training:
    found = cifar.programs(task)
    shapes = {**trial, "seed": numbers(dtype=np.uint32)}
    rest = data, numbers(), numbers()
    return Training(partial(found.start, 1.0), found.update, shapes, rest, 1)


def equilibria(optimizer: str, devices: Devices, count: int = CIFAR) -> Training:
    """Steps of `python -m train study rayleigh --full`."""
    choices, data = rayleigh_cifar.FULL, _cifar_arrays(count)
    task = rayleigh_cifar.make_task(choices, data, full=True)
    trial = rayleigh_cifar.make_trial(choices, rayleigh_cifar.Setting(0.5, 1e-3))
    return _network_of_study(task, trial, data)


def growing_rates(optimizer: str, devices: Devices, count: int = CIFAR) -> Training:
    """Steps of `python -m train study exponential --full`."""
    config, data = exponential.FULL, _cifar_arrays(count)
    task = exponential.cifar_task(config, data, full=True)
    each = numbers(config.steps, dtype=np.float32)
    return _network_of_study(task, {"rates": each, "decays": each}, data)


def _margin_data(count: int) -> margins_network.Data:
    pixels = partial(numbers, dtype=np.float32)
    inputs, tests = pixels(count, 32, 32, 4), pixels(TESTS, 32, 32, 4)
    return margins_network.Data(inputs, numbers(count), tests, numbers(TESTS))


def labelled(optimizer: str, devices: Devices, count: int = CIFAR) -> Training:
    """Updates of the networks of Figure 2, `python -m train study margins --full`."""
    config, data = margins_trials.FULL, _margin_data(count)
    networks, steps = len(margins_trials.members(config)), margins_network.UPDATES
    stacked = lambda x: Shape((networks, *x.shape), x.dtype)  # noqa: E731
    kernels = jax.eval_shape(partial(margins_network.initial, config.hidden, 0), data)
    stack = margins_network.Training(
        kernels=jax.tree.map(stacked, kernels),
        labels=numbers(networks, count),
        size=numbers(networks),
        seed=numbers(networks),
        inputs=data.inputs,
        rate=numbers(dtype=np.float32),
        momentum=numbers(dtype=np.float32),
    )

    def advance(state: Any, stack: margins_network.Training, first: jax.Array) -> Any:
        size = config.batch_size
        return margins_network.advance(stack, state, first, steps, size), ()

    return Training(margins_network.start, advance, stack, (numbers(),), steps)


def disturbed(optimizer: str, devices: Devices, count: int = CIFAR) -> Training:
    """All updates of Figure 8, `python -m train study margins --full`."""
    kicks, data = margins_trials.FULL.kicks, _margin_data(count)
    advance = lambda state, trial, data: (state, margins_noise.both_runs(kicks, data))  # noqa: E731
    steps = kicks.blocks[2] * kicks.every
    return Training(lambda trial: {}, advance, {}, (data,), steps)
