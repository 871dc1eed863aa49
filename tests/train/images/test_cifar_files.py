"""CIFAR files: their content, and one line per fault with file and record."""

import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tests.support.image_files import (
    NAMES,
    batch,
    python_2_pickle,
    same,
    some_table,
    some_tables,
    write_binary,
    write_pickled,
)
from tests.support.rating_files import refused
from train.images import cifar_files as image_files
from train.images.cifar_files import SOURCES, read_folder
from train.images.data import load_cifar


def official(name):
    return SOURCES[name].binary.folder, SOURCES[name].pickled.folder


# ------------------------------------------------------------------------ content


@pytest.mark.parametrize("name", NAMES)
def test_images_are_read_like_a_slow_loop_does(name, tmp_path):
    tables = some_tables(name)
    data = read_folder(name, write_binary(tmp_path / "any", tables))
    assert (data.name, data.num_classes) == (name, 10 if name == "cifar10" else 100)
    *train, test = tables.values()
    first = 1 if name == "cifar10" else 2
    for part, records in ((data.train, np.concatenate(train)), (data.test, test)):
        assert part.images.dtype == np.uint8 and part.labels.dtype == np.int32
        assert part.images.shape == (len(records), 32, 32, 3)
        for image, label, record in zip(*part, records, strict=True):
            assert label == record[first - 1]  # The fine label comes second.
            for row, column, colour in ((0, 0, 0), (0, 31, 2), (31, 0, 1), (7, 19, 2)):
                place = first + 1024 * colour + 32 * row + column
                assert image[row, column, colour] == record[place]


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_in_the_folder_or_the_one_around_it_give_the_same(name, tmp_path):
    binary, pickled = official(name)
    tables = some_tables(name)
    data = read_folder(name, write_binary(tmp_path / "1" / binary, tables))
    same(read_folder(name, tmp_path / "1"), data)
    same(read_folder(name, write_pickled(tmp_path / "2" / pickled, name, tables)), data)
    same(read_folder(name, tmp_path / "2"), data)
    write_binary(tmp_path / "2" / binary, some_tables(name, seed=1))
    assert (read_folder(name, tmp_path / "2").train.images != data.train.images).any()
    assert data.train.labels.min() >= 0 and data.train.images.flags.c_contiguous


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_our_pickles_are_as_python_2_wrote_them():
    """The tests below use what the original files have."""
    table = some_table("cifar100", 3, 0)
    content = python_2_pickle(batch("cifar100", table))
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in content
    assert content.startswith(b"\x80\x02}") and b"U\x0bfine_labels" in content
    found = pickle.loads(content, encoding="bytes")
    np.testing.assert_array_equal(found[b"data"], table[:, 2:])
    assert found[b"coarse_labels"] == table[:, 0].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_pickles_that_python_3_wrote_for_python_2_are_read(name, tmp_path):
    tables = some_tables(name)
    data = read_folder(name, write_pickled(tmp_path, name, tables))
    for file, table in tables.items():
        content = pickle.dumps(batch(name, table), protocol=2)
        assert b"c_codecs\nencode\n" in content
        (tmp_path / file.removesuffix(".bin")).write_bytes(content)
    same(read_folder(name, tmp_path), data)


def test_data_sets_need_no_tensorflow_datasets():
    code = "import sys; from train.images import data;"
    code += "sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_sizes_stand_beside_the_official_ones(tmp_path):
    tables = some_tables("cifar10", count=2)
    tables["data_batch_1.bin"][:, 0] = tables["data_batch_2.bin"][:, 0] = 7
    for file in ("data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"):
        tables[file][:, 0] = range(2)
    text = image_files.statistics(
        read_folder("cifar10", write_binary(tmp_path, tables))
    )
    text = " ".join(text.split())
    assert "cifar10" in text and "| train | 10 | 50,000 | -49,990 | 0 to 4 |" in text
    assert "| test | 4 | 10,000 | -9,996 |" in text


# ------------------------------------------------------------------------- faults


def cut(size):
    return lambda content: content[:size]


