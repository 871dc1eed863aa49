"""Texts, how they are split, and what is refused."""

import hashlib
import os

import pytest
from tensorflow_datasets.core.download import checksums

from tests.support import tiny_texts as tiny
from tests.support.rating_files import refused
from train.language import data
from train.language.data import load
from train.language.text_tfds import URL, ShakespeareText


def files_of(part):
    return part.tobytes().split(data.END)


def test_whole_files_are_held_out(tmp_path):
    folder = tiny.write_files(tmp_path)
    text, tuning = load("files", folder), load("files", folder, validation=True)
    written = {path.read_bytes() for path in folder.rglob("*.txt")}
    train, test, validation = map(files_of, (text.train, text.test, tuning.test))
    assert set(train) | set(test) == written and len(train) + len(test) == 10
    assert text.files == (len(train), len(test)) and len(test) in (1, 2)
    size = sum(map(len, written))
    assert 0.1 * size <= sum(map(len, test)) < 0.3 * size
    # The usual held-out text has no part in tuning.
    assert set(files_of(tuning.train)) == set(train) - set(validation)
    assert 0.08 * size <= sum(map(len, validation)) < 0.3 * size


def test_the_split_depends_on_names_and_not_on_where_the_folder_is(tmp_path):
    first = load("files", tiny.write_files(tmp_path / "a"))
    folder = tiny.write_files(tmp_path / "b")
    assert load("files", folder).sha256 == first.sha256
    (folder / "0.txt").write_bytes(b"another text")
    data.read.cache_clear()
    changed = load("files", folder)
    assert changed.sha256 != first.sha256
    assert changed.files[1] in (1, 2)


def test_results_among_the_texts_are_no_text(tmp_path):
    folder = tiny.write_files(tmp_path)
    before = load("files", folder).sha256
    run = folder / "runs" / "language" / "0123"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text('{\n  "config": {"experiment": "language"}\n}')
    (run / "checkpoints" / "state").write_text("weights")
    data.read.cache_clear()
    assert load("files", folder).sha256 == before


def test_names_of_files_may_be_any_bytes(tmp_path):
    folder = tiny.write_files(tmp_path)
    odd = os.fsencode(folder) + b"/caf\xe9.txt"
    try:
        with open(odd, "wb") as file:
            file.write(b"in another encoding")
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    text = load("files", folder)
    assert sum(text.files) == 11


@pytest.mark.parametrize("name", ["files", "tiny-shakespeare"])
def test_a_single_file_is_cut_at_nine_tenths(name, tmp_path):
    content = tiny.words(999)
    (tmp_path / "input.txt").write_bytes(content)
    text, tuning = load(name, tmp_path), load(name, tmp_path, validation=True)
    place = int(0.9 * len(content))
    assert text.train.tobytes() == content[:place]
    assert text.test.tobytes() == content[place:]
    assert text.sha256 == hashlib.sha256(content).hexdigest()
    assert tuning.train.tobytes() + tuning.test.tobytes() == content[:place]
    assert abs(len(tuning.test) - len(content) / 10) < 2


def test_the_standard_library_without_tests_and_machine_paths():
    text = load("python")
    assert len(text.train) > 4_000_000 and text.files[1] > 20
    both = text.train.tobytes() + text.test.tobytes()
    assert b"class OrderedDict(dict):" in both  # collections
    assert b"class TestCase(object):" in both  # unittest itself is no test
    assert b"\nbuild_time_vars = {" not in both


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("files", {}, "no files in .*; check --data-dir"),
        ("files", {"a": b"", "b": b""}, "all files are empty; check --data-dir"),
        ("files", {"a": b"x", "b": b"y" * 9}, "too few files"),
        ("tiny-shakespeare", {"other.txt": b"x"}, "no input.txt in"),
        ("python", {}, "--dataset python takes no --data-dir"),
        ("poems", {}, "no data set 'poems'; choose from: python"),
    ],
)
def test_what_is_refused(name, content, message, tmp_path):
    for file, text in content.items():
        (tmp_path / file).write_bytes(text)
    with pytest.raises(data.InputError, match=message):
        load(name, tmp_path, validation="few" in message)


def test_a_missing_folder_is_named(tmp_path):
    refused(lambda: load("files", tmp_path / "none"), "no folder")
    refused(lambda: load("files"), "--dataset files needs --data-dir FOLDER")
    assert data.sha256("files", tmp_path / "none") is None


def test_download_and_local_file_give_the_same(server, tmp_path, monkeypatch):
    path = server / "input.txt"
    path.write_bytes(tiny.words(500))
    known = checksums.compute_url_info(path)
    monkeypatch.setitem(ShakespeareText.url_infos, URL, known)
    data.read.cache_clear()
    text = load("tiny-shakespeare")
    assert text.sha256 == load("tiny-shakespeare", server).sha256
    path.unlink()
    data.read.cache_clear()  # The second time it is prepared already.
    assert load("tiny-shakespeare").sha256 == text.sha256
    data.read.cache_clear()


def test_without_internet_the_remedy_is_named(server):
    data.read.cache_clear()
    refused(lambda: load("tiny-shakespeare"), "give --data-dir a folder with input.txt")
