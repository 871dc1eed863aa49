"""What a constrained step costs beside the base optimizer and `optax.lamb`.

Run from the repository root::

    python -m benchmarks.step_overhead
    python -m benchmarks.step_overhead --trees resnet50 --cases adam --rounds 5

Every case compares three arms: the base optimizer, LAWN, and `optax.lamb`. A sample is
a compiled `lax.fori_loop` of `--iterations` steps. Samples are taken in turn (A B C A B
C ...), so that a machine that slows down slows all three; ratios are taken by round.
The case `noise` has `optax.adam` in both places: its ratio is the harness's own error.

Each arm lives in its own process. In one process the arms share an allocator, and what
the others hold decides which temporaries are fresh pages: beside other large cases, the
same code read 1.38 instead of 1.02. One arm runs at a time, while the others wait.
Where a process finds its memory matters too. So all three arms start anew, `--starts`
times, and take `--rounds` samples each.

Results go to `results/step_overhead.jsonl` and `.md`; older rows of a case go.
"""

import argparse
import collections
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import lawn_optax as lawn
from benchmarks import arms, environment, parameters

# So small that the weights still move after thousands of steps along one gradient.
RATE = 1e-6
# LAWN's arms take this many free steps, all of them in the untimed first call: the
# timed program contains the switch, as a real one does, and is past it.
SWITCH = 8
# A sample shorter than this is repeated back to back before the clock is read.
MIN_SECONDS = 0.3

# Each optimizer with the fewest reads and writes of a parameter-sized array per step,
# counted between points where a norm or an inner product must be known to go on.
# g gradient, w weights, t trace, m and v moments, u update, r LAMB's direction.
#   optax.sgd   read g t w, write t w                                            5
#   optax.adam  read g m v w, write m v w                                        7
#   optax.lamb  read g m v w, write m v r (|r|, |w|); read r w, write w         10
#   LAWN starts with <g,w> and <w,w> (read g w: 2): they make the projected
#   gradient. Then come the inner step with <u,w> and <u,u>, and last the retraction.
#   lawn.sgd    2; read g w t, write t (u is a multiple of t); read t w, write w 9
#   lawn.adam   2; read g w m v, write m v u; read u w, write w                 12
#   lawn.lamb   2; read g w m v, write m v r; read r w, write w                 12
# To compute u again from m and v would cost as much as to write and read it.
OPTIMIZERS: dict[str, tuple[Callable[[], optax.GradientTransformation], int]] = {
    "optax.sgd": (lambda: optax.sgd(RATE, momentum=0.9), 5),
    "optax.adam": (lambda: optax.adam(RATE), 7),
    "optax.lamb": (lambda: optax.lamb(RATE), 10),
    "lawn.sgd": (lambda: lawn.sgd(RATE, momentum=0.9, switch_step=SWITCH), 9),
    "lawn.adam": (lambda: lawn.adam(RATE, switch_step=SWITCH), 12),
    "lawn.wrap": (lambda: lawn.wrap(optax.adam(RATE), switch_step=SWITCH), 12),
    "lawn.neurons": (lambda: lawn.adam(RATE, switch_step=SWITCH, groups="neuron"), 12),
    "lawn.lamb": (lambda: lawn.lamb(RATE, switch_step=SWITCH), 12),
}

ROLES = ("base", "lawn", "lamb")
# Base optimizer and measured optimizer of each case; `optax.lamb` is the third arm.
CASES = {
    "noise": ("optax.adam", "optax.adam"),
    "adam": ("optax.adam", "lawn.adam"),
    "wrap": ("optax.adam", "lawn.wrap"),
    "sgd": ("optax.sgd", "lawn.sgd"),
    "lamb": ("optax.lamb", "lawn.lamb"),
    "neurons": ("optax.adam", "lawn.neurons"),
}


