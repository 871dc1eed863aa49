"""What `monitor` sees in a run, against norms and angles of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.asserts import assert_same_bits, close
from tests.support.optimizers import network, run

SWITCH = 2


@pytest.fixture(scope="module")
def watched():
    tx = optax.chain(
        lawn.wrap(optax.adam(0.1), SWITCH), lawn.monitor(switch_step=SWITCH)
    )
    return run(tx, network(), 6)


def flat(params, name):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params[name])])


def test_extremes_are_those_of_the_weights(watched):
    history, states = watched
    seen = states[-1][-1]
    for k, name in enumerate(("first", "second")):
        rows = [flat(p, name).astype(np.float64) for p in history]
        norms = [np.linalg.norm(w) for w in rows]
        cosines = [
            w @ v / np.linalg.norm(w) / np.linalg.norm(v)
            for w, v in zip(rows[SWITCH:], rows[SWITCH + 1 :], strict=False)
        ]
        angles = np.arccos(cosines)
        close(seen.kept[k], norms[SWITCH + 1], 1e-6)
        close(seen.norm.least[k], min(norms[SWITCH + 1 :]), 1e-6)
        close(seen.norm.greatest[k], max(norms[SWITCH + 1 :]), 1e-6)
        close(seen.angle.least[k], angles.min(), 1e-3)
        close(seen.angle.greatest[k], angles.max(), 1e-3)
        close(seen.angle.last[k], angles[-1], 1e-3)
    assert seen.left_at.tolist() == [-1, -1]
    report = lawn.health(states[-1], history[-1])
    assert report.startswith("4 constrained updates; 0 of 2 norms were not kept\n")
    assert lawn.health(states[1], history[1]) == (
        "free phase after 1 updates: no norm is kept yet"
    )


def test_updates_pass_and_the_state_keeps_its_shape(watched):
    history, states = watched
    alone, _ = run(lawn.wrap(optax.adam(0.1), SWITCH), network(), 6)
    assert_same_bits(history, alone)
    shapes = [jax.tree.map(jnp.shape, state) for state in states]
    assert all(shape == shapes[0] for shape in shapes)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: 2.5 * w,
        lambda w: w.at[0, 0].set(jnp.nan),
        lambda w: jnp.zeros_like(w),
    ],
    ids=["longer", "nan", "zero"],
)
def test_a_norm_that_is_not_kept_is_seen_by_the_next_update(change, watched):
    history, states = watched
    tx = optax.chain(
        lawn.wrap(optax.adam(0.1), SWITCH), lawn.monitor(switch_step=SWITCH)
    )
    params = jax.tree.map(lambda x: x, history[-1])
    params["second"]["kernel"] = change(params["second"]["kernel"])
    _, state = tx.update(params, states[-1], params)
    assert state[-1].left_at.tolist() == [-1, 6]
    report = lawn.health(state, params)
    assert "1 of 2 norms was not kept" in report
    assert report.splitlines()[-1].endswith("update 6")


def test_what_stands_behind_wrap_is_seen_at_once():
    tx = optax.chain(lawn.wrap(optax.sgd(0.1)), optax.scale(2.0), lawn.monitor())
    _, states = run(tx, network(), 3)
    assert (states[-1][-1].left_at >= 1).all()


def test_groups_that_are_free_raise_no_alarm():
    params = network()
    params["second"] = jax.tree.map(jnp.zeros_like, params["second"])
    tx = optax.chain(lawn.wrap(optax.sgd(0.1)), lawn.monitor())
    _, states = run(tx, params, 3)
    assert states[-1][-1].left_at.tolist() == [-1, -1]
    assert states[-1][-1].kept[1] == 0


def test_a_missing_or_another_state_is_one_line():
    params = network()
    with pytest.raises(ValueError, match="no state of `lawn.monitor`"):
        lawn.health(lawn.wrap(optax.sgd(0.1)).init(params), params)
    state = lawn.monitor().init(params)
    with pytest.raises(ValueError, match=r"but these `groups` have 4 norms"):
        lawn.health(state, params, groups="leaf")
