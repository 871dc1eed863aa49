"""What a constrained step costs beside the base optimizer and `optax.lamb`.

Run from the repository root::

    python -m benchmarks.step_overhead
    python -m benchmarks.step_overhead --trees resnet50 --cases adam --rounds 5

Every case compares three arms: the base optimizer, LAWN, and `optax.lamb`. One sample
is a compiled `lax.fori_loop` of `--iterations` steps; samples are taken in turn
(A B C A B C ...), so that a machine that slows down slows all three, and ratios are
taken round by round. The case `noise` has `optax.adam` in both places: its ratio shows
what the harness itself cannot tell from 1.

Each arm lives in its own process. In one process the arms share an allocator, and what
the others hold decides which temporaries are fresh pages: with 8 iterations a call,
beside other large cases, the same code read 1.38 instead of 1.02. The parent process
runs one arm at a time; the others wait, their memory in place.

Results go to `results/step_overhead.json` and `.md`; a run replaces the rows of its own
device, trees and cases and keeps the others.
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
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import lawn_optax as lawn
from benchmarks import environment, trees
from benchmarks.arms import table

# So small that thousands of steps along one gradient do not bring the weights to rest.
RATE = 1e-6
# LAWN's arms take this many free steps, all of them in the untimed first call: the
# timed program contains the switch, as a real one does, and is past it.
SWITCH = 8
# A sample shorter than this is repeated back to back before the clock is read.
MIN_SECONDS = 0.3

ARMS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "optax.sgd": lambda: optax.sgd(RATE, momentum=0.9),
    "optax.adam": lambda: optax.adam(RATE),
    "optax.lamb": lambda: optax.lamb(RATE),
    "lawn.sgd": lambda: lawn.sgd(RATE, momentum=0.9, switch_step=SWITCH),
    "lawn.adam": lambda: lawn.adam(RATE, switch_step=SWITCH),
    "lawn.wrap": lambda: lawn.wrap(optax.adam(RATE), switch_step=SWITCH),
    "lawn.lamb": lambda: lawn.lamb(RATE, switch_step=SWITCH),
}

ROLES = ("base", "lawn", "lamb")
# case: (base optimizer, what is measured); `optax.lamb` is the third arm of each.
CASES = {
    "noise": ("optax.adam", "optax.adam"),
    "adam": ("optax.adam", "lawn.adam"),
    "wrap": ("optax.adam", "lawn.wrap"),
    "sgd": ("optax.sgd", "lawn.sgd"),
    "lamb": ("optax.lamb", "lawn.lamb"),
}

# The floor: reads and writes of one parameter-sized array per step, counted between
# points where a norm or an inner product must be known before anything else can go on.
# g gradient, w weights, t trace, m and v moments, u update, r LAMB's direction.
#   optax.sgd   read g t w, write t w                                            5
#   optax.adam  read g m v w, write m v w                                        7
#   optax.lamb  read g m v w, write m v r (|r|, |w|); read r w, write w         10
#   LAWN starts with <g,w> and <w,w> (read g w: 2): they make the projected
#   gradient. Then come the inner step with <u,w> and <u,u>, and last the retraction.
#   lawn.sgd    2; read g w t, write t (u is a multiple of t); read t w, write w 9
#   lawn.adam   2; read g w m v, write m v u; read u w, write w                 12
#   lawn.lamb   2; read g w m v, write m v r; read r w, write w                 12
# Computing u again from m and v costs as much as writing and reading it.
PASSES = {
    "optax.sgd": 5,
    "optax.adam": 7,
    "optax.lamb": 10,
    "lawn.sgd": 9,
    "lawn.adam": 12,
    "lawn.wrap": 12,
    "lawn.lamb": 12,
}


def steps(tx: optax.GradientTransformation, iterations: int) -> Callable[..., Any]:
    """Builds `iterations` optimizer steps with one gradient tree as one program."""

    def run(params: Any, state: Any, grads: Any) -> tuple[Any, Any, jax.Array]:
        def body(i: jax.Array, carry: tuple[Any, Any, jax.Array]) -> Any:
            params, state, used = carry
            # A gradient that does not change would let XLA compute (1 - b1) * g once
            # for all steps. The barrier ties it to the index; the index that comes out
            # is used, since XLA drops from a barrier what nobody reads.
            fresh, index = lax.optimization_barrier((grads, i))
            updates, state = tx.update(fresh, state, params)
            return optax.apply_updates(params, updates), state, used + index

        return lax.fori_loop(0, iterations, body, (params, state, jnp.int32(0)))

    return run


def serve(pipe: Connection, tree: str, arm: str, iterations: int) -> None:
    """Process of one arm: compiles, takes the untimed call, then one sample a request.

    Receives how many calls a sample has (0 ends); sends the seconds and the seconds of
    processor time per step.
    """
    events: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event)
    )
    jax.config.update("jax_enable_compilation_cache", False)
    tx = ARMS[arm]()
    params = trees.make(tree, seed=0, start=True)
    # With the weights added, an unconstrained step would shrink them visibly.
    grads = jax.tree.map(jnp.add, params, trees.make(tree, seed=1, start=False))
    state = jax.jit(tx.init)(params)
    begin = time.perf_counter()
    program = jax.jit(steps(tx, iterations), donate_argnums=(0, 1))
    compiled = program.lower(params, state, grads).compile()
    compile_seconds = time.perf_counter() - begin
    cost: Any = compiled.cost_analysis()  # counts the body of a loop once
    moved = cost["bytes accessed"] / (4 * trees.COUNTS[tree][1])

    params, state, _ = compiled(params, state, grads)  # past the switch, pages touched
    constrained = arm.startswith("lawn.")
    assert not constrained or lawn.logit_scale(state, 0.5) == 0.5, f"{arm} is free"
    norms, count = module_norms(params), len(events)
    pipe.send((compile_seconds, moved))
    while calls := pipe.recv():
        begin, cpu_begin = time.perf_counter(), time.process_time()
        for _ in range(calls):
            params, state, _ = compiled(params, state, grads)
        jax.block_until_ready((params, state))
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu_begin
        pipe.send((seconds / (calls * iterations), cpu / (calls * iterations)))
    assert len(events) == count, f"{arm} compiled again: {events[count:]}"
    after = module_norms(params)
    assert np.isfinite(after).all(), f"{arm} left finite numbers"
    assert np.allclose(after, norms, rtol=1e-5, atol=0) == constrained, f"{arm}: norms"


def module_norms(params: Any) -> np.ndarray:
    """Norm of each module's leaves together, computed apart from the library."""
    squares: dict[Any, float] = collections.defaultdict(float)
    for path, leaf in jax.tree.leaves_with_path(params):
        squares[path[:-1]] += float(np.square(np.asarray(leaf, np.float64)).sum())
    return np.sqrt(list(squares.values()))


