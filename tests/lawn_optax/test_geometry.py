"""The geometry of one step: exact cases and the ends of the number range."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import _geometry as geometry
from lawn_optax.groups._resolve import resolve
from tests.support.one_group import (
    W,
    exact,
    project,
    retract,
    single,
    sums,
)

pytestmark = pytest.mark.usual_compilation

# --- exact, because every number is a short sum of powers of two ----------------------


def test_inner_products_are_exact_per_group_and_per_slice():
    params = {"a": jnp.array([[1.0, 2.0], [4.0, 8.0]]), "b": jnp.array([0.5, 0.25])}
    ws = jax.tree.leaves(params)
    exact(sums(resolve("all", params), ws, ws), [85.3125])
    exact(sums(resolve("leaf", params), ws, ws), [85.0, 0.3125])
    joined = resolve("neuron", {"m": params})  # b joins the columns of a
    exact(sums(joined, ws, ws), [1 + 16 + 0.25, 4 + 64 + 0.0625])
    ys = [2 * ws[0], -ws[1]]
    exact(sums(resolve("leaf", params), ys, ws), [170.0, -0.3125])


def test_projection_removes_the_part_along_the_weights():
    exact(project([8.0, 0.0, 0.0, 0.0], W), [6.0, -2.0, -2.0, -2.0])
    exact(project([6.0, -2.0, -2.0, -2.0], W), [6.0, -2.0, -2.0, -2.0])
    exact(project(W, W), [0.0] * 4)


def test_projection_per_slice_uses_each_slice_s_own_coefficient():
    w = {"k": jnp.array([[2.0, 1.0], [2.0, -1.0]])}
    x = {"k": jnp.array([[4.0, 8.0], [0.0, 0.0]])}
    tx = lawn.project_tangent("neuron")
    updates, _ = tx.update(x, tx.init(w), w)
    # Columns (4, 0) against (2, 2) and (8, 0) against (1, -1).
    exact(updates["k"], [[2.0, 4.0], [-2.0, 4.0]])


def test_slices_of_a_stack_behind_the_units_keep_their_own_coefficients():
    # Axis 1 is the stack and axis 0 the output units, so norms are kept as [2, 3].
    w = jnp.stack([jnp.full((3, 4), 1.0), jnp.full((3, 4), -2.0)], axis=1)
    units = jnp.arange(1.0, 4.0)[:, None, None]
    groups = lawn.groups.stacked("k", axis=1, base=lawn.groups.neuron(axis=0))
    tx = lawn.project_tangent(groups)
    x = {"k": units * jnp.array([[[8.0, 0.0, 0.0, 0.0]]]) + w}
    updates, _ = tx.update(x, tx.init({"k": w}), {"k": w})
    # The part along w goes, and (8, 0, 0, 0) projects to (6, -2, -2, -2) in every unit.
    projected = units * jnp.array([[[6.0, -2.0, -2.0, -2.0]]])
    exact(updates["k"], jnp.broadcast_to(projected, w.shape))


@pytest.mark.parametrize(
    "u, project, after",
    [
        # (8,0,0,0) projects to (6,-2,-2,-2); w + that is (8,0,0,0), halved.
        ([8.0, 0.0, 0.0, 0.0], True, [4.0, 0.0, 0.0, 0.0]),
        ([6.0, -2.0, -2.0, -2.0], True, [4.0, 0.0, 0.0, 0.0]),
        ([6.0, -2.0, -2.0, -2.0], False, [4.0, 0.0, 0.0, 0.0]),
        # Along the weights: without the projection it overshoots to -w.
        ([-4.0] * 4, True, W),
        ([-4.0] * 4, False, [-2.0] * 4),
        # w + u = (4,4,0,0) of norm sqrt(32) would round; (8,8,8,8) of norm 16 does not.
        ([6.0] * 4, False, W),
        ([0.0] * 4, True, W),
    ],
    ids=[
        "projects_first",
        "tangent_with_projection",
        "tangent_without",
        "radial_with_projection_stands_still",
        "radial_without_turns_around",
        "longer_is_shortened",
        "zero_stands_still",
    ],
)
def test_retraction_ends_on_the_sphere_exactly(u, project, after):
    update = retract(u, W, 4.0, project=project)
    exact(jnp.asarray(W) + update, after)


def test_retraction_returns_to_the_captured_norm_not_the_present_one():
    update = retract([0.0] * 4, W, 1.0)
    exact(update, [-1.5] * 4)
    exact(jnp.asarray(W) + retract([8.0, 0.0, 0.0, 0.0], W, 16.0), [16.0, 0, 0, 0])


def test_combine_is_p_u_plus_q_w_in_each_group():
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([4.0, 8.0])}
    grouping, ws = resolve("leaf", params), jax.tree.leaves(params)
    us = [jnp.array([16.0, 0.0]), jnp.array([0.0, 2.0])]
    p, q = list(jnp.array([0.5, 2.0])), list(jnp.array([-1.0, 0.25]))
    yes, no = jnp.array(True), jnp.array(False)
    a, b = geometry.combine(grouping, us, ws, p, q, [yes, yes])
    exact(a, [7.0, -2.0])
    exact(b, [1.0, 6.0])
    a, b = geometry.combine(grouping, us, ws, p, q, [no, yes])
    exact(a, us[0])
    exact(b, [1.0, 6.0])


def test_absent_leaves_stay_absent_and_count_nothing():
    params = {"a": jnp.array([2.0, 2.0]), "b": jnp.array([2.0, 2.0])}
    grouping, ws = resolve("all", params), jax.tree.leaves(params)
    us = [None, jnp.array([4.0, 0.0])]
    exact(sums(grouping, us, ws), [8.0])
    exact(sums(grouping, [None, None], ws), [0.0])
    one = [jnp.ones(())]
    out = geometry.combine(grouping, us, ws, one, one, [jnp.array(True)])
    assert out[0] is None
    exact(out[1], [6.0, 2.0])
    # Through a whole step: what has no gradient stands still, outside the sphere.
    tx = lawn.wrap(optax.sgd(1.0), groups="all")
    updates, state = tx.update({"a": None, "b": us[1]}, tx.init(params), params)
    assert updates["a"] is None
    exact(state.norms, np.float32([np.sqrt(8)]))


def test_a_group_that_only_one_element_of_moves_is_free():
    params = {"a": jnp.array([2.0, 2.0]), "b": jnp.array([2.0])}
    tx = lawn.wrap(optax.sgd(1.0), groups="all")
    updates, state = tx.update(
        {"a": None, "b": jnp.array([4.0])}, tx.init(params), params
    )
    exact(updates["b"], [-4.0])
    exact(state.norms, [0.0])


# --- kinds of numbers -----------------------------------------------------------------


def test_the_inner_product_of_complex_leaves_is_the_real_one():
    w = jnp.array([2 + 2j, 2 - 2j], jnp.complex64)  # norm 4, like W
    x = jnp.array([8 + 0j, 0j], jnp.complex64)
    grouping, ws = single(w)
    exact(sums(grouping, ws, ws), [16.0])
    exact(sums(grouping, [x], ws), [16.0])
    exact(sums(grouping, [1j * w], ws), [0.0])  # a turn of phase is tangent
    exact(project(x, w), np.array([6 - 2j, -2 + 2j], np.complex64))
    exact(project(1j * w, w), 1j * w)
    exact(w + retract(x, w, 4.0), np.array([4 + 0j, 0j], np.complex64))


def test_complex_and_real_leaves_share_a_norm():
    params = {"a": jnp.array([1 + 1j], jnp.complex64), "b": jnp.array([1.0, 1.0])}
    ws = jax.tree.leaves(params)
    exact(sums(resolve("all", params), ws, ws), [4.0])
    # A gradient may be complex where the weight is real, and the other way round.
    mixed = [jnp.array([2.0]), jnp.array([4.0 + 64j, 0.0], jnp.complex64)]
    exact(sums(resolve("all", params), mixed, ws), [6.0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bf16", "f16"])
def test_half_precision_is_summed_in_float32(dtype):
    # 257^2 ones: neither the sum nor its root is a number of 8 or 11 bits, and a
    # running sum would stop growing at 256 or 2048. In float16 it would overflow, too.
    w = jnp.ones(257**2, dtype)
    grouping, ws = single(w)
    total = sums(grouping, ws, ws)
    assert total.dtype == jnp.float32
    exact(total, [66049.0])
    exact(lawn.diagnostics.group_norms(w), [257.0])
    big = jnp.full(4, 512.0, dtype)  # 512^2 is beyond float16's 65504
    exact(lawn.diagnostics.group_norms(big), [1024.0])
    exact(project(big, big), [0.0] * 4)


def test_float64_groups_are_summed_in_float64(x64):
    w = jnp.array([1.0, 2.0**-20], jnp.float64)
    grouping, ws = single(w)
    total = sums(grouping, ws, ws)
    assert total.dtype == jnp.float64
    exact(total, [1 + 2.0**-40])


# --- norms that are no norms ----------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
def test_has_norm_between_underflow_and_overflow(dtype, x64):
    info = np.finfo(dtype)
    least = info.tiny / info.eps
    usable = [np.nextafter(least, dtype(1)), dtype(1), info.max]
    useless = [dtype(0), info.tiny, least, dtype(np.inf), dtype(np.nan), dtype(-1)]
    exact(geometry.has_norm(jnp.asarray(usable, dtype)), [True] * 3)
    exact(geometry.has_norm(jnp.asarray(useless, dtype)), [False] * 6)


@pytest.mark.parametrize(
    "size, constrained",
    [(0.0, False), (1e-17, False), (1e-15, True), (5e18, True), (1e19, False)],
    ids=["zero", "underflows", "small", "large", "overflows"],
)
def test_groups_whose_norm_cannot_be_squared_are_free(size, constrained):
    # Squares: 4e-34 is below the threshold of 1e-31 and 4e-30 above; 1e38 is below
    # the largest float32, 3.4e38, and 4e38 above.
    w = {"a": jnp.full(4, size), "b": jnp.ones(4)}
    g = jax.tree.map(lambda x: jnp.array([1.0, -2.0, 3.0, 5.0]) * x[0], w)
    if size == 0:
        g["a"] = jnp.ones(4)
    tx = lawn.wrap(optax.sgd(0.125), groups="leaf")
    updates, state = tx.update(g, tx.init(w), w)
    after = np.asarray(w["a"] + updates["a"], np.float64)
    assert (float(state.norms[0]) > 0) == constrained
    if constrained:
        np.testing.assert_allclose(np.linalg.norm(after), 2 * size, rtol=1e-6)
        assert (after != size).all()
    else:
        exact(updates["a"], -0.125 * g["a"])
        exact(state.norms[0], 0.0)
    b = np.asarray(w["b"] + updates["b"], np.float64)  # the neighbour is held
    np.testing.assert_allclose(np.linalg.norm(b), 2.0, rtol=1e-6)


def test_a_group_free_at_the_switch_is_never_projected_also_when_it_has_grown():
    w, g = jnp.zeros(4), jnp.array([8.0, 0.0, 0.0, 0.0])
    for tx in (lawn.wrap(optax.sgd(1.0)), lawn.project_tangent(), lawn.renormalize()):
        _, state = tx.update(g, tx.init(w), w)
        updates, _ = tx.update(g, state, jnp.asarray(W))
        exact(jnp.abs(updates), g)


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=["nan", "inf"])
def test_what_is_not_finite_passes_as_it_came(bad):
    g = jnp.array([8.0, bad, 0.0, 0.0])
    for tx in (lawn.project_tangent(), lawn.renormalize(), lawn.wrap(optax.sgd(-1.0))):
        w = jnp.asarray(W)
        updates, state = tx.update(g, tx.init(w), w)
        np.testing.assert_array_equal(updates, g)
        exact(state.norms, [4.0])