@pytest.mark.parametrize(
    "name, file, change, parts",
    [
        (
            "cifar10",
            "data_batch_3.bin",
            cut(3072),
            ["record 1: 3072 bytes where a rec"],
        ),
        ("cifar10", "data_batch_3.bin", cut(-1), ["record 6: 3072 bytes", "truncated"]),
        ("cifar10", "data_batch_3.bin", cut(0), ["data_batch_3.bin is empty"]),
        (
            "cifar10",
            "data_batch_3.bin",
            cut(2 * 3073),
            ["has 2 records and data_batch_"],
        ),
        (
            "cifar10",
            "data_batch_1.bin",
            cut(2 * 3073),
            ["_2.bin has 6 records and data"],
        ),
        ("cifar10", "test_batch.bin", cut(100), ["record 1: 100 bytes"]),
        ("cifar10", "test_batch.bin", cut(0), ["test_batch.bin is empty"]),
        ("cifar100", "train.bin", cut(5 * 3074 + 1), ["record 6: 1 bytes", "3074"]),
        ("cifar100", "test.bin", lambda x: b"<html>" + x, ["record 5: 6 bytes where"]),
    ],
)
def test_cut_binary_files_are_named(name, file, change, parts, tmp_path):
    write_binary(tmp_path, some_tables(name))
    (tmp_path / file).write_bytes(change((tmp_path / file).read_bytes()))
    refused(lambda: read_folder(name, tmp_path), file, *parts, "again")


@pytest.mark.parametrize("write", ["binary", "pickled"])
@pytest.mark.parametrize(
    "name, column, value, message",
    [
        ("cifar10", 0, 10, "the label must be from 0 to 9; got 10"),
        ("cifar100", 0, 20, "the coarse label must be from 0 to 19; got 20"),
        ("cifar100", 1, 100, "the fine label must be from 0 to 99; got 100"),
    ],
)
def test_impossible_labels_are_named(write, name, column, value, message, tmp_path):
    tables = some_tables(name)
    file = list(tables)[-2]
    for row, label in ((3, value), (5, value + 1)):
        tables[file][row, column] = label
    if write == "binary":
        write_binary(tmp_path, tables)
    else:
        write_pickled(tmp_path, name, tables)
        file = file.removesuffix(".bin")
    refused(
        lambda: read_folder(name, tmp_path), f"{file}, record 4: {message}", "again"
    )


class Evil:
    def __reduce__(self):
        return os.system, ("exit 1",)


class Constructs:
    """Asks NumPy's own constructor for an array over foreign memory."""

    def __reduce__(self):
        return np.ndarray, ((4,), "O", b"0" * 32)


def changed(**changes):
    def change(content):
        content = {**content, **{key.encode(): x for key, x in changes.items()}}
        return {key: value for key, value in content.items() if value is not None}

    return change


PIXELS = np.zeros((6, 3072), np.uint8)


@pytest.mark.parametrize(
    "change, parts",
    [
        (lambda content: [content], ["must hold a dictionary with data, labels"]),
        (changed(data=None), ["must hold a dictionary with data, labels"]),
        (changed(labels=None), ["must hold a dictionary with data, labels"]),
        (changed(data=[1, 2]), ["data must be an array of bytes, 3072 in a row"]),
        (changed(data=PIXELS[:, 1:]), ["data must be an array of bytes, 3072 in"]),
        (changed(data=PIXELS[0]), ["data must be an array of bytes, 3072 in a row"]),
        (changed(data=np.dtype("u1")), ["data must be an array of bytes"]),
        (
            changed(data=PIXELS.astype(np.int64)),
            ["readable pickle (an array that is not of"],
        ),
        (changed(data=np.asfortranarray(PIXELS)), ["not a readable pickle (an array"]),
        (
            changed(data=PIXELS.astype(object)),
            ["readable pickle (an array that is not of"],
        ),
        (changed(labels=[1] * 5), ["labels must be a list of 6, one for each row"]),
        (changed(labels=b"123456"), ["labels must be a list of 6, one for each row"]),
        (changed(labels=[1, 2, 3.0, 1, 1, 1]), ["record 3: a label must be", "'3.0'"]),
        (changed(labels=[1, True, 3, 1, 1, 1]), ["record 2: a label must be", "True"]),
        (changed(labels=[1, 1, 1, 2**70, 1, 1]), ["record 4: a label must be a small"]),
        (
            changed(labels=[1, 1, -1, 1, 1, 1]),
            ["record 3: the label must be from 0 to"],
        ),
        (changed(data=PIXELS[:0], labels=[]), ["data_batch_2 is empty"]),
        (
            changed(note=Evil()),
            ["not a readable pickle (it asks for ", ".system; original"],
        ),
        (
            changed(note=eval),
            ["not a readable pickle (it asks for ", ".eval; original"],
        ),
    ],
)
def test_malformed_pickles_are_named(change, parts, tmp_path):
    tables = some_tables("cifar10")
    write_pickled(tmp_path, "cifar10", tables)
    content = change(batch("cifar10", tables["data_batch_2.bin"]))
    (tmp_path / "data_batch_2").write_bytes(python_2_pickle(content))
    refused(lambda: read_folder("cifar10", tmp_path), "data_batch_2", *parts, "again")


