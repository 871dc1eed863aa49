"""What the training steps of GPU commands launch, move and keep, for H200s.

Run from the repository root, with or without a GPU::

    python -m benchmarks.compiled.training
    python -m benchmarks.compiled.training --cases ncf ncf-sharded

Compiles the program of each command, once with a base optimizer and once with fixed
norms, as `benchmarks.compiled.h200` says, and counts in it per step. Only shapes go in:
there need be neither the data nor the memory. Most commands train a whole epoch by one
program; the counts are divided by its steps, so that they have a share of what happens
once in an epoch.

Results go to `results/compiled-training.jsonl` and `.md`; older rows of a case go.
"""

import argparse
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import arms
from benchmarks.compiled import h200
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
from train.recommenders import experiment as recsys
from train.recommenders import options as recsys_options
from train.recommenders import programs as recsys_programs
from train.recommenders.data import Interactions
from train.recommenders.sampling import Positives

Shape = jax.ShapeDtypeStruct
ML_1M = 6040, 3706, 994_169  # users, items, training interactions
CIFAR, IMAGENET = 50_000, 1_281_167  # training images
SHAKESPEARE = 1_003_854  # bytes of the training text

# `(optimizer, devices, **options)` -> configuration, task, what is compiled and the
# shapes of its further arguments.
Build = Callable[..., tuple[Any, Any, Callable[..., Any], tuple[Any, ...]]]


def numbers(*shape: int, dtype: Any = np.int32) -> Any:
    """The shape of an array, of whole numbers if nothing is said."""
    return Shape(shape, dtype)


def recommender(
    optimizer: str,
    devices: Devices,
    sizes: tuple[int, int, int] = ML_1M,
    **options: Any,
) -> Any:
    """Epochs of `python -m train recsys`."""
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
    task = recsys.make_task(config, data, devices)
    ends = numbers(), numbers()
    return config, task, recsys_programs, (arrays, *ends)


def images(optimizer: str, devices: Devices, count: int = CIFAR, **options: Any) -> Any:
    """Epochs of `python -m train image` on CIFAR-10."""
    size = count, 32, 32, 3
    # An array without memory of its own: only its shape is read.
    pictures = np.broadcast_to(np.uint8(0), size)
    part = Part(pictures, np.broadcast_to(np.int32(0), count))
    config = image_options.resolve(image_options.Config(optimizer=optimizer, **options))
    task = image.make_task(config, Images("cifar10", 10, part, part), devices)
    bytes_of = partial(numbers, dtype=np.uint8)
    arrays = DeviceImages(
        bytes_of(*size),
        numbers(count),
        bytes_of(10_000, *size[1:]),
        numbers(10_000),
        numbers(3, dtype=np.float32),
    )
    return config, task, image_programs, (arrays, numbers(), numbers())


def photographs(
    optimizer: str, devices: Devices, count: int = IMAGENET, **options: Any
) -> Any:
    """Steps of `python -m train image --dataset imagenet`."""
    config = image_options.resolve(image_options.Config(optimizer=optimizer, **options))
    part: Any = range(count)  # Only its length is read.
    names = tuple(map(str, range(1000)))
    task = image.make_task(config, PhotoSet(names, part, part), devices)
    size = config.batch_size
    batch = PhotoBatch(numbers(size, 224, 224, 3, dtype=np.uint8), numbers(size))
    return config, task, image_programs, (batch, numbers(), numbers())


def texts(
    optimizer: str, devices: Devices, steps: int | None = None, **options: Any
) -> Any:
    """Steps of `python -m train language`."""
    options |= {"optimizer": optimizer, "epochs": steps, "text_sha256": ""}
    config = language_options.resolve(language_options.Config(**options))
    task = language.make_task(config, devices)
    bytes_of = partial(numbers, dtype=np.uint8)
    arrays = language_programs.Data(
        bytes_of(SHAKESPEARE), bytes_of(1, config.block + 1), bytes_of(config.block)
    )
    return config, task, language_programs, (arrays, numbers(), numbers())


