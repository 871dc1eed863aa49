"""What an optimizer step launches and moves, by its program for an H200.

Run from the repository root, with or without a GPU::

    python -m benchmarks.compiled.optimizers
    python -m benchmarks.compiled.optimizers --trees resnet50 --optimizers lawn.adam

Compiles the update and `optax.apply_updates`, with donated parameters and state, as
`benchmarks.compiled.h200` says. The counts are those of XLA's compiler, and are the
same on each machine with the same versions. Nothing is timed.

Results go to `results/compiled-optimizers.jsonl` and `.md`; older rows of an optimizer
and a tree go.
"""

import argparse
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lawn_optax as lawn
from benchmarks import arms, parameters
from benchmarks.compiled import h200

RATE = 1e-3
BF16 = jnp.bfloat16
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "optax.sgd": lambda: optax.sgd(RATE, momentum=0.9),
    "lawn.sgd": lambda: lawn.sgd(RATE),
    "lawn.wrap(sgd)": lambda: lawn.wrap(optax.sgd(RATE, momentum=0.9)),
    "optax.adam": lambda: optax.adam(RATE),
    "lawn.adam": lambda: lawn.adam(RATE),
    "lawn.wrap(adam)": lambda: lawn.wrap(optax.adam(RATE)),
    "lawn.adam, one projection": lambda: lawn.adam(RATE, projections=1),
    "lawn.adam, neurons": lambda: lawn.adam(RATE, groups="neuron"),
    "hyperball(adam)": lambda: optax.chain(
        optax.adam(RATE), lawn.baselines.hyperball(RATE)
    ),
    "optax.adam, bf16 m": lambda: optax.adam(RATE, mu_dtype=BF16),
    "lawn.adam, bf16 m": lambda: lawn.adam(RATE, mu_dtype=BF16),
    "optax.lamb": lambda: optax.lamb(RATE),
    "lawn.lamb": lambda: lawn.lamb(RATE),
}


def compile_step(tree: Any, optimizer: optax.GradientTransformation) -> h200.Program:
    """The program of a step for parameters of these shapes."""

    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    with h200.present() as devices:
        state = jax.eval_shape(optimizer.init, tree)
        return h200.compile_for(devices, step, tree, state, tree, donate_argnums=(0, 1))


def size(tree: Any) -> int:
    """The bytes of arrays of these shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def measure(tree: str, optimizer: str) -> arms.Row:
    """The row of a tree and an optimizer."""
    program = compile_step(parameters.shapes(tree), OPTIMIZERS[optimizer]())
    return row(tree, optimizer, list(OPTIMIZERS).index(optimizer), program)


def row(
    tree: str, name: str, order: int, program: h200.Program, alternative: bool = False
) -> arms.Row:
    """The row of a program; `order` is its place among those of the tree."""
    bytes_of_tree, found = size(parameters.shapes(tree)), program.count
    leaves, elements = parameters.count(tree)
    return {
        "tree": tree,
        "leaves": leaves,
        "parameters": elements,
        "optimizer": name,
        "order": order,
        "alternative": alternative,
        "kernels": found.kernels,
        "small_kernels": found.small,
        "kernels_per_leaf": round(found.kernels / leaves, 2),
        "passes": round(found.bytes_moved / bytes_of_tree, 2),
        "temporaries": round(program.temporary_bytes / bytes_of_tree, 3),
        "compiled_for": h200.NAME,
    }


INTRODUCTION = f"""# What an optimizer step launches and moves

Written by `python -m benchmarks.compiled.optimizers`. It compiles an optimizer step
(update and `apply_updates`, without a model) for an {h200.NAME} and counts in the
program. Nothing ran, and nothing was timed.

- **tree**: the parameters of `models.NCF` at MovieLens-1M sizes (8 leaves),
  `models.VGG19` (50), `models.ResNet50` (161), a GPT-2 of 124M (99), or `large`, four
  leaves of 5000 x 5000.
- **passes**: bytes that all kernels read and write, in sizes of the parameters.
- **temporaries**: memory beside parameters, state and gradient, in sizes of the
  parameters.
- **kernels**: launches; in brackets those that move at most 64 KiB, which cost their
  launch alone.

The last section has the library's methods, and the same methods written in ways that it
does not have, with a colon in their names. `python -m benchmarks.compiled.alternatives`
adds it.

- **library, merged**: the library's own code, but all kernels read one small array in
  addition, so that XLA merges those of leaves of equal shape. All others have the
  constrained phase alone, and no guards against numbers that are not finite.
- **no guards**: the library's formulas and nothing else. Without a **barrier** XLA may
  compute the update twice. With **known norms** the squares of the weights are not
  summed: the last step gave them their norms. In **one vector** are the numbers of all
  groups.
- **sums in a matrix**: each leaf of at most 4,096 elements is a row of a matrix in the
  sums. **small groups in a matrix**: so is each group of that size, for the whole step.
- **six products**: inner products of gradient, momentum and weights, from one read.
- **Pallas, moments**: a kernel per group writes the moments and sums.
- **Pallas, 32 leaves**: kernels for about 32 leaves at a time: two for SGD, with the
  six products, and three for the others."""
COLUMNS = "tree | optimizer | passes | temporaries | kernels | kernels per leaf"


def cells(row: arms.Row) -> list[str]:
    """A row of the table."""
    return [
        row["tree"],
        row["optimizer"],
        f"{row['passes']:.2f}",
        f"{row['temporaries']:.3f}",
        f"{row['kernels']:,} ({row['small_kernels']:,})",
        f"{row['kernels_per_leaf']:.2f}",
    ]


TABLE = arms.Table(
    "compiled-optimizers",
    INTRODUCTION,
    COLUMNS,
    cells,
    h200.machine,
    key=("compiled_for", "alternative", "parameters", "tree", "order"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles the chosen steps, and rewrites the result files."""
    parser = argparse.ArgumentParser(
        description="Counts what optimizer steps launch and move on an H200."
    )
    add = parser.add_argument
    add(
        "--trees",
        nargs="+",
        choices=[*parameters.TREES, *parameters.GROWTH],
        default=list(parameters.TREES),
    )
    add("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    add("--out", type=pathlib.Path, default=TABLE.file, help="a JSONL file")
    options = parser.parse_args(arguments)
    about = h200.about()
    for tree, optimizer in itertools.product(options.trees, options.optimizers):
        found = measure(tree, optimizer) | about
        print(" ".join(cells(found)), flush=True)
        TABLE.add(options.out, found)


if __name__ == "__main__":
    main()
