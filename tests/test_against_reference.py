"""The algorithms against the NumPy reference, 200 steps at a time.

The gradients depend on all parameters, so that an error anywhere reaches everything.
One group is zero until it is past the switch, one is small enough for epsilon to count,
one has one element, and in mid-run the weights are scaled by hand, after which
constrained groups must return to the captured norms, not to those they find.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

import lawn_optax as lawn

STEPS, GROWS, SCALED = 200, 9, 120
SWITCHES = {"constrained from the start": 0, "switch at 7": 7, "never switching": 999}

SHAPES = {
    "dense/bias": (3,),
    "dense/kernel": (4, 3),
    "embed/table": (5, 4),  # small gradients
    "gate/alpha": (1,),  # one element
    "head/bias": (2,),  # zero until step GROWS, as is its kernel
    "head/kernel": (3, 2),
    "norm/bias": (3,),
    "norm/scale": (3,),
}
LAYER = {
    name: [leaf for leaf in SHAPES if leaf.startswith(name + "/")]
    for name in ("dense", "embed", "gate", "head")
}
ALL_LEAVES = [leaf for leaf in SHAPES if leaf not in ("gate/alpha", "norm/bias")]
# What lawn takes for `groups`, and the same for the reference.
GROUPS: dict[str, tuple[Any, reference.Groups]] = {
    "layers": (lawn.groups.not_paths("norm"), LAYER),
    "leaves": (
        lambda params: jax.tree.map_with_path(lambda path, _: str(path), params),
        {leaf: [leaf] for leaf in SHAPES},
    ),
    "two labels": (
        lambda params: {
            module: {
                name: {"gate": None, "head": 1}.get(module, 0)
                if (module, name) != ("norm", "bias")
                else None
                for name in leaves
            }
            for module, leaves in params.items()
        },
        {
            "rest": [leaf for leaf in ALL_LEAVES if not leaf.startswith("head")],
            "head": LAYER["head"],
        },
    ),
    # The last axis: a column of a kernel and the entry of its bias are a unit. The
    # vectors of `norm` belong to no kernel.
    "neurons": (
        "neuron",
        {
            "dense": (LAYER["dense"], -1),
            "embed": (LAYER["embed"], -1),
            "head": (LAYER["head"], -1),
        },
    ),
    # Rows; of the vectors, each entry would be a slice with one element.
    "slices": (
        lawn.groups.stacked("dense/kernel", "embed", base=lawn.groups.only_matrices()),
        {
            "dense": (["dense/kernel"], 0),
            "embed": (LAYER["embed"], 0),
            "head": ["head/kernel"],
        },
    ),
    "everything": (
        "all",
        {"all": list(SHAPES)},
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


PLUS = {"cap": 1.0}
CASES = {
    "sgd": Case(lawn.sgd, reference.sgd),
    "sgd with nesterov and decay, moments zeroed": Case(
        lawn.sgd,
        reference.sgd,
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.3},
        reset="moments",
    ),
    "sgd with decay, momentum kept, slices": Case(
        lawn.sgd, reference.sgd, {"weight_decay": 0.3}, groups="slices", reset=None
    ),
    "adam": Case(lawn.adam, reference.adam),
    "adam with decay, moments zeroed, neurons": Case(
        lawn.adam,
        reference.adam,
        {"weight_decay": 0.3},
        groups="neurons",
        reset="moments",
    ),
    "adam with other constants, moments kept": Case(
        lawn.adam, reference.adam, {"b1": 0.8, "b2": 0.95, "eps": 1e-4}, reset=None
    ),
    "adam with one projection and decay": Case(
        lawn.adam, reference.adam, {"projections": 1, "weight_decay": 0.3}
    ),
    "lamb": Case(lawn.lamb, reference.lamb),
    "lamb with decay, moments zeroed, two labels": Case(
        lawn.lamb,
        reference.lamb,
        {"weight_decay": 0.3},
        groups="two labels",
        reset="moments",
    ),
    "lamb with phi, moments kept, neurons": Case(
        lawn.lamb,
        reference.lamb,
        {"phi": lambda norm: norm**0.5, "weight_decay": 0.3},
        groups="neurons",
        reset=None,
    ),
    "lamb at a constant rate, leaves": Case(
        lawn.lamb, reference.lamb, groups="leaves", learning_rate=0.03
    ),
    "lamb+ with decay": Case(
        lawn.lamb_plus, reference.lamb, {"weight_decay": 0.3}, PLUS
    ),
    "lamb+ with moments kept": Case(
        lawn.lamb_plus, reference.lamb, twin_options=PLUS, reset=None
    ),
    "wrapped sgd, momentum kept": Case(
        wrapped(optax.sgd, momentum=0.9), reference.sgd, reset=None
    ),
    "wrapped sgd without momentum": Case(
        wrapped(optax.sgd), reference.sgd, twin_options={"momentum": 0.0}
    ),
    "wrapped adam, moments zeroed": Case(
        wrapped(optax.adam), reference.adam, twin_options={"eps": 1e-8}, reset="moments"
    ),
    "wrapped adam with one projection, leaves": Case(
        wrapped(optax.adam, projections=1, eps=1e-6),
        reference.adam,
        twin_options={"projections": 1},
        groups="leaves",
    ),
    # Its decay runs on, but is radial: the second projection removes it.
    "wrapped adamw, everything": Case(
        wrapped(optax.adamw, eps=1e-6, weight_decay=0.3),
        reference.adam,
        twin_options={"weight_decay": 0.3},
        groups="everything",
    ),
}


def nested(flat: dict) -> dict:
    tree: dict = {}
    for path, leaf in flat.items():
        module, name = path.split("/")
        tree.setdefault(module, {})[name] = leaf
    return tree


def gradients(np, params: dict, noise: dict, t) -> dict:  # np: numpy or jax.numpy
    shared = sum(np.mean(np.tanh(w)) for w in params.values())
    out = {}
    for path, w in params.items():
        g = 0.5 * w + 0.1 * np.sin(3 * w) + 0.5 * shared + noise[path]
        if path.startswith("head"):
            g = np.where(t < GROWS, 0, g)
        if path.startswith("embed"):
            g = 2.0**-17 * g
        out[path] = g
    return out


@functools.cache
def data() -> tuple[dict, dict]:
    """Initial parameters and noise that float32 represents exactly."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    params = {path: draw(*shape) for path, shape in SHAPES.items()}
    params["head/bias"][:] = params["head/kernel"][:] = 0
    noise = {path: draw(STEPS, *shape) for path, shape in SHAPES.items()}
    return params, noise


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
            params = {
                path: w + updates[path.split("/")[0]][path.split("/")[1]]
                for path, w in params.items()
            }
            return (params, state), params

        start = params, tx.init(nested(params))
        return jax.lax.scan(step, start, (noise, jnp.arange(STEPS)))[1]

    return run


