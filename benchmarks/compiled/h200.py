"""XLA's compiler for an NVIDIA H200, on a machine without a GPU, and what it made.

The plugin of JAX for CUDA has the whole compiler. It compiles for a description of a
GPU, and nothing runs. The program says how many kernels it launches, how many bytes
they read and write, and how much memory it needs. It does not say how long that takes.

`compile_for` takes shapes in the place of arrays, so that nothing large is allocated.
Autotuning needs the device, so it is off: convolutions and matrix products get default
algorithms, so that their kernels are not those of a real run. Those of elementwise
operations and of sums are.
"""

import contextlib
import importlib.metadata
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from jax.experimental import topologies

from benchmarks import environment

NAME = "NVIDIA H200"
MEMORY = 150_754_820_096  # bytes
PLUGIN = "jax-cuda13-plugin"
# Asking for a GPU that is not there would unload the plugin.
jax.config.update("jax_platforms", "cpu")
SMALL = 2**16  # Bytes; a kernel that moves no more costs its launch alone.


def _rates(*rows: tuple[int, float, int, int]) -> str:
    names = ("key", "value { clock_rate_ghz", "units_per_core", "ops_per_clock")
    texts = (
        " ".join(f"{name}: {value}" for name, value in zip(names, row, strict=True))
        for row in rows
    )
    return " ".join(f"rate_infos {{ {text} }} }}" for text in texts)


