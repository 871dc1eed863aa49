"""Softer constraints: a ball, a radial brake, a floor, and rarer retractions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import groups
from tests.support.asserts import assert_close, assert_same_bits, close, norms_of
from tests.support.optimizers import network, run, stepper

INFINITE = float("inf")

# The one non-zero entry of the weights, that of the update, that of the new weights.
EXACT = {
    "inside the ball": (lawn.max_norm(5.0), 3.0, 1.0, 4.0),
    "on it": (lawn.max_norm(4.0), 3.0, 1.0, 4.0),
    "beyond it": (lawn.max_norm(4.0), 3.0, 5.0, 4.0),
    "beyond it, inward": (lawn.max_norm(4.0), 8.0, -1.0, 4.0),
    "through the origin": (lawn.max_norm(4.0), 3.0, -11.0, -4.0),
    "to the origin": (lawn.max_norm(4.0), 3.0, -3.0, 0.0),
    "the first norm": (lawn.max_norm(), 4.0, 4.0, 4.0),
    "twice the first norm": (lawn.max_norm(lambda g: 2 * g.norm), 2.0, 6.0, 4.0),
    "brake outward": (lawn.brake(), 3.0, 1.0, 3.5),
    "no brake inward": (lawn.brake(), 3.0, -1.0, 2.0),
    "brake inward": (lawn.brake(0.5, 0.5), 4.0, -2.0, 3.0),
    "brake of 1": (lawn.brake(1.0, 0.0), 3.0, 0.1, 3.0 + 0.1),
    "brake of 0": (lawn.brake(0.0, 0.0), 4.0, 4.0, 4.0),
    "brake of 2": (lawn.brake(2.0), 3.0, 1.0, 5.0),
    "brake to the origin": (lawn.brake(0.5, 0.5), 2.0, -2.0, 0.0),
    "brake to the other side": (lawn.brake(0.5, 0.5), 2.0, -4.0, -2.0),
    "brake from zero": (lawn.brake(0.5), 0.0, 1.0, 1.0),
    "short update": (lawn.min_update(0.5), 4.0, 1.0, 6.0),
    "short update, inward": (lawn.min_update(0.5), 4.0, -0.25, 2.0),
    "long update": (lawn.min_update(0.5), 4.0, 3.0, 7.0),
    "no update": (lawn.min_update(0.5), 4.0, 0.0, 4.0),
    "short update from zero": (lawn.min_update(0.5), 0.0, 0.125, 0.125),
}


def one_entry(value):
    return jnp.zeros((3, 4)).at[1, 2].set(value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", EXACT)
def test_one_entry_has_the_exact_value(name, dtype):
    tx, w, u, expected = EXACT[name]
    params, update = (one_entry(x).astype(dtype) for x in (w, u))
    changed, _ = tx.update(update, tx.init(params), params)
    assert changed.dtype == dtype
    after = optax.apply_updates(params, changed)
    assert_same_bits(
        after, (params + update * 0 + one_entry(expected - w)).astype(dtype)
    )


def test_a_retraction_every_second_update_has_exact_values():
    tx = lawn.renormalize(project=False, every=2)
    w = one_entry(4.0)
    state, seen = tx.init(w), []
    for u in (4.0, 4.0, 8.0, 4.0):
        updates, state = tx.update(one_entry(u), state, w)
        w = optax.apply_updates(w, updates)
        seen.append(float(w[1, 2]))
    assert seen == [4.0, 8.0, 4.0, 8.0]


@pytest.mark.parametrize("project", [False, True])
def test_every_third_projection_by_hand_is_the_same_run(project, x64):
    retract = lawn.renormalize("leaf", project=project, every=3)
    ours, _ = run(optax.chain(optax.adam(0.05), retract), network("float64"), 7)
    inner = optax.chain(
        optax.adam(0.05),
        lawn.project_tangent("leaf") if project else optax.identity(),
    )
    step, params = jax.jit(stepper(inner)), network("float64")
    start, state = params, inner.init(params)
    for t in range(7):
        params, state = step(params, state)
        if t % 3 == 0:
            params = jax.tree.map(
                lambda w, w0: w * jnp.linalg.norm(w0) / jnp.linalg.norm(w),
                params,
                start,
            )
        assert_close(ours[t + 1], params, rtol=1e-6)


def by_definition(w, u, outward, inward):
    """The radial brake as its author defines it."""
    before, after = np.linalg.norm(w), np.linalg.norm(w + u)
    scale = outward if after > before else inward
    return (before + scale * (after - before)) * (w + u) / after


@pytest.mark.parametrize("axis", ["leaf", "neuron"])
def test_the_brake_is_its_definition_per_group(axis, x64):
    rng = np.random.default_rng(0)
    w, u = rng.normal(size=(2, 5, 4))
    tx = lawn.brake(0.3, 0.7, groups=axis)
    step, _ = jax.jit(tx.update)(jnp.asarray(u), tx.init(w), jnp.asarray(w))
    if axis == "leaf":
        expected = by_definition(w, u, 0.3, 0.7)
    else:
        columns = [
            by_definition(*pair, 0.3, 0.7) for pair in zip(w.T, u.T, strict=True)
        ]
        expected = np.stack(columns, 1)
    close(w + step, expected, 1e-12)


def test_a_small_growth_keeps_its_digits():
    w = jnp.asarray(np.random.default_rng(0).normal(size=(64, 64)), jnp.float32)
    tx = lawn.brake(0.25)
    step, _ = tx.update(1e-5 * w, tx.init(w), w)
    close(step, 0.25e-5 * w, rtol=1e-3)  # The norms alone would be good to 1e-2.


def test_weights_never_leave_the_ball_and_move_in_it_as_without():
    inner = optax.adam(0.1)
    tx = optax.chain(inner, lawn.max_norm(lambda group: 1.1 * group.norm))
    history, _ = run(tx, network(), 30)
    free, _ = run(inner, network(), 2)
    assert_same_bits(history[1], free[1])
    largest = 1.1 * norms_of(network())
    ratios = np.stack([norms_of(p) / largest for p in history])
    assert np.all(ratios < 1 + 1e-6) and np.any(ratios > 1 - 1e-6)


def test_an_update_without_end_stays_in_the_ball():
    w = jnp.array([3.0, 4.0])
    tx = lawn.max_norm(10.0)
    for u in (1e30 * w, jnp.array([1e38, 0.0])):
        updates, _ = tx.update(u, tx.init(w), w)
        assert jnp.linalg.norm(w + updates) <= 10.0


def test_an_update_with_an_infinite_entry_passes_unchanged():
    w = jnp.array([3.0, 4.0])
    for tx in (lawn.max_norm(10.0), lawn.brake(), lawn.renormalize(project=False)):
        for u in (jnp.array([INFINITE, 1.0]), jnp.array([1.0, -INFINITE])):
            assert_same_bits(tx.update(u, tx.init(w), w)[0], u)


def test_a_sum_of_squares_without_end_moves_nothing():
    w, u = jnp.array([1.2e19, 1e18]), jnp.array([1e19, 0.0])  # finite squares
    tx = lawn.max_norm()
    assert_same_bits(tx.update(u, tx.init(w), w)[0], 0 * w)


SHAPES = {
    "ball": lawn.max_norm,
    "brake": lambda: lawn.brake(0.5, 0.5),
    "floor": lambda: lawn.min_update(0.5),
    "every": lambda: lawn.renormalize(every=2),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_free_phase_is_that_of_switch_at(name):
    inner = optax.sgd(0.05)
    shaped, _ = run(optax.chain(inner, lawn.switch_at(2, SHAPES[name]())), network(), 3)
    free, _ = run(inner, network(), 3)
    assert_same_bits(shaped[:3], free[:3])
    alone, _ = run(optax.chain(inner, SHAPES[name]()), shaped[2], 1)
    assert_close(shaped[3], alone[1], rtol=1e-6)


def test_a_restored_state_goes_on_to_the_same_bits():
    tx = optax.chain(optax.adam(0.1), lawn.brake(), lawn.max_norm(), SHAPES["every"]())
    history, states = run(tx, network(), 5)
    leaves, treedef = jax.tree.flatten(states[3])
    restored = treedef.unflatten([jnp.asarray(np.asarray(x)) for x in leaves])
    step, params = jax.jit(stepper(tx)), history[3]
    for _ in range(2):
        params, restored = step(params, restored)
    assert_same_bits(params, history[5])


# --- reports --------------------------------------------------------------------------


def test_reports_know_a_bound_from_a_norm():
    tx = optax.chain(optax.sgd(0.1), lawn.max_norm(4.0, groups="leaf"))
    params = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.ones((8, 8))}}
    updates, state = tx.update(
        jax.tree.map(jnp.zeros_like, params), tx.init(params), params
    )
    params = optax.apply_updates(params, updates)  # norms 2 and 8, then 4
    lawn.check(state, params, groups="leaf")
    report = lawn.describe(params, "leaf", state)
    assert report.splitlines()[2:5] == [
        "group     norms  elements  at most  now   off by  rms  leaves",
        "a/kernel      1         4        4    2  0.0e+00    2  a/kernel (2, 2)",
        "b/kernel      1        64        4    4  0.0e+00  0.5  b/kernel (8, 8)",
    ]
    params["a"]["kernel"] = jnp.full((2, 2), 3.0)
    with pytest.raises(
        ValueError, match=r"left their balls:\n  a/kernel: captured 4, now 6"
    ):
        lawn.check(state, params, groups="leaf")
    state = lawn.recapture(state, params, groups="leaf")
    lawn.check(state, params, groups="leaf")
    assert lawn.captured_norms(state, params, groups="leaf")["a/kernel"] == 6


def test_check_takes_the_distance_between_two_retractions():
    tx = optax.chain(optax.sgd(0.3), lawn.renormalize(every=2))
    history, states = run(tx, network(), 2)
    lawn.check(states[1], history[1])
    with pytest.raises(ValueError, match="left their spheres"):
        lawn.check(states[2], history[2])
    lawn.check(states[2], history[2], rtol=0.5)


def test_the_monitor_can_watch_norms_that_change():
    tx = optax.chain(optax.sgd(0.3), lawn.brake(), lawn.monitor(rtol=INFINITE))
    history, states = run(tx, network(), 3)
    assert "norms not kept: 0 of 2" in lawn.health(states[-1], history[-1])
    with pytest.raises(ValueError, match="no LAWN state"):
        lawn.describe(history[-1], state=states[-1])
    nan = jax.tree.map(lambda w: w * jnp.nan, history[-1])
    _, state = tx.update(nan, states[-1], nan)
    assert "norms not kept: 2 of 2" in lawn.health(state, nan)


@pytest.mark.parametrize(
    "make",
    [
        lambda: lawn.max_norm(0.0),
        lambda: lawn.brake(-0.5),
        lambda: lawn.brake(INFINITE),
        lambda: lawn.brake(inward=-1.0),
        lambda: lawn.brake(inward=1.5),  # It would turn weights around.
        lambda: lawn.min_update(float("nan")),
        lambda: lawn.min_update(np.float32(-1)),
        lambda: lawn.renormalize(every=0),
        lambda: lawn.renormalize(every=np.int64(0)),
    ],
)
def test_impossible_numbers_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.parametrize("wrong", ["0.5", None, True, 1.5j])
def test_what_is_no_number_is_refused(wrong):
    for make in (lawn.brake, lawn.min_update, lambda x: lawn.renormalize(every=x)):
        with pytest.raises(TypeError, match="must be a.* number"):
            make(wrong)
    with pytest.raises(TypeError, match="`every` must be a whole number"):
        lawn.renormalize(every=1.5)  # pyright: ignore[reportArgumentType]


def test_groups_that_are_not_meant_warn():
    layers = {name: {"kernel": jnp.ones((3, 4, 4)), "bias": jnp.ones((3, 4))}
              for name in ("a", "b")}  # fmt: skip
    for make in SHAPES.values():
        with pytest.warns(UserWarning, match="3 stacked layers"):
            make().init({"layers": layers})


def test_numbers_may_be_traced():
    def norm(outward, ratio, radius, every):
        tx = optax.chain(
            lawn.min_update(ratio),
            lawn.brake(outward),
            lawn.max_norm(radius),
            lawn.renormalize(project=False, every=every, radius=radius),
        )
        w = one_entry(4.0)
        return tx.update(one_entry(1.0), tx.init(w), w)[0][1, 2]

    arguments = 0.5, 0.5, jnp.float32(16.0), 3
    assert jax.jit(norm)(*arguments) == norm(*arguments) == 12.0


def test_groups_take_their_own_factors():
    params = {"a": jnp.full((2, 2), 2.0), "zero": jnp.zeros((2, 2)), "none": None}
    updates = {"a": jnp.full((2, 2), 1.0), "zero": jnp.ones((2, 2)), "none": None}
    for tx, expected in (
        (lawn.brake(0.0, groups="leaf"), 2.0),
        (lawn.max_norm(groups="leaf"), 2.0),
        (lawn.min_update(2.0, groups="leaf"), 6.0),
        (lawn.min_update(2.0, groups=groups.not_paths("a")), 3.0),
    ):
        changed, _ = tx.update(updates, tx.init(params), params)
        close(params["a"] + changed["a"], expected)
        assert_same_bits(changed["zero"], updates["zero"])
        assert changed["none"] is None
