"""What becomes of the moments at the switch."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.optimizers import assert_same_bits, updates_of


def test_reset_at_resets_once_at_its_step():
    for reset, expected in (
        ("restart", [1.0, 1.5, 1.0, 1.5, 1.75]),
        (None, [1.0, 1.5, 1.75, 1.875, 1.9375]),
    ):
        out, _ = updates_of(lawn.reset_at(2, optax.trace(0.5), reset), range(5))
        assert [u[0] for u in out] == expected


def test_reset_at_leaves_schedules_alone_and_restarts_adams_count():
    rate = optax.linear_schedule(1.0, 0.0, 4)
    tx = lawn.reset_at(
        2, optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(rate))
    )
    out, state = updates_of(tx, range(4))
    # A constant gradient makes Adam's direction 1, to the 6e-8 / (1 - 0.999) of its
    # bias correction in float32; only the schedule shows.
    np.testing.assert_allclose([u[0] for u in out], [1.0, 0.75, 0.5, 0.25], rtol=1e-4)
    assert (int(state.inner_state[0].count), int(state.inner_state[1].count)) == (2, 4)
    moments = lawn.reset_at(2, optax.scale_by_adam(), "moments")
    _, state = updates_of(moments, range(4))
    assert int(state.inner_state.count) == 4


def test_a_resets_none_needs_no_parameters():
    tx = lawn.reset_at(1, optax.trace(0.5), None)
    assert_same_bits(tx.update(jnp.ones(2), tx.init(jnp.ones(2)))[0], jnp.ones(2))


@pytest.mark.parametrize("reset", ["Restart", "momentum", True, 0, "none"])
def test_an_unknown_reset_is_refused(reset):
    for make in (
        lambda: lawn.wrap(optax.sgd(0.1), reset=reset),
        lambda: lawn.adam(0.1, reset=reset),
        lambda: lawn.lamb(0.1, reset=reset),
        lambda: lawn.reset_at(1, optax.sgd(0.1), reset),
    ):
        with pytest.raises(ValueError, match="'restart', 'moments' or None, got"):
            make()
