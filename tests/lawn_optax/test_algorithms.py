"""The algorithms against the NumPy reference, 200 steps at a time.

The gradients depend on all parameters, so that an error anywhere reaches everything.
One layer and one unit are zero until past the switch, one layer has gradients so small
that epsilon counts, one has a single element. Once the weights are scaled by hand:
constrained groups must return to the captured norms, not to those they find.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support import reference
from tests.support.optional import enable_x64

STEPS, GROWS, SCALED = 200, 9, 120
SWITCHES = {"constrained from the start": 0, "switch at 7": 7, "never switching": 999}

SHAPES = {
    "dense/bias": (3,),
    "dense/kernel": (4, 3),
    "embed/table": (9, 8),  # larger than what is projected ahead of the sums
    "gate/alpha": (1,),
    "head/bias": (2,),
    "head/kernel": (3, 2),
    "norm/scale": (3,),
}
# Zero until step GROWS: a whole layer, and one unit among others.
LATE = {"head/bias": ..., "head/kernel": ..., "embed/table": (slice(None), 0)}

LAYER = {
    name: [leaf for leaf in SHAPES if leaf.startswith(f"{name}/")]
    for name in ("dense", "embed", "gate", "head")
}
# What lawn takes for `groups`, and the same for the reference.
GROUPS: dict[str, tuple[Any, reference.Groups]] = {
    "layers": (lawn.groups.not_paths("norm"), LAYER),
    "leaves": ("leaf", {leaf: [leaf] for leaf in SHAPES}),
    "everything": ("all", {"all": list(SHAPES)}),
    "two labels": (
        lambda params: {
            "dense": 0,
            "embed": 0,
            "gate": None,
            "head": 1,
            "norm": 0,
        },
        {0: [*LAYER["dense"], *LAYER["embed"], "norm/scale"], 1: LAYER["head"]},
    ),
    # A column of a kernel and an entry of its bias are a unit; the scale of `norm`
    # belongs to no kernel.
    "neurons": (
        "neuron",
        {name: (LAYER[name], -1) for name in ("dense", "embed", "head")},
    ),
    "slices": (
        lawn.groups.stacked("dense/kernel", "embed", base="leaf"),
        {
            leaf: ([leaf], 0) if leaf in ("dense/kernel", "embed/table") else [leaf]
            for leaf in SHAPES
        },
    ),
}


def rate(count):
    """Learning rate; float64 with x64, where Optax's own schedules are float32."""
    return 0.05 / (1 + 0.02 * count)


@dataclasses.dataclass(frozen=True)
class Case:
    make: Callable[..., optax.GradientTransformationExtraArgs]
    twin: Callable[..., reference.Reference]
    options: dict = dataclasses.field(default_factory=dict)  # of both
    twin_options: dict = dataclasses.field(default_factory=dict)
    groups: str = "layers"
    reset: str | None = "restart"
    learning_rate: Any = rate


def wrapped(optimizer, projections=2, **fixed):
    def make(learning_rate, *, switch_step, groups, reset):
        inner = optimizer(learning_rate, **fixed)
        return lawn.wrap(
            inner, switch_step, groups=groups, reset=reset, projections=projections
        )

    return make


# Every option at least once; together they meet pairwise, not in all combinations.
CASES = {
    "sgd with nesterov and decay, moments zeroed": Case(
        lawn.sgd,
        reference.sgd,
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.3},
        reset="moments",
    ),
    "sgd with decay, momentum kept, slices": Case(
        lawn.sgd, reference.sgd, {"weight_decay": 0.3}, groups="slices", reset=None
    ),
    "wrapped sgd, leaves, constant rate": Case(
        wrapped(optax.sgd, momentum=0.9),
        reference.sgd,
        groups="leaves",
        learning_rate=0.02,
    ),
    "adam": Case(lawn.adam, reference.adam),
    "adam with decay, moments zeroed, neurons": Case(
        lawn.adam,
        reference.adam,
        {"weight_decay": 0.3},
        groups="neurons",
        reset="moments",
    ),
    "adam with one projection, decay and its own betas, moments kept": Case(
        lawn.adam,
        reference.adam,
        {"projections": 1, "weight_decay": 0.3, "b1": 0.8, "b2": 0.95, "eps": 1e-4},
        reset=None,
    ),
    "wrapped adam with one projection, leaves": Case(
        wrapped(optax.adam, projections=1),
        reference.adam,
        twin_options={"projections": 1, "eps": 1e-8},
        groups="leaves",
    ),
    # Its decay runs on, but is radial: the second projection removes it.
    "wrapped adamw, everything": Case(
        wrapped(optax.adamw, eps=1e-6, weight_decay=0.3),
        reference.adam,
        twin_options={"weight_decay": 0.3},
        groups="everything",
    ),
    "lamb": Case(lawn.lamb, reference.lamb),
    "lamb with decay, moments zeroed, two labels": Case(
        lawn.lamb,
        reference.lamb,
        {"weight_decay": 0.3},
        groups="two labels",
        reset="moments",
    ),
    "lamb with phi and decay, moments kept, neurons": Case(
        lawn.lamb,
        reference.lamb,
        {"phi": lambda norm: norm**0.5, "weight_decay": 0.3},
        groups="neurons",
        reset=None,
    ),
    "lamb+ with decay, constant rate": Case(
        lawn.lamb_plus,
        reference.lamb,
        {"weight_decay": 0.3},
        twin_options={"cap": 1.0},
        learning_rate=0.02,
    ),
}


