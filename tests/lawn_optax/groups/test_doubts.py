"""Groups that are probably not meant are named, with a remedy; good trees are not."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx

import lawn_optax as lawn
from lawn_optax import groups
from lawn_optax.groups._doubts import doubts
from lawn_optax.groups._resolve import resolve
from tests.support.trees import MLP, dense, shape


class Weights(NamedTuple):
    w1: Any
    b1: Any
    w2: Any
    b2: Any


def kernel(*sizes):
    return {"kernel": shape(*sizes)}


def stacked_block(layers, axis):
    """A transformer's scanned layers, as MaxText (axis 1) and big_vision have them."""

    def stack(*sizes):
        return shape(*sizes[:axis], layers, *sizes[axis:])

    return {
        "attention": {
            "query": {"kernel": stack(8, 2, 4)},
            "out": {"kernel": stack(2, 4, 8)},
        },
        "mlp": {"wi": {"kernel": stack(8, 16)}, "wo": {"kernel": stack(16, 8)}},
        "norm": {"scale": stack(8)},
    }


BAD = {
    "scanned, axis 0": (
        {"decoder": {"layers": stacked_block(6, 0), "norm": {"scale": shape(8)}}},
        'groups.stacked("decoder/layers")',
    ),
    "scanned, axis 1": (
        {"decoder": {"layers": stacked_block(6, 1), "embed": dense(9, 8)}},
        'groups.stacked("decoder/layers", axis=1)',
    ),
    "an ensemble": (stacked_block(6, 0), "groups.stacked()"),
    "scanned, with biases": (
        {"blocks": {"up": {"kernel": shape(6, 8, 9), "bias": shape(6, 9)},
                    "down": {"kernel": shape(6, 9, 8), "bias": shape(6, 8)}}},
        'groups.stacked("blocks")',
    ),
    "scanned, one module": (
        {"blocks": {"kernel": shape(6, 8, 9), "bias": shape(6, 9)}, "out": dense()},
        'groups.stacked("blocks")',
    ),
    "vmapped, Equinox": (
        {"layers": {"linear": {"weight": shape(6, 9, 8), "bias": shape(6, 9)},
                    "norm": {"weight": shape(6, 8), "bias": shape(6, 8)}}},
        'groups.stacked("layers")',
    ),
    "scanned, leaf": (
        {"decoder": {"layers": stacked_block(6, 0), "norm": {"scale": shape(8)}}},
        'groups.stacked("decoder/layers")',
    ),
    "experts": (
        {"moe": {"gate": shape(4, 8, 16), "up": shape(4, 8, 16),
                 "down": shape(4, 16, 8)}, "out": dense()},
        'groups.stacked("moe", base="leaf")',
    ),
    "network in a dict": (
        {"W1": shape(8, 5), "b1": shape(5), "W2": shape(5, 3), "b2": shape(3)},
        "Give each layer a dict",
    ),
    "network in a NamedTuple": (
        Weights(shape(8, 5), shape(5), shape(5, 3), shape(3)),
        "Give each layer a dict",
    ),
    "network in a tuple": (
        (shape(8, 5), shape(5), shape(5, 3), shape(3)),
        "Give each layer a dict",
    ),
    "Gemma's MLP": (
        {"mlp": {"gating_einsum": shape(2, 8, 16), "linear": shape(16, 8)}},
        'groups="leaf"',
    ),
    "LoRA": (
        {"query": {"lora_a": shape(8, 2), "lora_b": shape(2, 8)}, "out": dense()},
        'groups="leaf"',
    ),
    "LoRA of equal names": (
        {"query": {"a": shape(8, 2), "b": shape(2, 8)}, "out": dense()},
        'groups="leaf"',
    ),
    "four square projections": (
        {"attn": {name: shape(8, 8) for name in ("wq", "wk", "wv", "wo")},
         "out": dense()},
        'groups="leaf"',
    ),
    "projections by heads": (
        {"attn": {name: shape(8, 2, 4) for name in "qkv"}, "out": dense()},
        'groups="leaf"',
    ),
    "Gemma's MLP, square": (
        {"mlp": {"gating_einsum": shape(2, 8, 8), "linear": shape(8, 8)}},
        'groups="leaf"',
    ),
    "experts in modules": (
        {"moe": {"gate": kernel(8, 6), "experts": {"wi": kernel(6, 8, 32),
                                                   "wo": kernel(6, 32, 8)}}},
        'groups.stacked("moe/experts")',
    ),
    "experts beside their router": (
        {"moe": {"router": kernel(8, 6), "wi": kernel(6, 8, 32),
                 "wo": kernel(6, 32, 8)}, "out": dense()},
        'groups.stacked("moe/wi", "moe/wo")',
    ),
    "experts with biases beside their router": (
        {"moe": {"router": kernel(8, 6),
                 "wi": {"kernel": shape(6, 8, 32), "bias": shape(6, 32)},
                 "wo": {"kernel": shape(6, 32, 8), "bias": shape(6, 8)}}},
        'groups.stacked("moe/wi", "moe/wo")',
    ),
    "scanned, without vectors": (
        {"layers": {"attn": kernel(12, 16, 16), "mlp": kernel(12, 16, 64)},
         "out": dense()},
        'groups.stacked("layers")',
    ),
    "scanned on axis 1, without vectors": (
        {"layers": {"wi": kernel(8, 12, 32), "wo": kernel(32, 12, 8)}, "out": dense()},
        'groups.stacked("layers", axis=1)',
    ),
    "scanned, square, beside an embedding": (
        {"blocks": {"wq": shape(6, 8, 8), "wo": shape(6, 8, 8)}, "wte": shape(50, 8)},
        'groups.stacked("blocks", base="leaf")',
    ),
    "CLIP's root": (
        {"text_projection": shape(6, 6), "positional_embedding": shape(7, 6),
         "logit_scale": shape(), "visual": dense()},
        'groups="leaf"',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_tree_warns_once_in_init_and_is_noted_in_describe(name):
    params, remedy = BAD[name]
    choice = "leaf" if name.endswith("leaf") else "layer"
    with pytest.warns(UserWarning, match="probably not what you want") as caught:
        jax.eval_shape(lawn.wrap(optax.sgd(0.1), groups=choice).init, params)
    assert len(caught) == 1 and remedy in str(caught[0].message)
    (line,) = doubts(resolve(choice, params))
    assert remedy in line
    report = lawn.describe(params, choice)
    assert report.endswith(f"\n\nnote: {line}")


def test_a_chain_warns_once():
    tx = optax.chain(lawn.project_tangent(), optax.sgd(0.1), lawn.renormalize())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # as users have it
        jax.eval_shape(tx.init, BAD["LoRA"][0])
    assert len(caught) == 1


def test_a_network_in_an_nnx_vmap_is_noted():
    @nnx.split_rngs(splits=6)
    @nnx.vmap
    def stack(rngs):
        return nnx.Linear(2, 3, rngs=rngs)

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layers, self.out = stack(rngs), nnx.Linear(3, 2, rngs=rngs)

    state = nnx.state(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), nnx.Param)
    (line,) = doubts(resolve("layer", state))
    assert 'groups.stacked("layers")' in line


REMEDIES = {
    "axis 0": (BAD["scanned, axis 0"], groups.stacked("decoder/layers")),
    "axis 1": (BAD["scanned, axis 1"], groups.stacked("decoder/layers", axis=1)),
    "ensemble": (BAD["an ensemble"], groups.stacked()),
    "one module": (BAD["scanned, one module"], groups.stacked("blocks")),
    "experts": (BAD["experts"], groups.stacked("moe", base="leaf")),
    "units of layers": (BAD["scanned, with biases"], groups.neuron((0, -1))),
    "leaf": (BAD["LoRA"], "leaf"),
    "all": (BAD["LoRA"], "all"),
    "own labels": (BAD["LoRA"], lambda params: {"query": "query", "out": "out"}),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_remedies_and_chosen_labels_are_not_doubted(name):
    (params, _), choice = REMEDIES[name]
    assert doubts(resolve(choice, params)) == []


def test_many_modules_of_one_kind_are_listed_shortly():
    params = {f"layer_{i}": BAD["LoRA"][0]["query"] for i in range(6)}
    lines = doubts(resolve("layer", params))
    assert len(lines) == 4 and lines[-1] == "Likewise: layer_3, layer_4, layer_5."


def test_leaves_without_a_norm_do_not_hide_a_stack():
    params = {"layers": stacked_block(6, 0), "count": shape(dtype=jnp.int32)}
    params["layers"]["norm"]["steps"] = shape(dtype=jnp.int32)
    assert 'stacked("layers")' in doubts(resolve("layer", params))[0]


# --- good trees -----------------------------------------------------------------------


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        for i in range(2):
            y = nn.BatchNorm(use_running_average=True)(nn.Conv(8, (3, 3))(x))
            x = y if i == 0 else x + y
        return nn.Dense(5)(x.mean((1, 2)))


class Transformer(nn.Module):
    bias: bool = True
    heads: int = 2

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 8)(tokens)
        x += self.param("position", nn.initializers.ones, (1, 4, 8))
        x = jnp.concatenate([self.param("cls", nn.initializers.ones, (1, 1, 8)), x], 1)
        for _ in range(2):
            y = nn.LayerNorm(use_bias=self.bias)(x)
            x += nn.MultiHeadDotProductAttention(self.heads, use_bias=self.bias)(y, y)
            y = nn.LayerNorm(use_bias=self.bias)(x)
            y = nn.Dense(16, use_bias=self.bias)(y)
            x += nn.Dense(8, use_bias=self.bias)(nn.gelu(y))
        return nn.Dense(11, use_bias=False)(nn.LayerNorm(use_bias=self.bias)(x))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.RNN(nn.OptimizedLSTMCell(8))(nn.RNN(nn.GRUCell(8))(x)))


