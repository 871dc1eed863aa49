"""Batches of photographs, decoded by worker processes ahead of time.

The content of a batch depends only on the seed and the step: (seed, epoch) decides the
order of an epoch, and (seed, epoch, number) decides the view of a photograph.
So it does not depend on the number of workers or processes, and a run can resume at any
step.
"""

import math
import os
import time
from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np

from train import require
from train.images.decoding import (
    SIDE,
    Scaling,
    central_view,
    decode,
    random_view,
)
from train.images.photo_files import Photos
from train.images.workers import by_processes, by_thread

CHUNK = 32  # Photographs that a worker decodes at a time.
PADDING = -1  # Label of images that fill up the last batch of an evaluation.


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


class Chunk(NamedTuple):
    """Some photographs of a batch, as a worker decoded them."""

    images: np.ndarray  # uint8[n, 224, 224, 3]
    labels: np.ndarray  # int32[n]
    seconds: float  # Time that decoding took.


class Chunks:
    """Decodes photographs by the number of a chunk. Workers receive a copy."""

    def __init__(self, photos: Photos, order: Order, share: Share):
        self._photos, self._order = photos, order
        self._size = order.batch_size // share.processes
        self._first = share.process * self._size
        self.per_batch = math.ceil(self._size / CHUNK)

    def __call__(self, number: int) -> Chunk:
        began = time.perf_counter()
        step, chunk = divmod(number, self.per_batch)
        epoch, step = divmod(step, self._order.steps)
        first = chunk * CHUNK
        positions = np.arange(first, min(first + CHUNK, self._size))
        positions += step * self._order.batch_size + self._first
        images = np.zeros((len(positions), SIDE, SIDE, 3), np.uint8)
        labels = np.full(len(positions), PADDING, np.int32)
        for i, position in enumerate(positions):
            if position < self._order.count:
                images[i], labels[i] = self._view(epoch, int(position))
        return Chunk(images, labels, time.perf_counter() - began)

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


class Batches:
    """Iterator over this process's part of the batches of some steps, decoded ahead.

    Step s is batch s % order.steps of epoch s // order.steps. About two batches, or a
    few chunks of each worker, are decoded ahead. Workers start with the first batch and
    end with the last one, or with `close`. They take a second to start: to evaluate
    repeatedly, use one iterator over many epochs.
    """

    def __init__(
        self,
        photos: Photos,
        order: Order,
        first_step: int,
        last_step: int,
        share: Share = Share(),  # noqa: B008 (immutable)
        workers: int | None = None,
    ):
        """Starts nothing yet.

        Args:
            photos: Photographs that `order` was made for.
            order: Order from `training_order` or `evaluation_order`.
            first_step: First step, from 0.
            last_step: First step that is left out.
            share: Share of this process.
            workers: Number of processes that decode. `None` takes one for each
                processor that this process may use, 0 decodes in a thread of this
                process.

        Raises:
            InputError: If a batch cannot be split equally among the processes; from the
                iterator, if a file cannot be read or decoded.
        """
        require(
            order.batch_size % share.processes == 0,
            f"the batch size must be a multiple of the {share.processes} processes; got"
            f" {order.batch_size}",
        )
        workers = _processors() if workers is None else workers
        chunks = Chunks(photos, order, share)
        self._per_batch, self._workers = chunks.per_batch, max(1, workers)
        self._left = iter(range(first_step, last_step))
        numbers = range(first_step * self._per_batch, last_step * self._per_batch)
        ahead = math.ceil(self._per_batch / self._workers)
        if workers:
            decoded = by_processes(chunks, numbers, workers, ahead)
        else:
            decoded = by_thread(chunks, numbers, ahead + 1)
        self._decoded = decoded
        self._images, self._seconds = 0, 0.0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if next(self._left, None) is None:
            self.close()
            raise StopIteration
        parts: list[Chunk] = [next(self._decoded) for _ in range(self._per_batch)]
        self._images += sum(len(part.labels) for part in parts)
        self._seconds += sum(part.seconds for part in parts)
        images, labels, _ = zip(*parts, strict=True)
        return Batch(np.concatenate(images), np.concatenate(labels))

    def images_per_second(self) -> float | None:
        """The images that all workers can decode in a second; None before a batch."""
        return self._workers * self._images / self._seconds if self._images else None

    def close(self) -> None:
        """Ends the workers."""
        self._decoded.close()


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # macOS lacks it.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
