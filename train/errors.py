"""The errors that the command line turns into exit codes."""


class InputError(Exception):
    """Bad input by the user: its message is one line that names the remedy."""


class Diverged(Exception):
    """A run that diverged. Its message says when; its results are written."""


def require(met: bool, message: str) -> None:
    """Raises `InputError` with a message unless a condition is met."""
    if not met:
        raise InputError(message)
