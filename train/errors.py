"""The error that a user can remedy."""


class InputError(Exception):
    """Bad input by the user: its message is one line that names the remedy."""


def require(met: bool, message: str) -> None:
    """Raises `InputError` with a message unless a condition is met."""
    if not met:
        raise InputError(message)
