"""Weights shrink exactly where the rate decays, and are in equilibrium at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import _versions as lawn_versions
from lawn_optax import diagnostics
from tests.support.asserts import assert_close, assert_same_bits, signature
from tests.support.optimizers import network
from tests.support.optional import partition


def steps_of(tx, params, gradients):
    """The updates and the parameters after each of them, in one compiled scan."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (updates, params)

    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients)
    scan = jax.jit(lambda carry, gs: jax.lax.scan(step, carry, gs))
    return scan((params, tx.init(params)), stacked)[1]


def gradients_like(params, steps):
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype)  # noqa: E731
    return [jax.tree.map(draw, params) for _ in range(steps)]


def at(tree, t):
    return jax.tree.map(lambda x: x[t], tree)


def test_weights_shrink_between_the_last_update_at_the_old_rate_and_the_next(x64):
    rate = optax.piecewise_constant_schedule(0.1, {3: 0.1, 5: 0.5})
    tx = optax.chain(optax.sgd(rate), lawn.rescale_on_decay(rate, groups="layer"))
    params = network(jnp.float64)
    gradients = gradients_like(params, 8)
    _, found = steps_of(tx, params, gradients)
    # Rates 0.1 0.1 0.1 0.01 0.01 0.005 ...: the weights that update 3 finds are
    # divided by 10^(1/4), those that update 5 finds by 2^(1/4).
    rates = [0.1, 0.1, 0.1, 0.01, 0.01, 0.005, 0.005, 0.005]
    divisors = {2: 10**0.25, 4: 2**0.25}
    expected = jax.tree.map(np.asarray, params)
    for t in range(8):
        expected = jax.tree.map(
            lambda w, g, t=t: (w - rates[t] * np.asarray(g)) / divisors.get(t, 1.0),
            expected,
            gradients[t],
        )
        # Optax's schedules are float32.
        assert_close(at(found, t), expected, rtol=1e-6, atol=1e-7)


def test_updates_away_from_a_decay_keep_their_bits_and_the_state_its_types():
    rate = optax.piecewise_constant_schedule(0.1, {3: 0.1})
    tx = lawn.rescale_on_decay(rate, groups="layer")
    params, state = network(), tx.init(network())
    types, changed = signature(state), []
    update = jax.jit(tx.update)
    for t, g in enumerate(gradients_like(params, 6)):
        updates, state = update(g, state, params)
        assert signature(state) == types
        assert int(state.count) == t + 1
        try:
            assert_same_bits(updates, g)
        except AssertionError:
            changed.append(t)
    assert changed == [2]


def test_free_leaves_are_not_touched():
    rate = optax.piecewise_constant_schedule(0.1, {1: 1 / 16})
    groups = lawn.groups.not_paths("second", base=lawn.groups.only_matrices())
    tx = lawn.rescale_on_decay(rate, groups=groups)
    params = network()
    params["steps"] = jnp.array([3, 4])  # an integer is free, too
    updates = jax.tree.map(lambda x: jnp.ones_like(x), params)
    updates["first"]["bias"] = None
    out, _ = tx.update(updates, tx.init(params), params)
    assert out["first"]["bias"] is None
    assert_same_bits(out["second"], updates["second"])
    assert_same_bits(out["steps"], updates["steps"])
    w = np.asarray(params["first"]["kernel"], np.float64)
    # The update is of the size of the weights: an ulp of theirs.
    assert_close(out["first"]["kernel"], (w + 1) / 2 - w, rtol=1e-6, atol=3e-7)


