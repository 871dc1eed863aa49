"""What becomes of the moments at the switch."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import lawn_optax as lawn
from tests.support.asserts import assert_close, assert_same_bits
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


# --- Containers that hold moments -----------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Moments:
    count: jax.Array
    mu: Any


@jax.tree_util.register_pytree_node_class
class Node:
    """Registered without keys."""

    def __init__(self, count, mu):
        self.count, self.mu = count, mu

    def tree_flatten(self):
        return (self.count, self.mu), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


class Step(NamedTuple):
    count: jax.Array
    parts: Any


PACK = {
    "dict": (lambda c, m: {"count": c, "mu": m}, lambda s: (s["count"], s["mu"])),
    "dataclass": (Moments, lambda s: (s.count, s.mu)),
    "tuple": (lambda c, m: (c, m), lambda s: s),
    "list": (lambda c, m: [c, [m, m]], lambda s: (s[0], s[1][0])),
    "node": (Node, lambda s: (s.count, s.mu)),
    "nested in a field": (
        lambda c, m: Step(c, {"m": m, "n": m}),
        lambda s: (s.count, s.parts["m"]),
    ),
    "beside factors": (
        lambda c, m: {"count": c, "mu": m, "q": [[jnp.eye(2)], []]},
        lambda s: (s["count"], s["mu"]),
    ),
    "flat vector": (
        lambda c, m: Step(c, ravel_pytree(m)[0]),
        lambda s: (s.count, {"w": s.parts}),
    ),
}


def averaging(kind):
    """The mean of all gradients so far, with its state in one kind of container."""
    pack, unpack = PACK[kind]

    def init(params):
        return pack(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        count, mu = unpack(state)
        count = count + 1
        mu = jax.tree.map(lambda m, g: m + (g - m) / count, mu, updates)
        return mu, pack(count, mu)

    return optax.GradientTransformation(init, update)


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("around", ["alone", "chain", "inject"])
def test_whatever_holds_moments_restarts_with_all_that_is_in_it(kind, around):
    inner = averaging(kind)
    rate = optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, 8))
    if around == "chain":
        inner = optax.chain(inner, rate)
    elif around == "inject":
        inner = optax.inject_hyperparams(lambda x: averaging(kind))(x=1.0)
    tx, params = lawn.reset_at(2, inner), {"w": jnp.array([3.0, 4.0])}
    state = tx.init(params)
    for _ in range(4):
        _, state = tx.update(params, state, params)
    own = state.inner_state
    if around == "chain":
        assert int(own[1].count) == 4  # the schedule goes on
        own = own[0]
    elif around == "inject":
        assert int(own.count) == 4
        own = own.inner_state
    count, mu = PACK[kind][1](own)
    assert int(count) == 2
    np.testing.assert_allclose(mu["w"], params["w"])


def stateful(state):
    return optax.GradientTransformation(lambda _: state, lambda u, s, p=None: (u, s))


def test_a_reset_that_could_be_half_of_one_is_refused():
    params = {"w": jnp.array([3.0, 4.0])}
    bare = optax.GradientTransformation(
        lambda p: jax.tree.map(jnp.zeros_like, p), lambda u, s, p=None: (u, s)
    )
    rate = optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, 8))
    tx = lawn.wrap(optax.chain(bare, rate))
    with pytest.raises(ValueError, match="holds moments beside a ScaleByScheduleState"):
        tx.update(params, tx.init(params), params)
    # Alone, or beside what restarts as well, it is clear.
    for inner in (optax.chain(bare, optax.sgd(0.1)), optax.chain(bare, optax.adam(1))):
        tx = lawn.wrap(inner)
        tx.update(params, tx.init(params), params)
    # Two vectors that may be moments, but look like no parameter.
    unknown = stateful({"a": jnp.zeros((1, 3)), "b": jnp.zeros(3)})
    for reset in ("restart", "moments"):
        tx = lawn.wrap(unknown, reset=reset)
        with pytest.raises(ValueError, match=r"6 numbers in arrays.*pass `reset=None`"):
            tx.update(params, tx.init(params), params)
    tx = lawn.wrap(unknown, reset=None)
    tx.update(params, tx.init(params), params)


def test_masked_moments_are_found_by_shape_too():
    mask = {"a": True, "b": False}
    inner = optax.chain(
        optax.masked(optax.trace(0.5), mask), placeholder_fails_with(IndexError)
    )
    tx, params = lawn.reset_at(2, inner), {"a": jnp.ones(3), "b": jnp.ones(4)}
    state = tx.init(params)
    for _ in range(4):
        _, state = tx.update(params, state, params)
    np.testing.assert_allclose(state.inner_state[0].inner_state.trace["a"], 1.5)


# --- A state that describes a point ---------------------------------------------------


@pytest.mark.parametrize("switch_step", [0, 2])
def test_value_and_gradient_from_the_state_are_those_of_the_parameters(switch_step):
    tx = lawn.wrap(optax.lbfgs(memory_size=2), switch_step)
    fn = lambda w: jnp.sum((w - jnp.array([1.0, 5.0])) ** 4)  # noqa: E731
    value_and_grad = optax.value_and_grad_from_state(fn)
    w = jnp.array([3.0, 4.0])

    @jax.jit
    def step(w, state):
        value, grad = value_and_grad(w, state=state)
        updates, state = tx.update(grad, state, w, value=value, grad=grad, value_fn=fn)
        return optax.apply_updates(w, updates), state, (value, grad)

    state, stored = tx.init(w), []
    for _ in range(4):
        expected = jax.value_and_grad(fn)(w)
        w, state, seen = step(w, state)
        assert_close(seen, expected, rtol=1e-5)
        stored.append(bool(np.isfinite(optax.tree.get(state, "value"))))
    # In the free phase the line search still spares an evaluation.
    assert stored == [t < switch_step for t in range(4)]
