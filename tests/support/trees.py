"""Parameter trees without values, and how they are grouped."""

import jax
import jax.numpy as jnp

from lawn_optax.groups._resolve import resolve


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def dense(inputs=2, units=3):
    return {"kernel": shape(inputs, units), "bias": shape(units)}


def sharing(params, choice="layer"):
    """{(paths of a group): shape of its norms}; names of groups do not matter."""
    grouping = resolve(choice, params)
    return {
        tuple(grouping.paths[i] for i in block.leaves): block.shape
        for block in grouping.blocks
    }


def reasons(params, choice="layer"):
    grouping = resolve(choice, params)
    return {grouping.paths[i]: reason for i, reason in grouping.free}


MLP = {"first": dense(), "last": {"kernel": shape(3, 2), "bias": shape(2)}}
