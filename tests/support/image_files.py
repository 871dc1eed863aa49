"""Tiny image files in the original formats, for the tests of data sets."""

import io
import pickle
import struct

import numpy as np
from PIL import Image

from train.images import cifar_files as image_files

NAMES = tuple(image_files.SOURCES)


def some_table(name, count, seed):
    """Records as bytes, uint8[count, labels + 3072]; every class of some occurs."""
    rng = np.random.default_rng(seed)
    labels = [
        rng.integers(kind.classes, size=(count, 1))
        for kind in image_files.SOURCES[name].labels
    ]
    pixels = rng.integers(256, size=(count, 3072))
    return np.concatenate([*labels, pixels], axis=1).astype(np.uint8)


def some_tables(name, seed=0, count=6):
    """{file: table}; the test file has another number of records."""
    form = image_files.SOURCES[name].binary
    tables = {
        file: some_table(name, count, [seed, i]) for i, file in enumerate(form.train)
    }
    return {**tables, form.test: some_table(name, 4, [seed, 9])}


def write_binary(folder, tables):
    folder.mkdir(parents=True, exist_ok=True)
    for file, table in tables.items():
        (folder / file).write_bytes(table.tobytes())
    return folder


def batch(name, table):
    """What the pickled form of a file holds."""
    kinds = image_files.SOURCES[name].labels
    labels = {kind.key: table[:, i].tolist() for i, kind in enumerate(kinds)}
    pixels = np.ascontiguousarray(table[:, len(kinds) :])
    return {b"batch_label": b"a batch", **labels, b"data": pixels}


def write_pickled(folder, name, tables):
    folder.mkdir(parents=True, exist_ok=True)
    for file, table in tables.items():
        content = python_2_pickle(batch(name, table))
        (folder / file.removesuffix(".bin")).write_bytes(content)
    return folder


class _Python2(pickle._Pickler):
    """Pickles as Python 2 and its NumPy did, which wrote the original files."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        value = value.encode() if isinstance(value, str) else value
        if len(value) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string

    def save_global(self, value, name=None):
        if value is np.ndarray or value is np.dtype:
            self.write(b"cnumpy\n%s\n" % value.__name__.encode())
        elif value.__name__ == "_reconstruct":
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
        else:
            super().save_global(value, name)

    dispatch[type] = dispatch[type(np.add.reduce)] = save_global
    dispatch[type(len)] = save_global


def python_2_pickle(value):
    target = io.BytesIO()
    _Python2(target, protocol=2).dump(value)
    return target.getvalue()


def same(one, other):
    assert (one.name, one.num_classes) == (other.name, other.num_classes)
    for part in ("train", "test"):
        for a, b in zip(getattr(one, part), getattr(other, part), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------- photographs


def photograph(width, height, seed=0):
    """Smooth colours, which survive JPEG; uint8[height, width, 3]."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(256, size=(3, 4, 3)).astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, form="JPEG", **options):
    target = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(target, form, **options)
    return target.getvalue()


def write_folder(root, train=3, val=2, classes=("n02", "n10", "n01")):
    """An ImageNet-style folder; every photograph is another."""
    seed = 0
    for part, count in (("train", train), ("val", val)):
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                seed += 1
                content = encoded(photograph(40 + seed, 30 + i, seed), quality=95)
                (folder / f"{name}_{i}.JPEG").write_bytes(content)
    return root
