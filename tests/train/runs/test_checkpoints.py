"""Checkpoints of a run: damaged, of another state, on many devices, only when due."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.support.resumable_run import (
    CONFIG,
    assert_same,
    initial_state,
    toy,
)
from train.errors import InputError
from train.runs import folder as runs


def test_no_damage_to_a_checkpoint_goes_unnoticed(tmp_path):
    folder = tmp_path / "run"
    # Large enough for the array to be a separate file.
    state = {"w": jax.random.normal(jax.random.key(0), (5000,)), "n": jnp.int32(3)}
    with runs.open_run(folder, CONFIG) as run:
        run.restore(state)
        run.save(1, state, force=True)
        run.save(2, jax.tree.map(lambda x: x + 1, state), force=True)
    files = [x for x in (folder / "checkpoints" / "2").rglob("*") if x.is_file()]
    assert len(files) > 5
    for path in files:
        data = path.read_bytes()
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]
        for damaged in (data[:middle], flipped, None):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            if path.name == "sha256.json" and damaged is None:
                continue  # A kill just before it was written leaves this.
            with pytest.raises(InputError) as caught:
                with runs.open_run(folder, CONFIG) as run:
                    run.restore(state)
            assert "\n" not in str(caught.value)
            assert f"{folder}/checkpoints/2 is damaged; delete" in str(caught.value)
        path.write_bytes(data)
    shutil.rmtree(folder / "checkpoints" / "2")
    with runs.open_run(folder, CONFIG) as run:
        assert_same(run.restore(state), (state, 1))


def emptied(path):
    shutil.rmtree(path)
    path.mkdir()


def replaced_by_a_file(path):
    shutil.rmtree(path)
    path.touch()


def without_its_state(path):
    shutil.rmtree(path / "state")


def renamed(path):
    path.rename(path.with_name("9"))


@pytest.mark.parametrize(
    "damage", [emptied, replaced_by_a_file, without_its_state, renamed]
)
def test_a_newest_checkpoint_is_never_passed_over(damage, tmp_path):
    toy(tmp_path, epochs=7, minutes=0)
    damage(tmp_path / "checkpoints" / "7")
    with pytest.raises(InputError, match=r"checkpoints/[79] is damaged; delete it to"):
        with runs.open_run(tmp_path, CONFIG) as run:
            run.restore(initial_state())


def test_a_checkpoint_killed_at_its_very_end_counts(tmp_path):
    state, _ = toy(tmp_path, epochs=7)
    path = tmp_path / "checkpoints" / "7"
    digests = path / "sha256.json"
    before = digests.read_bytes()
    digests.unlink()
    (path / "sha256.json.part").write_text("{")
    (path / "commit_success.txt").write_text(f"done in {path}")
    with runs.open_run(tmp_path, CONFIG) as run:
        assert_same(run.restore(initial_state()), (state, 7))
    assert digests.read_bytes() == before
    assert not (path / "sha256.json.part").exists()


@pytest.mark.parametrize(
    "other, name",
    [
        ({"w": np.ones(4, "float32"), "n": np.int32(0)}, "['w']"),
        ({"w": np.ones(3, "float16"), "n": np.int32(0)}, "['w']"),
        ({"w": np.ones(3, "float32")}, "['n']"),
        ({"w": np.ones(3, "float32"), "n": np.int32(0), "z": np.int32(0)}, "['z']"),
    ],
)
def test_checkpoint_of_another_state_is_refused(tmp_path, other, name):
    state = {"w": jnp.ones(3), "n": jnp.int32(3)}
    with runs.open_run(tmp_path, CONFIG) as run:
        run.save(1, state, force=True)
    with pytest.raises(InputError) as caught, runs.open_run(tmp_path, CONFIG) as run:
        run.restore(jax.tree.map(jnp.asarray, other))
    assert f"checkpoints/1 is of another state ({name} differ); delete" in str(
        caught.value
    )


def test_state_of_numpy_arrays_and_scalars(tmp_path):
    state = {"w": np.arange(3.0, dtype="float32"), "n": np.int32(3), "z": np.zeros(2)}
    with runs.open_run(tmp_path, CONFIG) as run:
        run.save(1, state, force=True)
    with runs.open_run(tmp_path, CONFIG) as run:
        restored, _ = run.restore(state)
    assert all(isinstance(x, np.ndarray) for x in restored.values())
    assert_same(restored, jax.tree.map(np.asarray, state))


def test_state_comes_back_on_its_devices(tmp_path):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*s)) for s in (["data"], []))
    state = {
        "w": jax.device_put(jnp.arange(32.0, dtype=jnp.bfloat16).reshape(16, 2), split),
        "n": jax.device_put(jnp.int32(7), whole),
        "key": jax.device_put(jax.random.key_data(jax.random.key(3)), whole),
    }
    with runs.open_run(tmp_path, CONFIG) as run:
        run.save(4, state, force=True)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    with runs.open_run(tmp_path, CONFIG) as run:
        restored, epoch = run.restore(abstract)
    assert epoch == 4
    assert_same(restored, state)
    for name, array in restored.items():
        assert array.sharding == state[name].sharding


def test_checkpoints_are_kept_when_due_or_forced(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(runs.time, "monotonic", lambda: clock[0])
    state = {"w": jnp.ones(3)}
    names = lambda: sorted(x.name for x in (tmp_path / "checkpoints").iterdir())  # noqa: E731
    with runs.open_run(tmp_path, CONFIG, checkpoint_minutes=2) as run:
        run.restore(state)
        for epoch, now, expected in [
            (1, 119.0, []),
            (2, 120.0, ["2"]),
            (3, 239.0, ["2"]),
            (4, 240.0, ["2", "4"]),
            (5, 400.0, ["4", "5"]),
        ]:
            clock[0] = now
            run.save(epoch, state)
            assert names() == expected
        run.save(6, state, force=True)
        run.save(6, state, force=True)
        assert names() == ["5", "6"]