def nested(leaves: dict) -> dict:
    tree: dict = {}
    for path, leaf in leaves.items():
        module, name = path.split("/")
        tree.setdefault(module, {})[name] = leaf
    return tree


def flat(tree: dict) -> dict:
    return {
        f"{module}/{name}": tree[module][name]
        for module in tree
        for name in tree[module]
    }


def gradients(np, params: dict, noise: dict, t) -> dict:  # np: numpy or jax.numpy
    shared = sum(np.mean(np.tanh(w)) for w in params.values())
    grads = {
        path: np.where(t < GROWS, data().live[path], 1)
        * (0.5 * w + 0.1 * np.sin(3 * w) + 0.5 * shared + noise[path])
        for path, w in params.items()
    }
    return {**grads, "embed/table": 2.0**-17 * grads["embed/table"]}


class Data(NamedTuple):
    params: dict
    noise: dict
    live: dict  # 0 where LATE, else 1


@functools.cache
def data() -> Data:
    """Numbers that float32 represents exactly."""
    rng = np.random.default_rng(0)
    live = {path: np.ones(shape, np.float32) for path, shape in SHAPES.items()}
    for path, where in LATE.items():
        live[path][where] = 0
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    params = {path: live[path] * draw(*shape) for path, shape in SHAPES.items()}
    noise = {path: draw(STEPS, *shape) for path, shape in SHAPES.items()}
    return Data(params, noise, live)


@functools.cache
def library(name: str, dtype: str) -> Callable:
    """One compiled loop per case, for all switch steps."""
    case = CASES[name]

    @jax.jit
    def run(switch_step, params, noise):
        tx = case.make(
            case.learning_rate,
            switch_step=switch_step,
            groups=GROUPS[case.groups][0],
            reset=case.reset,
            **case.options,
        )

        def step(carry, noise_and_t):
            params, state = carry
            noise, t = noise_and_t
            scale = jnp.where(t == SCALED, 1.5, 1).astype(dtype)
            params = {path: scale * w for path, w in params.items()}
            grads = gradients(jnp, params, noise, t)
            updates, state = tx.update(nested(grads), state, nested(params))
            params = flat(optax.apply_updates(nested(params), updates))
            return (params, state), params

        start = params, tx.init(nested(params))
        (_, state), steps = jax.lax.scan(step, start, (noise, jnp.arange(STEPS)))
        return steps, state.norms

    return run


def actual(name: str, switch_step: int, dtype: str) -> tuple[dict, np.ndarray]:
    with enable_x64(dtype == "float64"):
        params, noise, _ = jax.tree.map(lambda x: jnp.asarray(x, dtype), data())
        steps, norms = library(name, dtype)(jnp.asarray(switch_step), params, noise)
        assert {leaf.dtype.name for leaf in [norms, *steps.values()]} == {dtype}
        return {path: np.asarray(x, float) for path, x in steps.items()}, norms


@functools.cache
def expected(name: str, switch_step: int) -> tuple[dict, list[float]]:
    case = CASES[name]
    twin = case.twin(
        case.learning_rate,
        switch_step=switch_step,
        groups=GROUPS[case.groups][1],
        reset=case.reset,
        **case.options,
        **case.twin_options,
    )
    params, noise = map(reference.float64, data()[:2])
    steps = []
    for t in range(STEPS):
        scale = 1.5 if t == SCALED else 1.0
        params = {path: scale * w for path, w in params.items()}
        noise_t = {path: x[t] for path, x in noise.items()}
        params = twin.step(params, gradients(np, params, noise_t, t))
        steps.append(params)
    # The library keeps no norm for groups of one element; 0 stands for a free one.
    norms = [c or 0.0 for name, c in twin.norms.items() if twin.m[name].size > 1]
    return {path: np.stack([p[path] for p in steps]) for path in params}, norms


def compare(name: str, switch_step: int, dtype: str, tolerance: float) -> None:
    """All steps, relative to the largest weight that the leaf ever has."""
    steps, norms = actual(name, switch_step, dtype)
    right, right_norms = expected(name, switch_step)
    np.testing.assert_allclose(norms, right_norms, rtol=tolerance, equal_nan=False)
    for path, leaf in right.items():
        atol = tolerance * np.abs(leaf).max()
        np.testing.assert_allclose(
            steps[path], leaf, rtol=0, atol=atol, equal_nan=False, err_msg=path
        )


@pytest.mark.parametrize("switch_step", SWITCHES.values(), ids=SWITCHES.keys())
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("adam", "lamb") else pytest.param(name, marks=pytest.mark.slow)
        for name in CASES
    ],
)
def test_float64_equals_the_reference(name, switch_step):
    compare(name, switch_step, "float64", 1e-12)  # measured: at most 6e-15


# Rounding by 6e-8 in each of 200 steps makes 1.2e-5 at most where nothing amplifies it;
# SGD's errors measure 1e-6. Adam's measure up to 2e-5: 1 - b2^t is a difference of
# almost equal numbers, so the first steps have relative errors of up to 3e-5.
@pytest.mark.slow
@pytest.mark.parametrize("switch_step", SWITCHES.values(), ids=SWITCHES.keys())
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("sgd with nesterov and decay, moments zeroed", 1.2e-5),
        ("adam", 1e-4),
        ("lamb", 1e-4),
        ("lamb+ with decay, constant rate", 1e-4),
    ],
)
def test_float32_equals_the_reference_to_rounding(name, tolerance, switch_step):
    compare(name, switch_step, "float32", tolerance)
