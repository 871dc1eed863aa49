"""Data parallelism: splits the batch among devices, and the state too if wanted.

Each device computes the gradient of its share of a batch (`Devices.per_device`): the
program knows its place by `lax.axis_index(AXIS)` and sums by `lax.psum(..., AXIS)`; its
arguments and results are the same on all devices. Under ``pmap`` the whole program runs
per device. Under ``jit`` everything else, above all the optimizer, works on logical
arrays, wherever their parts are: a norm is that of the whole tensor.
"""

import math
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from train.errors import InputError, require

AXIS = "data"
MODES = ("jit", "pmap")
# Keeps convolutions away from YNNPACK, which computes each of them on one thread. With
# XLA's own convolutions the small CNN trains 1.75 times faster on two cores.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}
TIMEOUT = 60  # Seconds that processes wait for each other.
SMALL = 2**12  # Elements; a smaller array is whole on every device.


def connect(coordinator: str, processes: int, process: int) -> None:
    """Joins the processes of a run. Call it before any other use of the devices.

    Args:
        coordinator: ``HOST:PORT`` of process 0.
        processes: Number of processes.
        process: Number of this process, from 0.

    Raises:
        InputError: If the processes do not find each other.
    """
    # Listen where the others were told to connect, not on all interfaces.
    own: dict[str, Any] = (
        {"coordinator_bind_address": coordinator} if process == 0 else {}
    )
    try:
        if process > 0:
            _await_listener(coordinator)
        else:
            _check_free(coordinator)
        jax.distributed.initialize(
            coordinator, processes, process, initialization_timeout=TIMEOUT, **own
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"process {process} of {processes} could not join at {coordinator}"
            f" ({reason}); start all processes with the same --coordinator"
        ) from None


def check_address(coordinator: str) -> None:
    """Raises an `InputError` unless this is HOST:PORT."""
    host, _, port = coordinator.rpartition(":")
    known = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 2**16
    require(
        bool(host) and known,
        f"--coordinator must be HOST:PORT, with a port of 1 to {2**16 - 1};"
        f" got {coordinator!r}",
    )