def send_environment(pipe: Connection) -> None:
    """Process that looks at the device and leaves it free again."""
    pipe.send(environment.describe() | {"copy_gb_per_s": environment.copy_bandwidth()})


def start(target: Callable[..., None], *args: Any) -> tuple[Any, Any]:
    """Starts `target` in a fresh process, with a pipe as its first argument."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    # daemon: ends with the parent, also when that fails.
    process = context.Process(target=target, args=(there, *args), daemon=True)
    process.start()
    there.close()  # else the death of the process would not end a recv()
    return process, here


def measure(
    tree: str, case: str, rounds: int, iterations: int, machine: dict[str, Any]
) -> dict[str, Any]:
    """Times the three arms of a case in turn; returns the row of results."""
    arms = dict(zip(ROLES, (*CASES[case], "optax.lamb"), strict=True))
    workers, compile_s, compiled_passes = {}, {}, {}
    for role, arm in arms.items():  # one after the other: compile times are undisturbed
        workers[role] = start(serve, tree, arm, iterations)
        seconds, passes = workers[role][1].recv()
        compile_s[role], compiled_passes[role] = round(seconds, 2), round(passes, 1)

    def sample(role: str, calls: int) -> list[float]:
        pipe = workers[role][1]
        pipe.send(calls)
        return [round(1e3 * seconds, 4) for seconds in pipe.recv()]

    warm = min(sample(role, 1)[0] for role in arms)
    calls = math.ceil(MIN_SECONDS / (1e-3 * warm * iterations))
    ms: dict[str, list[float]] = {role: [] for role in arms}
    cpu_ms: dict[str, list[float]] = {role: [] for role in arms}
    for done in range(rounds):
        for role in arms:
            wall, cpu = sample(role, calls)
            ms[role].append(wall)
            cpu_ms[role].append(cpu)
        times = "  ".join(f"{arms[role]} {ms[role][-1]:.3g}" for role in arms)
        print(f"{tree} {case} {done + 1}/{rounds}, ms per step: {times}", flush=True)
    for process, pipe in workers.values():
        pipe.send(0)
        process.join()
        if process.exitcode:
            sys.exit(f"{tree} {case}: a check failed after timing, see above.")

    def ratio(times: dict[str, list[float]], other: str) -> list[float]:
        ratios = [a / b for a, b in zip(times["lawn"], times[other], strict=True)]
        return [round(f(ratios), 3) for f in (statistics.median, min, max)]

    leaves, parameters = trees.COUNTS[tree]
    median = {role: round(statistics.median(ms[role]), 4) for role in arms}
    passes = {role: PASSES[arm] for role, arm in arms.items()}
    megabytes_per_pass, bandwidth = 4e-6 * parameters, machine["copy_gb_per_s"]
    return {
        "tree": tree,
        "leaves": leaves,
        "parameters": parameters,
        "case": case,
        "arms": arms,
        "rounds": rounds,
        "steps_per_sample": calls * iterations,
        "ms": ms,
        "median_ms": median,
        "ratio_to_base": ratio(ms, "base"),
        "ratio_to_lamb": ratio(ms, "lamb"),
        "cpu_ms": cpu_ms,  # means something on a CPU alone
        "cpu_ratio_to_base": ratio(cpu_ms, "base"),
        "cpu_ratio_to_lamb": ratio(cpu_ms, "lamb"),
        "compile_s": compile_s,
        "passes": passes,
        "compiled_passes": compiled_passes,
        "bandwidth_share": {
            role: round(megabytes_per_pass * passes[role] / median[role] / bandwidth, 3)
            for role in arms
        },
        "command": f"python -m benchmarks.step_overhead --trees {tree} --cases {case} "
        f"--rounds {rounds} --iterations {iterations}",
    } | machine


INTRODUCTION = """# Cost of a constrained step

