"""Commands of pages and of output: parsed, with all checks that come before data."""

import re
import shlex

from train import loop, sweep
from train.__main__ import parse

SPAN = re.compile(r"`python -m train ([^`\n]+)`")
LINE = re.compile(r"^(?:\w+=\S+ )*python -m train (.+)$", re.M)


def in_text(text):
    """The commands of a text, without ``python -m train``, and whether each is whole.

    Those in a line of their own are whole; a sentence may name the start of one.
    """
    spans = [(command, False) for command in SPAN.findall(text)]
    lines = [(command, True) for command in LINE.findall(text)]
    return spans + lines


def check(command):
    """Parses a command and checks its options.

    Raises:
        InputError: If the command line refuses it.
    """
    words = shlex.split(command.replace("HOST:PORT", "localhost:1234"), comments=True)
    if "--help" in words:
        return
    call = parse(words)
    if call.func is loop.run:
        experiment, config = call.args
        experiment.resolve(config)
    elif call.func is sweep.run:
        experiment, config = call.args
        for name in config.optimizers:
            for member in sweep.grid(experiment, config, name):
                sweep.trial_config(experiment, config, name, member)
