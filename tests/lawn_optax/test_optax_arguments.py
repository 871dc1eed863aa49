"""The algorithms take the arguments of Optax's optimizers of the same name."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.asserts import assert_close, assert_same_bits, signature
from tests.support.optimizers import loss, network
from tests.support.optional import needs_optax

MASK = {"first": True, "second": {"kernel": True, "bias": False}}
DECAY = optax.linear_schedule(0.3, 0.1, 4)

# For each option: our optimizer, Optax's with the same arguments, and Optax's
# direction, without learning rate, weight decay or trust ratio.
OPTIONS = {
    "sgd without momentum": (
        lambda lr, **k: lawn.sgd(lr, None, **k),
        lambda lr: optax.sgd(lr, None),
        optax.identity,
    ),
    "sgd, nesterov": (
        lambda lr, **k: lawn.sgd(lr, 0.8, True, **k),
        lambda lr: optax.sgd(lr, 0.8, True),
        lambda: optax.trace(0.8, True),
    ),
    "sgd, accumulator_dtype": (
        lambda lr, **k: lawn.sgd(lr, 0.8, False, jnp.bfloat16, **k),
        lambda lr: optax.sgd(lr, 0.8, False, jnp.bfloat16),
        lambda: optax.trace(0.8, False, jnp.bfloat16),
    ),
    "adam, eps_root": (
        lambda lr, **k: lawn.adam(lr, 0.8, 0.9, 1e-6, 1e-3, **k),
        lambda lr: optax.adam(lr, 0.8, 0.9, 1e-6, 1e-3),
        lambda: optax.scale_by_adam(0.8, 0.9, 1e-6, 1e-3),
    ),
    "adam, mu_dtype": (
        lambda lr, **k: lawn.adam(lr, 0.8, 0.9, 1e-6, 0.0, jnp.bfloat16, **k),
        lambda lr: optax.adam(lr, 0.8, 0.9, 1e-6, 0.0, jnp.bfloat16),
        lambda: optax.scale_by_adam(0.8, 0.9, 1e-6, 0.0, jnp.bfloat16),
    ),
    "adam, nesterov": (
        lambda lr, **k: lawn.adam(lr, nesterov=True, **k),
        lambda lr: optax.adam(lr, eps=1e-6, nesterov=True),
        lambda: optax.scale_by_adam(eps=1e-6, nesterov=True),
    ),
    "adam, weight_decay with a schedule, mask": (
        lambda lr, **k: lawn.adam(lr, weight_decay=DECAY, mask=MASK, **k),
        lambda lr: optax.adamw(lr, eps=1e-6, weight_decay=DECAY, mask=MASK),
        lambda: optax.scale_by_adam(eps=1e-6),
    ),
    "lamb, all by position": (
        lambda lr, **k: lawn.lamb(lr, 0.8, 0.9, 1e-6, 1e-3, DECAY, MASK, **k),
        lambda lr: optax.lamb(lr, 0.8, 0.9, 1e-6, 1e-3, DECAY, MASK),
        lambda: optax.scale_by_adam(0.8, 0.9, 1e-6, 1e-3),
    ),
}
SCHEDULED = ("adam, weight_decay with a schedule, mask", "lamb, all by position")
every_option = pytest.mark.parametrize("name", OPTIONS)


@pytest.mark.parametrize("name", ["sgd", "adam", "lamb"])
def test_arguments_are_those_of_optax_in_its_order(name):
    ours, theirs = (
        inspect.signature(getattr(module, name)).parameters for module in (lawn, optax)
    )
    positional = [
        p for p in theirs if theirs[p].kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    assert list(ours)[: len(positional)] == positional
    for parameter in theirs:
        assert ours[parameter].kind == theirs[parameter].kind


@every_option
def test_free_updates_are_those_of_optax(name):
    if name in SCHEDULED:
        needs_optax(0, 2, 6)
    make, theirs, _ = OPTIONS[name]
    # One group per leaf, as the trust ratio of `optax.lamb` is one per leaf.
    ours, theirs = make(0.1, groups="leaf", switch_step=9), theirs(0.1)
    params = network()
    state, their_state = ours.init(params), theirs.init(params)
    for _ in range(4):
        grads = jax.grad(loss)(params)
        updates, state = ours.update(grads, state, params)
        expected, their_state = theirs.update(grads, their_state, params)
        if name.startswith("lamb"):  # its norms are summed in another order
            assert_close(updates, expected, rtol=1e-5)
        else:
            assert_same_bits(updates, expected)
        params = optax.apply_updates(params, updates)


def tangent(x, w):
    return x - np.sum(w * x) / np.sum(w * w) * w


@every_option
def test_constrained_updates_turn_by_optax_s_direction(name, x64):
    make, _, direction = OPTIONS[name]
    ours, direction = make(0.1, groups="leaf"), direction()
    params = network("float64")
    state, their_state = ours.init(params), direction.init(params)
    norms = jax.tree.map(np.linalg.norm, params)

    def one(w, r, norm):
        r = tangent(np.asarray(r), w)
        ratio = np.linalg.norm(w) / np.linalg.norm(r) if "lamb" in name else 1
        moved = w - 0.1 * ratio * r
        return norm * moved / np.linalg.norm(moved)

    for _ in range(4):
        grads = jax.grad(loss)(params)
        updates, state = ours.update(grads, state, params)
        projected = jax.tree.map(lambda g, w: jnp.asarray(tangent(g, w)), grads, params)
        r, their_state = direction.update(projected, their_state, params)
        assert signature(r) == signature(params)
        expected = jax.tree.map(one, params, r, norms)
        params = optax.apply_updates(params, updates)
        # A first moment of bfloat16 rounds projected gradients that differ by 1e-16.
        rounded = "dtype" in name
        assert_close(params, expected, rtol=1e-5 if rounded else 1e-11)