def test_units_and_slices_shrink_alike():
    rate = optax.piecewise_constant_schedule(0.1, {1: 1 / 16})
    params = {"kernel": jnp.arange(1.0, 7.0).reshape(2, 3), "bias": jnp.ones(3)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for groups in ("neuron", "leaf", "all", lawn.groups.stacked(base="leaf")):
        tx = lawn.rescale_on_decay(rate, groups=groups)
        out, _ = tx.update(zeros, tx.init(params), params)
        # Exact: 16 to the power 1/4 is 2.
        np.testing.assert_array_equal(out["kernel"], -params["kernel"] / 2)


@pytest.mark.parametrize(
    "rates",
    [[0.0, 0.5, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]],
    ids=["warm-up from 0", "decay to 0", "always 0"],
)
def test_a_rise_and_a_decay_to_zero_change_nothing(rates):
    table = jnp.array([*rates, rates[-1]])
    tx = lawn.rescale_on_decay(lambda t: table[t], groups="layer")
    params = network()
    gradients = [jax.tree.map(lambda x: 0.1 * x, params)] * 4
    updates, _ = steps_of(tx, params, gradients)
    for t in range(4):
        assert_same_bits(at(updates, t), gradients[t])


def test_a_gradual_decay_shrinks_by_its_total():
    rate = optax.cosine_decay_schedule(1.0, 40, alpha=0.1)
    tx = lawn.rescale_on_decay(rate, groups="layer")
    params = network()
    zeros = [jax.tree.map(jnp.zeros_like, params)] * 45
    _, after = steps_of(tx, params, zeros)
    for t in (9, 29, 44):
        factor = float(rate(t + 1)) ** 0.25
        expected = jax.tree.map(lambda w, f=factor: f * w, params)
        assert_close(at(after, t), expected, rtol=1e-5)  # 40 products in float32
    assert factor == pytest.approx(0.1**0.25)


def test_narrow_weights_are_rounded_once():
    rate = optax.piecewise_constant_schedule(0.1, {1: 0.1})
    tx = lawn.rescale_on_decay(rate, groups="layer")
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=4000), jnp.bfloat16)
    u = jnp.asarray(0.01 * rng.normal(size=4000), jnp.bfloat16)
    out, _ = jax.jit(tx.update)(u, tx.init(w), w)
    assert out.dtype == jnp.bfloat16
    exact = (np.asarray(w, np.float64) + np.asarray(u, np.float64)) * 0.1**0.25
    ideal = jnp.asarray(exact, jnp.bfloat16)
    # Where the new weight is less than half the old one, their difference need not be
    # a bfloat16: 0.7% of the weights. Two roundings would miss many times as often.
    assert np.mean(np.asarray(optax.apply_updates(w, out) != ideal)) < 0.015
    twice = w + jnp.asarray(exact - np.asarray(w, np.float64), jnp.bfloat16)
    assert np.mean(np.asarray(twice != ideal)) > 0.05


def test_it_counts_updates_and_not_micro_steps():
    rate = optax.piecewise_constant_schedule(0.1, {2: 1 / 16})
    inner = optax.chain(optax.sgd(rate), lawn.rescale_on_decay(rate, groups="layer"))
    tx = optax.MultiSteps(inner, 3)
    w, state, norms = jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)), []
    for _ in range(9):
        updates, state = tx.update(jnp.zeros(2), state, w)
        w = optax.apply_updates(w, updates)
        norms.append(float(jnp.linalg.norm(w)))
    np.testing.assert_allclose(norms, [5.0] * 5 + [2.5] * 4, rtol=1e-6)


def test_it_works_under_vmap_masked_and_an_abstract_init():
    rate = optax.piecewise_constant_schedule(0.1, {1: 1 / 16})
    tx = lawn.rescale_on_decay(rate, groups="layer")
    w = jnp.array([[3.0, 4.0], [6.0, 8.0]])
    state = jax.vmap(tx.init)(w)
    out, _ = jax.vmap(tx.update)(jnp.zeros((2, 2)), state, w)
    np.testing.assert_array_equal(out, -w / 2)
    masked = optax.masked(tx, {"a": True, "b": False})
    params = {"a": jnp.array([3.0, 4.0]), "b": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    out, _ = masked.update(zeros, masked.init(params), params)
    assert_same_bits(out, {"a": jnp.array([-1.5, -2.0]), "b": jnp.zeros(2)})
    assert jax.eval_shape(tx.init, params).count.shape == ()


def test_what_it_needs_is_said():
    rate = optax.constant_schedule(0.1)
    with pytest.raises(TypeError, match="`schedule` must be a function.*got 0.1"):
        lawn.rescale_on_decay(0.1, groups="layer")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="groups"):
        lawn.rescale_on_decay(rate)  # pyright: ignore[reportCallIssue]
    tx, w = lawn.rescale_on_decay(rate, groups="layer"), jnp.ones(3)
    with pytest.raises(ValueError, match="rescale_on_decay needs `params`"):
        tx.update(w, tx.init(w))
    nothing = lawn.rescale_on_decay(rate, groups=lambda _: None)
    with pytest.raises(ValueError, match="No parameter is constrained"):
        nothing.init(w)
    with pytest.raises(ValueError, match="`updates` must have the tree structure"):
        tx.update({"a": w}, tx.init(w), {"b": w})