def of(module, *inputs):
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def heads(inputs=8, count=2, width=4):
    return {"kernel": shape(inputs, count, width)}


GOOD = {
    "MLP": lambda: MLP,
    "list of pairs": lambda: [(shape(8, 5), shape(5)), (shape(5, 3), shape(3))],
    "one layer": lambda: {"w": shape(8, 5), "b": shape(5)},
    "ResNet": lambda: of(Residual(), jnp.ones((1, 4, 4, 3))),
    "GPT and ViT": lambda: of(Transformer(), jnp.ones((1, 4), int)),
    "without biases": lambda: of(Transformer(bias=False), jnp.ones((1, 4), int)),
    "one head": lambda: of(Transformer(heads=1), jnp.ones((1, 4), int)),
    "as many heads as layers": lambda: of(
        Transformer(heads=4), jnp.ones((1, 4), int)
    ),
    "LSTM and GRU": lambda: of(Recurrent(), jnp.ones((1, 4, 8))),
    "depthwise and 1D convolutions": lambda: {
        "a": {"kernel": shape(3, 3, 1, 8)}, "b": {"kernel": shape(3, 8, 8)},
        "norm": {"scale": shape(8), "bias": shape(8)},
    },
    "Equinox's convolutions": lambda: [
        {"weight": shape(4, 3, 3, 3), "bias": shape(4, 1, 1)},
        {"weight": shape(4, 4, 3, 3), "bias": shape(4, 1, 1)},
    ],
    "Llama, grouped queries": lambda: {
        f"layer_{i}": {
            "attention": {"q": heads(), "k": heads(count=1), "v": heads(count=1),
                          "o": {"kernel": shape(2, 4, 8)}},
            "mlp": {"gate": kernel(8, 16), "up": kernel(8, 16), "down": kernel(16, 8)},
            "norm": {"scale": shape(8)},
        }
        for i in range(3)
    },
    "attention and a square kernel": lambda: {
        "block": {"q": heads(), "k": heads(), "v": heads(), "gate": kernel(8, 8)}
    },
    "queries with as many heads as features": lambda: {
        "qkv": {name: {"kernel": shape(8, 4, 4), "bias": shape(4, 4)} for name in "qkv"}
    },
    "Equinox's recurrent cells": lambda: {
        name: {"weight_ih": shape(32, inputs), "weight_hh": shape(32, 8),
               "bias": shape(32), "bias_n": shape(8)}
        for name, inputs in (("first", 3), ("second", 8))
    },
    "norm layers over two axes": lambda: {
        "affine": {"weight": shape(6, 3), "bias": shape(6, 3)},
        "flax": {"scale": shape(6, 3), "bias": shape(6, 3)},
        "out": dense(),
    },
    "convolutions without biases": lambda: {
        "flax": {"a": kernel(3, 3, 8, 8), "b": kernel(3, 3, 8, 16)},
        "equinox": [{"weight": shape(8, 8, 3, 3)}, {"weight": shape(8, 16, 3, 3)}],
        "wide": {"a": kernel(3, 8, 16), "b": kernel(3, 16, 16)},
        "stem": {"conv_a": kernel(4, 8, 16), "conv_b": kernel(4, 16, 16)},
    },
    "attention without biases": lambda: {
        "square": {"attention": {"q": heads(16, 4), "k": heads(16, 4),
                                 "o": kernel(4, 4, 16)}},
        "heads first": {"attn": {"q": kernel(4, 16, 8), "o": kernel(4, 8, 16)}},
        "qkv": {name: heads(16, 4) for name in "qkv"},
    },
    "Haiku": lambda: {
        "net/~/linear_0": {"w": shape(8, 5), "b": shape(5)},
        "net/~/linear_1": {"w": shape(5, 3), "b": shape(3)},
    },
    "torch names": lambda: {
        "layers.0.weight": shape(5, 8), "layers.0.bias": shape(5),
        "layers.1.weight": shape(3, 5), "layers.1.bias": shape(3),
    },
    "embeddings of users and items": lambda: {
        "users": {"embedding": shape(50, 8)}, "items": {"embedding": shape(40, 8)},
        "tower": {"dense_0": dense(16, 8), "dense_1": dense(8, 1)},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("choice", ["layer", "leaf", "neuron"])
def test_a_good_tree_is_not_doubted(name, choice):
    params = GOOD[name]()
    # Warnings are errors in tests.
    jax.eval_shape(lawn.wrap(optax.sgd(0.1), groups=choice).init, params)
    assert "note:" not in lawn.describe(params, choice)


@pytest.mark.parametrize("name", GOOD)
def test_layers_of_a_good_tree_are_not_doubted(name):
    params = jax.tree.map(lambda x: shape(6, *x.shape, dtype=x.dtype), GOOD[name]())
    assert doubts(resolve(groups.stacked(), params)) == []
