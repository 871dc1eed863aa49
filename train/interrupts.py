"""Ctrl-C, held back until a moment at which a process can end cleanly.

Python raises `KeyboardInterrupt` between any two of its instructions. Within JAX this
may be in a callback, which swallows it, or while threads compile, which crash when the
interpreter ends.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

EXIT_CODE = 130  # Of a process that Ctrl-C ended: 128 and the number of the signal.
_came = False


@contextmanager
def held() -> Iterator[None]:
    """Within this, Ctrl-C takes effect at the next `safe_point`, or at the end.

    A second Ctrl-C ends the process at once, as a kill does.
    """
    ours = threading.current_thread() is threading.main_thread()
    # Another handler than Python's own is somebody's decision, as under nohup.
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _remember)
    try:
        yield
        safe_point()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def safe_point(pending: Any = ()) -> None:
    """Raises `KeyboardInterrupt` if Ctrl-C came within `held`.

    Args:
        pending: Arrays that the devices may still compute; this waits for them first.
    """
    global _came
    if _came:
        _came = False
        jax.block_until_ready(pending)
        raise KeyboardInterrupt


def _remember(*_: Any) -> None:
    global _came
    if _came:
        os._exit(EXIT_CODE)
    _came = True
