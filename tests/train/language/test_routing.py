"""Which optimizer trains which part of a language model."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import Transformer
from tests.support import tiny_texts as tiny
from tests.support.asserts import assert_close, close, moved
from train import hyperparameters
from train.language import options, routing

STEPS = 4


@cache
def first(scanned=False):
    """Parameters that are alike, with blocks apart or stacked."""
    model = Transformer(width=8, heads=2, depth=2, block=8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8), int))
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.normal(0.5, 1, x.shape), jnp.float32)  # noqa: E731
    return stack(jax.tree.map(draw, shapes["params"]), scanned)


def stack(params, scanned=True):
    params = dict(params)
    if scanned:
        blocks = [params.pop(f"block_{i}") for i in range(2)]
        params["blocks"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
    return params


@cache
def trained(**changes):
    """Parameters after each of a few updates with made-up gradients."""
    config = tiny.settings(**changes)
    tx = routing.make_optimizer(config, hyperparameters.make_trial(config, 1))
    tx = optax.with_extra_args_support(tx)

    def step(carry, number):
        params, state = carry
        grads = jax.tree.map(lambda w: jnp.sin(3 * w + number) + 0.1 * w, params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    @jax.jit
    def run(params):
        return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(STEPS))[1]

    return run(first(config.scanned))


def norms(trees):
    """By path, after each update."""
    flat = jax.tree_util.tree_leaves_with_path(trees)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.linalg.norm(
            np.reshape(x, (STEPS, -1)), axis=1
        )
        for path, x in flat
    }


LATE = {"free_epochs": 2.0, "warmup_epochs": 1.0}


@pytest.mark.parametrize("name", options.TUNED)
def test_norms_that_each_optimizer_fixes(name):
    found = trained(optimizer=name, **LATE if name.endswith("-lawn") else {})
    assert np.isfinite(list(norms(found).values())).all()
    last = jax.tree.map(lambda x: x[-1], found)
    assert moved(jax.tree.map(lambda x: x[1], found), last)
    for path, values in norms(found).items():
        hidden = path.endswith("kernel") and path.startswith("block")
        head = path.startswith("head") and name.endswith("h")
        fixed = head or (hidden and name.endswith(("-lawn", "h")))
        change = np.abs(np.diff(values)) / values[0]
        assert (change[-2:].max() < 1e-5) == fixed, path
        if name.endswith("-lawn"):
            assert change[0] > 1e-5, path


@pytest.mark.parametrize(
    "changes, fixed",
    [
        ({"head": "adam"}, ["block_0/mlp/up/kernel"]),
        ({"embeddings": "adamh"}, ["embedding/embedding", "head/kernel"]),
        ({"vectors": "method"}, ["final_norm/scale"]),
        ({"optimizer": "adamw", "head": "adamh"}, ["head/kernel"]),
    ],
)
def test_choices_for_a_part(changes, fixed):
    found = norms(trained(**{"optimizer": "adamh"} | changes))
    assert np.ptp(found[fixed[0]]) < 1e-5 * found[fixed[0]][0]
    free = {
        "head": "head/kernel",
        "embeddings": "final_norm/scale",
        "vectors": "embedding/embedding",
    }[next(key for key in reversed(changes) if key != "optimizer")]
    if free not in fixed:
        assert np.ptp(found[free]) > 1e-4 * found[free][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "adam-lawn", "muon-lawn", "adamh", "muonh"])
def test_stacked_blocks_are_trained_as_blocks_apart(name):
    late = LATE if name.endswith("-lawn") else {}
    decay = {"weight_decay": 0.1} if name in ("adamw", "muon", "muon-lawn") else {}
    apart = trained(optimizer=name, **late, **decay)
    stacked = trained(optimizer=name, scanned=True, **late, **decay)
    expected = dict(apart)
    blocks = [expected.pop(f"block_{i}") for i in range(2)]
    expected["blocks"] = jax.tree.map(lambda *x: jnp.stack(x, 1), *blocks)
    # Muon's iteration multiplies rounding.
    assert_close(stacked, expected, rtol=1e-3, atol=1e-4)


def test_an_adamh_step_has_the_length_of_its_rate():
    before, after = first(), trained(optimizer="adamh", learning_rate=0.1)
    rates = {"block_0/mlp/up/kernel": 0.05, "head/kernel": 0.05}  # Of two warm steps.
    for path, rate in rates.items():
        w, new = (
            dict(
                (jax.tree_util.keystr(p, simple=True, separator="/"), x)
                for p, x in jax.tree_util.tree_leaves_with_path(tree)
            )[path]
            for tree in (before, jax.tree.map(lambda x: x[0], after))
        )
        # c (w + u) / |w + u| with |u| = rate |w|; u is what is left of it.
        scale = np.linalg.norm(w)
        cosine = float((w * new).sum() / scale**2)
        assert 0.9 * (1 - rate**2 / 2) < cosine < 1
        assert np.sqrt(1 - cosine**2) < rate * 1.01


def test_weight_decay_leaves_the_gains_alone():
    plain, decayed = (
        trained(optimizer="adamw", weight_decay=decay) for decay in (0.0, 10.0)
    )
    for path, values in norms(decayed).items():
        same = np.allclose(values, norms(plain)[path], rtol=1e-6)
        assert same == path.endswith("scale"), path


def test_rates_of_the_parts():
    found = hyperparameters.learning_rate(
        tiny.settings(schedule="cosine", epochs=12), 1, {"learning_rate": 2.0}
    )
    counts = jnp.array([0, 1, 2, 7, 12])
    close(found(counts), [1.0, 2.0, 2.0, 1.1, 0.2], 1e-5)
    constant = tiny.settings(schedule="constant")
    found = hyperparameters.learning_rate(constant, 1, {"learning_rate": 2.0})
    close(found(counts), [1.0, 2.0, 2.0, 2.0, 2.0], 1e-6)


def test_description_names_what_trains_what():
    text = routing.describe(tiny.settings(optimizer="muonh"))
    assert "muonh (rate 0.04) for hidden; adamh (rate 0.04) for head" in text
    assert "adam (rate 0.05) for embeddings, vectors" in text
    text = routing.describe(tiny.settings(optimizer="adam-lawn", **LATE))
    assert "three-phase schedule" in text and "switch: 2 free steps" in text


@pytest.mark.parametrize("name", ["sgdh", "adamh", "muonh"])
def test_free_steps_before_a_fixed_angle(name):
    free = {"optimizer": name, "free_epochs": 2.0, "warmup_epochs": 1.0}
    values = norms(trained(**free))["block_0/mlp/up/kernel"]
    change = np.abs(np.diff(values)) / values[0]
    assert change[0] > 1e-5 > change[-2:].max()
    if name == "adamh":  # Its free steps are those of Adam at Adam's own rate.
        adam = {"optimizer": "adam", "learning_rate": adam_rate()}
        expected = norms(trained(**adam, warmup_epochs=1.0))
        close(values[:2], expected["block_0/mlp/up/kernel"][:2])


def adam_rate():
    return options.resolve(options.Config()).adam_rate


@pytest.mark.parametrize("project", [False, True])
def test_projected_steps_are_tangent(project):
    before = first()["block_0"]["mlp"]["up"]["kernel"]
    config = {"optimizer": "sgdh", "learning_rate": 0.2, "momentum": 0.0}
    after = trained(**config, project=project)["block_0"]["mlp"]["up"]["kernel"][0]
    rate, c = 0.1, jnp.linalg.norm(before)  # The first warm step has half the rate.
    cosine = float((before * after).sum() / c**2)
    # A tangent step of length `rate` turns the weights by atan(rate), others by less.
    assert np.isclose(np.sqrt(1 / cosine**2 - 1), rate, 1e-4) == project
