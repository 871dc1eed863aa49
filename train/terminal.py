"""Output that every terminal can show."""

import io
import sys


def show_all() -> None:
    """Lets what the terminal's encoding lacks be written as in a string of Python."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # PYTHONUNBUFFERED writes the end of a line apart; by then, a reader of one line
        # may be gone, and the run would end.
        sys.stdout.reconfigure(write_through=False)


def visible(text: str) -> str:
    """A text without characters that a terminal takes as commands.

    Ends of lines and tabs stay. An escape, a bell or a return is written as in a string
    of Python.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
