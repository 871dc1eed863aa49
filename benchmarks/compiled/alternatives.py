"""What the library's methods would launch and move if they were written in other ways.

Run from the repository root, with or without a GPU::

    python -m benchmarks.compiled.alternatives
    python -m benchmarks.compiled.alternatives --trees resnet50

Compiles each alternative as `benchmarks.compiled.optimizers` does the library's own
steps, and those of the same methods beside it. Tests compare every alternative with the
library on a CPU. Nothing is timed.

Rows go to `results/compiled-optimizers.jsonl` and `.md`, behind those of optimizers.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

import lawn_optax as lawn
from benchmarks import arms, parameters
from benchmarks.compiled import formulas, h200, optimizers, pallas_steps, xla_steps
from benchmarks.compiled.optimizers import RATE

BEHIND = 100  # The rows of alternatives stand behind those of optimizers.


class Alternative(NamedTuple):
    """A step with the state of one of the library's optimizers."""

    like: str  # name in `optimizers.OPTIMIZERS`
    step: formulas.Step


def make(rate: float) -> dict[str, Alternative]:
    """All alternatives, with this learning rate."""
    constant, ratio = formulas.constant(rate), formulas.trust_ratio(rate)
    merged = xla_steps.products_merged
    steps = {
        "sgd: library, merged": xla_steps.own_step_merged(lawn.sgd(rate)),
        "sgd: six products": xla_steps.sgd_six_products(rate),
        "sgd: six products, merged": xla_steps.sgd_six_products(rate, merged),
        "sgd: Pallas, 32 leaves": pallas_steps.sgd_two_launches(rate),
        "adam: library, merged": xla_steps.own_step_merged(lawn.adam(rate)),
        "adam: no guards": xla_steps.adam(rate),
        "adam: no guards, no barrier": xla_steps.adam(rate, barrier=False),
        "adam: no guards, known norms": xla_steps.adam(rate, sum_weights=False),
        "adam: one vector": xla_steps.adam(rate, apply=xla_steps.of_all),
        "adam: sums in a matrix": xla_steps.adam(
            rate, products=xla_steps.products_in_a_matrix
        ),
        "adam: small groups in a matrix": xla_steps.adam_small_groups_in_a_matrix(rate),
        "adam: no guards, merged": xla_steps.adam(rate, products=merged),
        "adam: Pallas, moments": pallas_steps.adam_moments_kernel(constant),
        "adam: Pallas, 32 leaves": pallas_steps.adam_three_launches(constant),
        "lamb: library, merged": xla_steps.own_step_merged(lawn.lamb(rate)),
        "lamb: Pallas, moments": pallas_steps.adam_moments_kernel(ratio),
        "lamb: Pallas, 32 leaves": pallas_steps.adam_three_launches(ratio),
    }
    return {
        name: Alternative(f"lawn.{name.partition(':')[0]}", step)
        for name, step in steps.items()
    }


ALTERNATIVES = make(RATE)


def compile_step(tree: Any, alternative: Alternative) -> h200.Program:
    """The program of a step for parameters of these shapes."""
    init = optimizers.OPTIMIZERS[alternative.like]().init
    with h200.present() as devices:
        state = jax.eval_shape(init, tree)
        return h200.compile_for(
            devices, alternative.step, tree, state, tree, donate_argnums=(0, 1)
        )


def measure(tree: str, name: str) -> arms.Row:
    """The row of a tree and an alternative."""
    program = compile_step(parameters.shapes(tree), ALTERNATIVES[name])
    order = BEHIND + list(ALTERNATIVES).index(name)
    return optimizers.row(tree, name, order, program, alternative=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles the chosen steps, and rewrites the result files."""
    parser = argparse.ArgumentParser(
        description="Counts what other ways to write LAWN launch and move on an H200."
    )
    add = parser.add_argument
    add("--trees", nargs="+", choices=parameters.TREES, default=list(parameters.TREES))
    add("--alternatives", nargs="+", choices=ALTERNATIVES, default=list(ALTERNATIVES))
    add("--out", type=pathlib.Path, default=optimizers.TABLE.file, help="a JSONL file")
    options = parser.parse_args(arguments)
    about = h200.about()
    own = dict.fromkeys(ALTERNATIVES[name].like for name in options.alternatives)
    print(f"| {optimizers.COLUMNS} |")
    for tree in options.trees:
        for name in (*own, *options.alternatives):
            if name in own:
                found = optimizers.measure(tree, name) | {"alternative": True}
            else:
                found = measure(tree, name)
            found |= about
            print("| " + " | ".join(optimizers.cells(found)) + " |", flush=True)
            optimizers.TABLE.add(options.out, found)


if __name__ == "__main__":
    main()
