"""Live progress: a bar in a terminal, a few plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from train.interrupts import safe_point

_PLAIN_LINES = 12


class ProgressReport:
    """Shows how far a run or a study is, its present part, and the time left.

    Args:
        total: Units of work in all, at least 1.
        quiet: Whether to show nothing.
    """

    def __init__(self, total: int, quiet: bool = False) -> None:
        """Starts the clock."""
        console = Console(stderr=True)
        self._total = total
        self._started = time.monotonic()
        self._plain = not quiet and not console.is_terminal
        self._done = 0
        self._printed = 0
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=total)

    def __enter__(self) -> Self:
        """Shows the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the bar."""
        self._bar.stop()

    def advance(self, units: int, text: str) -> None:
        """Reports that some work is done.

        Args:
            units: Units of work done since the last call.
            text: The present part of the work, with its latest metrics.
        """
        self._done += units
        self._bar.update(self._task, completed=self._done, description=text)
        line = self._done * _PLAIN_LINES // self._total
        if line > self._printed:
            self._printed = line
            elapsed = time.monotonic() - self._started
            left = elapsed / self._done * (self._total - self._done)
            self._print(f"{text}  {left:.0f} s left")

    def begin(self, text: str) -> None:
        """Shows which part of the work begins, where Ctrl-C may end it.

        Plain output has a line for the first part only, so that it says something
        before any work is done.
        """
        safe_point()
        self._bar.update(self._task, description=text)
        if not self._done:
            self._print(text)

    @contextmanager
    def part(self, text: str, units: int = 1) -> Iterator[None]:
        """Reports one part of the work, which is what the ``with`` block does.

        Args:
            text: Name of the part.
            units: Units of work in it.
        """
        self.begin(text)
        yield
        self.advance(units, f"{text}: done")

    def _print(self, line: str) -> None:
        if self._plain:
            self._console.print(line, highlight=False, soft_wrap=True)


QUIET = ProgressReport(1, quiet=True)
"""Shows nothing; for calls that need no progress report."""
