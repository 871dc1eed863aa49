"""Where a step leads, and what changes it: tangency, rates, invariances."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.asserts import close
from tests.support.training import SMALL, draw, gradients, norms, returning, train


def turn(before, after):
    """The angle of each module's rotation, from sin and cos, exact for small ones."""
    angles = []
    for module in before:
        w, v = (
            np.concatenate([np.ravel(leaf) for leaf in p[module].values()])
            for p in (before, after)
        )
        w, v = w / np.linalg.norm(w), v / np.linalg.norm(v)
        angles.append(2 * math.atan2(np.linalg.norm(v - w), np.linalg.norm(v + w)))
    return angles


@pytest.mark.parametrize("length", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("projections", [1, 2])
def test_updates_are_orthogonal_to_the_weights_to_first_order(projections, length, x64):
    w = draw(0, "float64", m={"kernel": (4, 3)})
    v = jax.tree.map(lambda x: length * x, draw(1, "float64", m={"kernel": (4, 3)}))
    tx = lawn.wrap(returning(v), projections=projections)
    u, _ = tx.update(v, tx.init(w), w)
    w, u, v = (np.asarray(x["m"]["kernel"]) for x in (w, u, v))
    size = np.linalg.norm(w)
    cosine = np.sum(w * u) / (size * np.linalg.norm(u))
    close(cosine, -0.5 * np.linalg.norm(u) / size, rtol=1e-9, atol=1e-10)
    if projections == 2:
        v = v - np.sum(w * v) / size**2 * w
    exact = (w + v) * size / np.linalg.norm(w + v)
    close(w + u, exact, rtol=0, atol=1e-14 * size)


@pytest.mark.parametrize("by_rate", ["sgd", "lamb"])
def test_the_rate_acts_before_the_retraction(by_rate, x64):
    # LAMB turns each group by atan(rate), SGD by atan(rate |tangent gradient| / |w|).
    # However long the step: never beyond a right angle.
    rates = np.array([1e-3, 0.1, 1.0, 100.0, 0.0])
    make = {"sgd": functools.partial(lawn.sgd, momentum=None), "lamb": lawn.lamb}
    tx = make[by_rate](lambda count: jnp.asarray(rates)[count])
    params = draw(dtype="float64", **SMALL)
    state, update = tx.init(params), jax.jit(tx.update)
    for t, rate in enumerate(rates):
        grads = gradients(params, t)
        updates, state = update(grads, state, params)
        after = optax.apply_updates(params, updates)
        if by_rate == "sgd":
            tangent, _ = (project := lawn.project_tangent()).update(
                grads, project.init(params), params
            )
            rate = rate * np.asarray(norms(tangent)) / np.asarray(norms(params))
        expected = np.broadcast_to(np.arctan(rate), 2)
        close(turn(params, after), expected, rtol=1e-9, atol=1e-15)
        params = after


# Invariances


def invariant_loss(params):
    """A function of the directions of the modules' weights alone."""
    total = 0.0
    for k, module in enumerate(params.values()):
        w = jnp.concatenate([jnp.ravel(leaf) for leaf in module.values()])
        d = w / jnp.linalg.norm(w)
        total += jnp.sum(jnp.sin(jnp.arange(1.0, d.size + 1) * (k + 1) + 5 * d))
    return total


@pytest.mark.slow
def test_on_a_scale_invariant_loss_the_gradient_projection_is_a_no_op(x64):
    params = draw(dtype="float64", **SMALL)
    grads = jax.grad(invariant_loss)(params)
    tx = lawn.project_tangent()
    projected, _ = tx.update(grads, tx.init(params), params)
    for leaf, same in zip(*map(jax.tree.leaves, (projected, grads)), strict=True):
        close(leaf, same, rtol=0, atol=1e-14 * float(jnp.abs(same).max()))

    plain = optax.chain(optax.adam(0.05), lawn.renormalize(project=False))
    projecting = lawn.wrap(optax.adam(0.05), projections=1)
    grads = lambda params, t: jax.grad(invariant_loss)(params)  # noqa: E731
    with_it, _ = train(projecting, params, 50, grads=grads)
    without, _ = train(plain, params, 50, grads=grads)
    for leaf, same in zip(*map(jax.tree.leaves, (with_it, without)), strict=True):
        close(leaf, same, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("tx", "of_gradient"),
    [
        # w -> 4 w turns the gradient of a scale-invariant loss into g / 4.
        pytest.param(lawn.lamb(0.1, eps=0.0, switch_step=3), 1 / 4, id="lamb"),
        # SGD needs 16 times the rate as well: the same as a gradient of 16 g / 4.
        pytest.param(lawn.wrap(optax.sgd(0.1, 0.9), 3), 4, id="wrapped sgd"),
    ],
)
def test_rescaling_a_scale_invariant_layer_rescales_its_weights_alone(tx, of_gradient):
    # Exactly, by powers of two. The gradients are those of the unscaled run.
    noise = draw(1, a={"b": (20, 3), "w": (20, 4, 3)}, h={"w": (20, 6)})
    params = draw(a={"b": (3,), "w": (4, 3)}, h={"w": (6,)})

    @jax.jit
    def run(params, noise):
        def step(carry, grads):
            params, state = carry
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(step, (params, tx.init(params)), noise)[1]

    scale = lambda s, p: {**p, "a": {k: s * x for k, x in p["a"].items()}}  # noqa: E731
    rescaled = run(scale(4, params), scale(of_gradient, noise))
    expected = scale(4, run(params, noise))
    for leaf, right in zip(*map(jax.tree.leaves, (rescaled, expected)), strict=True):
        assert np.isfinite(right).all()
        np.testing.assert_array_equal(leaf, right)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lawn.adam, lawn.lamb], ids=["adam", "lamb"])