Written by `python -m benchmarks.step_overhead`; `README.md` one folder up explains the
columns. In brackets: the smallest and largest ratio of a round; the base optimizer and
`optax.lamb`."""
COLUMNS = (
    "tree | optimizer | ms | / base | / optax.lamb | same in CPU time | rounds | "
    "compile s | passes | compiled passes | bandwidth"
)


def machine(row: dict[str, Any]) -> str:
    """What a row was measured on."""
    bandwidth = f"copy {row['copy_gb_per_s']} GB/s"
    return f"{row['device']}, {row['cores']} CPU cores, {bandwidth}"


def cells(row: dict[str, Any]) -> list[str]:
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
        cpu if row["platform"] == "cpu" else "–",
        str(row["rounds"]),
        three.format(**row["compile_s"]),
        three.format(**row["passes"]),
        three.format(**row["compiled_passes"]),
        share.format(**row["bandwidth_share"]),
    ]


def main() -> None:
    """Measures the chosen trees and cases, and rewrites the result files."""
    parser = argparse.ArgumentParser(
        description="Times constrained steps beside the base optimizer and optax.lamb."
    )
    results = pathlib.Path(__file__).parent / "results" / "step_overhead.json"
    parser.add_argument("--trees", nargs="+", choices=trees.SHAPES)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--iterations", type=int, default=24, help="steps a call")
    parser.add_argument("--out", type=pathlib.Path, default=results, help="a JSON file")
    options = parser.parse_args()
    # Several processes share a GPU: none may claim most of its memory at the start.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    process, pipe = start(send_environment)
    machine = pipe.recv()
    process.join()
    print(json.dumps(machine), flush=True)
    names = options.trees or ["ncf", "vgg19", "resnet50"]
    if not options.trees and machine["platform"] != "cpu":
        names.append("large")

    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    for tree, case in itertools.product(names, options.cases):
        row = measure(tree, case, options.rounds, options.iterations, machine)
        print(
            f"{tree} {case}: / base {row['ratio_to_base']}, "
            f"/ optax.lamb {row['ratio_to_lamb']} (median, min, max); in CPU time "
            f"{row['cpu_ratio_to_base']}, {row['cpu_ratio_to_lamb']}",
            flush=True,
        )
        key = ("device", "parameters", "case")
        rows = [old for old in rows if any(old[k] != row[k] for k in key)] + [row]
        rows.sort(key=lambda row: [row[k] for k in key])
        options.out.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row) for row in rows)
        options.out.write_text(f"[\n{lines}\n]\n")
        text = table(INTRODUCTION, COLUMNS, rows, cells, machine)
        options.out.with_suffix(".md").write_text(text)
    print(f"wrote {options.out.name} and {options.out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
