"""Ctrl-C, held back until a moment at which a process can end cleanly.

Python raises `KeyboardInterrupt` between any two of its instructions. Within JAX this
may be in a callback, which swallows it, or while threads compile, which crash when the
interpreter ends. And Python hears nothing while it waits for a program that trains for
minutes: there, a thread ends the process as a kill does, which every run survives.
"""

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

EXIT_CODE = 130  # Of a process that Ctrl-C ended: 128 and the number of the signal.
GOES_ON = "the same command continues from here"
NOTHING = "no results were written"
DONE = "all was done by then"
PATIENCE = 1.5  # Seconds that a process has to reach a safe point.
_came = False


@contextmanager
def held(meaning: str = NOTHING) -> Iterator[None]:
    """Within this, Ctrl-C takes effect at the next `safe_point`, or at the end.

    If none is near, or at a second Ctrl-C, the process ends at once, as a kill does.

    Args:
        meaning: What the user reads after "interrupted: ".
    """
    global _came
    ours = threading.current_thread() is threading.main_thread()
    # Another handler than Python's own is somebody's decision, as under nohup.
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    heard, wake = os.pipe()
    os.set_blocking(wake, False)
    watcher = threading.Thread(target=_watch, args=(heard, meaning), daemon=True)
    watcher.start()
    signal.signal(signal.SIGINT, _remember)
    # The system writes to it even while Python waits for a program.
    before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield
        if _came:
            raise KeyboardInterrupt(DONE)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(str(interrupt) or meaning) from None
    finally:
        _came = False
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(wake)
        watcher.join()


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
    _came = True


def _watch(heard: int, meaning: str) -> None:
    """Ends the process after Ctrl-C, unless `held` ends soon; the thread's whole life.

    Args:
        heard: Pipe that gets the number of each signal; it closes when `held` ends.
        meaning: What the user reads.
    """
    patience = None
    with open(heard, "rb", buffering=0) as signals:
        while True:
            if not select.select([signals], [], [], patience)[0]:
                _end(meaning)
            number = signals.read(1)
            if not number:
                return
            if number[0] == signal.SIGINT:
                if patience is not None:
                    _end(meaning)
                patience = PATIENCE


def _end(meaning: str) -> None:
    """Ends the process; nothing of the interpreter is taken down."""
    line = f"interrupted: {meaning}\n"
    if os.isatty(2):  # A progress bar has hidden the cursor.
        line = f"\n{line}\x1b[?25h"
    try:
        os.write(2, line.encode())
    finally:
        os._exit(EXIT_CODE)