def steps(tx: optax.GradientTransformation, iterations: int) -> Callable[..., Any]:
    """Builds `iterations` optimizer steps with one gradient tree as one program."""

    def run(params: Any, state: Any, grads: Any) -> tuple[Any, Any, jax.Array]:
        def body(i: jax.Array, carry: tuple[Any, Any, jax.Array]) -> Any:
            params, state, used = carry
            # XLA would compute (1 - b1) * g once for all steps. The barrier ties the
            # gradient to the index. Its results are all used, or XLA would drop them.
            fresh, index = lax.optimization_barrier((grads, i))
            updates, state = tx.update(fresh, state, params)
            return optax.apply_updates(params, updates), state, used + index

        return lax.fori_loop(0, iterations, body, (params, state, jnp.int32(0)))

    return run


def serve(pipe: Connection, tree: str, arm: str, iterations: int) -> None:
    """Runs in the process of one arm: compiles, warms up, and takes samples on request.

    A request is the number of calls of a sample, and 0 ends the process. The answer is
    the seconds and the seconds of processor time per step.
    """
    events: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event)
    )
    jax.config.update("jax_enable_compilation_cache", False)
    tx = OPTIMIZERS[arm][0]()
    params = parameters.make_tree(tree, seed=0, start=True)
    # With the weights added, an unconstrained step would shrink them visibly.
    grads = jax.tree.map(
        jnp.add, params, parameters.make_tree(tree, seed=1, start=False)
    )
    state = jax.jit(tx.init)(params)
    begin = time.perf_counter()
    program = jax.jit(steps(tx, iterations), donate_argnums=(0, 1))
    compiled = program.lower(params, state, grads).compile()
    compile_seconds = time.perf_counter() - begin
    cost: Any = compiled.cost_analysis()  # It counts the body of a loop once.
    moved = cost["bytes accessed"] / (4 * parameters.count(tree)[1])

    # The untimed call goes past the switch and touches every page.
    params, state, _ = compiled(params, state, grads)
    constrained = arm.startswith("lawn.")
    assert not constrained or lawn.logit_scale(state, 0.5) == 0.5, f"{arm} is free"
    norms, known = module_norms(params), len(events)
    pipe.send((compile_seconds, moved))
    while calls := pipe.recv():
        begin, cpu_begin = time.perf_counter(), time.process_time()
        for _ in range(calls):
            params, state, _ = compiled(params, state, grads)
        jax.block_until_ready((params, state))
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu_begin
        pipe.send((seconds / (calls * iterations), cpu / (calls * iterations)))
    assert len(events) == known, f"{arm} compiled again: {events[known:]}"
    after = module_norms(params)
    assert np.isfinite(after).all(), f"{arm} left finite numbers"
    assert np.allclose(after, norms, rtol=1e-5, atol=0) == constrained, f"{arm}: norms"


def module_norms(params: Any) -> np.ndarray:
    """The norm of all leaves of each module, computed apart from the library."""
    squares: dict[Any, float] = collections.defaultdict(float)
    for path, leaf in jax.tree.leaves_with_path(params):
        squares[path[:-1]] += float(np.square(np.asarray(leaf, np.float64)).sum())
    return np.sqrt(list(squares.values()))


def send_environment(pipe: Connection) -> None:
    """Sends the environment from its own process, which frees the device again."""
    pipe.send(environment.describe() | {"copy_gb_per_s": environment.copy_bandwidth()})


