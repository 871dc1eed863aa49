"""Inner optimizers and toy problems that tests of several files share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.support.optional import from_optax, partition


def matrix_or_vector(params):
    return jax.tree.map(lambda x: "matrix" if jnp.ndim(x) > 1 else "vector", params)


# One row per kind of state: none, moments, counts, factored or transposed moments,
# copies of the parameters, a line search, injected hyperparameters, masked parts.
INNERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.1, 0.9),
    "adam": lambda: optax.adam(0.05),
    "adamw": lambda: optax.adamw(0.05, weight_decay=0.1),
    "lamb": lambda: optax.lamb(0.05, weight_decay=0.1),
    "lion": lambda: optax.lion(0.02),
    "adafactor": lambda: optax.adafactor(0.05),
    "muon": lambda: from_optax("contrib.muon")(0.05),
    "schedule_free_adamw": lambda: from_optax("contrib.schedule_free_adamw")(0.05, 3),
    "prodigy": lambda: optax.contrib.prodigy(1.0, estim_lr0=1e-3),
    "lbfgs": lambda: from_optax("lbfgs")(
        memory_size=2, linesearch=from_optax("scale_by_zoom_linesearch")(5)
    ),
    "chain": lambda: optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.inject_hyperparams(optax.adam)(optax.linear_schedule(0.1, 0.01, 10)),
        optax.scale_by_schedule(optax.linear_schedule(1.0, 0.5, 8)),
    ),
    "partition": lambda: partition(
        {"matrix": optax.adam(0.05), "vector": optax.sgd(0.1, 0.9)}, matrix_or_vector
    ),
}


def network(dtype: Any = jnp.float32, seed: int = 0) -> dict:
    """Parameters of two dense layers, none zero."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    return {
        "first": {"kernel": draw(4, 3), "bias": draw(3)},
        "second": {"kernel": draw(3, 2), "bias": draw(2)},
    }


def batch(size: int = 8, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 4)), rng.normal(size=(size, 2))


def loss(params: dict, data: tuple | None = None) -> jax.Array:
    """Mean squared error of the network, in float32 or the parameters' wider type."""
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
    x, y = (jnp.asarray(a, dtype) for a in (batch() if data is None else data))
    for name, activation in (("first", jnp.tanh), ("second", lambda x: x)):
        layer = jax.tree.map(lambda p: p.astype(dtype), params[name])
        x = activation(x @ layer["kernel"] + layer["bias"][None])
    return jnp.mean((x - y) ** 2)


def stepper(tx: optax.GradientTransformation, loss: Callable = loss, **extra_args):
    """(params, state) -> the same after one update; every optimizer gets what L-BFGS
    wants. Not compiled."""
    tx = optax.with_extra_args_support(tx)

    def step(params, state):
        value, grad = jax.value_and_grad(loss)(params)
        line_search = {"value": value, "grad": grad, "value_fn": loss}
        updates, state = tx.update(grad, state, params, **line_search, **extra_args)
        return optax.apply_updates(params, updates), state

    return step


def run(tx: optax.GradientTransformation, params: Any, steps: int, loss=loss):
    """The parameters before each of `steps` updates and after the last; the states."""
    step = jax.jit(stepper(tx, loss))
    params, states = [params], [tx.init(params)]
    for _ in range(steps):
        after, state = step(params[-1], states[-1])
        params.append(after)
        states.append(state)
    return params, states


def updates_of(tx, values, **extra_args):
    """The updates of `tx` for the gradient (1, 0), one per value of switch_value."""
    w = jnp.array([3.0, 4.0])
    state, out = tx.init(w), []
    for value in values:
        update, state = tx.update(
            jnp.array([1.0, 0.0]), state, w, switch_value=value, **extra_args
        )
        out.append(np.asarray(update).tolist())
    return out, state