class Case(NamedTuple):
    """A command, and what it compiles.

    Attributes:
        kind: What is trained: the first words of the command.
        build: Makes its task.
        options: Options of the command that `build` takes.
        others: Its other options, as text.
        base: Optimizer without a fixed norm.
        fixed: Optimizer beside it, with fixed norms.
        together: Number of trials that a sweep trains at once; 0 is a single run.
        devices: Number of devices.
        parallel: ``jit`` or ``pmap``.
        shard_state: Whether each device keeps a part of the state.
    """

    kind: str
    build: Build
    options: dict[str, Any]
    others: str = ""
    base: str = "adam"
    fixed: str = "adam-lawn"
    together: int = 0
    devices: int = 1
    parallel: str = "jit"
    shard_state: bool = False

    @property
    def command(self) -> str:
        """The command of the guide, without the optimizer."""
        given = (f"--{k.replace('_', '-')} {v}" for k, v in self.options.items())
        return " ".join(["python -m train", self.kind, *given, self.others]).strip()


_VGG19 = {"model": "vgg19", "preset": "arxiv"}
_RESNET50 = {"dataset": "imagenet", "model": "resnet50", "preset": "arxiv"}
_NCF = {"dataset": "ml-1m-ncf", "batch_size": 1_000_000, "preset": "arxiv-500"}
_HALF = {"dtype": "bfloat16"}
_WIDE = {
    "dataset": "tiny-shakespeare",
    "width": 2048,
    "heads": 32,
    "depth": 2,
    "block": 1024,
    "batch_size": 32,
    "steps": 122,
}
_SMALL = {"batch_size": 4_000}
CASES = {
    "vgg19-4000": Case(
        "sweep image", images, _VGG19 | _HALF | {"batch_size": 4_000}, base="adamw"
    ),
    "vgg19-10000": Case(
        "sweep image", images, _VGG19 | _HALF | {"batch_size": 10_000}, base="adamw"
    ),
    "resnet50": Case("image", photographs, _RESNET50 | {"batch_size": 256}),
    "ncf": Case("recsys", recommender, _NCF),
    "ncf-8-trials": Case(
        "sweep recsys", recommender, _NCF, "--grid papers --at-once 8", together=8
    ),
    "nanolm": Case("language", texts, {"preset": "nanolm"} | _HALF),
    "cnn-8-jit": Case("image", images, _SMALL, devices=8),
    "cnn-8-shard-state": Case(
        "image", images, _SMALL, "--shard-state", devices=8, shard_state=True
    ),
    "cnn-8-pmap": Case(
        "image", images, _SMALL, "--parallel pmap", devices=8, parallel="pmap"
    ),
    "vgg19-4000-float32": Case("image", images, _VGG19 | {"batch_size": 4_000}),
    "width-2048": Case("language", texts, _WIDE | _HALF, base="muon", fixed="muonh"),
}


def compile_case(case: Case, optimizer: str) -> tuple[h200.Program, int]:
    """The program of a command, and the number of steps that it counts."""
    with h200.present(case.devices):
        devices = Devices(case.parallel, case.devices, case.shard_state)
        config, task, programs, rest = case.build(optimizer, devices, **case.options)
        steps = task.steps_per_epoch if hasattr(task, "steps_per_epoch") else 1
        trial = hyperparameters.make_trial(config, steps)
        start = partial(programs.start, task)
        if isinstance(rest[0], PhotoBatch):
            advance, steps = partial(programs.step, task), 1
        else:
            advance = partial(programs.advance, task)
        if case.together:
            count = case.together
            trial = {k: Shape((count,), x.dtype) for k, x in trial.items()}
            one, advance = (
                advance,
                lambda state, trial, *rest: jax.lax.map(
                    lambda both: one(*both, *rest), (state, trial), batch_size=count
                ),
            )
            start = jax.vmap(start)
        state = jax.eval_shape(start, trial)
        if case.parallel == "pmap":
            arguments = jax.tree.map(
                lambda x: Shape((case.devices, *x.shape), x.dtype),
                (state, trial, *rest),
            )
        else:  # `present` lets them return shapes.
            arguments = devices.place_state(state), *devices.replicate((trial, *rest))
        program = devices.compile(advance, donate=True)
        return h200.finish(program.lower(*arguments)), steps


