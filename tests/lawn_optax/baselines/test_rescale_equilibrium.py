"""Weights whose rate decays go on at once in the new equilibrium."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import _versions as lawn_versions
from lawn_optax import diagnostics

RATE, DECAY, DROP = 0.1, 0.02, 400  # relaxation before: 1 / (4 RATE DECAY) = 125


def angles_around_a_decay(tx_of, norm0, steps=1200, dim=64):
    """Angle of every update on a toy with gradients across w of length 1/|w|."""
    rate = optax.piecewise_constant_schedule(RATE, {DROP: 0.1})
    tx = optax.chain(tx_of(rate), diagnostics.observe())
    w = jnp.asarray(np.random.default_rng(0).normal(size=dim))
    w = w * norm0 / jnp.linalg.norm(w)
    noise = jnp.asarray(np.random.default_rng(1).normal(size=(steps, dim)))

    def step(carry, z):
        w, state = carry
        z = z - jnp.vdot(z, w) / jnp.vdot(w, w) * w
        g = z / jnp.linalg.norm(z) / jnp.linalg.norm(w)
        updates, state = tx.update(g, state, w)
        return (optax.apply_updates(w, updates), state), state[-1].angular_update[0]

    return np.asarray(
        jax.jit(lambda c, zs: jax.lax.scan(step, c, zs))((w, tx.init(w)), noise)[1]
    )


def sgd(rescale, groups="layer"):
    def of(rate):
        step = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(rate))
        last = lawn.rescale_on_decay(rate, groups=groups) if rescale else None
        return optax.chain(step, last or optax.identity())

    return of


def test_the_new_equilibrium_is_reached_at_once_and_else_slowly(x64):
    norm0 = (RATE / (2 * DECAY)) ** 0.25
    plain, rescaled = (angles_around_a_decay(sgd(x), norm0) for x in (False, True))
    old, new = np.sqrt(2 * RATE * DECAY), np.sqrt(2 * RATE / 10 * DECAY)
    np.testing.assert_allclose(plain[:DROP], rescaled[:DROP], rtol=1e-12)
    # 0.2%: first order in RATE * DECAY, and rates of float32.
    np.testing.assert_allclose(rescaled[:DROP], old, rtol=2e-3)
    np.testing.assert_allclose(rescaled[DROP:], new, rtol=2e-3)
    # Without it the angle falls by 10 and not by its root, and grows back slowly.
    np.testing.assert_allclose(plain[DROP], old / 10, rtol=2e-3)
    since = np.arange(1200 - DROP)
    slowly = new / np.sqrt(1 + 9 * np.exp(-4 * RATE / 10 * DECAY * since))
    np.testing.assert_allclose(plain[DROP:], slowly, rtol=5e-3)
    assert plain[-1] < 0.5 * new
    assert diagnostics.sgd_equilibrium_time(plain[DROP], RATE / 10, DECAY) > 5000


def test_adam_s_power_is_a_half(x64):
    norm0 = np.sqrt(RATE * 64 / (2 * DECAY))
    new = np.sqrt(2 * RATE / 10 * DECAY)
    # b2 = 0.9, so that the second moments follow the gradient; that makes the updates
    # some per cent shorter than 1, which cancels in the ratio of the angles.
    found = {}
    for power in (0.5, 0.25):

        def tx_of(rate, power=power):
            return optax.chain(
                optax.adamw(rate, 0.0, 0.9, weight_decay=DECAY, eps=1e-30),
                lawn.rescale_on_decay(rate, groups="layer", power=power),
            )

        turned = angles_around_a_decay(tx_of, norm0)
        rms = lambda x: np.sqrt(np.mean(x**2))  # noqa: E731
        found[power] = rms(turned[DROP + 30 : DROP + 80]) / rms(turned[200:DROP])
    ratio = new / np.sqrt(2 * RATE * DECAY)
    np.testing.assert_allclose(found[0.5], ratio, rtol=0.02)  # 50 noisy angles
    assert found[0.25] < 0.7 * ratio


# Optimizer from a rate and a weight decay, and the power of k.
OPTIMIZERS = {
    "sgd": (lambda rate, decay: coupled(rate, decay, None), 0.25),
    "momentum": (lambda rate, decay: coupled(rate, decay, 0.9), 0.25),
    "adamw": (lambda rate, decay: adamw(rate, decay, 0.99), 0.5),
    "adamw_b2_0.999": (lambda rate, decay: adamw(rate, decay, 0.999), 0.5),
}


def adamw(rate, decay, b2):
    return optax.chain(
        optax.scale_by_adam(0.9, b2, eps=1e-30),
        lawn_versions.add_decayed_weights(decay, None),
        optax.scale_by_learning_rate(rate),
    )


def coupled(rate, decay, momentum):
    return optax.chain(
        lawn_versions.add_decayed_weights(decay, None), optax.sgd(rate, momentum)
    )


def across(z, w):
    """A gradient across w, of the length that a scale-invariant loss has."""
    z = z - jnp.vdot(z, w) / jnp.vdot(w, w) * w
    return z / jnp.linalg.norm(z) / jnp.linalg.norm(w)


def drop(rate, at, k):
    """A division of the rate by k; in float64, unlike Optax's schedules."""
    return lambda count: jnp.where(count < at, rate, rate / k)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rescaled_moments_and_the_pair_of_schedules_give_the_same_directions(name, x64):
    make, power = OPTIMIZERS[name]
    # Two decays; the bound is that of rounding in 60 updates.
    rate = lambda t: RATE / jnp.where(t < 20, 1, jnp.where(t < 40, 10, 30))  # noqa: E731
    rescaled = lawn.rescale_on_decay(
        rate, groups="layer", power=power, inner=make(rate, DECAY)
    )
    pair = make(*lawn.schedules.decay_in_equilibrium(rate, DECAY))
    rng = np.random.default_rng(0)
    w, noise = jnp.asarray(rng.normal(size=8)), jnp.asarray(rng.normal(size=(60, 8)))

    def directions(tx):
        def step(carry, z):
            w, state = carry
            updates, state = tx.update(across(z, w), state, w)
            w = optax.apply_updates(w, updates)
            return (w, state), w / jnp.linalg.norm(w)

        return jax.jit(lambda c: jax.lax.scan(step, c, noise)[1])((w, tx.init(w)))

    np.testing.assert_allclose(directions(rescaled), directions(pair), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_motion_goes_on_in_the_new_equilibrium(name, x64):
    # 64 walks in 64 dimensions, begun near the equilibrium.
    make, power = OPTIMIZERS[name]
    walks, dim, k, after = 64, 64, 10.0, 402
    before = 2_000 if name == "adamw_b2_0.999" else 200  # beyond what moments remember
    rate = drop(RATE, before, k)
    arms = {
        "behind": lambda decay: optax.chain(
            make(rate, decay), lawn.rescale_on_decay(rate, groups="layer", power=power)
        ),
        "around": lambda decay: lawn.rescale_on_decay(
            rate, groups="layer", power=power, inner=make(rate, decay)
        ),
        "pair": lambda decay: make(*lawn.schedules.decay_in_equilibrium(rate, decay)),
    }
    rng = np.random.default_rng(0)
    noise = jnp.asarray(rng.normal(size=(before + after + 1, walks, dim)))

    @partial(jax.jit, static_argnums=0)
    def walk(arm, decay, norm0, noise):
        tx = arms[arm](decay)

        def step(carry, z):
            w, state = carry
            updates, state = jax.vmap(tx.update)(jax.vmap(across)(z, w), state, w)
            new = optax.apply_updates(w, updates)
            cosine = jnp.sum(w * new, 1) / jnp.linalg.norm(w, axis=1)
            cosine = jnp.clip(cosine / jnp.linalg.norm(new, axis=1), -1, 1)
            return (new, state), jnp.sqrt(jnp.mean(jnp.arccos(cosine) ** 2))

        w = norm0 * noise[0] / jnp.linalg.norm(noise[0], axis=1, keepdims=True)
        start = (w, jax.vmap(tx.init)(w))
        return jax.lax.scan(step, start, noise[1:])[1]

    def after_the_drop(arm, decay):  # in units of the new equilibrium
        norm0 = {
            "sgd": (RATE / (2 * decay)) ** 0.25,
            "momentum": (RATE / (0.2 * decay)) ** 0.25,
            "adamw": (RATE * dim / (2 * decay)) ** 0.5,
        }[name.split("_")[0]]
        angles = np.asarray(walk(arm, decay, norm0, noise))
        old = np.sqrt(np.mean(angles[before - 50 : before] ** 2))
        return angles[before:] / old * k**0.5

    for arm in ("around", "pair"):
        for decay in (2e-2, 5e-3, 1e-3):
            found = after_the_drop(arm, decay)[[0, 10, 400]]
            # 64 walks, and the norm at the start is not quite in equilibrium.
            np.testing.assert_allclose(found, 1, rtol=0.03)
    if name == "momentum":
        found = after_the_drop("behind", 2e-2)
        first = np.sqrt(1 - 0.9**2 * (1 - k**-0.5))
        np.testing.assert_allclose(found[[0, 400]], [first, 1], rtol=0.03)
        assert 0.95 < found[10] < 0.99
    if name.startswith("adamw"):  # second moments forget the larger weights later
        n, b2 = np.array([1, 11]), 0.999 if name.endswith("0.999") else 0.99
        grown = lambda b: b**n + (1 - b**n) * k  # noqa: E731
        expected = np.sqrt(grown(0.9**2) / grown(b2))
        # Too long updates make the weights longer, and so the later angles smaller; the
        # more so, the larger RATE * decay is: 2e-3 and 1e-4 here.
        late = {2e-2: 1.25, 1e-3: 1.54} if b2 == 0.999 else {2e-2: 1.0, 1e-3: 1.02}
        for decay in (2e-2, 1e-3):
            found = after_the_drop("behind", decay)[[0, 10, 400]]
            # Moments of 100 gradients follow each of them a little.
            np.testing.assert_allclose(found[:2], expected, rtol=0.06)
            np.testing.assert_allclose(found[2], late[decay], rtol=0.03)


def test_a_pair_of_schedules_begins_after_the_warm_up():
    steps = lawn.schedules.two_phase(1.0, 4, 20)
    rate, decay = lawn.schedules.decay_in_equilibrium(steps, 0.1, start=4)
    t = jnp.arange(20)
    np.testing.assert_allclose(rate(t) * decay(t), 0.1 * steps(t), rtol=1e-6)
    np.testing.assert_array_equal(rate(t[:4]), steps(t[:4]))
    np.testing.assert_array_equal(decay(t[:5]), np.float32(0.1))
    # From the warm-up on, the norm of the equilibrium is one.
    np.testing.assert_allclose(decay(t[4:]) / rate(t[4:]), 0.1, rtol=1e-6)
    assert rate(20) == decay(20) == 0
    with pytest.raises(TypeError, match="`schedule` must be a function"):
        lawn.schedules.decay_in_equilibrium(0.1, 0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="`weight_decay` must be the constant"):
        lawn.schedules.decay_in_equilibrium(steps, steps, start=4)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at update 0 must be positive, got 0"):
        lawn.schedules.decay_in_equilibrium(optax.linear_schedule(0, 1, 4), 0.1)
