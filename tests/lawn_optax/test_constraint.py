"""The measures against lost digits and repeated work act where they were measured."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import _algorithms
from tests.support.asserts import close
from tests.support.training import returning

LARGE = {"a": jnp.ones((9, 9)), "b": jnp.ones((9, 8))}
SMALL = {**LARGE, "c": jnp.ones((8, 8))}  # 64 elements


def operations(tx, params):
    """How often each primitive stands in the program of one update."""
    program = jax.make_jaxpr(tx.update)(params, tx.init(params), params)
    return collections.Counter(str(eqn.primitive) for eqn in program.jaxpr.eqns)


def lamb(direction, learning_rate):
    """`lawn.lamb` of a direction that is not Adam's."""
    ratio = _algorithms._trust_ratio(lambda norm: norm)
    return _algorithms._algorithm(
        "lamb", direction, learning_rate, 0, "layer", None, None, trust_ratio=ratio
    )


def test_the_trust_ratio_of_a_nearly_radial_small_group_is_exact():
    # |u|^2 - <u,w>^2 / <w,w> is 2^-25 here, which 2 + 2^-25 has lost in float32.
    w, u = jnp.ones(2), jnp.array([1 + 2**-13, 1 - 2**-13])
    tx = lamb(returning(u), 0.5)
    step, _ = tx.update(w, tx.init(w), w)
    moved = np.array([1 - 0.5, 1 + 0.5])  # by half its norm along the tangent
    close(w + step, np.sqrt(2) * moved / np.linalg.norm(moved))


@pytest.mark.parametrize(
    ("name", "params", "more"),
    [("adam", SMALL, 0), ("lamb", LARGE, 0), ("lamb", SMALL, 1)],
)
def test_only_small_groups_under_a_trust_ratio_are_projected_ahead(name, params, more):
    ours = operations(getattr(lawn, name)(0.1, groups="leaf"), params)
    plain = operations(lawn.wrap(optax.adam(0.1), groups="leaf"), params)
    products = [found["dot_general"] + found["cond"] for found in (ours, plain)]
    assert products[0] == products[1] + more  # jax 0.10.1 has conditions around them


def test_the_division_by_one_is_for_cpus_and_for_updates_without_a_scale(monkeypatch):
    def wrapped():  # anew each time: JAX remembers the program of a function
        return operations(lawn.wrap(optax.sgd(0.1), groups="leaf"), LARGE)

    on_cpu = wrapped()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    elsewhere = wrapped()
    assert on_cpu["div"] == elsewhere["div"] + len(LARGE)
    barriers = on_cpu["optimization_barrier"], elsewhere["optimization_barrier"]
    assert barriers == (len(LARGE), len(LARGE))
    scaled = operations(lawn.sgd(0.1, None, groups="leaf"), LARGE)
    assert scaled["div"] == elsewhere["div"]