def measure(name: str) -> arms.Row:
    """The row of a case."""
    case = CASES[name]
    row: arms.Row = {
        "case": name,
        "order": list(CASES).index(name),
        "command": case.command,
        "optimizers": [case.base, case.fixed],
        "devices": case.devices,
        "compiled_for": h200.NAME,
    }
    for role, optimizer in (("base", case.base), ("lawn", case.fixed)):
        program, steps = compile_case(case, optimizer)
        found = program.count
        row[role] = {
            "kernels": round(found.kernels / steps, 1),
            "small_kernels": round(found.small / steps, 1),
            "megabytes": round(1e-6 * found.bytes_moved / steps, 2),
            "peak_gib": round(program.peak_bytes / 2**30, 3),
            "collectives": {
                kind: round(times / steps, 2)
                for kind, times in sorted(found.collectives.items())
            },
            "collective_bytes": round(found.collective_bytes / steps),
        }
    for key in ("kernels", "megabytes"):
        of_base, of_lawn = row["base"][key], row["lawn"][key]
        row[f"share_of_{key}"] = round(of_lawn / of_base - 1, 4)
    return row


INTRODUCTION = f"""# What training steps launch, move and keep

Written by `python -m benchmarks.compiled.training`. It compiles the programs of the
guide's commands for networks on an {h200.NAME}, with a base optimizer and with fixed
norms, and counts in them, per step. Nothing ran, and nothing was timed. XLA's search
for the fastest kernels needs a GPU and is off, so a real run may have other kernels for
matrix products and convolutions, and other temporaries.

- **optimizers**: the base optimizer, and the one with fixed norms.
- **kernels**: launches of a step with either; in brackets those that move at most
  64 KiB.
- **GB moved**: what the kernels of a step read and write.
- **peak GiB**: arguments, temporaries and results of the program on one device, of
  {h200.MEMORY / 2**30:.0f}. An epoch's program includes the data set.
- **fixed norms**: what they add, in percent of the base: kernels, bytes.
- **collectives**: operations between devices in a step, and the bytes that a device
  passes to them."""
COLUMNS = (
    "command | optimizers | devices | kernels | GB moved | peak GiB"
    " | fixed norms: kernels, bytes | collectives"
)


def cells(row: arms.Row) -> list[str]:
    """A row of the table."""
    base, lawn = row["base"], row["lawn"]

    def kernels(found: dict[str, Any]) -> str:
        return f"{found['kernels']:,.0f} ({found['small_kernels']:,.0f})"

    def collectives(found: dict[str, Any]) -> str:
        if not found["collectives"]:
            return "–"
        counts = (f"{n:g} {kind}" for kind, n in found["collectives"].items())
        return f"{', '.join(counts)}, {found['collective_bytes']:,} bytes"

    sent = collectives(base)
    if sent != "–":
        sent += f"; with fixed norms {collectives(lawn)}"
    return [
        f"`{row['command']}`",
        ", ".join(row["optimizers"]),
        str(row["devices"]),
        f"{kernels(base)} / {kernels(lawn)}",
        f"{base['megabytes'] / 1e3:.3g} / {lawn['megabytes'] / 1e3:.3g}",
        f"{base['peak_gib']:.3g} / {lawn['peak_gib']:.3g}",
        f"{row['share_of_kernels']:+.1%}, {row['share_of_megabytes']:+.1%}",
        sent,
    ]


TABLE = arms.Table(
    "compiled-training",
    INTRODUCTION,
    COLUMNS,
    cells,
    h200.machine,
    key=("compiled_for", "order"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles the chosen commands, and rewrites the result files."""
    parser = argparse.ArgumentParser(
        description="Counts what training steps launch, move and keep on H200s."
    )
    add = parser.add_argument
    add("--cases", nargs="+", choices=CASES, default=list(CASES))
    add("--out", type=pathlib.Path, default=TABLE.file, help="a JSONL file")
    options = parser.parse_args(arguments)
    about = h200.about()
    for name in options.cases:
        row = measure(name) | about
        print(" ".join(cells(row)), flush=True)
        TABLE.add(options.out, row)


if __name__ == "__main__":
    main()
