"""A run in two processes that find each other over the loopback, and its rows."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax

from tests.support.compilation import WARNINGS
from tests.support.interruptions import PROGRAM
from train.__main__ import main

ROOT = Path(__file__).parents[2]
FLAGS = "--xla_force_host_platform_device_count=2"


def one_and_two(command, folder):
    """Rows of a run of one device, and of one of two processes with two each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    members = [
        subprocess.Popen(
            [
                *(sys.executable, *WARNINGS, "-c", PROGRAM, *command),
                *("--out", str(folder / "two"), "--processes", "2"),
                *("--process", str(index), "--coordinator", f"127.0.0.1:{port}"),
            ],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": FLAGS},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    assert main([*command, "--out", str(folder / "one"), "--devices=1"]) == 0
    ends = [process.communicate(timeout=300) for process in members]
    assert [process.returncode for process in members] == [0, 0], ends
    assert f"on 4 x {jax.devices()[0].device_kind}" in ends[0][0]
    # Only the first process speaks. (The library of the connections does in both, with
    # lines that its threads may break.)
    assert "\nWritten to " in ends[0][0]
    assert "epochs" not in ends[1][0] and "Written" not in ends[1][0]
    runs = [folder / name for name in ("one", "two")]
    files = [sorted(path.name for path in run.iterdir()) for run in runs]
    assert files[0] == files[1]
    return [
        [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
        for run in runs
    ]
