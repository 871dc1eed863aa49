"""Short training runs on made-up gradients, for the tests of what must always hold."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

SMALL = {"dense": {"bias": (3,), "kernel": (4, 3)}, "head": {"kernel": (3, 2)}}


def draw(seed=0, dtype="float32", **shapes):
    """{module: {leaf: array}} of normal numbers."""
    rng = np.random.default_rng(seed)
    return {
        module: {k: jnp.asarray(rng.normal(size=s), dtype) for k, s in leaves.items()}
        for module, leaves in shapes.items()
    }


def norms(params):
    """One norm per module, in float64 where JAX has it."""
    square = lambda w: jnp.sum(jnp.square(jnp.asarray(w, float)))  # noqa: E731
    return jnp.sqrt(
        jnp.stack([sum(map(square, jax.tree.leaves(params[m]))) for m in params])
    )


def gradients(params, t, dtype=None, alike=False):
    """A pull to one value for all weights, or to many, and waves of all frequencies."""

    def one(w):
        angle = jnp.arange(1.0, w.size + 1, dtype="float32").reshape(w.shape)
        pull = 0.1 * w.astype("float32") + (0.3 if alike else jnp.cos(angle))
        return (pull + jnp.sin(jnp.float32(t) * angle + angle)).astype(dtype or w.dtype)

    return jax.tree.map(one, params)


def train(tx, params, steps, measure=lambda params: params, grads=gradients):
    """`measure` of the parameters after each step."""

    def step(carry, t):
        params, state = carry
        updates, state = tx.update(grads(params, t), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), measure(params)

    @jax.jit
    def run(params):
        state = tx.init(params)
        # Optax's moments take the type of the gradients at the first update.
        (_, later), _ = jax.eval_shape(step, (params, state), jnp.zeros([], int))
        state = jax.tree.map(lambda x, y: x.astype(y.dtype), state, later)
        return jax.lax.scan(step, (params, state), jnp.arange(steps))

    (_, state), measured = run(params)
    return measured, state


def returning(update):
    """An inner optimizer whose update is `update`, whatever the gradient."""
    return optax.stateless(lambda grads, params: update)