def test_names_and_order_of_layers_only_permute_the_norms(make, x64):
    draws = draw(dtype="float64", **SMALL, tail={"scale": (5,)})
    trees = {}
    for names in (("a", "b", "c"), ("z", "y", "x")):
        params = dict(zip(names, draws.values(), strict=True))
        after, state = train(make(0.1, switch_step=3), params, 20)
        trees[names[0]] = [after[name] for name in names], np.asarray(state.norms)
    (layers, found), (renamed, permuted) = trees.values()
    for leaf, same in zip(*map(jax.tree.leaves, (layers, renamed)), strict=True):
        close(leaf, same, rtol=1e-12, atol=1e-12)
    close(permuted, found[::-1], rtol=1e-12)
    assert not np.allclose(found, found[::-1])


@pytest.mark.parametrize(
    "groups",
    [lawn.groups.neuron(axis=0), lawn.groups.stacked()],
    ids=["neurons", "slices"],
)
def test_sgd_on_unit_rows_is_riemannian_sgd_with_projection_retraction(groups, x64):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 10))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    form = rng.normal(size=(10, 10))
    noise = rng.normal(size=(100, 6, 10))

    def loss_gradient(w, noise):
        return w @ (form + form.T) + 0.3 * noise

    def step(carry, noise):
        params, state = carry
        grads = {"layer": {"weight": loss_gradient(params["layer"]["weight"], noise)}}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params["layer"]["weight"]

    tx = lawn.wrap(optax.sgd(0.05), groups=groups)
    params = {"layer": {"weight": jnp.asarray(rows)}}
    after = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), noise))(params)[1]
    for t in range(100):
        for i, w in enumerate(rows := rows.copy()):
            g = loss_gradient(w, noise[t, i])
            w = w - 0.05 * (g - (g @ w) * w)  # along the Riemannian gradient
            rows[i] = w / np.linalg.norm(w)  # back to the sphere
        close(after[t], rows, rtol=0, atol=1e-12)