def test_no_code_that_a_pickle_names_is_run(tmp_path):
    write_pickled(tmp_path, "cifar10", some_tables("cifar10"))
    trace = tmp_path / "trace"
    for module in ("os", "posix"):
        code = f"c{module}\nsystem\n(S'touch {trace}'\ntR.".encode()
        (tmp_path / "data_batch_1").write_bytes(code)
        refused(
            lambda: read_folder("cifar10", tmp_path), "data_batch_1 is not a readable"
        )
    assert not trace.exists()
    # NumPy's own classes would follow wild pointers here; the stand-ins do not.
    found = image_files._Unpickler(io.BytesIO(python_2_pickle(Constructs()))).load()
    assert not isinstance(found, np.ndarray) and not hasattr(found, "values")


@pytest.mark.parametrize("size", [0, 1, 5, 100, 9000, -2])
def test_cut_pickles_are_named(size, tmp_path):
    write_pickled(tmp_path, "cifar100", some_tables("cifar100"))
    path = tmp_path / "test"
    path.write_bytes(path.read_bytes()[:size])
    refused(
        lambda: read_folder("cifar100", tmp_path),
        "test is not a readable pickle",
        "again",
    )


def test_an_array_with_too_few_bytes_is_refused(tmp_path):
    tables = some_tables("cifar100", count=1)
    write_pickled(tmp_path, "cifar100", tables)
    path = tmp_path / "train"
    content = path.read_bytes()
    old, new = (b"K\x01M" + (n).to_bytes(2, "little") for n in (3072, 3071))
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    refused(
        lambda: read_folder("cifar100", tmp_path),
        "train is not",
        "3072 bytes for an arr",
    )


# ------------------------------------------------------------------------ folders


def test_missing_folders_and_files_are_named(tmp_path):
    refused(
        lambda: load_cifar("cifar", tmp_path),
        "no data set 'cifar'; choose from: cifar10",
    )
    refused(lambda: read_folder("cifar10", tmp_path / "no"), "no is not a folder")
    everything = "lacks train.bin, test.bin; --data-dir for cifar100 must be the folder"
    remedy = "cifar-100-binary or cifar-100-python, or the folder around it"
    refused(lambda: read_folder("cifar100", tmp_path), everything, remedy)
    for folder, lacking in (
        (tmp_path / "cifar-10-batches-bin", "data_batch_4.bin"),
        (tmp_path / "cifar-10-batches-py", "test_batch"),
    ):
        if folder.name.endswith("bin"):
            write_binary(folder, some_tables("cifar10"))
        else:
            write_pickled(folder, "cifar10", some_tables("cifar10"))
        (folder / lacking).unlink()
        for given in (folder, tmp_path):
            refused(
                lambda given=given: read_folder("cifar10", given), f"lacks {lacking};"
            )
        (folder / lacking).mkdir()  # A folder is not a file.
        refused(
            lambda folder=folder: read_folder("cifar10", folder), f"lacks {lacking};"
        )
        for path in folder.iterdir():
            path.rmdir() if path.is_dir() else path.unlink()


def test_files_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    write_binary(tmp_path, some_tables("cifar100"))

    def fail(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "read_bytes", fail)
    parts = "train.bin (Permission denied); check --data-dir"
    refused(lambda: read_folder("cifar100", tmp_path), "cannot read", parts)
