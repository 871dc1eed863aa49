"""Batches of photographs, decoded by worker processes ahead of time.

The content of a batch depends only on the seed and the step: (seed, epoch) decides the
order of an epoch, and (seed, epoch, number) decides the view of a photograph.
So it does not depend on the number of workers or processes, and a run can resume at any
step.
"""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import lru_cache
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from train import require
from train.images.decoding import (
    SIDE,
    Scaling,
    central_view,
    decode,
    random_view,
)
from train.images.photo_files import Photos

CHUNK = 32  # Photographs that a worker decodes at a time.
PADDING = -1  # Label of images that fill up the last batch of an evaluation.
_UNSHARED = 2**62  # Bytes from which workers use shared memory: never reached.


class Batch(NamedTuple):
    """This process's part of a batch."""

    images: np.ndarray  # uint8[b, 224, 224, 3]
    labels: np.ndarray  # int32[b]


class Order(NamedTuple):
    """Assigns photographs to batches, and says how they are cut."""

    count: int
    batch_size: int  # Size of the batch of all processes together.
    seed: int | None  # `None` takes the middles of the photographs, in order.
    scaling: Scaling = "shorter"  # Resizing before the middles are cut out.

    @property
    def steps(self) -> int:
        """Batches of an epoch. Training leaves out a last batch that is not full."""
        if self.seed is None:
            return math.ceil(self.count / self.batch_size)
        return self.count // self.batch_size


class Share(NamedTuple):
    """The number of this process; the processes take equal parts of each batch."""

    process: int = 0
    processes: int = 1


class Chunks:
    """Decoded photographs by the number of a chunk. Workers compute this."""

    def __init__(self, photos: Photos, order: Order, share: Share, last_step: int):
        self._photos, self._order = photos, order
        self._size = order.batch_size // share.processes
        self._first = share.process * self._size
        self.per_batch = math.ceil(self._size / CHUNK)
        self._count = last_step * self.per_batch

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Batch:
        step, chunk = divmod(index, self.per_batch)
        epoch, step = divmod(step, self._order.steps)
        first = chunk * CHUNK
        positions = np.arange(first, min(first + CHUNK, self._size))
        positions += step * self._order.batch_size + self._first
        images = np.zeros((len(positions), SIDE, SIDE, 3), np.uint8)
        labels = np.full(len(positions), PADDING, np.int32)
        for i, position in enumerate(positions):
            if position < self._order.count:
                images[i], labels[i] = self._view(epoch, int(position))
        return Batch(images, labels)

    def _view(self, epoch: int, position: int) -> tuple[np.ndarray, int]:
        seed, index = self._order.seed, position
        if seed is not None:
            index = int(_permutation(seed, epoch, self._order.count)[position])
        photo = self._photos[index]
        image = decode(photo.content, photo.name)
        if seed is None:
            return central_view(image, self._order.scaling), photo.label
        # The seed has three numbers here, and two for the order of the epoch.
        rng = np.random.default_rng([seed, epoch, index])
        return random_view(image, rng), photo.label


@lru_cache(maxsize=2)  # Some workers may still be in the previous epoch.
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The numbers of the photographs in the order of an epoch, int64[count]."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def training_order(photos: Photos, batch_size: int, seed: int) -> Order:
    """Takes random parts in a new order in each epoch, without a last partial batch.

    Args:
        photos: Photographs to train on.
        batch_size: Size of the batch of all processes together.
        seed: Seed of the orders and the parts, at least 0.

    Raises:
        InputError: If there is no full batch, or the seed is negative.
    """
    require(seed >= 0, f"the seed of the images must be at least 0; got {seed}")
    require(
        1 <= batch_size <= len(photos),
        f"the batch size must be from 1 to the {len(photos)} training images; got"
        f" {batch_size}",
    )
    return Order(len(photos), batch_size, seed)


