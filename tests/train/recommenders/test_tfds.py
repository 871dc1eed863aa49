"""Data sets through TensorFlow Datasets, from made-up archives, without network."""

import socket
import subprocess
import sys
import time
import zipfile

import pytest
from tensorflow_datasets.core import constants
from tensorflow_datasets.core.download import checksums

from tests.support.rating_files import (
    RAW,
    lines,
    refused,
    same,
    some_ratings,
    some_split,
    write_raw,
    write_split,
)
from train.recommenders import data as interactions
from train.recommenders import rating_files
from train.recommenders.ratings_tfds import ImplicitFeedback


def archive(server, name, rows, monkeypatch):
    """Puts an archive like the official one on the server, with its checksum."""
    (url,) = rating_files.SOURCES[name].urls
    path = server / url.rpartition("/")[2]
    file, separator = RAW[name]
    with zipfile.ZipFile(path, "w") as target:
        target.writestr(f"{name}/{file}", lines(rows, separator))
        target.writestr(f"{name}/README", "terms")
    known = checksums.compute_url_info(path)
    monkeypatch.setitem(ImplicitFeedback.url_infos, url, known)


def empty(server):
    for path in server.iterdir():
        path.unlink()


@pytest.mark.parametrize("name", interactions.DATASETS)
def test_download_and_local_files_give_the_same(name, server, tmp_path, monkeypatch):
    if name in RAW:
        rows = some_ratings(2)
        archive(server, name, rows, monkeypatch)
        local = write_raw(tmp_path / "local", name, rows)
    else:
        local = write_split(tmp_path / "local", name, *some_split(2))
        write_split(server, name, *some_split(2))
    data = interactions.load(name)
    same(data, interactions.load(name, local))
    empty(server)  # The second time it is prepared already.
    same(interactions.load(name), data)


def test_without_internet_the_remedy_is_named_at_once(server, tmp_path):
    remedy = "--data-dir a folder with u.data"
    url = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
    refused(lambda: interactions.load("ml-100k"), url, remedy, "ConnectionError")
    assert not (tmp_path / "prepared").exists()


def test_a_server_that_cannot_be_reached_ends_within_seconds(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "prepared"))
    begin = time.monotonic()
    refused(lambda: interactions.load("pinterest-20"), "--data-dir")
    assert time.monotonic() - begin < 20


def test_an_archive_with_another_checksum_is_refused(server, monkeypatch):
    archive(server, "ml-100k", some_ratings(0), monkeypatch)
    path = server / "ml-100k.zip"
    path.write_bytes(path.read_bytes() + b"\0")
    refused(lambda: interactions.load("ml-100k"), "NonMatchingChecksumError")


def test_checksums_of_the_archives_are_registered():
    infos = ImplicitFeedback.url_infos
    for name in RAW:
        (url,) = rating_files.SOURCES[name].urls
        assert infos[url].filename == f"{name}.zip" and len(infos[url].checksum) == 64


def test_a_malformed_download_is_refused_and_fetched_again(server, tmp_path):
    tables = some_split(0)
    write_split(server, "pinterest-20", *tables)
    path = server / "pinterest-20.test.rating"
    good = path.read_text()
    path.write_text("<html>\n")
    refused(lambda: interactions.load("pinterest-20"), "test.rating, row 1:", "<html>")
    path.write_text(good)
    local = write_split(tmp_path / "local", "pinterest-20", *tables)
    same(
        interactions.load("pinterest-20"),
        interactions.load("pinterest-20", local),
    )


def test_local_files_need_no_tensorflow_datasets():
    code = "import sys; from train.recommenders import data;"
    code += "sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
