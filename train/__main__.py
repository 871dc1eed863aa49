"""The command line: ``python -m train [sweep] NAME [options]``."""

import contextlib
import dataclasses
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

if "--deterministic" in sys.argv:  # XLA reads its flags once, when JAX starts.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true"

_MISSING = (
    "the Python package {} is not installed; python -m pip install '.[train]' installs"
    " all that python -m train needs"
)
try:
    import tyro

    from train import evaluate, loop, sweep
    from train.errors import Diverged, InputError, require
    from train.interrupts import NOTHING
    from train.registry import EXPERIMENTS
    from train.report import command as report
    from train.rules import tidy_help
    from train.studies import command as study
    from train.terminal import show_all, visible
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] in ("lawn_optax", "models", "train"):
        raise
    print(f"error: {_MISSING.format(error.name)}", file=sys.stderr)
    sys.exit(2)

PROG = "python -m train"
Command = tuple[type, Callable[[Any], None]]  # Class of the options, function.
COMMANDS: dict[str, Command] = {
    **{name: (e.Options, partial(loop.run, e)) for name, e in EXPERIMENTS.items()},
    "study": (study.Config, study.run),
    "evaluate": (evaluate.Config, evaluate.run),
    "report": (report.Config, report.run),
}
SWEEPS: dict[str, Command] = {
    name: (experiment.sweep.Options, partial(sweep.run, experiment))
    for name, experiment in EXPERIMENTS.items()
    if experiment.sweep
}


tidy_help(kind for kind, _ in (*COMMANDS.values(), *SWEEPS.values()))


@dataclasses.dataclass(frozen=True)
class Sweeps:
    """Sweeps: a grid of hyperparameters for each optimizer; see `sweep --help`."""


def parse(arguments: Sequence[str]) -> Callable[[], None]:
    """Parses the command line into a function that runs the command.

    Args:
        arguments: Words after ``python -m train``.

    Raises:
        InputError: For a command line that does not parse.
        SystemExit: With code 0, after printing the help that was asked for.
    """
    arguments, prog, known = list(arguments) or ["--help"], PROG, COMMANDS
    # An empty path would be the working directory.
    for before, word in itertools.pairwise([prog, *arguments]):
        flag = word[:-1] if re.fullmatch("--[^=]+=", word) else before
        empty = word in ("", f"{flag}=")
        require(not empty, f"nothing is given after {flag}; name something")
    listed = {name: options for name, (options, _) in known.items()} | {"sweep": Sweeps}
    if arguments[0] == "sweep":
        arguments, prog, known = arguments[1:] or ["--help"], f"{PROG} sweep", SWEEPS
        listed = {name: options for name, (options, _) in known.items()}
    if not arguments[0].startswith("-") and arguments[0] not in known:
        names = ", ".join(known if known is SWEEPS else [*known, "sweep"])
        raise InputError(f"unknown experiment {arguments[0]!r}; choose from: {names}")
    messages = io.StringIO()
    if os.environ.get("NO_COLOR"):
        tyro._experimental_options["ansi_codes"] = False
    try:
        with contextlib.redirect_stderr(messages):
            config = tyro.extras.subcommand_cli_from_dict(
                listed,
                prog=prog,
                description="Experiments with fixed-norm training.",
                args=arguments,
            )
    except SystemExit as exit_:
        if not exit_.code:
            sys.stdout.flush()  # The help.
            raise
        name = [arguments[0]] if arguments[0] in known else []
        see = " ".join([prog, *name, "--help"])
        raise InputError(
            f"{_first_paragraph(messages.getvalue())}; see {see}"
        ) from None
    return partial(known[arguments[0]][1], config)


def _first_paragraph(box: str) -> str:
    """The message of tyro's error box, without title and frame, in one line.

    tyro gives the message in no other form.
    """

    def is_frame(line: str) -> bool:
        return not line.strip("─-╭╮╰╯+| ")

    box = re.sub(r"\x1b\[[0-9;]*m", "", box)  # Colours, at a terminal.
    body = [line.strip("│| ") for line in box.splitlines()[1:]]
    body = itertools.dropwhile(is_frame, body)
    text = " ".join(itertools.takewhile(lambda line: not is_frame(line), body))
    return text.rstrip(".")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
        arguments: Words after ``python -m train``; `None` means ``sys.argv``.

    Returns:
        0 on success, 2 for bad input, 3 if the run diverged, 130 when interrupted, 141
        if the reader of the output went away before its end.
    """
    show_all()
    try:
        parse(sys.argv[1:] if arguments is None else arguments)()
        sys.stdout.flush()
    except InputError as error:
        line = re.sub(r"\s*\n\s*", " ", str(error))
        print(f"error: {visible(line)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:  # Of a package that only some commands need.
        print(f"error: {_MISSING.format(error.name)}", file=sys.stderr)
        return 2
    except Diverged:  # The result says so.
        return 3
    except BrokenPipeError:
        # Else Python would complain when it flushes the output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as interrupt:
        what = str(interrupt) or NOTHING
        print(f"interrupted: {what}", file=sys.stderr)
        return 130
    except SystemExit as exit_:  # The help was printed.
        return int(exit_.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
