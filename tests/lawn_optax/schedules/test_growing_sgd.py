"""SGD with exponential rates whose weights are halved, against SGD that is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lawn_optax import schedules
from tests.support import scale_invariant as si
from tests.support.asserts import signature
from tests.support.optional import needs_optax

STEPS, MOMENTUM = 200, 0.9
EQUIVALENT = functools.partial(schedules.exponential_equivalent, momentum=MOMENTUM)


def rayleigh(w, matrix):
    """As `si.Toy`, for JAX."""
    return w @ (matrix @ w) / (w @ w)


@functools.partial(jax.jit, static_argnums=0)
def path(tx, w, matrices, values):
    """Weights and states after each update."""

    def step(carry, inputs):
        w, state = carry
        matrix, value = inputs
        updates, state = tx.update(jax.grad(rayleigh)(w, matrix), state, w, value=value)
        w = optax.apply_updates(w, updates)
        return (w, state), (w, state)

    return jax.lax.scan(step, (w, tx.init(w)), (matrices, values))[1]


def train(tx, toy, dtype=None, values=None):
    w = jnp.asarray(toy.start, dtype)
    matrices = jnp.asarray(toy.matrices, dtype)
    values = np.full(len(matrices), np.nan) if values is None else values
    return path(optax.with_extra_args_support(tx), w, matrices, jnp.asarray(values))


@pytest.fixture(scope="module")
def toy():
    return si.Toy(STEPS)


# --- rates that are known -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.4), (MOMENTUM, 0.02)])
def test_halving_changes_the_scale_alone(toy, momentum, decay):
    rates = schedules.exponential_equivalent(0.1, momentum, decay, STEPS)
    zeros = np.zeros(STEPS)
    reference = toy.sgd(rates(np.arange(STEPS)), zeros, momentum)
    held, state = train(schedules.rescaled_sgd(rates), toy)
    p = np.exp(rates.log_growth[1:])
    np.testing.assert_array_equal(state.halvings, np.floor(np.log2(p)))
    assert state.halvings[-1] > 6
    scale = 2.0 ** np.asarray(state.halvings)[:, None]
    # Rounding errors of 200 steps, 1e-16 each.
    np.testing.assert_allclose(held * scale, reference[1:], rtol=1e-10, atol=1e-12)
    # One to two times the weights of the run with weight decay.
    decayed = toy.sgd(np.full(STEPS, 0.1), np.full(STEPS, decay), momentum)
    factors = np.linalg.norm(held, axis=1) / np.linalg.norm(decayed[1:], axis=1)
    np.testing.assert_allclose(factors, p / scale[:, 0], rtol=1e-10)
    assert factors.min() >= 1 - 1e-9 and factors.max() < 2
    # The momentum, too: the velocity of the reference is (w - w') / rate.
    last = rates(STEPS - 1)
    velocity = (reference[-2] - reference[-1]) / last
    np.testing.assert_allclose(
        jax.tree.leaves(state.trace)[0][-1], velocity * scale[-1], rtol=1e-7
    )


def test_runs_far_beyond_float32_stay_in_range():
    # P grows to 1e46: neither the rates nor the weights could be float32.
    steps = 4000
    toy = si.Toy(steps)
    rates = EQUIVALENT(0.1, weight_decay=0.02, total_steps=steps)
    assert rates.overflow_step() < steps / 2 and np.exp(rates.log_growth[-1]) > 1e40
    held, state = train(schedules.rescaled_sgd(rates), toy, jnp.float32)
    decayed = toy.sgd(np.full(steps, 0.1), np.full(steps, 0.02), MOMENTUM)
    assert np.isfinite(held).all() and state.halvings[-1] > 140
    # float32 on a toy whose decay forgets errors of the past: 2e-5 was seen.
    assert si.farthest(np.asarray(held, float), decayed[1:]) < 1e-3
    lengths = np.linalg.norm(held, axis=1) / np.linalg.norm(decayed[1:], axis=1)
    assert lengths.min() > 0.999 and lengths.max() < 2.001


def test_one_update_that_grows_the_weights_many_times_halves_as_often():
    rates = schedules.exponential_equivalent(0.9375, 0.0, 1.0, 3)  # P = 16^t
    tx = schedules.rescaled_sgd(rates)
    w = jnp.array([1.0, 0.0])
    state = tx.init(w)
    updates, state = tx.update(jnp.array([0.0, 1.0]), state, w)
    np.testing.assert_array_equal(w + updates, np.array([1, -15.0]) / 16)
    assert int(state.halvings) == 4
    np.testing.assert_array_equal(jax.tree.leaves(state.trace)[0], [0, 16])


def test_without_growth_it_is_sgd_bit_for_bit(toy):
    # On one device and in one form of program: each step by itself.
    rates = EQUIVALENT(0.125, weight_decay=0.0, total_steps=5)
    ours, theirs = schedules.rescaled_sgd(rates), optax.sgd(0.125, MOMENTUM)
    w = v = jnp.asarray(toy.start, jnp.float32)
    a, b = ours.init(w), theirs.init(v)
    for matrix in jnp.asarray(toy.matrices[:5], jnp.float32):
        update, a = ours.update(jax.grad(rayleigh)(w, matrix), a, w)
        other, b = theirs.update(jax.grad(rayleigh)(v, matrix), b, v)
        w, v = optax.apply_updates(w, update), optax.apply_updates(v, other)
        np.testing.assert_array_equal(update, other)


def test_after_the_end_nothing_moves():
    rates = EQUIVALENT(0.1, weight_decay=0.01, total_steps=2)
    tx, w = schedules.rescaled_sgd(rates), jnp.ones(3)
    state = tx.init(w)
    for count in range(4):
        updates, state = tx.update(w, state, w)
        assert bool(jnp.any(updates != 0)) == (count < 2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_types_and_structure_are_kept(dtype):
    rates = schedules.exponential_equivalent(0.5, 0.0, 1.0, 100)  # a halving a step
    tx = optax.masked(schedules.rescaled_sgd(rates), {"w": True, "head": False})
    params = {"w": jnp.ones(3, dtype), "head": jnp.ones(2)}
    state = tx.init(params)
    kinds = signature(state)
    updates, state = jax.jit(tx.update)(params, state, params)
    assert signature(state) == kinds and updates["w"].dtype == dtype
    # (1 - 1) / 2 - 1 for what is trained, the gradient for what is masked.
    np.testing.assert_array_equal(np.asarray(updates["w"], float), -np.ones(3))
    np.testing.assert_array_equal(updates["head"], np.ones(2))


def test_narrow_weights_are_halved_with_one_rounding():
    rates = schedules.exponential_equivalent(0.5, 0.0, 1.0, 100)
    tx = schedules.rescaled_sgd(rates)
    w = jnp.linspace(1, 2, 101, dtype="bfloat16")
    updates, _ = tx.update(0.1 * w, tx.init(w), w)
    wide = np.asarray(w, float) - np.asarray(0.1 * w, float)
    after = np.asarray(optax.apply_updates(w, updates), float)
    # bfloat16 has 8 bits: the update and the sum are each off by 2^-9 at most.
    np.testing.assert_allclose(after, wide / 2, rtol=2**-7)


def test_vmap_over_members(toy):
    rates = EQUIVALENT(0.1, weight_decay=0.02, total_steps=3)
    tx = schedules.rescaled_sgd(rates)
    w = jnp.asarray(np.stack([toy.start, -2 * toy.start]), jnp.float32)
    updates, _ = jax.vmap(tx.update)(w, jax.vmap(tx.init)(w), w)
    alone, _ = tx.update(w[1], tx.init(w[1]), w[1])
    np.testing.assert_allclose(updates[1], alone, rtol=1e-6)


def test_what_it_needs_is_said():
    with pytest.raises(TypeError, match="`exponential_equivalent`.*got float"):
        schedules.rescaled_sgd(0.1)  # pyright: ignore[reportArgumentType]
    tx = schedules.rescaled_sgd(EQUIVALENT(0.1, weight_decay=0.01, total_steps=2))
    with pytest.raises(ValueError, match="rescaled_sgd needs `params`"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    tx = schedules.plateau_sgd(0.1, 0.9, 0.01)
    w = jnp.ones(2)
    with pytest.raises(ValueError, match="plateau_sgd needs `params`"):
        tx.update(w, tx.init(w), value=1.0)
    with pytest.raises(ValueError, match="`value` in every update.*NaN otherwise"):
        tx.update(w, tx.init(w), w)


# --- rates that follow the validation loss --------------------------------------------


def recipe(exponent, values, factor, patience, instant_decay):
    """Section 1 by hand: rates, and growth of the weights after each update."""
    log_rate, growth, bad, best, scale = np.log(0.1), 0.0, 0, np.inf, 1.0
    rates, growths = [], []
    for value in values:
        if np.isfinite(value):
            bad = 0 if value < best * (1 - 1e-4) else bad + 1
            best = min(best, value)
            if bad == patience:
                bad, scale = 0, scale * factor
                if instant_decay:
                    log_rate += np.log(factor)
        rates.append(np.exp(log_rate))
        log_rate += exponent * scale
        growth += exponent * scale / 2
        growths.append(growth)
    return np.array(rates), np.array(growths)


def losses():
    """An evaluation every fifth update; better until the 25th, and at the 130th."""
    values = np.full(STEPS, np.nan)
    values[::5] = np.maximum(2 - 0.2 * np.arange(STEPS // 5), 1)
    values[1::10] = np.inf  # no evaluation either
    values[130::5] = 0.5
    return values


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("instant_decay", [False, True])
def test_the_exponent_falls_at_each_plateau(toy, instant_decay):
    needs_optax(0, 2, 4)  # its `reduce_on_plateau` was for float32 alone
    exponent, values = 0.08, losses()
    plateau = optax.contrib.reduce_on_plateau(factor=0.4, patience=6)
    tx = schedules.plateau_sgd(
        0.1, MOMENTUM, exponent, plateau, instant_decay=instant_decay
    )
    held, state = train(tx, toy, values=values)
    rates, growth = recipe(exponent, values, 0.4, 6, instant_decay)
    halvings = np.floor(growth / np.log(2))
    np.testing.assert_array_equal(state.halvings, halvings)
    assert halvings[-1] >= 4 and len(set(np.asarray(state.plateau.scale))) == 6
    # The rate of the next update, but for what its loss may change; float64, 200 sums.
    following = np.log(rates) + 2 * np.diff(growth, prepend=0)
    held_rates = following - 2 * np.log(2) * halvings
    np.testing.assert_allclose(state.log_rate, held_rates, rtol=0, atol=1e-12)
    # The same functions as without halving.
    reference = toy.sgd(rates, np.zeros(STEPS), MOMENTUM)[1:]
    scaled = np.asarray(held) * 2.0 ** halvings[:, None]
    np.testing.assert_allclose(scaled, reference, rtol=1e-9, atol=1e-11)


def test_the_exponent_stands_for_a_constant_rate_with_decay(toy):
    exponent = schedules.growth_exponent(0.1, MOMENTUM, 0.02)
    held, state = train(schedules.plateau_sgd(0.1, MOMENTUM, exponent), toy)
    decayed = toy.sgd(np.full(STEPS, 0.1), np.full(STEPS, 0.02), MOMENTUM)[1:]
    without, _ = train(schedules.plateau_sgd(0.1, MOMENTUM, 0.0), toy)

    def apart(path):  # late: they begin with different steps, as alpha_0 is not z
        return si.farthest(np.asarray(path, float)[-50:], decayed[-50:])

    assert apart(held) < 0.05 < 0.5 < apart(without)
    assert int(state.halvings[-1]) > 1


def test_the_end_of_the_scale_gives_no_nan(toy):
    eager = optax.contrib.reduce_on_plateau(factor=1e-9, patience=1)
    tx = schedules.plateau_sgd(0.1, MOMENTUM, 0.05, eager, instant_decay=True)
    held, state = train(tx, toy, jnp.float32, values=np.ones(STEPS))
    assert float(state.plateau.scale[-1]) == 0 and np.isfinite(held).all()
    np.testing.assert_array_equal(held[-1], held[-2])


@pytest.mark.slow
def test_state_is_stable_and_a_member_may_be_mapped(toy):
    tx = schedules.plateau_sgd(0.1, MOMENTUM, 0.05)
    w = jnp.asarray(toy.start, jnp.float32)
    state = tx.init(w)
    _, after = jax.jit(tx.update)(w, state, w, value=1.0)
    assert signature(after, weak=False) == signature(state, weak=False)
    several = jax.vmap(lambda v: tx.update(w, state, w, value=v)[1])(jnp.ones(3))
    assert several.plateau.plateau_count.shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.9, 0.01), "`learning_rate` must be finite and above 0; got 0.0"),
        ((float("nan"), 0.9, 0.01), "`learning_rate`.*got nan"),
        ((0.1, 1.0, 0.01), "`momentum`.*got 1.0"),
        ((0.1, 0.9, -0.01), "`exponent`.*got -0.01"),
        ((0.1, 0.9, 0.106), r"at most -log\(momentum\) = 0.105361; got 0.106"),
        ((0.1, 0.0, float("inf")), "`exponent` must be finite"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        schedules.plateau_sgd(*arguments)