def start(target: Callable[..., None], *args: Any) -> tuple[Any, Any]:
    """Starts `target` in a fresh process, with a pipe as its first argument."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    # A daemon ends with its parent, even if that fails.
    process = context.Process(target=target, args=(there, *args), daemon=True)
    process.start()
    there.close()  # Otherwise the death of the process would not end a recv().
    return process, here


def measure(
    tree: str, case: str, starts: int, rounds: int, iterations: int, about: arms.Row
) -> arms.Row:
    """Times the three arms of a case in turn; returns the row of results."""
    names = dict(zip(ROLES, (*CASES[case], "optax.lamb"), strict=True))
    workers, compile_s, compiled_passes, calls = {}, {}, {}, 0
    ms: dict[str, list[float]] = {role: [] for role in names}
    cpu_ms: dict[str, list[float]] = {role: [] for role in names}

    def sample(role: str, calls: int) -> list[float]:
        pipe = workers[role][1]
        pipe.send(calls)
        return [round(1e3 * seconds, 4) for seconds in pipe.recv()]

    for begun in range(starts):
        for role, arm in names.items():  # One by one, so that compile times are true.
            workers[role] = start(serve, tree, arm, iterations)
            seconds, passes = workers[role][1].recv()
            compile_s[role] = round(min(seconds, compile_s.get(role, seconds)), 2)
            compiled_passes[role] = round(passes, 1)
        warm = min(sample(role, 1)[0] for role in names)
        calls = calls or math.ceil(MIN_SECONDS / (1e-3 * warm * iterations))
        for done in range(rounds):
            for role in names:
                wall, cpu = sample(role, calls)
                ms[role].append(wall)
                cpu_ms[role].append(cpu)
            times = "  ".join(f"{names[role]} {ms[role][-1]:.3g}" for role in names)
            print(f"{tree} {case} {begun + 1}.{done + 1}, ms: {times}", flush=True)
        for process, pipe in workers.values():
            pipe.send(0)
            process.join()
            if process.exitcode:
                sys.exit(f"{tree} {case}: a check failed after timing, see above.")

    def ratio(times: dict[str, list[float]], other: str) -> list[float]:
        ratios = [a / b for a, b in zip(times["lawn"], times[other], strict=True)]
        return [round(f(ratios), 3) for f in (statistics.median, min, max)]

    leaves, elements = parameters.count(tree)
    median = {role: round(statistics.median(ms[role]), 4) for role in names}
    passes = {role: OPTIMIZERS[arm][1] for role, arm in names.items()}
    megabytes_per_pass, bandwidth = 4e-6 * elements, about["copy_gb_per_s"]
    return {
        "tree": tree,
        "leaves": leaves,
        "parameters": elements,
        "case": case,
        "arms": names,
        "starts": starts,
        "rounds": rounds,
        "steps_per_sample": calls * iterations,
        "ms": ms,
        "median_ms": median,
        "ratio_to_base": ratio(ms, "base"),
        "ratio_to_lamb": ratio(ms, "lamb"),
        "cpu_ms": cpu_ms,  # Meaningful on a CPU only.
        "cpu_ratio_to_base": ratio(cpu_ms, "base"),
        "cpu_ratio_to_lamb": ratio(cpu_ms, "lamb"),
        "compile_s": compile_s,
        "passes": passes,
        "compiled_passes": compiled_passes,
        "bandwidth_share": {
            role: round(megabytes_per_pass * passes[role] / median[role] / bandwidth, 3)
            for role in names
        },
        "command": f"python -m benchmarks.step_overhead --trees {tree} --cases {case} "
        f"--starts {starts} --rounds {rounds} --iterations {iterations}",
    } | about


INTRODUCTION = """# Cost of a constrained step

Written by `python -m benchmarks.step_overhead`, whose docstring says what is timed: an
optimizer step (update and `apply_updates`, without a model) after the switch.

- **tree**: the parameters of `models.NCF` at MovieLens-1M sizes (8 leaves, 1,288,705
  parameters), `models.VGG19` (50, 20,035,018; `vgg19-biases` is older, with biases in
  the convolutions), `models.ResNet50` (161, 25,557,032), or `large`, four leaves of
  5000 x 5000. `leaves-N` is a million parameters in N leaves, `size-N` N parameters in
  four leaves, and `columns-N` a matrix of a million parameters with N columns.
- **optimizer**: `lawn.neurons` is `lawn.adam` with `groups="neuron"`.
- **ms**: median over all rounds, per step. Brackets hold the base optimizer and
  `optax.lamb`; behind a ratio, the smallest and the largest one of a round.
