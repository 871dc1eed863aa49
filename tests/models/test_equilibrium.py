"""How fast AdamW turns the matrices of a transformer, beside the closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import diagnostics
from models import Transformer

RATE, DECAY = 0.01, 0.5  # norms relax within 1 / (2 RATE DECAY) = 100 updates
STEPS, SYMBOLS, TIME = 1000, 8, 16  # the second half of the steps is measured
MATRICES = lawn.groups.only_matrices("leaf")


def text(length=8192, noise=0.3):
    """Symbols that follow from the two before them, but for a share of noise."""
    rng = np.random.default_rng(0)
    table = rng.integers(SYMBOLS, size=(SYMBOLS, SYMBOLS))
    out = list(rng.integers(SYMBOLS, size=length))
    for t in np.flatnonzero(rng.random(length - 2) > noise) + 2:
        out[t] = table[out[t - 2], out[t - 1]]
    return np.array(out)


def by_matrix(b1=0.9, b2=0.99):
    """Adam with one second moment for each matrix, so that it only scales gradients."""

    def init(params):
        squares = jax.tree.map(lambda w: jnp.zeros([]), params)
        return jax.tree.map(jnp.zeros_like, params), squares, 0

    def update(grads, state, params=None):
        m, v, t = state
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, grads)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.mean(g**2), v, grads)
        scale = jnp.sqrt(1 - b2 ** (t + 1)) / (1 - b1 ** (t + 1))
        updates = jax.tree.map(lambda m, v: scale * m / jnp.sqrt(v), m, v)
        return updates, (m, v, t + 1)

    return optax.GradientTransformation(init, update)


OPTIMIZERS = {
    "adamw": lambda: optax.adamw(RATE, b2=0.99, weight_decay=DECAY),
    "by matrix": lambda: optax.chain(
        by_matrix(), optax.add_decayed_weights(DECAY), optax.scale(-RATE)
    ),
}


def turned(optimizer, seeds):
    """Root mean square angles [seeds] by matrix, in units of the closed form."""
    model = Transformer(vocabulary=SYMBOLS, width=32, depth=1, heads=2)
    tx = optax.chain(OPTIMIZERS[optimizer](), diagnostics.observe(MATRICES))
    data = jnp.asarray(text())

    def loss(params, windows):
        logits = model.apply({"params": params}, windows[:, :-1])
        labels = windows[:, 1:]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(carry, key):
        params, state = carry
        starts = jax.random.randint(key, (8, 1), 0, len(data) - TIME)
        grads = jax.grad(loss)(params, data[starts + jnp.arange(TIME + 1)[None]])
        updates, state = tx.update(grads, state, params)
        angles = optax.tree.get(state, "angular_update")
        return (optax.apply_updates(params, updates), state), angles

    @jax.jit
    @jax.vmap
    def train(key):
        params = model.init(key, jnp.zeros((1, TIME), int))["params"]
        keys = jax.random.split(key, STEPS)
        _, angles = jax.lax.scan(step, (params, tx.init(params)), keys)
        return jnp.sqrt(jnp.mean(angles[STEPS // 2 :] ** 2, 0))

    angles = train(jax.random.split(jax.random.key(0), seeds))
    ratios = angles / diagnostics.adamw_equilibrium_angle(RATE, DECAY)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), int))
    rows = [diagnostics.by_name(x, shapes["params"], groups=MATRICES) for x in ratios]
    return {
        name.removeprefix("block_0/").removesuffix("/kernel"): np.array(
            [row[name] for row in rows]
        )
        for name in rows[0]
    }


# The only scale-invariant matrices: queries and keys are normed within each head.
INVARIANT = ("attention/query", "attention/key")
OTHERS = ("attention/value", "attention/out", "mlp/up", "mlp/down")


@pytest.mark.slow
def test_orthogonal_updates_turn_scale_invariant_matrices_by_the_closed_form():
    found = turned("by matrix", 3)
    for name in INVARIANT:  # six seeds: 0.98 to 1.02
        np.testing.assert_allclose(found[name], 1, atol=0.06)


@pytest.mark.slow
def test_adamw_turns_them_by_more_than_the_closed_form():
    # The docstring of `adamw_equilibrium_angle` has these ranges of six seeds; the
    # bounds leave room for other rounding, since training is chaotic.
    found = turned("adamw", 3)
    invariant = np.concatenate([found[name] for name in INVARIANT])  # 1.33 to 2.2
    assert np.all((invariant > 1.15) & (invariant < 2.7))
    assert np.median(invariant) > 4 / 3
    others = np.concatenate([found[name] for name in OTHERS])  # 0.83 to 1.08
    assert np.all((others > 0.75) & (others < 1.2))
    assert np.all((found["head"] > 0.35) & (found["head"] < 0.55))  # 0.44 to 0.46
