"""Work ahead of time: in order, and at an end when the parent says so."""

import multiprocessing
import operator
import os
import time
from functools import partial
from itertools import islice

import pytest

from tests.support.rating_files import refused
from train.images.workers import by_processes, by_thread


def made(work, numbers, workers, ahead=2):
    if workers:
        return by_processes(work, numbers, workers, ahead)
    return by_thread(work, numbers, ahead)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(workers):
    found = list(made(operator.neg, range(3, 20), workers))
    assert found == [-number for number in range(3, 20)]
    assert not multiprocessing.active_children()


def test_closing_does_not_wait_for_the_work():
    # Each number is the seconds that it takes.
    stream = made(time.sleep, range(0, 10**6, 500), 2)
    assert next(stream) is None
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 1
    assert not multiprocessing.active_children()


def test_results_that_nobody_takes_do_not_keep_a_worker():
    # More than a pipe holds, so the worker is in the midst of sending.
    stream = made(bytes, range(10**6, 10**9), 1)
    assert [len(x) for x in islice(stream, 2)] == [10**6, 10**6 + 1]
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_are_one_line(workers):
    message = "a worker failed (ZeroDivisionError: "
    refused(lambda: list(made(partial(operator.mod, 6), range(0, 9), workers)), message)
    refused(lambda: list(made(os._exit, range(3, 9), workers)), "ended with code 3")
    assert not multiprocessing.active_children()
