"""Image data sets through TensorFlow Datasets, from made-up archives, no network."""

import io
import pickle
import tarfile

import numpy as np
import pytest
from tensorflow_datasets.core.download import checksums

from tests.support.image_files import (
    NAMES,
    encoded,
    photograph,
    same,
    some_tables,
    write_binary,
)
from tests.support.rating_files import refused
from train.images import data
from train.images import imagenet_tfds as imagenet
from train.images.cifar_files import SOURCES
from train.images.cifar_tfds import SmallImages
from train.images.loader import Batches, training_order


def members(path, files, mode="w"):
    """Writes an archive of {name: bytes}."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def archive(server, name, tables, monkeypatch):
    """Puts an archive like the official one on the server, with its checksum."""
    source = SOURCES[name]
    folder = source.binary.folder
    files = {f"{folder}/{file}": table.tobytes() for file, table in tables.items()}
    files[f"{folder}/readme.html"] = b"terms"
    files[f"{folder}/more/test.bin"] = files["test.bin"] = b"others of that name"
    path = members(server / source.url.rpartition("/")[2], files, "w:gz")
    known = checksums.compute_url_info(path)
    monkeypatch.setitem(SmallImages.url_infos, source.url, known)


@pytest.mark.parametrize("name", NAMES)
def test_download_and_local_files_give_the_same(name, server, tmp_path, monkeypatch):
    tables = some_tables(name, count=20)
    archive(server, name, tables, monkeypatch)
    downloaded = data.load_cifar(name)
    same(downloaded, data.load_cifar(name, write_binary(tmp_path / "local", tables)))
    for path in server.iterdir():
        path.unlink()
    same(data.load_cifar(name), downloaded)  # The second time it is prepared already.


def test_without_internet_the_remedy_is_named_at_once(server, tmp_path):
    remedy = "--data-dir a folder with cifar-100-binary or cifar-100-python"
    url = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
    refused(lambda: data.load_cifar("cifar100"), url, remedy, "ConnectionError")
    assert not (tmp_path / "prepared").exists()


def test_an_archive_with_another_checksum_is_refused(server, monkeypatch):
    archive(server, "cifar10", some_tables("cifar10"), monkeypatch)
    path = server / "cifar-10-binary.tar.gz"
    content = path.read_bytes()
    path.write_bytes(content[:-500])
    remedy = "--data-dir a folder with cifar-10-batches-bin or cifar-10-batches-py"
    refused(lambda: data.load_cifar("cifar10"), "NonMatchingChecksumError", remedy)
    path.write_bytes(content)
    assert len(data.load_cifar("cifar10").train.labels) == 30


def test_checksums_of_the_archives_are_registered():
    for source in SOURCES.values():
        known = SmallImages.url_infos[source.url]
        assert known.filename == source.url.rpartition("/")[2]
        assert len(known.checksum) == 64


# ----------------------------------------------------------------------- ImageNet


@pytest.fixture
def manual(tmp_path, server, monkeypatch):
    """The folder for the archives, with a short list of validation labels."""
    wanted = ["n01443537", "n01440764", "n15075141"]
    original = imagenet._list
    monkeypatch.setattr(
        imagenet,
        "_list",
        lambda file: wanted if file.startswith("val") else original(file),
    )
    folder = tmp_path / "prepared" / "downloads" / "manual"
    folder.mkdir(parents=True)
    return folder


def write_imagenet(folder, val=3, classes=("n15075141", "n01443537")):
    """The archives; returns the expected photographs of both parts."""
    labels = {"n01440764": 0, "n01443537": 1, "n15075141": 999}
    outer, train = {}, []
    for name in classes:
        inner = {
            f"{name}_{i}.JPEG": encoded(photograph(30, 20 + i, len(outer)))
            for i in range(2)
        }
        path = members(folder / "one.tar", inner)
        outer[f"{name}.tar"] = path.read_bytes()
        path.unlink()
        for file, content in inner.items():
            file = f"ILSVRC2012_img_train.tar/{file}"
            train.append((content, labels.get(name), file))
    members(folder / "ILSVRC2012_img_train.tar", outer)
    # The files are not in the order of their names; the labels are.
    files = {
        f"ILSVRC2012_val_0000000{i}.JPEG": encoded(photograph(20 + i, 20))
        for i in reversed(range(val))
    }
    members(folder / "ILSVRC2012_img_val.tar", files)
    by_name = dict(zip(sorted(files), (1, 0, 999), strict=False))
    return train, [
        (content, by_name.get(name), f"ILSVRC2012_img_val.tar/{name}")
        for name, content in files.items()
    ]


def test_imagenet_is_prepared_from_its_archives(manual):
    train, val = write_imagenet(manual)
    photos = data.load_photos()
    assert len(photos.classes) == 1000
    assert list(photos.classes) == sorted(photos.classes)
    assert photos.classes[:2] == ("n01440764", "n01443537")
    for part, expected in ((photos.train, train), (photos.val, val)):
        assert [tuple(part[i]) for i in range(len(part))] == expected
        copy = pickle.loads(pickle.dumps(part))  # Workers get such a copy.
        assert copy[1] == part[1]
    for path in manual.iterdir():
        path.unlink()
    again = data.load_photos()  # The second time it is prepared already.
    assert [again.train[i] for i in range(4)] == [photos.train[i] for i in range(4)]
    order = training_order(again.train, 4, seed=0)
    (batch,) = Batches(again.train, order, 0, 1, workers=0)
    np.testing.assert_array_equal(np.sort(batch.labels), [1, 1, 999, 999])


def test_missing_archives_are_named_with_the_place_where_they_belong(manual):
    write_imagenet(manual)
    (manual / "ILSVRC2012_img_val.tar").unlink()
    message = f"{manual} lacks ILSVRC2012_img_val.tar; put both archives there"
    refused(data.load_photos, message, "--data-dir a folder with train/CLASS")


def test_archives_of_something_else_are_refused(manual):
    write_imagenet(manual, classes=("n15075141", "n1"))
    refused(data.load_photos, "img_train.tar has n1.tar, which is no class of ImageNet")
    write_imagenet(manual, val=2)
    refused(data.load_photos, "ILSVRC2012_img_val.tar has 2 files, not 3; get it again")
    (manual / "ILSVRC2012_img_val.tar").write_bytes(b"nothing")
    refused(data.load_photos, "cannot prepare ImageNet from the archives in")