# XLA's published description of Hopper, with the memory of an H200.
_DESCRIPTION = f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132
  fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 62914560
  clock_rate_ghz: 1.98 device_memory_size: {MEMORY}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  scalar_unit_description {{
    {_rates((4, 1.98, 64, 1), (8, 1.98, 64, 1), (10, 1.98, 128, 2))}
    {_rates((11, 1.98, 128, 1), (12, 1.98, 64, 1), (16, 1.98, 128, 2))}
  }}
  matrix_unit_description {{
    {_rates((2, 1.83, 4, 1024), (6, 1.83, 4, 1024), (10, 1.83, 4, 512))}
    {_rates((11, 1.83, 4, 256), (12, 1.98, 4, 32), (16, 1.83, 4, 512))}
    {_rates((19, 1.83, 4, 1024), (20, 1.83, 4, 1024))}
  }}
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation" platform_version: "Compute Capability 9.0a"
  device_address_bits: 64 pcie_bandwidth: 34359738368 model_str: "sm_9.0a H200"
  ecc_enabled: true name: "{NAME}" driver_version: "13.0.0" runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0" dnn_version: "9.10.0"
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{NAME}"
"""


class Count(NamedTuple):
    """What one execution of a program does.

    A loop counts as often as it repeats where the compiler knows that, and once
    elsewhere. The bytes of a kernel are those of its operands and of its results.
    """

    kernels: int
    small: int  # of them, those that move at most `SMALL` bytes
    bytes_moved: int
    collectives: Counter  # number of collective operations by their name
    collective_bytes: int  # that a device passes to them


class Program(NamedTuple):
    """A compiled program."""

    count: Count
    argument_bytes: int
    temporary_bytes: int
    peak_bytes: int  # arguments, temporaries, and results that reuse no argument
    text: str


def why_not() -> str | None:
    """Why nothing can be compiled here, and what to do; None if it can."""
    try:
        found = importlib.metadata.version(PLUGIN)
    except importlib.metadata.PackageNotFoundError:
        return f"{PLUGIN} is not installed: python -m pip install '.[bench]'"
    needed = importlib.metadata.version("jaxlib")
    if found != needed:
        wanted = f"{PLUGIN}=={needed}"
        return f"{PLUGIN} {found} is not jaxlib's: python -m pip install {wanted}"
    return None


def about() -> dict[str, Any]:
    """What a row of results says about the code.

    Ends the program where nothing can be compiled.
    """
    if reason := why_not():
        sys.exit(reason)
    found = environment.describe()
    return {key: found[key] for key in ("versions", "commit", "date")}


def machine(row: dict[str, Any]) -> str:
    """What a row was compiled for, in words."""
    return f"compiled for an {row['compiled_for']}"


def devices(count: int = 1) -> list[Any]:
    """Devices that programs can be compiled for, and that cannot run anything."""
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=_DESCRIPTION, topology=f"1x1x{count}"
    )
    return list(topology.devices)


def shape_at(place: jax.sharding.Sharding, x: Any) -> jax.ShapeDtypeStruct:
    """The shape and type of an array on such devices."""
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=place)


@contextlib.contextmanager
def present(count: int = 1) -> Iterator[list[Any]]:
    """Within this, programs are traced as on a machine that has such devices.

    `jax.device_put` returns shapes there.
    """
    found = devices(count)
    with contextlib.ExitStack() as stack:
        for name, value in {
            "default_backend": lambda: "gpu",
            "devices": lambda *_: found,
            "local_devices": lambda *_, **__: [_Device()],
            "device_put": lambda x, place: shape_at(place, x),
        }.items():
            stack.enter_context(mock.patch.object(jax, name, value))
        yield found


class _Device:
    device_kind = NAME
    compute_capability = "9.0"  # Pallas asks for it.

    def memory_stats(self) -> dict[str, int]:
        return {"bytes_limit": MEMORY * 3 // 4}  # JAX takes as much for itself.


def compile_for(
    found: list[Any], function: Callable[..., Any], *arguments: Any, **options: Any
) -> Program:
    """Compiles a function of trees of arrays, or of their shapes, for the first device.

    Args:
        found: Devices, from `present`.
        function: Function to compile.
        *arguments: Trees of arrays or of `jax.ShapeDtypeStruct`.
        **options: Options of `jax.jit`, such as ``donate_argnums``.
    """
    place = jax.sharding.SingleDeviceSharding(found[0])
    shapes = jax.tree.map(partial(shape_at, place), arguments)
    return finish(jax.jit(function, **options).lower(*shapes))


def finish(lowered: Any) -> Program:
    """Compiles what was lowered for such devices."""
    compiled = lowered.compile(compiler_options={"xla_gpu_autotune_level": 0})
    memory, text = compiled.memory_analysis(), compiled.as_text()
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = arguments + temporaries + results
    return Program(count(text), arguments, temporaries, peak, text)


_SIZES = {"pred": 1, "bf16": 2}
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant"}
_FREE |= {"after-all", "opt-barrier", "partition-id", "replica-id"}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
_COLLECTIVES += ("collective-permute",)
_LINE = re.compile(r"(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"\b(pred|bf16|[sufc]\d+)(?:e\w+)?\[([\d,]*)\]")


def count(text: str) -> Count:
    """Counts what the entry of an optimised program does, with all that it calls."""
    computations: dict[str, list[tuple[str, str, str, str]]] = {}
    name, entry = "", ""
    for line in text.splitlines():
        if line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
            name = head[2]
            entry = name if head[1] else entry
            computations[name] = []
        elif found := _LINE.match(line.strip()):
            computations[name].append(found.groups())  # pyright: ignore[reportArgumentType] (no group is optional)
    return _count(computations, entry)


def _count(computations: dict[str, Any], name: str) -> Count:
    lines = computations[name]
    types = {name: kind for name, kind, _, _ in lines}
    kernels = small = moved = sent = 0
    collectives: Counter = Counter()
    for _, kind, operation, rest in lines:
        inner = re.search(r"(?:body|to_apply)=%([\w.\-]+)", rest)
        if operation in ("while", "call") and inner:
            known = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
            times, part = int(known[1]) if known else 1, _count(computations, inner[1])
            kernels += times * part.kernels
            small += times * part.small
            moved += times * part.bytes_moved
            sent += times * part.collective_bytes
            collectives += Counter({k: times * n for k, n in part.collectives.items()})
            continue
        if operation in _FREE or operation.endswith("-done"):
            continue
        operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
        size = _bytes(kind) + sum(_bytes(types.get(name, "")) for name in operands)
        kernels, small, moved = kernels + 1, small + (size <= SMALL), moved + size
        if (base := operation.removesuffix("-start")) in _COLLECTIVES:
            collectives[base] += 1
            sent += sum(_bytes(types.get(name, "")) for name in operands)
    return Count(kernels, small, moved, collectives, sent)


def _bytes(types: str) -> int:
    def size(kind: str) -> int:
        bits = int(re.sub(r"\D", "", kind) or 0)
        return _SIZES.get(kind) or max(1, bits // 8)

    return sum(
        size(kind) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in _SHAPE.findall(types)
    )