def evaluation_order(
    photos: Photos, batch_size: int, scaling: Scaling = "shorter"
) -> Order:
    """Takes the middles of all photographs, in order, and fills up the last batch.

    Args:
        photos: Photographs to evaluate on.
        batch_size: Size of the batch of all processes together.
        scaling: Way of resizing; see `decoding.central_view`.

    Raises:
        InputError: If the batch size is less than 1.
    """
    require(batch_size >= 1, f"the batch size must be at least 1; got {batch_size}")
    return Order(len(photos), batch_size, None, scaling)


def batches(
    photos: Photos,
    order: Order,
    first_step: int,
    last_step: int,
    share: Share = Share(),  # noqa: B008 (immutable)
    workers: int | None = None,
) -> Generator[Batch, None, None]:
    """Decodes the batches of some steps, ahead of time.

    Step s is batch s % order.steps of epoch s // order.steps. About two batches, or a
    few chunks of each worker, are decoded ahead. Closing the iterator ends its workers.
    They take seconds to start: to evaluate repeatedly, use one iterator over many
    epochs.

    Args:
        photos: Photographs that `order` was made for.
        order: Order from `training_order` or `evaluation_order`.
        first_step: First step, from 0.
        last_step: First step that is left out.
        share: Share of this process.
        workers: Number of processes that decode. `None` takes one for each processor
            that this process may use, 0 decodes in a thread of this process.

    Returns:
        An iterator over the part of each batch that belongs to this process.

    Raises:
        InputError: If a batch cannot be split equally among the processes; from the
            iterator, if a file cannot be read or decoded.
    """
    require(
        order.batch_size % share.processes == 0,
        f"the batch size must be a multiple of the {share.processes} processes; got"
        f" {order.batch_size}",
    )
    if workers is None:
        workers = _processors()
    chunks = Chunks(photos, order, share, last_step)
    return _batches(chunks, range(first_step, last_step), workers)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # macOS lacks it.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _batches(
    chunks: Chunks, steps: range, workers: int
) -> Generator[Batch, None, None]:
    per_batch = chunks.per_batch
    source = grain.MapDataset.source(chunks)[steps.start * per_batch :]
    # One thread decodes, and buffers a batch here or a chunk in each worker.
    ahead = per_batch if workers == 0 else 1
    decoded = source.to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead)
    )
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads flags of its own; we have none.
            flags.FLAGS.mark_as_parsed()
        # Shared memory saves a copy, but it is small in many containers. A worker that
        # fills it dies, and arrays that are in it at the end of a run are never freed.
        options = grain.experimental.DatasetOptions(min_shm_size=_UNSHARED)
        decoded = grain.experimental.WithOptionsIterDataset(decoded, options)
        decoded = decoded.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=workers,
                per_worker_buffer_size=max(1, math.ceil(per_batch / workers)),
            ),
            _start_worker,
        )
    with closing(iter(decoded)) as parts:
        for _ in steps:
            images, labels = zip(*(next(parts) for _ in range(per_batch)), strict=True)
            yield Batch(np.concatenate(images), np.concatenate(labels))


def _start_worker(number: int, workers: int) -> None:
    """Makes a worker end when its parent ends, and not before."""
    # On Ctrl-C the parent ends its workers. If they ended by themselves, Grain might
    # wait half a minute for them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()  # A parent that is killed cannot tell its workers.
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def ahead(workers: int | None) -> int:
    """The most photographs that the workers decode ahead, beyond two batches."""
    return 2 * CHUNK * (_processors() if workers is None else workers)


def images_per_second(stream: Iterator[Batch], warm_up: int) -> float:
    """Measures how fast batches come when nothing else slows them down.

    Args:
        stream: Iterator from `batches`, which is used up.
        warm_up: Number of first batches that are not counted, because workers start and
            buffers fill meanwhile. Take at least three: the buffers hold two.

    Returns:
        Images of this process per second.
    """
    for _ in range(warm_up):
        next(stream)
    begin = time.perf_counter()
    count = sum(len(batch.labels) for batch in stream)
    return count / (time.perf_counter() - begin)
