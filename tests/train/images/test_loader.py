"""Batches of photographs: a function of seed and step, whoever decodes them."""

import io
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import (
    encoded,
    photograph,
    write_folder,
)
from tests.support.rating_files import refused
from train.images import loader as image_loader
from train.images import photo_files as image_folder
from train.images.decoding import central_view, random_view
from train.images.loader import (
    Batches,
    Share,
    evaluation_order,
    training_order,
)
from train.images.photo_files import Photo

CLASSES = ("n01", "n02", "n10")


class Plain:
    """Photographs of one colour each: 4 * number + 3; label number % 7."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        pixels = np.full((8, 9, 3), 4 * index + 3, np.uint8)
        return Photo(encoded(pixels, "PNG"), index % 7, f"photo {index}")


def take(photos, order, first, last, workers=0, share=Share()):  # noqa: B008
    return list(Batches(photos, order, first, last, share, workers))


def numbers(batch):
    """Which of `Plain` are in a batch."""
    found = (batch.images[:, 100, 100, 0].astype(int) - 3) // 4
    assert (batch.images == batch.images[:, :1, :1, :1]).all()
    np.testing.assert_array_equal(batch.labels, found % 7)
    return found.tolist()


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.images.dtype == b.images.dtype == np.uint8
        assert a.labels.dtype == b.labels.dtype == np.int32
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = write_folder(tmp_path_factory.mktemp("images"), train=26, val=3)
    return image_folder.list_folder(root)


# ------------------------------------------------------------------------ content


def test_an_epoch_has_every_image_at_most_once_and_a_new_order():
    photos = Plain(60)
    order = training_order(photos, 25, seed=1)
    assert order.steps == 2
    epochs = []
    for epoch in range(20):
        steps = take(photos, order, 2 * epoch, 2 * epoch + 2)
        assert [len(step.labels) for step in steps] == [25, 25]
        epochs.append(sum(map(numbers, steps), []))
        assert len(set(epochs[-1])) == 50
    assert len({tuple(epoch) for epoch in epochs}) == 20
    # An epoch leaves out 10 of 60; 20 epochs miss none with chance (5/6)^20 each.
    counts = Counter(sum(epochs, []))
    assert len(counts) == 60 and sum(n < 20 for n in counts.values()) > 50
    other = training_order(photos, 25, seed=2)
    assert numbers(take(photos, other, 0, 1)[0]) != epochs[0][:25]


def test_views_are_those_of_seed_epoch_and_number(photos):
    order = training_order(photos.train, 40, seed=5)
    for epoch in (0, 3):
        (batch,) = take(photos.train, order, epoch, epoch + 1)
        indices = np.random.default_rng([5, epoch]).permutation(78)[:40]
        for image, label, index in zip(*batch, indices, strict=True):
            path = photos.train.path(index)
            assert CLASSES[label] == path.parent.name
            with Image.open(io.BytesIO(path.read_bytes())) as decoded:
                rng = np.random.default_rng([5, epoch, index])
                expected = random_view(decoded.convert("RGB"), rng)
            np.testing.assert_array_equal(image, expected)


def test_evaluation_has_every_image_once_and_in_order(photos):
    order = evaluation_order(photos.val, 4)
    assert order.steps == 3
    found = take(photos.val, order, 0, 6)  # Twice.
    same(found[:3], found[3:])
    labels = np.concatenate([batch.labels for batch in found[:3]])
    assert labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [-1] * 3
    images = np.concatenate([batch.images for batch in found[:3]])
    assert not images[9:].any()
    square = take(photos.val, evaluation_order(photos.val, 9, "square"), 0, 1)[0]
    for i in range(9):
        image = Image.open(photos.val.path(i))
        np.testing.assert_array_equal(images[i], central_view(image))
        np.testing.assert_array_equal(square.images[i], central_view(image, "square"))


# ------------------------------------------------------- workers, processes, resuming


@pytest.fixture(scope="module")
def unbroken(photos):
    order = training_order(photos.train, 38, seed=3)  # One chunk and a part of another.
    assert order.steps == 2
    return order, take(photos.train, order, 0, 5)


@pytest.mark.parametrize("workers", [1, None])
def test_batches_do_not_depend_on_the_workers(workers, photos, unbroken, monkeypatch):
    order, whole = unbroken
    assert image_loader._processors() >= 1
    monkeypatch.setattr(image_loader, "_processors", lambda: 2)  # Without a number.
    same(take(photos.train, order, 0, 5, workers), whole)
    assert not multiprocessing.active_children()


def test_any_step_can_be_the_first(photos, unbroken):
    order, whole = unbroken
    for first in (1, 4):
        same(take(photos.train, order, first, 5), whole[first:])
    assert take(photos.train, order, 5, 5) == []
    stream = Batches(photos.train, order, 0, 10**12, workers=0)
    same(list(islice(stream, 2)), whole[:2])
    stream.close()


@pytest.mark.parametrize("processes", [2, 19])
def test_processes_share_each_batch(processes, photos, unbroken):
    order, whole = unbroken
    parts = [
        take(photos.train, order, 1, 3, share=Share(process, processes))
        for process in range(processes)
    ]
    joined = [
        image_loader.Batch(*map(np.concatenate, zip(*step, strict=True)))
        for step in zip(*parts, strict=True)
    ]
    same(joined, whole[1:3])


# ------------------------------------------------------------------------- faults


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_file_is_named_by_whoever_meets_it(workers, tmp_path):
    root = write_folder(tmp_path)
    path = root / "train" / "n02" / "n02_1.JPEG"
    path.write_bytes(encoded(photograph(90, 80))[:-300])
    photos = image_folder.list_folder(root)
    order = training_order(photos.train, 9, seed=0)
    parts = f"{path} cannot be decoded (", "delete it"
    refused(lambda: take(photos.train, order, 0, 2, workers), *parts)
    assert not multiprocessing.active_children()


ENDLESS = """
import pathlib, sys
from train.images import loader, photo_files
if __name__ == "__main__":
    photos = photo_files.list_folder(pathlib.Path(sys.argv[1])).train
    order = loader.training_order(photos, 2, seed=0)
    for batch in loader.Batches(photos, order, 0, 10**9, workers=1):
        print("batch", flush=True)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    write_folder(tmp_path / "images")
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    with subprocess.Popen(
        [sys.executable, script, tmp_path / "images"],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == "batch\n"
        process.kill()
        # The pipes end when no process has them open, so no worker is left.
        process.communicate(timeout=120)


def test_impossible_sizes_are_refused():
    photos = Plain(10)
    for size in (0, 11):
        message = f"must be from 1 to the 10 training images; got {size}"
        refused(lambda size=size: training_order(photos, size, 0), message)
    refused(
        lambda: training_order(photos, 5, -1), "seed of the images must be at least"
    )
    refused(lambda: evaluation_order(photos, 0), "batch size must be at least 1; got 0")
    order = training_order(photos, 9, 0)
    message = "must be a multiple of the 2 processes; got 9"
    refused(lambda: Batches(photos, order, 0, 1, Share(0, 2)), message)


# -------------------------------------------------------------------------- speed


def test_speed_is_that_of_all_workers(monkeypatch):
    now = iter([100.0, 104.0, 200.0, 202.0])
    monkeypatch.setattr(image_loader.time, "perf_counter", lambda: next(now))
    stream = Batches(Plain(9), training_order(Plain(9), 9, 0), 0, 2, workers=0)
    assert stream.images_per_second() is None
    list(stream)
    assert stream.images_per_second() == (9 + 9) / (4 + 2)
    stream._workers = 3
    assert stream.images_per_second() == 3 * (9 + 9) / (4 + 2)
