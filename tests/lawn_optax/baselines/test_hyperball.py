"""Hyperball, Layca, AdamH, MuonH; weight-norm control."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lawn_optax import baselines, groups
from tests.support.asserts import assert_close, moved
from tests.support.optimizers import loss, network, run
from tests.support.optional import from_optax

KERNELS = ("first", "second")


def draw(seed=0, shape=(12, 9)):  # groups of up to 64 elements are special
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.normal(size=shape)


@functools.cache
def updater(project, rate=0.3):
    tx = baselines.hyperball(rate, project=project)
    return tx.init, jax.jit(tx.update)


def hyperball(w, u, rate, project=False):
    """One step, from the papers."""
    c = np.linalg.norm(w)
    if project:
        u = u - np.sum(u * w) / np.sum(w * w) * w
    moved = w + rate * c * u / np.linalg.norm(u)
    return c * moved / np.linalg.norm(moved)


@pytest.mark.parametrize("project", [False, True], ids=["hyperball", "layca"])
def test_a_step_has_the_share_of_the_norm_whatever_its_length(project, x64):
    w, u = draw()
    init, update = updater(project)
    for length in (1e-12, 1.0, 1e12):
        step, _ = update(jnp.asarray(length * u), init(jnp.asarray(w)), jnp.asarray(w))
        expected = hyperball(w, u, 0.3, project)
        np.testing.assert_allclose(w + step, expected, rtol=1e-12)
    if project:  # the rate is the tangent of the angle
        cosine = np.sum(w * expected) / np.sum(w * w)
        np.testing.assert_allclose(cosine, np.cos(np.arctan(0.3)), rtol=1e-14)


INNERS = {
    "adamh": (lambda: optax.adam(0.02), False),
    "muonh": (lambda: from_optax("contrib.muon")(0.02), False),
    "layca": (lambda: optax.sgd(0.02, 0.9), True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INNERS)
def test_kernels_turn_by_the_schedule_and_vectors_follow_the_optimizer(name, x64):
    make, project = INNERS[name]
    rate = optax.linear_schedule(0.2, 0.1, 5)
    tx = optax.chain(make(), baselines.hyperball(rate, project=project))
    history, _ = run(tx, network("float64"), 6)
    inner, w = make(), network("float64")
    state, gradient = inner.init(w), jax.jit(jax.grad(loss))
    advance = jax.jit(inner.update)
    for t, ours in enumerate(history):
        # 32-bit schedules: their rates are good to 6e-8.
        assert_close(ours, w, rtol=1e-6, atol=1e-7)
        u, state = advance(gradient(w), state, w)
        w = {
            k: {
                "kernel": jnp.asarray(
                    hyperball(*map(np.asarray, (w[k]["kernel"], u[k]["kernel"])),
                              float(rate(t)), project)
                ),
                "bias": w[k]["bias"] + u[k]["bias"],
            }
            for k in KERNELS
        }  # fmt: skip
    assert moved(history[0], history[-1])


def test_norms_stay_those_of_the_first_update():
    tx = optax.chain(optax.adam(0.02), baselines.hyperball(0.1))
    params = network()
    history, states = run(tx, params, 40)
    for k in KERNELS:
        held = np.linalg.norm(np.asarray(params[k]["kernel"], np.float64))
        for w in history:
            now = np.linalg.norm(np.asarray(w[k]["kernel"], np.float64))
            np.testing.assert_allclose(now, held, rtol=5e-7)  # float32
    assert np.all(np.asarray(states[-1][-1].norms) > 0)


def test_nothing_to_follow_means_standing_still():
    w, u = (jnp.asarray(x, jnp.float32) for x in draw())
    for project, nothing in (
        (False, 0 * u),
        (True, 0 * u),
        (True, 0.7 * w),  # a direction of rounding only
        (True, -1e4 * w),
    ):
        init, update = updater(project)
        step, state = update(nothing, init(w), w)
        assert_close(w + step, w, rtol=2e-7)  # float32
        assert np.all(np.asarray(state.norms) > 0)
    init, update = updater(False)
    shrunk, _ = update(-10.0 * w, init(w), w)  # radial: turns by nothing, keeps length
    assert_close(w + shrunk, w, rtol=2e-7)


def test_at_learning_rate_zero_weights_stay_and_zero_kernels_are_free():
    tx = baselines.hyperball(0.0)
    w = {"a": jnp.ones((2, 2)), "b": jnp.zeros((2, 2))}
    u = jax.tree.map(jnp.ones_like, w)
    step, _ = tx.update(u, tx.init(w), w)
    assert_close(step, {"a": jnp.zeros((2, 2)), "b": u["b"]}, rtol=0, atol=1e-7)


def test_each_slice_of_a_stack_turns_by_itself(x64):
    w, u = draw(shape=(3, 4, 2))
    tx = baselines.hyperball(0.2, groups=groups.stacked(base="leaf"))
    step, _ = tx.update(jnp.asarray(u), tx.init(jnp.asarray(w)), jnp.asarray(w))
    expected = [hyperball(a, b, 0.2) for a, b in zip(w, u, strict=True)]
    np.testing.assert_allclose(w + step, expected, rtol=1e-13)


def test_whether_to_project_is_static():
    with pytest.raises(TypeError, match="(?s)`project` must be.*in `static_args`"):
        baselines.hyperball(0.1, project=jnp.asarray(True))  # pyright: ignore[reportArgumentType]


# --- weight-norm control --------------------------------------------------------------


def test_the_norm_goes_the_share_of_its_way_to_the_target(x64):
    params = network("float64")
    updates = jax.tree.map(lambda x: 0.01 * x[::-1], params)
    rate, target = optax.linear_schedule(0.1, 0.3, 2), lambda t: 2.0 + t
    tx = baselines.weight_norm_control(rate, target)
    state = tx.init(params)
    for t in range(3):
        ours, state = tx.update(updates, state, params)
        for k in KERNELS:
            leaves = [np.asarray(x) for x in jax.tree.leaves(params[k])]
            norm = np.sqrt(sum(np.sum(x**2) for x in leaves))
            pull = float(rate(t)) * (1 - (2.0 + t) / norm)
            expected = jax.tree.map(lambda u, w, p=pull: u - p * w, updates, params)
            assert_close(ours[k], expected[k], rtol=1e-6, atol=1e-9)  # float32 schedule


def test_target_zero_is_decoupled_weight_decay(x64):
    decay = optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(0.5),
        optax.scale_by_learning_rate(0.1),
    )
    control = optax.chain(
        optax.adam(0.1), baselines.weight_norm_control(0.05, target=0.0)
    )
    expected = run(decay, network("float64"), 5)[0][-1]
    assert_close(run(control, network("float64"), 5)[0][-1], expected, rtol=1e-12)


def test_without_a_target_the_norm_returns_to_the_first_one(x64):
    tx = baselines.weight_norm_control(0.5)
    w = jnp.asarray([3.0, 4.0])
    step, state = tx.update(jnp.zeros(2), tx.init(w), w)
    assert_close(step, jnp.zeros(2), rtol=0, atol=1e-15)
    step, _ = tx.update(jnp.zeros(2), state, 3 * w)  # from 15 half way to 5
    assert_close(3 * w + step, 2 * w, rtol=1e-14)


@pytest.mark.parametrize("stack", [None, "layers"])
def test_200_steps_of_adamh_are_those_of_marin_s_formula(stack, x64):
    """Its ``adamh``: the norm is read at each step, per slice of the first axis."""
    shape = (12, 9) if stack is None else (3, 12, 9)
    norm = functools.partial(jnp.linalg.norm, axis=(-2, -1), keepdims=True)
    target, start = (jnp.asarray(x) for x in draw(shape=shape))
    gradient = jax.grad(lambda w: jnp.sum((w - target) ** 4))
    rate = optax.linear_schedule(0.02, 0.002, 200)
    direction = optax.scale_by_adam(0.9, 0.95, 1e-8)

    def by_formula(carry, t):
        p, state = carry
        u, state = direction.update(gradient(p), state)
        new = p - rate(t) * u * norm(p) / jnp.maximum(norm(u), 1e-10)
        return (new / norm(new) * norm(p), state), None

    grouping = groups.stacked(base="leaf") if stack else "leaf"
    tx = optax.chain(
        direction, optax.scale(-1.0), baselines.hyperball(rate, groups=grouping)
    )

    def ours(carry, _):
        p, state = carry
        updates, state = tx.update(gradient(p), state, p)
        return (optax.apply_updates(p, updates), state), None

    steps = jnp.arange(200, dtype="int32")  # as the state counts
    (expected, _), _ = jax.lax.scan(by_formula, (start, direction.init(start)), steps)
    (found, _), _ = jax.lax.scan(ours, (start, tx.init(start)), steps)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not np.allclose(found, start, rtol=0.1)
