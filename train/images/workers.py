"""Numbered work that is done ahead of time, by processes or by a thread.

A worker has every n-th number and sends its results through a pipe of its own, so that
they can be taken in order. It ends when the pipe closes: with its parent, even if that
was killed. Nothing is shared that a worker could leave behind.
"""

import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

from train import InputError

Work = Callable[[int], Any]  # Goes to workers, so it must support pickling.


def by_processes(
    work: Work, numbers: range, workers: int, ahead: int
) -> Generator[Any, None, None]:
    """The results of `work` for all numbers, in order. Closing it ends the processes.

    Args:
        work: A function of a number.
        numbers: The numbers.
        workers: Number of processes, at least 1.
        ahead: Number of results that each of them may have ready.

    Raises:
        InputError: What `work` raised, or if a process has ended.
    """
    # A forked process would have the locks of JAX's threads, but not the threads.
    context = multiprocessing.get_context("spawn")
    started = []
    try:
        for first in range(workers):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_serve,
                args=(work, numbers[first::workers], ahead, sender),
                daemon=True,
            )
            _start(process)
            sender.close()
            started.append((process, receiver))
        for index in range(len(numbers)):
            yield _receive(*started[index % workers])
    finally:
        for process, receiver in started:
            receiver.close()
            process.kill()  # It has nothing to save.
        for process, _ in started:
            process.join()


def _start(process: Any) -> None:
    """Starts a process that never hears Ctrl-C: its parent ends it."""
    # It inherits the mask, so it is deaf from its first moment on. What arrives
    # meanwhile reaches the parent afterwards.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _receive(process: Any, receiver: Connection) -> Any:
    try:
        result = receiver.recv()
    except (EOFError, OSError):
        process.join()
        raise InputError(
            f"a worker has ended with code {process.exitcode} (-9: the system may have"
            " run out of memory; take fewer --workers)"
        ) from None
    if isinstance(result, Exception):
        raise result
    return result


def _serve(work: Work, numbers: range, ahead: int, sender: Connection) -> None:
    """The whole life of a process."""
    ready: queue.Queue[Any] = queue.Queue(ahead)

    def send() -> None:
        try:
            while True:
                result = ready.get()
                sender.send(result)
                ready.task_done()
        except OSError:  # Nobody reads any more.
            os._exit(0)

    threading.Thread(target=send, daemon=True).start()
    for number in numbers:
        try:
            ready.put(work(number))
        except Exception as error:
            # An exception of another library might not survive the pipe.
            named = InputError(f"a worker failed ({type(error).__name__}: {error})")
            ready.put(error if isinstance(error, InputError) else named)
            break
    ready.join()


def by_thread(work: Work, numbers: range, ahead: int) -> Generator[Any, None, None]:
    """The same in a thread of this process, which has `ahead` results ready."""
    pool = ThreadPoolExecutor(1)
    left = iter(numbers)
    try:
        ready = deque(pool.submit(work, number) for number in islice(left, ahead))
        while ready:
            yield ready.popleft().result()
            ready.extend(pool.submit(work, number) for number in islice(left, 1))
    finally:
        pool.shutdown(cancel_futures=True)
