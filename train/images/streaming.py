"""Training on photographs that do not fit on the devices.

Data flow: files → workers that decode and cut them (`train.images.loader`) → this
process's rows of a batch → devices → `programs.step`, or `programs.classify` and
`programs.measure`. While the devices compute a batch, the workers make the next ones.
"""

import itertools
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from train import interrupts
from train.devices import Devices
from train.images import loader, programs
from train.images.decoding import SIDE
from train.images.inputs import PhotoBatch
from train.images.loader import Batches, Order, Share
from train.images.options import Settings
from train.images.photo_files import Photos, PhotoSet, PhotoSubset
from train.images.programs import Task

PROBES = 2_000  # Training photographs whose margins (of their middles) are reported.
_AT_ONCE = 256  # Photographs per device in evaluation.
_ALWAYS = 2**40  # Steps; more than any run evaluates.
_TIMED = 3  # Most steps that are timed alone,
_ENOUGH = 1.0  # and the seconds after which no other one begins.


class StreamTrainer:
    """Trains and evaluates on batches as they come from workers.

    Has the methods of `train.single_run.DeviceTrainer`.
    """

    def __init__(
        self, task: Task, config: Settings, devices: Devices, photos: PhotoSet
    ):
        """Keeps the arguments; workers start with the first batch.

        Args:
            task: Task of the run.
            config: Options of the run.
            devices: Devices that it runs on.
            photos: The data set.
        """
        self._task, self._config, self._devices = task, config, devices
        self._photos = photos
        probes = min(PROBES, len(photos.train))
        # Files are sorted by class, so evenly spaced photographs are of all classes.
        spread = np.linspace(0, len(photos.train) - 1, probes).astype(int)
        self._tests = len(photos.val)
        self._evaluated = PhotoSubset(
            (photos.val, np.arange(self._tests)), (photos.train, spread)
        )
        own = min(_AT_ONCE, -(-len(self._evaluated) // devices.count))
        self._evaluation = loader.evaluation_order(
            self._evaluated, own * devices.count, config.scaling
        )
        self._order = loader.training_order(photos.train, task.batch_size, config.seed)
        self._training: Batches | None = None
        self._testing: Batches | None = None
        self._number = lambda count: devices.replicate(np.int32(count))
        self._classify = devices.compile(partial(programs.classify, task))
        self._measure = devices.compile(partial(programs.measure, task))

    def prepare(self, state: Any, trial: Any, done: int) -> Any:
        """Compiles; needs no batch."""
        size = self._task.batch_size // jax.process_count()
        blank = self._put(self._blank(size))
        arguments = state, trial, blank, self._number(0), self._number(0)
        self._step = programs.compile_step(self._task, self._devices, *arguments)
        size = self._evaluation.batch_size // jax.process_count()
        jax.block_until_ready(self._classify(state, self._put(self._blank(size))))
        return state

    def advance(
        self, state: Any, trial: Any, first: int, last: int
    ) -> tuple[Any, float]:
        """Trains from epoch `first`, where the last call ended, up to `last`."""
        steps = self._order.steps
        if self._training is None:
            ends = first * steps, self._config.epochs * steps
            self._training = self._batches(self._photos.train, self._order, *ends)
        losses = []
        for epoch, step in itertools.product(range(first, last), range(steps)):
            batch = self._put(next(self._training))
            if len(losses) > 1:  # Otherwise batches would pile up on the device.
                jax.block_until_ready(losses[-2])
            numbers = self._number(epoch), self._number(step)
            state, loss = self._step(state, trial, batch, *numbers)
            losses.append(loss)
            interrupts.safe_point(state)
        return state, float(np.mean(self._devices.gather(losses)))

    def evaluate(self, state: Any, trial: Any) -> tuple[Any, Any]:
        """The metrics by name, and whether each test image is classified correctly."""
        if self._testing is None:
            self._testing = self._batches(self._evaluated, self._evaluation, 0, _ALWAYS)
        found = []
        for batch in itertools.islice(self._testing, self._evaluation.steps):
            interrupts.safe_point()
            found.append(self._devices.gather(self._classify(state, self._put(batch))))
        logits, labels = (
            np.concatenate(parts)[: len(self._evaluated)]
            for parts in zip(*found, strict=True)
        )
        ends = slice(self._tests), slice(self._tests, None)
        parts = [array[end] for end in ends for array in (logits, labels)]
        return self._measure(state, *self._devices.replicate(parts))

    def speeds(self, state: Any, trial: Any) -> dict[str, float]:
        """Images per second of steps alone and of workers alone; consumes the state."""
        size, processes = self._task.batch_size, jax.process_count()
        batch = self._put(self._blank(size // processes))
        zero = self._number(0)
        steps, began, seconds = 0, time.perf_counter(), 0.0
        while steps < _TIMED and seconds < _ENOUGH:
            state, loss = self._step(state, trial, batch, zero, zero)
            jax.block_until_ready((state, loss))
            steps, seconds = steps + 1, time.perf_counter() - began
        found = {"steps alone": steps * size / seconds}
        of_workers = self._training and self._training.images_per_second()
        if of_workers:  # None if an earlier process has done all steps.
            found["workers alone"] = processes * of_workers
        return found

    def close(self) -> None:
        """Ends the workers."""
        for stream in (self._training, self._testing):
            if stream is not None:
                stream.close()

    def _batches(self, photos: Photos, order: Order, first: int, last: int) -> Batches:
        share = Share(jax.process_index(), jax.process_count())
        return Batches(photos, order, first, last, share, self._config.workers)

    def _put(self, batch: Sequence[np.ndarray]) -> PhotoBatch:
        return PhotoBatch(*self._devices.shard_batch(tuple(batch)))

    def _blank(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        images = np.zeros((count, SIDE, SIDE, 3), np.uint8)
        return images, np.zeros(count, np.int32)
