"""What the training steps of GPU commands launch, move and keep, for H200s.

Run from the repository root, with or without a GPU::

    python -m benchmarks.compiled.training
    python -m benchmarks.compiled.training --cases ncf ncf-8-trials

Compiles the program of each command with a base optimizer and, where there is one, with
fixed norms beside it, as `benchmarks.compiled.h200` says, and counts in it per step.
Only shapes go in: there need be neither the data nor the memory. Most commands train a
whole epoch by one program; the counts are divided by its steps, so that they have a
share of what happens once in an epoch.

Results go to `results/compiled-training.jsonl` and `.md`; older rows of a case go.
"""

import argparse
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from benchmarks import arms
from benchmarks.compiled import h200, programs
from train.devices import Devices

Shape = jax.ShapeDtypeStruct


class Case(NamedTuple):
    """A command, and what it compiles.

    Attributes:
        kind: What is trained: the first words of the command.
        build: Makes what it compiles.
        options: Options of the command that `build` takes.
        others: Its other options, as text.
        part: Which of its programs this is, if it has several.
        base: Optimizer without a fixed norm.
        fixed: Optimizer beside it, with fixed norms, if it has one.
        together: Number of trials that a sweep trains at once; 0 is a single run.
        devices: Number of devices.
        parallel: ``jit`` or ``pmap``.
        shard_state: Whether each device keeps a part of the state.
    """

    kind: str
    build: programs.Build
    options: dict[str, Any]
    others: str = ""
    part: str = ""
    base: str = "adam"
    fixed: str | None = "adam-lawn"
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
        "sweep image",
        programs.images,
        _VGG19 | _HALF | {"batch_size": 4_000},
        base="adamw",
    ),
    "vgg19-10000": Case(
        "sweep image",
        programs.images,
        _VGG19 | _HALF | {"batch_size": 10_000},
        base="adamw",
    ),
    "resnet50": Case("image", programs.photographs, _RESNET50 | {"batch_size": 256}),
    "ncf": Case("recsys", programs.recommender, _NCF),
    "ncf-8-trials": Case(
        "sweep recsys",
        programs.recommender,
        _NCF,
        "--grid papers --at-once 8",
        together=8,
    ),
    "nanolm": Case("language", programs.texts, {"preset": "nanolm"} | _HALF),
    "cnn-8-jit": Case("image", programs.images, _SMALL, devices=8),
    "cnn-8-shard-state": Case(
        "image", programs.images, _SMALL, "--shard-state", devices=8, shard_state=True
    ),
    "cnn-8-pmap": Case(
        "image", programs.images, _SMALL, "--parallel pmap", devices=8, parallel="pmap"
    ),
    "vgg19-4000-float32": Case(
        "image", programs.images, _VGG19 | {"batch_size": 4_000}
    ),
    "width-2048": Case(
        "language", programs.texts, _WIDE | _HALF, base="muon", fixed="muonh"
    ),
    "language-full": Case(
        "language",
        programs.texts,
        {"preset": "full"} | _HALF,
        base="adamw",
        fixed="adamh",
    ),
    "flattening": Case(
        "study flattening", programs.flattened, {}, "--full", part="an epoch"
    ),
    "flattening-measured": Case(
        "study flattening",
        partial(programs.flattened, measured=True),
        {},
        "--full",
        part="a measurement",
        fixed=None,
    ),
    "rayleigh": Case(
        "study rayleigh", programs.equilibria, {}, "--full", base="sgd", fixed=None
    ),
    "exponential": Case(
        "study exponential",
        programs.growing_rates,
        {},
        "--full",
        base="sgd",
        fixed=None,
    ),
    "margins": Case(
        "study margins",
        programs.labelled,
        {},
        "--full",
        part="Figure 2",
        base="sgd",
        fixed=None,
    ),
    "margins-noise": Case(
        "study margins",
        programs.disturbed,
        {},
        "--full",
        part="Figure 8",
        base="sgd",
        fixed=None,
    ),
}


def compile_case(case: Case, optimizer: str) -> tuple[h200.Program, int]:
    """The program of a command, and the number of steps that it counts."""
    with h200.present(case.devices):
        devices = Devices(case.parallel, case.devices, case.shard_state)
        start, advance, trial, rest, steps = case.build(
            optimizer, devices, **case.options
        )
        if case.together:
            count = case.together
            trial = jax.tree.map(lambda x: Shape((count,), x.dtype), trial)
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
        "part": case.part,
        "optimizers": [name for name in (case.base, case.fixed) if name],
        "devices": case.devices,
        "compiled_for": h200.NAME,
    }
    for role, optimizer in zip(("base", "lawn"), row["optimizers"], strict=False):
        row[role] = _counted(*compile_case(case, optimizer))
    return row


def _counted(program: h200.Program, steps: int) -> dict[str, Any]:
    found = program.count
    return {
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


INTRODUCTION = f"""# What training steps launch, move and keep

Written by `python -m benchmarks.compiled.training`. It compiles the programs of the
guide's commands for networks on an {h200.NAME}, with a base optimizer and with fixed
norms, and counts in them, per step. Nothing ran, and nothing was timed. XLA's search
for the fastest kernels needs a GPU and is off, so a real run may have other kernels for
matrix products and convolutions, and other temporaries.

- **optimizers**: the base optimizer, and the one with fixed norms, if there is one.
- **kernels**: launches of a step with each; in brackets those that move at most 64 KiB.
  In a study, a step is one of all its networks that train side by side; a measurement
  counts as one.
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
    roles = [row[role] for role in ("base", "lawn") if role in row]

    def each(text: Callable[[dict[str, Any]], str]) -> str:
        return " / ".join(map(text, roles))

    def kernels(found: dict[str, Any]) -> str:
        return f"{found['kernels']:,.0f} ({found['small_kernels']:,.0f})"

    def collectives(found: dict[str, Any]) -> str:
        if not found["collectives"]:
            return "none"
        counts = (f"{n:g} {kind}" for kind, n in found["collectives"].items())
        return f"{', '.join(counts)}, {found['collective_bytes']:,} bytes"

    def added(key: str) -> str:
        return f"{roles[1][key] / roles[0][key] - 1:+.1%}"

    part = f" ({row['part']})" if row["part"] else ""
    sent = any(found["collectives"] for found in roles)
    return [
        f"`{row['command']}`{part}",
        ", ".join(row["optimizers"]),
        str(row["devices"]),
        each(kernels),
        each(lambda found: f"{found['megabytes'] / 1e3:.3g}"),
        each(lambda found: f"{found['peak_gib']:.3g}"),
        f"{added('kernels')}, {added('megabytes')}" if len(roles) > 1 else "–",
        "; with fixed norms ".join(map(collectives, roles)) if sent else "–",
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