@functools.cache
def expected(name: str, switch_step: int) -> dict:
    case = CASES[name]
    params, noise = data()
    twin = case.twin(
        case.learning_rate,
        switch_step=switch_step,
        groups=GROUPS[case.groups][1],
        reset=case.reset,
        **case.options,
        **case.twin_options,
    )
    params, noise = reference.float64(params), reference.float64(noise)
    steps = []
    for t in range(STEPS):
        scale = 1.5 if t == SCALED else 1.0
        params = {path: scale * w for path, w in params.items()}
        noise_t = {path: x[t] for path, x in noise.items()}
        params = twin.step(params, gradients(np, params, noise_t, t))
        steps.append(params)
    return {path: np.stack([p[path] for p in steps]) for path in params}


def actual(name: str, switch_step: int, dtype: str) -> dict:
    with jax.enable_x64(dtype == "float64"):
        params, noise = jax.tree.map(lambda x: jnp.asarray(x, dtype), data())
        steps = library(name, dtype)(jnp.asarray(switch_step), params, noise)
        assert {leaf.dtype.name for leaf in steps.values()} == {dtype}
        return {path: np.asarray(leaf, float) for path, leaf in steps.items()}


@pytest.mark.parametrize("switch_step", SWITCHES.values(), ids=SWITCHES.keys())
@pytest.mark.parametrize("name", CASES)
def test_float64_is_the_reference_to_1e_10(name, switch_step):
    steps = actual(name, switch_step, "float64")
    for path, leaf in expected(name, switch_step).items():
        np.testing.assert_allclose(
            steps[path], leaf, rtol=1e-10, atol=0, equal_nan=False, err_msg=path
        )
