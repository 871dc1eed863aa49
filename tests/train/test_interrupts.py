"""Ctrl-C takes effect where a process can end cleanly, and nowhere else."""

import gc
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.support import tiny_recommenders as tiny
from tests.support.interruptions import PROGRAM, ROOT, WARNINGS
from train import interrupts


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_waits_for_a_safe_point():
    reached = []
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        press()
        reached.append("after")
        interrupts.safe_point()
        reached.append("beyond")
    assert reached == ["after"]
    with pytest.raises(KeyboardInterrupt):  # As before.
        press()
    interrupts.safe_point()


def test_the_error_says_what_it_means():
    with pytest.raises(KeyboardInterrupt, match="so it is"):
        with interrupts.held("so it is"):
            press()
            interrupts.safe_point()
    with pytest.raises(KeyboardInterrupt, match="all was done"):
        with interrupts.held("so it is"):
            press()


def test_without_a_safe_point_the_process_ends(monkeypatch):
    ended, meanings = threading.Event(), []
    monkeypatch.setattr(interrupts, "PATIENCE", 0.02)
    end = lambda what: meanings.append(what) or ended.set()  # noqa: E731
    monkeypatch.setattr(interrupts, "_end", end)
    with pytest.raises(KeyboardInterrupt), interrupts.held("so it is"):
        press()
        assert ended.wait(10)
    assert meanings == ["so it is"]


def test_a_second_ctrl_c_ends_it_at_once(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(interrupts, "PATIENCE", 60)
    monkeypatch.setattr(interrupts, "_end", lambda _: ended.set())
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        press()
        assert not ended.wait(0.02)
        press()
        assert ended.wait(10)


# The process waits for a program of a minute.
COMPUTES = """
import os, signal, threading, jax
from train import interrupts
threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
with interrupts.held(interrupts.GOES_ON):
    count = lambda n: jax.lax.while_loop(lambda i: i < n, lambda i: i + 1, 0)
    print(jax.jit(count)(2**62))
"""


@pytest.mark.slow
def test_a_program_that_computes_is_not_waited_for():
    found = subprocess.run(
        [sys.executable, "-c", COMPUTES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"JAX_ENABLE_X64": "1"},
    )
    assert found.stderr == "interrupted: the same command continues from here\n"
    assert (found.returncode, found.stdout) == (interrupts.EXIT_CODE, "")


def test_it_waits_for_the_end_at_the_latest():
    reached = []
    with pytest.raises(KeyboardInterrupt), interrupts.held(), interrupts.held():
        press()
        reached.append("after")
    assert reached == ["after"]


def test_no_callback_swallows_it():
    callback = lambda phase, _: phase == "stop" or press()  # noqa: E731
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        gc.callbacks.append(callback)
        try:
            gc.collect(0)
        finally:
            gc.callbacks.remove(callback)
        interrupts.safe_point()


def test_handlers_of_others_stay():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.held():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

    def elsewhere():  # Only the main thread may set handlers.
        with interrupts.held():
            pass

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()


# Ctrl-C comes while JAX lowers and compiles the training.
DURING = """
import os, signal, threading
from jax._src import compiler
original, count = compiler.backend_compile_and_load, []
def compile(*arguments, **options):
    count.append(1)
    if len(count) == 5:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    return original(*arguments, **options)
compiler.backend_compile_and_load = compile
"""


@pytest.mark.slow
def test_a_compiling_run_ends_with_one_line(tmp_path):
    files = tiny.write_ratings(tmp_path)
    command = f"recsys --quiet --epochs 500 --data-dir {files} --out {tmp_path / 'run'}"
    code = ["-c", DURING + PROGRAM, *command.split(), "--devices", "1"]
    found = subprocess.run(
        [sys.executable, *WARNINGS, *code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"},
    )
    assert found.stderr == "interrupted: the same command continues from here\n"
    assert found.returncode == interrupts.EXIT_CODE
