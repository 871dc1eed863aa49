"""What the guard of a folder refuses, in one line, and what it leaves behind."""

import errno
import json
import os

import pytest

from train.errors import InputError
from train.runs import guard, records
from train.runs.guard import open_folder

CONFIG = {"experiment": "toy", "rate": 0.1}


def refusal(folder, config=CONFIG):
    with pytest.raises(InputError) as caught, open_folder(folder, config):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_places_that_cannot_be_a_folder(tmp_path):
    circle, nothing, file = (tmp_path / name for name in ("circle", "nothing", "file"))
    circle.symlink_to(tmp_path / "circle")
    nothing.symlink_to(tmp_path / "gone")
    file.touch()
    before = sorted(tmp_path.iterdir())
    assert refusal(circle).startswith(f"{circle}: Too many levels of symbolic links;")
    assert refusal(circle / "run").startswith(f"{circle}/run: Too many levels")
    assert refusal(nothing) == f"{nothing} is a link to nothing; choose another --out"
    assert refusal(nothing / "run").startswith(f"{nothing}: File exists;")
    assert "File name too long; choose another --out" in refusal(tmp_path / ("x" * 300))
    assert "is not UTF-8; choose another" in refusal(tmp_path / "run\udcff")
    assert refusal(file) == f"{file} is not a folder; choose another --out"
    assert sorted(tmp_path.iterdir()) == before


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "content, message",
    [
        ("null", "not a JSON object"),
        ("[]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        (DEEP, "not JSON (too deep)"),
        ('{"config": ' + DEEP, "not JSON (too deep)"),
        ('{"config": null}', "no options of a run"),
        ('{"config": [1]}', "no options of a run"),
        ('{"config": {"experiment": 3}}', "no options of a run"),
        ('{"config": {"experiment": "toy", "rate": NaN}}', "not JSON (NaN is not"),
        ('{"config": {"experiment": "toy", "rate": 1e999}}', "not JSON (1e999 is"),
        ("\udce9", "cannot be read ("),
    ],
)
def test_a_damaged_configuration_is_refused(content, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(content, errors="surrogateescape")
    assert refusal(tmp_path).startswith(f"{path}: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_two_commands_in_one_folder(tmp_path):
    folder = tmp_path / "run"
    with open_folder(folder, CONFIG):
        assert "run is in use by another run" in refusal(folder)
        # Both saw an empty folder, and the other one was faster.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(guard, "_lock", lambda *_: None)
            assert "(rate, size differ)" in refusal(
                folder, {"experiment": "toy", "size": 1}
            )
        assert (folder / "config.json").exists()
        (folder / "result").touch()
    assert "(rate differ)" in refusal(folder, CONFIG | {"rate": 0.2})
    with open_folder(folder, CONFIG):
        pass


@pytest.mark.parametrize("error", [InputError("bad data"), OSError(28, "full")])
def test_a_command_that_fails_before_its_first_result_leaves_nothing(error, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for folder in (tmp_path / "run", mine):
        with pytest.raises(InputError), open_folder(folder, CONFIG):
            (folder / "checkpoints").mkdir()
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert list(mine.iterdir()) == []
    with pytest.raises(InputError), open_folder(mine, CONFIG):
        (mine / "metrics.jsonl").touch()
        raise error
    assert len(list(mine.iterdir())) == 2


def test_a_full_disk_while_the_folder_is_made(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records.os, "replace", fail)
    assert "run: No space left on device; remedy that" in refusal(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_went_away_is_no_fault_of_the_folder(tmp_path):
    with pytest.raises(BrokenPipeError), open_folder(tmp_path, CONFIG):
        (tmp_path / "result").touch()
        raise BrokenPipeError
    assert json.loads((tmp_path / "config.json").read_text())["config"] == CONFIG
