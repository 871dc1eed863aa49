"""The transformer, beside a forward pass in NumPy."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Transformer, nanogpt
from models.transformer import rotate
from tests.support.asserts import assert_same_bits, close

SIZES = {"vocabulary": 11, "width": 12, "depth": 2, "heads": 3, "block": 7}
FORMS = {"modern": Transformer, "nanogpt": nanogpt}
NARROW = partial(Transformer, attention_width=6, activation="relu")


def draw(model, seed=0, dtype="float32"):
    """Parameters far from their first values, so that all of them matter."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 5), int))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0.4, 0.5, x.shape).astype(dtype), shapes)


def tokens(*shape):
    return np.random.default_rng(1).integers(SIZES["vocabulary"], size=shape)


# ------------------------------------------------------------------ in NumPy


def norm(x, gain, kind):
    if kind == "layer":
        x = x - x.mean(-1, keepdims=True)
    epsilon = 1e-5 if kind == "layer" else 1e-6
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * gain["scale"]


def turned(x):
    """Pairs of features as complex numbers, turned by their angles; [time, n]."""
    half = x.shape[-1] // 2
    angles = np.outer(np.arange(len(x)), 10_000.0 ** (-np.arange(half) / half))
    pairs = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag], -1)


def attention(layer, x, model):
    size = (model.attention_width or model.width) // model.heads
    heads = []
    for head in range(model.heads):
        own = slice(head * size, (head + 1) * size)
        query, key, value = (
            x @ layer[name]["kernel"][:, own] for name in ("query", "key", "value")
        )
        if model.qk_norm:
            query = norm(query, layer["query_norm"], model.norm)
            key = norm(key, layer["key_norm"], model.norm)
        if model.positions == "rotary":
            query, key = turned(query), turned(key)
        rows = []
        for time in range(len(x)):
            scores = np.exp(key[: time + 1] @ query[time] / math.sqrt(size))
            rows.append(scores @ value[: time + 1] / scores.sum())
        heads.append(np.stack(rows))
    return np.concatenate(heads, -1) @ layer["out"]["kernel"]


def forward(params, sequence, model):
    x = params["embedding"]["embedding"][sequence]
    if model.positions == "learned":
        x = x + params["positions"]["embedding"][: len(sequence)]
    for number in range(model.depth):
        layer = params[f"block_{number}"]
        inner = norm(x, layer["attention_norm"], model.norm)
        x = x + attention(layer["attention"], inner, model)
        inner = norm(x, layer["mlp_norm"], model.norm) @ layer["mlp"]["up"]["kernel"]
        if model.activation == "gelu":
            erf = np.vectorize(math.erf)(inner / math.sqrt(2))
            inner = inner * (1 + erf) / 2
        else:
            inner = np.maximum(inner, 0) ** (2 if model.activation == "relu2" else 1)
        x = x + inner @ layer["mlp"]["down"]["kernel"]
    x = norm(x, params["final_norm"], model.norm)
    if model.tied:
        return x @ params["embedding"]["embedding"].T
    return x @ params["head"]["kernel"]


@pytest.mark.parametrize("form", [*FORMS, "narrow"])
def test_logits_equal_those_of_numpy_in_float64(form, x64):
    model = (FORMS | {"narrow": NARROW})[form](**SIZES)
    variables, sequences = draw(model, dtype="float64"), tokens(2, 7)
    logits = jax.jit(model.apply)(variables, sequences)
    assert logits.dtype == np.float64
    for found, sequence in zip(logits, sequences, strict=True):
        close(found, forward(variables["params"], sequence, model), 1e-10, 1e-10)


def test_rotary_positions_equal_those_of_numpy_and_depend_on_distances(x64):
    x = np.random.default_rng(0).normal(size=(9, 2, 6))
    found = np.asarray(rotate(jnp.asarray(x)))
    for head in range(2):
        close(found[:, head], turned(x[:, head]), 1e-12, 1e-12)
    query, key = (np.broadcast_to(x[i, :1], (9, 1, 6)) for i in (0, 1))
    products = np.asarray(rotate(query))[:, 0] @ np.asarray(rotate(key))[:, 0].T
    close(products[2:, 2:], products[:-2, :-2], 1e-12, 1e-12)
    assert np.abs(products[0, 0] - products[0, 5]) > 1e-2


