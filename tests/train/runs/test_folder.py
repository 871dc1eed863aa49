"""Folders of runs: killed, in use, finished, of others, on a full disk."""

import errno
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.support import events
from tests.support import resumable_run as toy_run
from tests.support.resumable_run import (
    CONFIG,
    EPOCHS,
    assert_same,
    contents,
    initial_state,
    toy,
)
from train.errors import InputError
from train.runs import folder as runs
from train.runs import writers

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never killed."""
    folder = tmp_path_factory.mktemp("whole") / "parent" / "run"
    state, _ = toy(folder, minutes=0)
    return folder, state


def test_folder_of_a_finished_run(whole):
    folder, _ = whole
    assert sorted(contents(folder)) == [
        "config.json",
        "events.out.tfevents.0.run",
        "hits.json",
        "metrics.jsonl",
        "summary.json",
    ]
    assert json.loads((folder / "config.json").read_text())["config"] == CONFIG
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(row["none"] is None and np.isfinite(row["loss"]) for row in rows)
    assert [row["epoch"] for row in rows] == list(range(3, EPOCHS + 1, 3))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == {"last": rows[-1]}
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == [str(EPOCHS - 1), str(EPOCHS)]


def test_no_file_holds_an_absolute_path_and_no_metrics_hold_the_time(whole, tmp_path):
    folder, _ = whole
    for path in folder.rglob("*"):
        assert os.uname().nodename not in path.name
        if path.is_file():
            assert str(folder.parents[1]).encode() not in path.read_bytes()
    toy(tmp_path / "later")
    assert contents(tmp_path / "later") == contents(folder)


def test_events_are_the_rows_with_their_times(whole):
    folder, _ = whole
    header, *found = events.read(folder)
    assert header.file_version == "brain.Event:2"
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    for event, row in zip(found, rows, strict=True):
        scalars = {value.tag: value.simple_value for value in event.summary.value}
        assert event.step == row["epoch"]
        assert scalars == {"epoch": row["epoch"], "loss": np.float32(row["loss"])}
    times = [event.wall_time for event in (header, *found)]
    assert times == sorted(times) and 0 <= time.time() - times[0] < 600


def test_a_resumed_run_keeps_the_times_of_its_events(tmp_path, monkeypatch):
    toy(tmp_path, epochs=7)
    first = [event.wall_time for event in events.read(tmp_path)]
    assert len(first) == 3
    with (tmp_path / writers.EVENTS).open("ab") as file:
        file.write(struct.pack("<Q", 99) + b"torn by a kill")
    monkeypatch.setattr(writers.time, "time", lambda: first[-1] + 1000)
    toy(tmp_path)
    times = [event.wall_time for event in events.read(tmp_path)]
    assert times == first + [first[-1] + 1000] * (EPOCHS // 3 - 2)


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "error", toy_run.__file__, folder, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_run_killed_at_random_moments_ends_in_the_same_bits(whole, tmp_path):
    folder = tmp_path / "run"
    # The first two hit the checkpoint of an epoch whose row is written.
    for epoch, seconds in [(5, 0.035), (8, 0.045), (12, 0.0)]:
        process = start(folder)
        while f"epoch {epoch}\n" != process.stdout.readline():
            assert process.poll() is None
        time.sleep(seconds)
        process.kill()
        _, error = process.communicate()
        assert process.returncode == -9 and error == ""
        assert not (folder / "summary.json").exists()
    process = start(folder)
    output, error = process.communicate()
    assert process.returncode == 0 and error == ""
    assert output.startswith("resuming from epoch ")
    assert int(output.split()[3]) >= 12  # None of the checkpoints was lost.
    expected, state = whole
    assert contents(folder) == contents(expected)
    again, epoch = toy(folder)
    assert epoch == EPOCHS
    assert_same(again, state)


def test_rows_after_the_checkpoint_and_a_torn_line_are_dropped(whole, tmp_path, capsys):
    toy(tmp_path, epochs=8, minutes=0)
    before = contents(tmp_path)
    (tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 9, "loss": 1.0}\n{"epoch": 12, "lo')
    (tmp_path / writers.EVENTS).write_bytes(b"torn")
    with runs.open_run(tmp_path, CONFIG) as run:
        _, epoch = run.restore(initial_state())
        assert epoch == 8
        assert [row["epoch"] for row in run.rows()] == [3, 6]
    assert contents(tmp_path) == before
    assert capsys.readouterr().out == "resuming from epoch 8\n"
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    toy(tmp_path)
    assert contents(tmp_path) == contents(whole[0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[1:],
        lambda lines: lines[:1],
        lambda lines: [],
        lambda lines: [lines[0].replace(b"0", b"1"), lines[1]],
    ],
    ids=["first", "last", "all", "changed"],
)
def test_rows_that_were_lost_are_noticed(damage, tmp_path):
    toy(tmp_path, epochs=8)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    path.write_bytes(b"".join(damage(lines)))
    with pytest.raises(InputError, match="rows up to epoch 8 were lost or changed"):
        toy(tmp_path)


@pytest.mark.parametrize(
    "row", ["[]", "null", "3", '"epoch"', "{}", '{"epoch": "1"}', '{"epoch": true}']
)
def test_rows_of_another_form_are_refused(row, tmp_path):
    toy(tmp_path, epochs=3)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(InputError, match="metrics.jsonl: row 2 (is not|has no epoch)"):
        toy(tmp_path)


def test_without_checkpoints_a_run_starts_over(tmp_path):
    toy(tmp_path, epochs=7)
    shutil.rmtree(tmp_path / "checkpoints")
    with runs.open_run(tmp_path, CONFIG) as run:
        state, epoch = run.restore(initial_state())
        assert epoch == 0 and run.rows() == []
    assert_same(state, initial_state())
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_finished_run_is_not_touched(whole, tmp_path, capsys):
    folder, state = whole
    before = contents(folder)
    with runs.open_run(folder, CONFIG) as run:
        assert run.finished
        assert run.rows()[-1]["epoch"] == EPOCHS
        again, epoch = run.restore(initial_state())
    assert epoch == EPOCHS
    assert_same(again, state)
    assert contents(folder) == before
    assert capsys.readouterr().out == ""


def test_folder_in_use_is_refused_until_it_is_free(tmp_path):
    with runs.open_run(tmp_path / "run", CONFIG):
        with pytest.raises(InputError, match="run is in use by another run; wait"):
            with runs.open_run(tmp_path / "run", CONFIG):
                pass
    with runs.open_run(tmp_path / "run", CONFIG):
        pass


def test_folders_of_others_are_refused_and_kept(tmp_path):
    def refusal(folder, config=CONFIG):
        with pytest.raises(InputError) as caught, runs.open_run(folder, config):
            pass
        return str(caught.value)

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    assert refusal(mine) == f"{mine} holds files but no run; choose another --out"
    assert "notes.txt is not a folder" in refusal(mine / "notes.txt")
    assert refusal(mine / "notes.txt" / "run").startswith(f"{mine}/notes.txt/run: Not")
    assert contents(mine) == {"notes.txt": b"mine"}
    toy(tmp_path / "run", epochs=3)
    before = contents(tmp_path / "run")
    assert "(rate differ)" in refusal(tmp_path / "run", CONFIG | {"rate": 0.2})
    assert contents(tmp_path / "run") == before
    damaged = b'{"epoch": 1\n' + before["metrics.jsonl"]
    (tmp_path / "run" / "metrics.jsonl").write_bytes(damaged)
    assert "metrics.jsonl: row 1 is not a row of metrics" in refusal(tmp_path / "run")


def test_a_start_that_was_killed_while_it_wrote_the_configuration(tmp_path):
    (tmp_path / "config.json.part").write_text('{"conf')
    toy(tmp_path, epochs=3)
    assert json.loads((tmp_path / "config.json").read_text())["config"] == CONFIG


@pytest.mark.parametrize("place", ["row", "checkpoint", "summary"])
def test_full_disk_is_one_line_and_the_run_goes_on(place, whole, tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "part")

    def fail(*args, **_):
        if place == "row" and args[1].row["epoch"] < 12:
            return original(*args)
        if place == "checkpoint":  # TensorStore reports it this way.
            raise ValueError("RESOURCE_EXHAUSTED: No space [os_error_code='28']")
        raise full

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        if place == "row":
            original = runs.Writers.append
            patch.setattr(runs.Writers, "append", fail)
        elif place == "checkpoint":
            toy(folder, epochs=12)
            patch.setattr(ocp.CheckpointManager, "save", fail)
        else:
            toy(folder, epochs=EPOCHS - 1)
            patch.setattr(runs.records.os, "replace", fail)
        with pytest.raises(InputError, match="No space left on device; remedy that"):
            toy(folder)
    toy(folder)
    assert contents(folder) == contents(whole[0])


def test_ctrl_c_says_how_to_go_on(whole, tmp_path):
    def interrupt(epoch):
        raise KeyboardInterrupt

    toy(tmp_path, epochs=7)
    with pytest.raises(KeyboardInterrupt, match="the same command continues from here"):
        toy(tmp_path, after=interrupt)
    toy(tmp_path)
    assert contents(tmp_path) == contents(whole[0])


@pytest.mark.slow
def test_two_processes_share_a_folder(tmp_path):
    folder = tmp_path / "run"
    for epochs in (3, 6):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        members = [start(folder, str(port), str(index)) for index in range(2)]
        ends = [process.communicate(timeout=240) for process in members]
        assert [process.returncode for process in members] == [0, 0], ends
        first, second = (output.splitlines() for output, _ in ends)
        assert first[-1] == f"{epochs} {epochs} {epochs} {epochs} False"
        assert second[-1] == f"{epochs} {epochs} {epochs} {epochs + 32} False"
    assert "resuming from epoch 3" in first and "resuming from epoch 3" not in second
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert (folder / "summary.json").exists()
