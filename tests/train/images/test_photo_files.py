"""ImageNet-style folders: their listing, and one line per fault."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import encoded, write_folder
from tests.support.rating_files import refused
from train.images.photo_files import check, list_folder, sample, statistics


def listed(photos):
    return [(photos[i].name, photos[i].label) for i in range(len(photos))]


def test_classes_and_files_are_sorted_by_name(tmp_path):
    root = write_folder(tmp_path / "set")
    extra = root / "train" / "n10"
    (extra / "a.PNG").write_bytes(b"a")
    (extra / "Z.jpg").write_bytes(b"z")
    for ignored in ("notes.txt", ".hidden.JPEG", "labels.tsv"):
        (extra / ignored).write_bytes(b"")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "readme").write_bytes(b"")
    data = list_folder(root)
    assert data.classes == ("n01", "n02", "n10")
    names = [
        *(("n01", f"n01_{i}.JPEG") for i in range(3)),
        *(("n02", f"n02_{i}.JPEG") for i in range(3)),
        *(("n10", x) for x in ("Z.jpg", "a.PNG", "n10_0.JPEG")),
        *(("n10", f"n10_{i}.JPEG") for i in (1, 2)),
    ]
    expected = [
        (str(root / "train" / folder / file), data.classes.index(folder))
        for folder, file in names
    ]
    assert listed(data.train) == expected and len(data.train) == 11
    assert [label for _, label in listed(data.val)] == [0, 0, 1, 1, 2, 2]
    assert data.train[6].content == b"z" and data.train[7].content == b"a"
    assert data.train.labels.dtype == np.int32
    assert listed(list_folder(tmp_path).train) == expected  # The folder around it.


def test_names_may_be_any_that_a_file_system_has(tmp_path):
    root = write_folder(tmp_path)
    name = b"caf\xc3\xa9 \xff.JPEG"
    path = os.path.join(os.fsencode(root / "val" / "n02"), name)
    with open(path, "wb") as file:
        file.write(b"here")
    assert [
        p
        for p in map(list_folder(root).val.__getitem__, range(5))
        if p.content == b"here"
    ]


def test_photographs_go_to_workers(tmp_path):
    data = list_folder(write_folder(tmp_path))
    copy = pickle.loads(pickle.dumps(data.train))
    assert [copy[i] for i in range(9)] == [data.train[i] for i in range(9)]


def test_a_file_that_has_gone_is_named(tmp_path):
    data = list_folder(write_folder(tmp_path))
    path = tmp_path / "train" / "n01" / "n01_1.JPEG"
    path.unlink()
    refused(lambda: data.train[1], f"cannot read {path} (No such file or directory)")


def test_missing_folders_are_named(tmp_path):
    refused(lambda: list_folder(tmp_path / "no"), "no is not a folder")
    remedy = "--data-dir must be the folder with train/CLASS/*.JPEG"
    refused(lambda: list_folder(tmp_path), "lacks train and val;", remedy)
    (tmp_path / "train").mkdir()
    refused(lambda: list_folder(tmp_path), "lacks val;", remedy)
    (tmp_path / "val").mkdir()
    one = "must be in one folder for each class"
    refused(lambda: list_folder(tmp_path), "train has no folders;", one)


def test_of_several_folders_none_is_guessed(tmp_path):
    for name in ("b", "a"):
        write_folder(tmp_path / name)
    refused(
        lambda: list_folder(tmp_path), "several folders with train and val: a, b; give"
    )


@pytest.mark.parametrize("part, other", [("train", "val"), ("val", "train")])
def test_both_parts_have_the_same_classes(part, other, tmp_path):
    write_folder(tmp_path)
    for name in ("m1", "m2", "m3", "m4"):
        (tmp_path / other / name).mkdir()
    message = f"{part} lacks the class m1, m2, m3, ..., which the other part has"
    refused(
        lambda: list_folder(tmp_path), message, "needs a folder of that name in both"
    )


def test_classes_without_images_are_named(tmp_path):
    write_folder(tmp_path)
    for path in (tmp_path / "val" / "n10").iterdir():
        path.rename(path.with_suffix(".gif"))
    refused(lambda: list_folder(tmp_path), "n10 has no image (.jpeg, .jpg, .png)")


def test_what_is_passed_over_is_counted(tmp_path):
    root = write_folder(tmp_path)
    assert statistics(list_folder(root)) == (
        "3 classes, 9 training photographs, 6 others"
    )
    for name in ("a.webp", "b.WebP", "c.tif", "d", ".hidden.bmp"):
        (root / "train" / "n01" / name).write_bytes(b"")
    data = list_folder(root)
    assert statistics(sample(data, 2, 0)) == (
        "3 classes, 2 training photographs, 2 others. Ignored 4 files (2 .webp, 1 .tif,"
        " 1 without ending): only .jpeg, .jpg, .png are read"
    )
    for path in (root / "val" / "n10").iterdir():
        path.rename(path.with_suffix(".bmp"))
    refused(lambda: list_folder(root), "n10 has no image", "; Ignored 2 files (2 .bmp)")


def test_one_class_is_none(tmp_path):
    refused(
        lambda: list_folder(write_folder(tmp_path, classes=("cats",))),
        "has one class (cats); a classifier needs a folder for each of two or more",
    )


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty; get the file again, or delete it"),
        (b"<html>", "cannot be decoded (unknown format); get the file again"),
        (
            encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"),
            "cannot be decoded (it has floating-point pixels",
        ),
    ],
)
def test_sizes_and_headers_are_checked_before_training(content, message, tmp_path):
    path = write_folder(tmp_path) / "val" / "n02" / "n02_1.png"
    path.write_bytes(content)
    refused(lambda: check(list_folder(tmp_path)), f"{path} {message}")


def test_of_many_headers_some_are_checked(tmp_path, monkeypatch):
    monkeypatch.setattr("train.images.photo_files._CHECKED", 3)
    data = list_folder(write_folder(tmp_path, train=3))
    read = []
    monkeypatch.setattr("train.images.decoding.check_header", read.append)
    check(data)
    assert read == [data.train.path(i) for i in (0, 4, 8)] + [
        data.val.path(i) for i in (0, 2, 5)
    ]


def test_images_outside_of_classes_are_missed(tmp_path):
    """ImageNet's own archive of validation images has this layout."""
    root = write_folder(tmp_path)
    for folder in list((root / "val").iterdir()):
        for path in folder.iterdir():
            path.rename(root / "val" / path.name)
        folder.rmdir()
    refused(
        lambda: list_folder(root),
        "val has no folders; its images must be in one folder",
    )


def test_folders_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    write_folder(tmp_path)

    scandir = os.scandir

    def fail(path):
        if str(path) == str(tmp_path):  # Some versions of Python list it so.
            return scandir(path)
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", fail)
    refused(
        lambda: list_folder(tmp_path), "train (Permission denied); check --data-dir"
    )
