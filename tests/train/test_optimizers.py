"""Optimizers by name."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from train import optimizers

PARAMS = {"a": {"kernel": jnp.array([[3.0, -1.0], [0.5, 2.0]]), "bias": jnp.ones(2)}}
TARGET = {"a": {"kernel": jnp.array([[1.0, 4.0], [2.0, -3.0]]), "bias": jnp.zeros(2)}}


def train(tx, steps):
    """Weight trees before the first of `steps` updates and after each."""

    def step(carry, _):
        params, state = carry
        grads = jax.tree.map(jnp.subtract, params, TARGET)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    trees = jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), length=steps)[1]
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), PARAMS, trees)


def norms(trees):
    squares = jax.tree.map(lambda x: (x**2).reshape(len(x), -1).sum(1), trees)
    return jnp.sqrt(sum(jax.tree.leaves(squares)))


DECAY = 0.1
EXPECTED = {
    "sgd": lambda rate, _: optax.chain(
        optax.add_decayed_weights(DECAY), optax.trace(0.9), optax.scale(-rate)
    ),
    "adam": lambda rate, _: optax.adam(rate),
    "adamw": lambda rate, _: optax.adamw(rate, weight_decay=DECAY),
    "lamb": lambda rate, _: lawn.lamb(rate, weight_decay=DECAY, switch_step=99),
    "lamb-plus": lambda rate, _: lawn.lamb_plus(
        rate, weight_decay=DECAY, switch_step=99
    ),
    "sgd-lawn": lambda rate, n: lawn.sgd(rate, weight_decay=DECAY, switch_step=n),
    "adam-lawn": lambda rate, n: lawn.adam(rate, weight_decay=DECAY, switch_step=n),
    "adamw-lawn": lambda rate, n: lawn.wrap(optax.adamw(rate, weight_decay=DECAY), n),
    "lamb-lawn": lambda rate, n: lawn.lamb(rate, weight_decay=DECAY, switch_step=n),
    "lamb-plus-lawn": lambda rate, n: lawn.lamb_plus(
        rate, weight_decay=DECAY, switch_step=n
    ),
    "muon": lambda rate, _: optax.contrib.muon(rate, weight_decay=DECAY),
    "muon-lawn": lambda rate, n: lawn.wrap(
        optax.contrib.muon(rate, weight_decay=DECAY), n
    ),
    "sgdh": lambda rate, n: hyperball(optax.sgd(rate, 0.9), rate, n),
    "adamh": lambda rate, n: hyperball(optax.adam(rate), rate, n),
    "muonh": lambda rate, n: hyperball(optax.contrib.muon(rate), rate, n),
}


def hyperball(inner, rate, switch_step):
    ball = lawn.baselines.hyperball(rate, groups="layer", switch_step=switch_step)
    return optax.chain(inner, ball)


def test_every_name_is_tested():
    bounded = {f"{base}-bounded" for base in optimizers.BASES}
    others = {*optimizers.MUON, *optimizers.HYPERBALL}
    assert {*optimizers.NAMES, *others} == set(EXPECTED) | bounded


@pytest.mark.parametrize("name", EXPECTED)
def test_name_means_what_it_says_and_the_switch_may_be_traced(name):
    def run(rate, switch_step):
        decay = {} if name == "adam" else {"weight_decay": DECAY}
        made = optimizers.make(name, rate, switch_step=switch_step, **decay)
        trees = train(made, 6)
        return norms(trees), trees, train(EXPECTED[name](rate, switch_step), 6)

    # Two members with their own switch: both must be read from the traced value.
    got, trees, expected = jax.jit(jax.vmap(run))(jnp.full(2, 0.1), jnp.array([2, 4]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        trees,
        expected,
    )
    for member, switch in zip(np.asarray(got), (2, 4), strict=True):
        changes = np.abs(np.diff(member))
        last = switch if optimizers.has_free_phase(name) else 6
        assert (changes[:last] > 1e-4).all()
        assert (changes[last:] <= 1e-6 * member[-1]).all()


@pytest.mark.parametrize("base", optimizers.BASES)
def test_bounded_form_is_the_base_inside_bounded_weight_norm(base):
    decay = {} if base == "adam" else {"weight_decay": DECAY}
    inner = EXPECTED[base](0.1, 0)
    trees = train(optimizers.make(f"{base}-bounded", 0.1, **decay), 4)
    expected = train(lawn.baselines.bounded_weight_norm(inner), 4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        trees,
        expected,
    )
    kernel = np.asarray(trees["a"]["kernel"])
    assert not np.allclose(kernel[1], kernel[-1])
    # Both channels have the root mean square of the two initial norms, from the start.
    radius = np.sqrt((kernel[0] ** 2).sum() / 2)
    np.testing.assert_allclose(np.linalg.norm(kernel[1:], axis=1), radius, rtol=1e-5)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown optimizer 'rmsprop'.*adam-lawn"):
        optimizers.make("rmsprop", 0.1)


def test_adam_refuses_the_decay_that_it_would_ignore():
    with pytest.raises(ValueError, match="adam takes no weight decay.*adamw"):
        optimizers.make("adam", 0.1, weight_decay=jnp.array(0.1))


def test_second_moments_decay_as_the_argument_says():
    for name, expected in (
        ("adam", optax.adam(0.1, b2=0.5)),
        ("adamw", optax.adamw(0.1, b2=0.5, weight_decay=0)),
        ("adam-lawn", lawn.adam(0.1, b2=0.5)),
        ("adamh", hyperball(optax.adam(0.1, b2=0.5), 0.1, 0)),
    ):
        found = norms(train(optimizers.make(name, 0.1, b2=0.5), 4))
        np.testing.assert_allclose(found, norms(train(expected, 4)), rtol=1e-6)


def test_only_lawn_forms_get_the_second_warmup():
    phases = {"free_steps": 2, "warmup_steps": 2, "total_steps": 8}
    base = optimizers.schedule("adam", 1.0, **phases)(jnp.arange(8))
    ours = optimizers.schedule("adam-lawn", 1.0, **phases)(jnp.arange(8))
    np.testing.assert_allclose(base[:3], [0.5, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(ours[:5], [0.5, 1, 0.5, 1, 1], rtol=1e-6)


DECAYING = EXPECTED.keys() - {"adam", *optimizers.HYPERBALL}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in optimizers.MUON))
        for name in sorted(DECAYING)
    ],
)
def test_masked_layers_train_as_without_decay(name):
    layers = {"norm": PARAMS["a"], "conv": PARAMS["a"]}
    targets = {"norm": TARGET["a"], "conv": TARGET["a"]}

    def trained(decay, mask=None):
        tx = optimizers.make(
            name, 0.1, weight_decay=jnp.float32(decay), mask=mask, switch_step=3
        )
        params, state = layers, tx.init(layers)
        for _ in range(3):
            grads = jax.tree.map(jnp.subtract, params, targets)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    mask = {"norm": {"kernel": False, "bias": False}, "conv": True}
    found, all_, none = trained(DECAY, mask), trained(DECAY), trained(0.0)
    by_function = trained(DECAY, lambda params: mask)
    # The layers do not know of each other; the programs are not the same.
    same = partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(same, found, {"norm": none["norm"], "conv": all_["conv"]})
    jax.tree.map(same, by_function, found)
    assert np.abs(all_["conv"]["kernel"] - none["conv"]["kernel"]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "sgd-lawn", "sgd-bounded"])
def test_momentum_is_that_of_the_argument(name):
    tx = optimizers.make(name, 0.1, momentum=0.5, switch_step=9)
    weights, grads = {"a": jnp.array([[20.0], [0.0]])}, {"a": jnp.array([[0.0], [1.0]])}
    state = tx.init(weights)
    updates, state = tx.update(grads, state, weights)
    updates, _ = tx.update(grads, state, optax.apply_updates(weights, updates))
    # -0.1 * (1 + 0.5); the way back to the norm 20 changes it by 1e-4 of that.
    np.testing.assert_allclose(updates["a"][1, 0], -0.15, atol=1e-3)