# --- what it is for -------------------------------------------------------------------

RATE, DECAY, DROP = 0.1, 0.02, 400  # relaxation before: 1 / (4 RATE DECAY) = 125


def angles_around_a_decay(tx_of, norm0, steps=1200, dim=64, b2=None):
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
    "adamw": (
        lambda rate, decay: optax.chain(
            optax.scale_by_adam(0.9, 0.99, eps=1e-30),
            lawn_versions.add_decayed_weights(decay, None),
            optax.scale_by_learning_rate(rate),
        ),
        0.5,
    ),
}


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
    walks, dim, k, before, after = 64, 64, 10.0, 200, 402
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
        }[name]
        angles = np.asarray(walk(arm, decay, norm0, noise))
        old = np.sqrt(np.mean(angles[before - 50 : before] ** 2))
        return angles[before:] / old * k**0.5

    for arm in ("around", "pair"):
        for decay in (2e-2, 5e-3, 1e-3):
            found = after_the_drop(arm, decay)[[0, 10, 400]]
            # 64 walks, and the norm at the start is not quite in equilibrium.
            np.testing.assert_allclose(found, 1, rtol=0.02)
    if name == "momentum":
        found = after_the_drop("behind", 2e-2)
        first = np.sqrt(1 - 0.9**2 * (1 - k**-0.5))
        np.testing.assert_allclose(found[0], first, rtol=0.03)
        assert 0.95 < found[10] < 0.99
    if name == "adamw":  # second moments forget the larger weights later
        n = np.array([1, 11])
        grown = lambda b: b**n + (1 - b**n) * k  # noqa: E731
        expected = np.sqrt(grown(0.9**2) / grown(0.99))
        # Moments of 100 gradients follow each of them a little.
        found = after_the_drop("behind", 2e-2)[[0, 10]]
        np.testing.assert_allclose(found, expected, rtol=0.06)


def test_only_the_moments_of_chosen_leaves_are_rescaled():
    rate = optax.piecewise_constant_schedule(0.1, {1: 1 / 16})
    inner = partition(
        {"a": optax.adam(rate, mu_dtype=jnp.bfloat16), "b": optax.sgd(rate, 0.5)},
        {"first": "a", "second": "b"},
    )
    groups = lawn.groups.only_paths("kernel")
    tx = lawn.rescale_on_decay(rate, groups=groups, inner=inner)
    params = network()
    grads = jax.tree.map(jnp.ones_like, params)
    _, found = tx.update(grads, tx.init(params), params)
    _, alone = inner.update(grads, inner.init(params), params)
    get = optax.tree_utils.tree_get
    # 16 to the power 1/4 is 2.
    for name, factor in (("mu", 2), ("nu", 4), ("trace", 2)):
        module = "second" if name == "trace" else "first"
        new, old = get(found, name)[module], get(alone, name)[module]
        assert new["kernel"].dtype == old["kernel"].dtype
        np.testing.assert_array_equal(new["kernel"], factor * old["kernel"])
        np.testing.assert_array_equal(new["bias"], old["bias"])


def test_moments_of_an_unknown_kind_are_refused():
    rate = optax.constant_schedule(0.1)
    for inner, name in (
        (optax.adagrad(rate), "sum_of_squares"),
        (optax.lion(rate), ""),
    ):
        tx = lawn.rescale_on_decay(rate, groups="layer", inner=inner)
        if name:
            with pytest.raises(ValueError, match=f"`{name}` of `inner`"):
                tx.init(network())
        else:
            tx.init(network())
    flat = optax.flatten(optax.adam(rate))
    with pytest.raises(ValueError, match="not shaped like the parameters"):
        lawn.rescale_on_decay(rate, groups="layer", inner=flat).init(network())


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


def test_an_inner_that_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match="`inner` must be an Optax transformation"):
        lawn.rescale_on_decay(lambda t: 0.1, groups="layer", inner=optax.adam)  # pyright: ignore[reportArgumentType]