def memory() -> int:
    """The memory of a device in bytes, so far as it is known; on CPUs the machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return stats.get("bytes_limit", machine)


def _address(coordinator: str) -> tuple[str, int]:
    host, port = coordinator.rsplit(":", 1)
    return host.strip("[]"), int(port)


def _check_free(coordinator: str) -> None:
    """Takes the address for a moment: JAX aborts where it cannot."""
    host, port = _address(coordinator)
    failure: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        try:
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
            return
        except OSError as error:
            failure = error
    if failure:
        raise failure


def _await_listener(coordinator: str) -> None:
    """Waits until process 0 listens: JAX kills a process that cannot connect."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            socket.create_connection(_address(coordinator), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _compiler_options() -> dict[str, str]:
    """The options for CPUs, if this XLA knows them: it calls them experimental."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return CPU_OPTIONS


def take_devices(config: Any) -> "Devices":
    """Joins the processes of a run and takes its devices. Call it before any other use.

    Args:
        config: Options of the run, see `train.options.RunOptions`.
    """
    if config.coordinator:
        connect(config.coordinator, config.processes, config.process)
    return Devices(config.parallel, config.devices, config.shard_state)


class Devices:
    """The devices of a run, and how programs and arrays get there.

    Attributes:
        count: Number of devices, of all processes together.
        axis: Name to sum over; `None` on a single device.
    """

    def __init__(
        self, mode: str = "jit", limit: int | None = None, shard_state: bool = False
    ):
        """Takes the devices.

        Args:
            mode: ``jit`` (a mesh and sharding) or ``pmap``.
            limit: Number of devices to take; None takes all.
            shard_state: Whether each device keeps a part of each large array of the
                state instead of the whole; with ``jit``.
        """
        devices = jax.devices()[:limit]
        require(
            limit is None or limit == len(devices),
            f"--devices {limit}: there are {len(devices)}",
        )
        self.count = len(devices)
        self.axis = AXIS if self.count > 1 else None
        self._pmap = mode == "pmap" and self.count > 1
        self._devices = devices
        self._shard_state = shard_state
        self._compiler_options = _compiler_options()
        axes = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((self.count,), (AXIS,), devices=devices, axis_types=axes)
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._rows = NamedSharding(mesh, PartitionSpec(AXIS))

    def compile(self, program: Callable, *, donate: bool = False) -> Callable:
        """Makes ``program(first, *rest)`` run on all devices.

        Args:
            program: A function of arrays.
            donate: Whether the first argument's memory is reused for the result.
        """
        donated = (0,) if donate else ()
        if self._pmap:
            return jax.pmap(
                program, AXIS, donate_argnums=donated, devices=self._devices
            )

        def placed(*arguments):
            # Without the constraint, the compiler chooses where it puts the results.
            return jax.tree.map(
                lambda x: jax.lax.with_sharding_constraint(x, self._place(x)),
                program(*arguments),
            )

        return jax.jit(
            placed, donate_argnums=donated, compiler_options=self._compiler_options
        )

    def per_device(self, program: Callable, *, split: bool = False) -> Callable:
        """Makes a part of a compiled program run once on each device.

        Args:
            program: ``program(*rest, last)``, a function of arrays; these and its
                results are the same on all devices.
            split: Whether the last argument is from `shard_batch`, so that each device
                takes its own rows.
        """
        if self._pmap or not self.axis:
            return program
        whole, rows = PartitionSpec(), PartitionSpec(AXIS if split else None)

        def on_each(*arguments):
            return jax.shard_map(
                program,
                mesh=self._everywhere.mesh,
                in_specs=(*[whole] * (len(arguments) - 1), rows),
                out_specs=whole,
                # The same semantics as under pmap: gradients are summed where the
                # program says so and nowhere else.
                check_vma=False,
            )(*arguments)

        return on_each

    def replicate(self, tree: Any) -> Any:
        """Copies a tree of arrays to every device."""
        if self._pmap:
            return jax.tree.map(partial(_stack, self.count, self._rows), tree)
        return jax.tree.map(lambda x: jax.device_put(x, self._everywhere), tree)

    def shard_batch(self, tree: Any) -> Any:
        """Splits arrays along their first axis among the devices.

        Args:
            tree: This process's rows. All processes have equally many, and those of
                the first process come first.
        """

        def place(x):
            if self._pmap:
                own = self.count // jax.process_count()
                x = x.reshape(own, len(x) // own, *x.shape[1:])
            return jax.make_array_from_process_local_data(self._rows, x)

        return jax.tree.map(place, tree)

    def place_state(self, tree: Any) -> Any:
        """Copies the state to the devices: all of it to each, or a part to each."""
        if self._pmap:
            return self.replicate(tree)
        return jax.tree.map(lambda x: jax.device_put(x, self._place(x)), tree)

    def gather(self, tree: Any) -> Any:
        """Copies a tree of arrays that a program returned to the host."""

        def whole(x):
            if self._pmap:
                # The copy of this process's first device.
                return np.asarray(np.asarray(x.addressable_data(0))[0])
            if x.is_fully_replicated:
                return np.asarray(x.addressable_data(0))
            return multihost_utils.process_allgather(x, tiled=True)

        return jax.tree.map(whole, tree)

    def _place(self, x: Any) -> NamedSharding:
        """The sharding of an array of the state: along its largest dimension that the
        number of devices divides, or the whole array on every device.
        """
        shape = np.shape(x)
        sizes = [size if size % self.count == 0 else 0 for size in shape]
        if not self._shard_state or math.prod(shape) < SMALL or not any(sizes):
            return self._everywhere
        spec = PartitionSpec(*[None] * sizes.index(max(sizes)), AXIS)
        return NamedSharding(self._everywhere.mesh, spec)


def _stack(count: int, sharding: NamedSharding, x: Any) -> jax.Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(
        (count, *x.shape),
        sharding,
        lambda index: np.broadcast_to(x, (count, *x.shape))[index],
    )
