"""The command line: ``python -m train [sweep] NAME [options]``."""

import contextlib
import io
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from train import (
    InputError,
    evaluate,
    sweep,
)
from train.digits import experiment as digits
from train.images import experiment as image
from train.images import options as image_options
from train.recommenders import experiment as recsys
from train.recommenders import options as recsys_options
from train.report import command as report
from train.studies import command as study

PROG = "python -m train"
EXPERIMENTS = {
    "digits": digits.Config,
    "recsys": recsys.Config,
    "image": image.Config,
    "study": study.Config,
    "evaluate": evaluate.Config,
    "report": report.Config,
}
SWEEPS = {"recsys": recsys_options.SweepConfig, "image": image_options.SweepConfig}
RUNNERS = {
    digits.Config: digits.run,
    recsys.Config: recsys.run,
    image.Config: image.run,
    **dict.fromkeys(SWEEPS.values(), sweep.run),
    study.Config: study.run,
    evaluate.Config: evaluate.run,
    report.Config: report.run,
}


def parse(arguments: Sequence[str]) -> Any:
    """Turns the command line into the configuration of one experiment.

    Args:
        arguments: What follows ``python -m train``.

    Returns:
        An instance of one of the classes in `EXPERIMENTS`.

    Raises:
        InputError: For a command line that does not parse.
        SystemExit: With code 0, after printing the help that was asked for.
    """
    arguments, prog, known = list(arguments) or ["--help"], PROG, EXPERIMENTS
    if arguments[0] == "sweep":
        arguments, prog, known = arguments[1:] or ["--help"], f"{PROG} sweep", SWEEPS
    if not arguments[0].startswith("-") and arguments[0] not in known:
        names = ", ".join(known if known is SWEEPS else [*known, "sweep"])
        raise InputError(f"unknown experiment {arguments[0]!r}; choose from: {names}")
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.extras.subcommand_cli_from_dict(
                known,
                prog=prog,
                description="Experiments with fixed-norm training.",
                args=arguments,
            )
    except SystemExit as exit_:
        if not exit_.code:
            raise
        raise InputError(_first_paragraph(messages.getvalue())) from None


def _first_paragraph(box: str) -> str:
    """The message of tyro's error box, without title and frame, in one line."""

    def is_frame(line: str) -> bool:
        return not line.strip("─-╭╮╰╯ ")

    body = [line.strip("│ ") for line in box.splitlines()[1:]]
    body = itertools.dropwhile(is_frame, body)
    text = " ".join(itertools.takewhile(lambda line: not is_frame(line), body))
    return f"{text.rstrip('.')}; see {PROG} NAME --help"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
        arguments: What follows ``python -m train``; `None` means ``sys.argv``.

    Returns:
        0 on success, 2 for bad input, 130 when interrupted.
    """
    try:
        config = parse(sys.argv[1:] if arguments is None else arguments)
        RUNNERS[type(config)](config)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        what = str(interrupt) or "no results were written"
        print(f"interrupted: {what}", file=sys.stderr)
        return 130
    except SystemExit as exit_:  # The help was printed.
        return int(exit_.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