# ------------------------------------------------------------------ properties


@pytest.mark.parametrize("form", FORMS)
def test_later_tokens_change_nothing_and_earlier_ones_do(form):
    model = FORMS[form](**SIZES)
    variables, sequence = draw(model), tokens(7)
    apply = jax.jit(model.apply)
    before = apply(variables, sequence)
    changed = sequence.copy()
    changed[4] = (changed[4] + 1) % SIZES["vocabulary"]
    after = apply(variables, changed)
    assert_same_bits(before[:4], after[:4])
    assert (np.abs(before[4:] - after[4:]).max(-1) > 1e-3).all()


@pytest.mark.parametrize("form", FORMS)
def test_number_of_weights(form):
    model = FORMS[form](**SIZES)
    count = sum(x.size for x in jax.tree.leaves(draw(model)))
    vocabulary, width, depth = 11, 12, 2
    blocks = depth * (12 * width**2 + 2 * width) + width
    embeddings = vocabulary * width
    if form == "modern":  # A head, and gains for queries and keys.
        assert count == blocks + 2 * embeddings + depth * 2 * (width // 3)
    else:
        assert count == blocks + embeddings + 7 * width


@pytest.mark.parametrize("form", FORMS)
def test_scanned_blocks_compute_the_same(form):
    model, scanned = FORMS[form](**SIZES), FORMS[form](**SIZES, scanned=True)
    variables, sequences = draw(model), tokens(2, 7)
    params = dict(variables["params"])
    blocks = [params.pop(f"block_{i}") for i in range(2)]
    params["blocks"] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
    shapes = jax.tree.map(np.shape, draw(scanned)["params"])
    assert jax.tree.map(np.shape, params) == shapes
    found = jax.jit(scanned.apply)({"params": params}, sequences)
    close(found, jax.jit(model.apply)(variables, sequences), 1e-4, 1e-4)


@pytest.mark.parametrize("initialization", ["fan-in", "small", "zero-out", "searched"])
def test_first_weights_have_the_deviations_that_they_should(initialization):
    scale = 3.0 if initialization == "small" else 1.0
    more = {"initialization": initialization, "output_scale": scale}
    model = Transformer(64, 64, 2, 2, 8, **more)
    params = model.init(jax.random.key(0), jnp.zeros((1, 8), int))["params"]
    block = params["block_1"]
    found = [
        params["embedding"]["embedding"],
        block["mlp"]["up"]["kernel"],
        block["mlp"]["down"]["kernel"],
        block["attention"]["out"]["kernel"],
    ]
    expected = {
        "fan-in": [1, 1 / 8, 1 / 32, 1 / 16],
        "small": [0.02, 0.02, 0.03, 0.03],
        "zero-out": [1, 1 / 8, 0, 0],
        # modded-nanogpt has 0.031, 0.031 and 0.026 with 768, 3072 and 768 inputs.
        "searched": [1, 0.031 * (768 / 64) ** 0.5, 0.031 * (3072 / 256) ** 0.5]
        + [0.026 * (768 / 64) ** 0.5],
    }[initialization]
    close([x.std() for x in found], expected, rtol=0.06)


def test_dropout_is_on_in_training_only():
    model, plain = nanogpt(**SIZES, dropout=0.5), nanogpt(**SIZES)
    variables, sequence = draw(model), tokens(7)
    assert_same_bits(model.apply(variables, sequence), plain.apply(variables, sequence))

    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, sequence, train=True, rngs=rngs)

    assert_same_bits(train(0), train(0))
    assert np.abs(train(0) - train(1)).max() > 0.1


def test_bfloat16_computes_logits_in_float32():
    model = Transformer(**SIZES, dtype=jnp.bfloat16)
    variables, sequence = draw(model), tokens(7)
    found = jax.jit(model.apply)(variables, sequence)
    assert found.dtype == jnp.float32
    wide = jax.jit(Transformer(**SIZES).apply)(variables, sequence)
    assert 0 < np.abs(found - wide).max() < 0.1 * np.abs(wide).max()
