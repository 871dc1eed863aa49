"""The rules of options, which stand beside their fields.

`option` takes them, `check_bounds` and `neutral_names` read them. A class that gives an
option another default keeps its rules.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Annotated, Any, get_type_hints

import docstring_parser
import tyro

from train.errors import require


def option(
    default: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float = math.inf,
    most: float = math.inf,
    changes_result: bool = True,
) -> Any:
    """A field of a dataclass of options, with the rules for its value.

    Args:
        default: Default value.
        least: Lowest value allowed. The limits of a tuple are those of its values,
            which must differ from each other.
        above: Value that it must exceed.
        below: Value that it must stay under.
        most: Highest value allowed.
        changes_result: Whether a run's result depends on the option by more than
            rounding. The others say where and how fast a run computes; they are not
            kept in its ``config.json``.
    """
    rules: dict[str, Any] = {}
    if (least, above) != (None, None):
        rules["bounds"] = least, above, below, most
    if not changes_result:
        rules["changes_result"] = False
    return dataclasses.field(default=default, metadata=rules)


def _rules(config: Any, rule: str) -> dict[str, Any]:
    """One rule of all options that have it, even if a subclass defines them anew."""
    return {
        field.name: field.metadata[rule]
        for kind in reversed(type(config).__mro__)
        if dataclasses.is_dataclass(kind)
        for field in dataclasses.fields(kind)
        if rule in field.metadata
    }


def neutral_names(config: Any) -> tuple[str, ...]:
    """The names of the options that do not change the result."""
    return tuple(_rules(config, "changes_result"))


def check_bounds(config: Any) -> None:
    """Raises an `InputError` for a number outside the bounds of its option."""
    for name, (least, above, below, most) in _rules(config, "bounds").items():
        given, flag = getattr(config, name), flag_of(type(config), name)
        limit = f"above {above}" if least is None else f"at least {least}"
        highest = f"2^{math.log2(below):g}" if below > 1 else f"{below:g}"
        values = given if isinstance(given, tuple) else (given,)
        require(
            len(values) == len(set(values)),
            f"{flag} needs different values; got {' '.join(map(str, values))}",
        )
        for value in values:
            if not isinstance(value, int | float):  # It is to be filled in.
                continue
            inside = value > above if least is None else value >= least
            require(
                inside and value < math.inf,
                f"{flag} must be finite and {limit}; got {value}",
            )
            require(value < below, f"{flag} must be below {highest}; got {value}")
            require(value <= most, f"{flag} must be at most {most:,}; got {value}")


def tidy_help(kinds: Iterable[type]) -> None:
    """Mends the help that tyro makes of classes of options.

    The text of an option says what happens when it is not given, so "(default: None)"
    is left out. Lines are joined, because tyro would keep the breaks of the source.
    """
    bases = {base for kind in kinds for base in kind.__mro__}
    for base in filter(dataclasses.is_dataclass, bases):
        params = docstring_parser.parse_from_object(base).params
        texts = {param.arg_name: param.description or "" for param in params}
        for name, hint in base.__annotations__.items():
            if "\n" in (text := texts.get(name, "")):
                hint = Annotated[hint, tyro.conf.arg(help=" ".join(text.split()))]
            if getattr(base, name, ...) in (None, (), "preset"):
                hint = Annotated[hint, tyro.conf.arg(help_behavior_hint="")]
            base.__annotations__[name] = hint


def flag_of(kind: type, name: str) -> str:
    """The flag of an option on the command line, which may have another name."""
    hint = get_type_hints(kind, include_extras=True)[name]
    names = [getattr(each, "name", None) for each in getattr(hint, "__metadata__", ())]
    return f"--{next(filter(None, names), name).replace('_', '-')}"
