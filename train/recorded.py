"""Options as results keep them: read back with all checks, or written as a command."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from typeguard import TypeCheckError, check_type

from train.errors import InputError
from train.rules import check_bounds
from train.runs.documents import malformed


def read(kind: type, given: Mapping[str, Any], place: Path) -> Any:
    """Options from the record of a command.

    Args:
        kind: Class of the options.
        given: Options by name; those that an older version did not have may lack.
        place: Folder of the record, for messages.

    Returns:
        An instance of `kind`, whose values have the types and bounds of its options.

    Raises:
        InputError: If the record is of another form.
    """
    file = place / "config.json"
    types = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values = {}
    for name, value in given.items():
        if name == "experiment":
            continue
        if name not in fields:
            raise malformed(file, f"no option is named {name}")
        value = tuple(value) if isinstance(value, list) else value
        try:
            check_type(value, types[name])
        except TypeCheckError:
            raise malformed(file, f"no valid {name}") from None
        values[name] = value
    config = kind(**values)
    try:
        check_bounds(config)
    except InputError as error:
        raise malformed(file, str(error)) from None
    return config


def flags(
    kind: type,
    resolve: Callable[[Any], Any],
    options: Mapping[str, Any],
    shown: Sequence[str] = (),
) -> list[str]:
    """The flags of a command that gives these options, and leaves out its defaults.

    Args:
        kind: Class of the options on the command line.
        resolve: ``(options) -> options`` with all defaults filled in.
        options: Resolved options by name; others have their defaults.
        shown: Names of options that come first, even if they have their defaults.

    Raises:
        InputError: If no run can have them.
    """
    given = {name: options[name] for name in shown}
    while True:
        # Some defaults depend on options that are given.
        try:
            found = resolve(kind(**given))
        except InputError:
            # Defaults that belong to another size of run may not fit to what is given.
            if not (missing := [name for name in options if name not in given]):
                raise
            given[missing[0]] = options[missing[0]]
            continue
        differ = {k: v for k, v in options.items() if getattr(found, k) != v}
        if not differ:
            return [word for name in given for word in _flag(name, given[name])]
        if not differ.keys() - given.keys():
            raise InputError(f"no command gives {', '.join(differ)}")
        given |= differ


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, tuple):
        return [flag, *map(str, value)]
    return [flag, f"{value:g}" if isinstance(value, float) else str(value)]
