"""Equal bits, in a process whose XLA does not fuse multiplications with additions.

Run as a script, it prints what is equal.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support import compilation
from tests.support.training import (
    SMALL,
    draw,
    gradients,
)


def composed(inner, n):
    return optax.chain(
        lawn.switch_at(n, lawn.project_tangent()),
        lawn.reset_at(n, inner),
        lawn.switch_at(n, lawn.renormalize()),
    )


NEVER, N = 10**6, 7
ADAM, SGD = optax.adam(0.01), optax.sgd(0.1, 0.9)
SAME_BITS = {
    "wrapped adam, never switching": (lawn.wrap(ADAM, NEVER), ADAM, "float32"),
    "wrapped adam in bf16, never switching": (lawn.wrap(ADAM, NEVER), ADAM, "bfloat16"),
    "wrapped sgd, never switching": (lawn.wrap(SGD, NEVER), SGD, "float32"),
    "adam with decay, never switching": (
        lawn.adam(0.01, weight_decay=0.1, switch_step=NEVER),
        optax.adamw(0.01, eps=1e-6, weight_decay=0.1),
        "float32",
    ),
    "wrapped adam and its parts": (lawn.wrap(ADAM, N), composed(ADAM, N), "float32"),
    "wrapped sgd and its parts": (lawn.wrap(SGD, N), composed(SGD, N), "float32"),
    "wrapped adam in bf16 and its parts": (
        lawn.wrap(ADAM, N),
        composed(ADAM, N),
        "bfloat16",
    ),
}


def updates_of(tx, params):
    def step(carry, t):
        params, state = carry
        updates, state = tx.update(gradients(params, t), state, params)
        return (optax.apply_updates(params, updates), state), updates

    run = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), jnp.arange(30))[1])
    return [np.asarray(leaf) for leaf in jax.tree.leaves(run(params))]


def same_bits(one, other, dtype):
    params = draw(dtype=dtype, **SMALL)
    pairs = zip(updates_of(one, params), updates_of(other, params), strict=True)
    return all(np.any(a) and a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.fixture(scope="module")
def bits():
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, __file__],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(root),
            "XLA_FLAGS": f"--xla_cpu_max_isa=AVX {compilation.flags()}",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="elsewhere XLA cannot be told not to fuse multiplications with additions",
)
@pytest.mark.parametrize("name", SAME_BITS)
def test_bits_are_the_same(name, bits):
    assert bits[name]


if __name__ == "__main__":
    print(json.dumps({name: same_bits(*row) for name, row in SAME_BITS.items()}))