- **/ base**, **/ optax.lamb**: median of the ratios taken round by round.
- **rounds**: starts of the processes x samples of each.
- **same in CPU time**: both ratios in processor time (on a CPU only). It is steadier on
  a machine that others use, and does not see idle cores.
- **compile s**: time to lower and compile the loop around the step.
- **passes**: reads and writes of a parameter-sized array that the step cannot do
  without, derived in the script.
- **compiled passes**: the same count for the program that XLA made, by its own cost
  analysis. On a CPU it is larger, since XLA gives a fusion one output there.
- **bandwidth**: traffic of the passes over the measured time, as a share of that of
  copying 400 MB. Trees that fit into the cache, such as `ncf`, can exceed 100%."""
COLUMNS = (
    "tree | optimizer | ms | / base | / optax.lamb | same in CPU time | rounds | "
    "compile s | passes | compiled passes | bandwidth"
)


def machine(row: arms.Row) -> str:
    """What a row was measured on, in words."""
    bandwidth = f"copy {row['copy_gb_per_s']} GB/s"
    return f"{arms.device(row)}, {row['processor']['cores']} CPU cores, {bandwidth}"


def cells(row: arms.Row) -> list[str]:
    """A row of the table."""
    three = "{lawn} ({base}, {lamb})"
    ratios = "{:.3f} ({:.3f}, {:.3f})"
    share = "{lawn:.0%} ({base:.0%}, {lamb:.0%})"
    cpu = f"{row['cpu_ratio_to_base'][0]:.2f}, {row['cpu_ratio_to_lamb'][0]:.2f}"
    return [
        row["tree"],
        f"{row['arms']['lawn']} / {row['arms']['base']}",
        "{lawn:.3g} ({base:.3g}, {lamb:.3g})".format(**row["median_ms"]),
        ratios.format(*row["ratio_to_base"]),
        ratios.format(*row["ratio_to_lamb"]),
        cpu if row["device"]["platform"] == "cpu" else "–",
        f"{row.get('starts', 1)} x {row['rounds']}",
        three.format(**row["compile_s"]),
        three.format(**row["passes"]),
        three.format(**row["compiled_passes"]),
        share.format(**row["bandwidth_share"]),
    ]


TABLE = arms.Table(
    "step_overhead",
    INTRODUCTION,
    COLUMNS,
    cells,
    machine,
    key=("device", "processor", "parameters", "leaves", "tree", "case"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the chosen trees and cases, and rewrites the result files."""
    parser = argparse.ArgumentParser(
        description="Times constrained steps beside the base optimizer and optax.lamb."
    )
    add = parser.add_argument
    add(
        "--trees",
        nargs="+",
        choices=[*parameters.TREES, *parameters.GROWTH],
        help="default: ncf, vgg19 and resnet50, on a GPU also large",
    )
    add("--cases", nargs="+", choices=CASES, default=list(CASES))
    add("--starts", type=int, default=3, help="processes of each arm, one by one")
    add("--rounds", type=int, default=5, help="samples of each process")
    add("--iterations", type=int, default=24, help=f"steps a call, over {SWITCH}")
    add("--out", type=pathlib.Path, default=TABLE.file, help="a JSONL file")
    options = parser.parse_args(arguments)
    if options.iterations <= SWITCH:
        parser.error(f"--iterations must be above {SWITCH}, the free steps")
    # Several processes share a GPU: none may claim most of its memory at the start.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    process, pipe = start(send_environment)
    about = pipe.recv()
    process.join()
    print(f"{json.dumps(about)}\n| {COLUMNS} |", flush=True)
    large = [] if about["device"]["platform"] == "cpu" else ["large"]
    names = options.trees or ["ncf", "vgg19", "resnet50", *large]
    for tree, case in itertools.product(names, options.cases):
        row = measure(
            tree, case, options.starts, options.rounds, options.iterations, about
        )
        print("| " + " | ".join(cells(row)) + " |", flush=True)
        TABLE.add(options.out, row)
    print(f"wrote {options.out.name} and {options.out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
