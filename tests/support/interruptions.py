"""Runs of the command line that end at a given moment, and their files."""

import contextlib
import subprocess
import sys
from pathlib import Path

import orbax.checkpoint as ocp
import pytest

from tests.support.compilation import WARNINGS
from train.runs import folder as runs

ROOT = Path(__file__).parents[2]

# ``python -m train``, with the compilation and the network of the tests of training.
PROGRAM = """
import sys
from tests.support import compilation, small_cnn
from train.__main__ import main
with compilation.fast(), small_cnn.replaced():
    sys.exit(main(sys.argv[1:]))
"""
# The process kills itself at the n-th call of a method of the run's folder.
SCRIPT = """
import os, signal, sys
from train.runs import folder as runs
name, count = sys.argv[1], [int(sys.argv[2])]
del sys.argv[1:3]
original = getattr(runs.Run, name)
def deadly(*args, **options):
    count[0] -= 1
    if count[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **options)
setattr(runs.Run, name, deadly)
"""


def run_until(name, number, command):
    """Runs ``python -m train`` up to the n-th call of ``Run.NAME``."""
    program = ["-c", SCRIPT + PROGRAM, name, str(number), *command]
    process = subprocess.run(
        [sys.executable, *WARNINGS, *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == -9 and process.stderr == "", process.stderr


@contextlib.contextmanager
def interrupted_at(epoch):
    """Within this, a run is interrupted as it saves its state after an epoch."""
    save = runs.Run.save

    def interrupting(run, number, state, force):
        if number == epoch:
            raise KeyboardInterrupt
        return save(run, number, state, force=force)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.Run, "save", interrupting)
        yield


def checkpoint(folder, epoch):
    """The state that a run has saved after an epoch."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(
            folder.resolve() / "checkpoints" / str(epoch) / "state"
        )
