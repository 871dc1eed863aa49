"""What becomes of the moments at the switch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.asserts import assert_same_bits
from tests.support.optimizers import updates_of


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


def placeholder_fails_with(error):
    """SGD with momentum whose `init` raises on trees without leaves."""
    inner = optax.trace(0.5)

    def init(params):
        if not jax.tree.leaves(params):
            raise error("no leaves")
        return inner.init(params)

    return optax.GradientTransformation(init, inner.update)


@pytest.mark.parametrize("error", [AttributeError, IndexError, TypeError, ValueError])
def test_moments_are_found_by_shape_where_init_needs_leaves(error):
    out, _ = updates_of(lawn.reset_at(2, placeholder_fails_with(error)), range(4))
    assert [u[0] for u in out] == [1.0, 1.5, 1.0, 1.5]


def test_other_errors_of_an_inner_optimizer_are_not_swallowed():
    tx = lawn.reset_at(2, placeholder_fails_with(RuntimeError))
    with pytest.raises(RuntimeError, match="no leaves"):
        updates_of(tx, range(1))
