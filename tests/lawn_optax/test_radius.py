"""Norms that are given, not captured, and constraints that begin after a free phase."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import baselines, groups
from tests.support.asserts import assert_close, close
from tests.support.optimizers import network, run, stepper

COLUMNS = groups.only_matrices(groups.neuron())


def norms(params, axis=None):
    return {k: jnp.linalg.norm(params[k]["kernel"], axis=axis) for k in params}


BY_HAND = {
    # SimbaV2 and nGPT: unit columns; EDM2: root mean square 1 of each filter.
    "unit columns": (1.0, lambda w: w / jnp.linalg.norm(w, axis=0, keepdims=True)),
    "unit rms": (
        lambda group: group.size**0.5,
        lambda w: w / jnp.sqrt(jnp.mean(w**2, axis=0, keepdims=True)),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_one_line_replaces_a_projection_after_each_update(name, x64):
    radius, by_hand = BY_HAND[name]
    tx = optax.chain(
        optax.adam(0.05), lawn.renormalize(COLUMNS, project=False, radius=radius)
    )
    ours, _ = run(tx, network("float64"), 100)
    step = jax.jit(stepper(optax.adam(0.05)))
    params = network("float64")
    state = optax.adam(0.05).init(params)
    for _ in range(100):
        params, state = step(params, state)
        params = {k: p | {"kernel": by_hand(p["kernel"])} for k, p in params.items()}
    assert_close(ours[-1], params, rtol=1e-6)


def test_hyperball_turns_unit_rows_by_its_rate(x64):
    rows = groups.only_matrices(groups.neuron(0))
    turn = baselines.hyperball(0.1, groups=rows, radius=1.0)
    history, states = run(optax.chain(optax.adam(0.05), turn), network("float64"), 30)
    step = jax.jit(stepper(optax.adam(0.05)))
    params = network("float64")
    state = optax.adam(0.05).init(params)
    length = functools.partial(jnp.linalg.norm, axis=1, keepdims=True)
    for ours in history[1:]:
        after, state = step(params, state)
        for name, layer in after.items():
            w = params[name]["kernel"]  # of another norm before the first update
            u = layer["kernel"] - w
            turned = w / length(w) + 0.1 * u / length(u)
            layer["kernel"] = turned / length(turned)
        params = after
        assert_close(ours, params, rtol=1e-6)
    captured = lawn.captured_norms(states[-1], history[-1], groups=rows)
    assert {k: n.shape for k, n in captured.items()} == {
        "first/kernel": (4,), "second/kernel": (3,)
    }  # fmt: skip
    assert_close([*captured.values()], [np.ones(4), np.ones(3)], rtol=0)


MAKERS = {
    "wrap": lambda radius: lawn.wrap(optax.adam(0.05), 2, groups="leaf", radius=radius),
    "hyperball": lambda radius: optax.chain(
        optax.adam(0.05),
        baselines.hyperball(0.1, groups="leaf", switch_step=2, radius=radius),
    ),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(
    ("radius", "expected"),
    [
        (2.5, lambda before: 2.5),
        (jnp.float32(0.5), lambda before: 0.5),
        (lambda group: 3 * group.norm, lambda before: 3 * before),
        (lambda group: 0.1 * group.shape[-1] ** 0.5, lambda before: 0.1 * 3**0.5),
    ],
    ids=["number", "array", "multiple", "shape"],
)
def test_norms_are_the_radius_from_the_switch_on(radius, expected, make):
    history, states = run(make(radius), network(), 6)
    free, _ = run(optax.adam(0.05), network(), 2)
    assert_close(history[:3], free, rtol=1e-6)
    goal = expected(norms(history[2])["first"])
    for params in history[3:]:
        close(norms(params)["first"], goal, 1e-6)
    captured = lawn.captured_norms(states[-1], history[-1], groups="leaf")
    close(captured["first/kernel"], goal, 1e-6)


@pytest.mark.filterwarnings("ignore:Some groups of")  # one norm for stacked layers
def test_a_group_is_described_by_its_name_norm_size_and_shape():
    seen = {}

    def radius(group):
        seen[group.name] = (group.norm.shape, group.size, group.shape)
        return group.norm

    params = {"blocks": {"kernel": jnp.ones((6, 3, 4)), "bias": jnp.ones((6, 4))}}
    for grouping in ("layer", groups.stacked("blocks"), groups.neuron((0, -1))):
        lawn.to_norms(params, radius, groups=grouping)
        lawn.renormalize(grouping, radius=radius).update(
            params, lawn.renormalize(grouping).init(params), params
        )
        expected = {
            "layer": ((), 96, (6, 3, 4)),
            "stacked": ((6,), 16, (3, 4)),
            "neuron": ((6, 4), 4, (3,)),
        }
        name = grouping if isinstance(grouping, str) else grouping.__qualname__
        assert seen.popitem()[1] == expected[name.split(".")[0]]
        seen.clear()


def test_to_norms_scales_groups_and_leaves_the_others():
    params = {
        "a": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.array([4.0, 0.0])},
        "narrow": jnp.ones((3, 4), jnp.bfloat16),
        "zero": {"kernel": jnp.zeros((2, 2))},
        "count": jnp.arange(3),
    }
    scaled = lawn.to_norms(params, 2.0, groups="layer")
    close(scaled["a"]["kernel"], 3 * 2 / 52**0.5)
    close(scaled["a"]["bias"], np.array([8 / 52**0.5, 0]))
    assert scaled["narrow"].dtype == "bfloat16"
    assert not scaled["zero"]["kernel"].any()
    assert scaled["count"].dtype == params["count"].dtype
    gradient = jax.grad(lambda p: lawn.to_norms(p, 2.0, groups="leaf").sum())
    assert jnp.isfinite(gradient(jnp.zeros((2, 2)))).all()


@pytest.mark.parametrize(
    ("radius", "error", "words"),
    [
        (0.0, ValueError, "must be positive and finite, got 0.0"),
        (float("nan"), ValueError, "positive"),
        ("rms", TypeError, "a number, a callable from a `Group`"),
        (True, TypeError, "a number"),
        (lambda group: jnp.ones(3), ValueError, "group 'first' has the shape (3,)"),
        (lambda group: -group.norm, ValueError, "group 'first' must be positive"),
        (jnp.float32(jnp.inf), ValueError, "must be positive and finite"),
    ],
)
def test_bad_radii_are_refused(radius, error, words):
    params = network()
    with pytest.raises(error) as caught:
        tx = lawn.wrap(optax.sgd(0.1), radius=radius)
        tx.update(params, tx.init(params), params)
    assert words in str(caught.value)
    with pytest.raises(error):
        lawn.to_norms(params, radius)


def test_narrow_weights_keep_their_direction_on_the_way_to_a_shorter_radius():
    params = jax.tree.map(lambda w: 100 * w, network(jnp.bfloat16))
    tx = optax.chain(optax.set_to_zero(), lawn.renormalize(radius=1.0))
    history, states = run(tx, params, 12)
    for layer in params:
        before, after = (
            np.asarray(p[layer]["kernel"], np.float64).ravel()
            for p in (params, history[-1])
        )
        cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
        assert cosine > 0.9999
    lawn.check(states[-1], history[-1])


def test_a_group_of_norm_zero_stays_free():
    params = network()
    params["second"] = jax.tree.map(jnp.zeros_like, params["second"])
    history, states = run(lawn.wrap(optax.sgd(0.1), radius=1.0), params, 3)
    assert states[-1].norms[1] == 0
    assert norms(history[-1])["second"] > 0.01  # It trains.


CONSTRAINTS = {
    "hyperball": functools.partial(baselines.hyperball, 0.1),
    "weight_norm_control": functools.partial(baselines.weight_norm_control, 0.1),
    "to a target": functools.partial(baselines.weight_norm_control, 0.1, 2.0),
    "unit_norm": functools.partial(baselines.unit_norm, "natural"),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_constraint_with_a_free_phase_is_the_constraint_behind_the_switch(name):
    make = CONSTRAINTS[name]
    inner = optax.sgd(0.05)
    built_in, _ = run(optax.chain(inner, make(switch_step=3)), network(), 6)
    switched, _ = run(optax.chain(inner, lawn.switch_at(3, make())), network(), 6)
    never, _ = run(inner, network(), 6)
    assert_close(built_in, switched, rtol=1e-6)
    assert_close(built_in[:4], never[:4], rtol=1e-6)
    close_to_free = np.allclose(
        built_in[6]["first"]["kernel"], never[6]["first"]["kernel"], rtol=1e-4
    )
    assert not close_to_free


def test_a_projection_that_begins_at_zero_is_constrained_after_the_free_phase():
    params = network()
    params["second"]["kernel"] = jnp.zeros_like(params["second"]["kernel"])
    for switch_step, constrained in ((0, False), (3, True)):
        tx = optax.chain(
            optax.adam(0.05), baselines.hyperball(0.1, switch_step=switch_step)
        )
        history, _ = run(tx, params, 8)
        after, last = (norms(history[t])["second"] for t in (3, 8))
        assert (abs(last / after - 1) < 1e-5) == constrained


@pytest.mark.parametrize("make", [baselines.adamp, baselines.sgdp])
def test_adamp_does_not_project_before_the_switch(make):
    options = {"weight_decay": 0.1, "delta": 10.0}  # Everything counts as invariant.
    late, states = run(make(0.05, **options, switch_step=3), network(), 5)
    never, _ = run(make(0.05, **options | {"delta": 0.0}), network(), 5)
    assert_close(late[:4], never[:4], rtol=1e-6)
    assert not np.allclose(late[5]["first"]["kernel"], never[5]["first"]["kernel"])
    assert states[-1][0].phase.switched_at == 3
