"""Live progress of a run: a bar in a terminal, a few plain lines elsewhere."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_PLAIN_LINES = 12


class ProgressReport:
    """Shows how far a run is, its latest metrics and the time left.

    Args:
        total: Units of work in the whole run, at least 1.
        quiet: Show nothing.
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
        """Reports the state of the run.

        Args:
            units: Units of work done since the last call.
            text: What is being done, with its latest metrics.
        """
        self._done += units
        self._bar.update(self._task, completed=self._done, description=text)
        line = self._done * _PLAIN_LINES // self._total
        if self._plain and line > self._printed:
            self._printed = line
            elapsed = time.monotonic() - self._started
            left = elapsed / self._done * (self._total - self._done)
            self._console.print(
                f"{text}  {left:.0f} s left", highlight=False, soft_wrap=True
            )
