"""Programs that compile in a quarter of the time, for comparisons with tolerances.

XLA leaves out what makes a program fast. What a program computes does not depend on it,
but its rounding does. Tests marked `usual_compilation` compile as users do,
and so do the examples in docstrings and in the docs.
"""

import functools
import gc
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from unittest import mock

import jax
from jax._src import compiler

# JAX makes millions of objects that stay: looking at them took 7% of the time.
gc.set_threshold(200_000, 50, 100)

# Warnings of processes that tests start. A program that another process has not yet
# written to the compilation cache to its end is compiled again.
UNWRITTEN = "ignore:Error reading persistent compilation cache entry"
WARNINGS = ("-W", "error", "-W", UNWRITTEN)

# On a recommender's epoch: 5.0 s of processor time without them, 0.8 s with all. The
# last one compiles small programs in one part.
OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


def fast() -> AbstractContextManager:
    """Within this, everything compiles fast, if this JAX can be told to."""
    usual = getattr(compiler, "get_compile_options", None)
    if usual is None or "env_options_overrides" not in signature(usual).parameters:
        return nullcontext()  # The function is private, so that it may change.

    def get_compile_options(*arguments, env_options_overrides=None, **others):
        with mock.patch.object(compiler, "get_compile_options", usual):
            options = known()
        overrides = options | dict(env_options_overrides or {})
        return usual(*arguments, env_options_overrides=overrides, **others)

    return mock.patch.object(compiler, "get_compile_options", get_compile_options)


@functools.cache
def known() -> dict[str, int]:
    """The options that this XLA has: the later ones are not in all."""
    known = {}
    for name, value in OPTIONS.items():
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        except jax.errors.JaxRuntimeError:
            continue
        known[name] = value
    return known


def flags() -> str:
    """The same for a process: what to set its `XLA_FLAGS` to."""
    return " ".join(f"--{name}={int(value)}" for name, value in known().items())
