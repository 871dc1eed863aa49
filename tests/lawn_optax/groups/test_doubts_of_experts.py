"""Experts that share a norm are named where a router beside them shows their axis."""

import functools

import jax
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import groups
from lawn_optax.groups._doubts import doubts
from lawn_optax.groups._resolve import resolve
from tests.support.trees import shape

CHOICES = {
    "layer": "layer",
    "leaf": "leaf",
    "matrices": groups.only_matrices(),
    "matrices, leaf": groups.only_matrices("leaf"),
}


def kernel(*sizes):
    return {"kernel": shape(*sizes)}


# As MaxText has them: arrays of one module, beside the module of the router.
ARRAYS = {"wi_0": shape(6, 8, 32), "wi_1": shape(6, 8, 32), "wo": shape(6, 32, 8)}
BIASES = {"wi_0_bias": shape(6, 32), "wi_1_bias": shape(6, 32), "wo_bias": shape(6, 8)}
MAXTEXT = 'groups.stacked("moe/wi_0", "moe/wi_1", "moe/wo", base="leaf")'

EXPERTS = {
    "MaxText": (
        {"moe": {"gate": kernel(8, 6), **ARRAYS}, "out": kernel(8, 50)},
        MAXTEXT,
    ),
    "MaxText, with biases": (
        {"moe": {"gate": {"kernel": shape(8, 6), "bias": shape(6)},
                 **ARRAYS, **BIASES}},
        'groups.stacked("moe/wi_0", "moe/wi_0_bias", "moe/wi_1", "moe/wi_1_bias", '
        '"moe/wo", "moe/wo_bias", base="leaf")',
    ),
    "beside a shared expert": (
        {"moe": {"gate": kernel(8, 6), **ARRAYS,
                 "shared": {"wi": kernel(8, 32), "wo": kernel(32, 8)}}},
        MAXTEXT,
    ),
    "router in the same module": (
        {"moe": {"router": shape(8, 6), **ARRAYS}, "out": kernel(8, 50)},
        MAXTEXT,
    ),
    "a module of their own": (
        {"moe": {"gate": kernel(8, 6), "experts": ARRAYS}},
        'groups.stacked("moe/experts", base="leaf")',
    ),
    "in a list": (
        {"moe": {"gate": shape(8, 6), "w": [shape(6, 8, 32), shape(6, 32, 8)]}},
        'groups.stacked("moe/w")',
    ),
    "in one of the layers": (
        {"layers_0": {"attention": {"q": kernel(8, 2, 4), "o": kernel(2, 4, 8)},
                      "moe": {"gate": kernel(8, 6), **ARRAYS},
                      "norm": {"scale": shape(8)}},
         "embed": {"embedding": shape(50, 8)}},
        MAXTEXT.replace("moe", "layers_0/moe"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", EXPERTS)
def test_experts_that_share_a_norm_are_noted_with_a_remedy(name, choice):
    params, remedy = EXPERTS[name]
    chosen = CHOICES[choice]
    (line,) = doubts(resolve(chosen, params))
    assert f"`{remedy}`" in line
    assert lawn.describe(params, chosen).endswith(f"\n\nnote: {line}")
    for tx in (
        lawn.baselines.hyperball(0.01, groups=chosen),
        lawn.wrap(optax.sgd(0.1), groups=chosen),
    ):
        with pytest.warns(UserWarning, match="probably not what you want") as caught:
            jax.eval_shape(tx.init, params)
        assert len(caught) == 1 and remedy in str(caught[0].message)
    assert doubts(resolve(eval(remedy), params)) == []


def stack(params, layers, axis):
    """The tree of as many layers, scanned."""
    add = lambda x: shape(*x.shape[:axis], layers, *x.shape[axis:])  # noqa: E731
    return {"layers": jax.tree.map(add, params), "out": kernel(8, 50)}


@pytest.mark.parametrize(("axis", "inner"), [(0, "axis=1, "), (1, "")])
@pytest.mark.parametrize("name", ["MaxText", "router in the same module"])
def test_experts_in_scanned_layers_are_noted_after_the_layers(name, axis, inner):
    layer = {"moe": EXPERTS[name][0]["moe"], "norm": {"scale": shape(8)}}
    params = stack(layer, 12, axis)
    (line,) = doubts(resolve("leaf", params))
    assert "12 stacked layers, which" in line
    outer = functools.partial(groups.stacked, "layers", axis=axis)
    remedy = (
        'groups.stacked("layers/moe/wi_0", "layers/moe/wi_1", "layers/moe/wo", '
        f'{inner}base="leaf")'
    )
    for base in ("layer", "leaf"):
        (line,) = doubts(resolve(outer(base=base), params))
        assert "as in 6 stacked layers or experts" in line
        assert f", as the `base` of your `groups.stacked`: `{remedy}`." in line
    grouping = resolve(outer(base=eval(remedy)), params)
    assert doubts(grouping) == []
    sizes = {block.name: block.size for block in grouping.blocks}
    assert sizes["layers/moe/wo"] == 12 * 6


def test_experts_of_many_layers_are_listed_shortly():
    params = {f"layer_{i}": EXPERTS["MaxText"][0] for i in range(5)}
    lines = doubts(resolve("leaf", params))
    assert len(lines) == 4
    assert lines[3].startswith("Likewise: layer_3/moe/wi_0, layer_3/moe/wi_1, layer_3")


HEADS = {"q": shape(4, 16, 8), "k": shape(4, 16, 8), "o": shape(4, 8, 16)}

NO_EXPERTS = {
    "heads, four classes": {"block": {"attn": HEADS, "mlp": kernel(16, 64)},
                            "head": kernel(16, 4)},
    "heads with a gate": {"attention": {**HEADS, "gate": kernel(16, 4)}},
    "kernels without a router": {"block": ARRAYS, "out": kernel(8, 50)},
    "a vocabulary of the same size": {"block": ARRAYS, "embed": kernel(6, 99)},
    "one array": {"block": {"w": shape(6, 8, 32)}, "gate": kernel(8, 6)},
    "other counts": {"block": {"a": shape(4, 8, 32), "b": shape(6, 32, 8)},
                     "gate": kernel(8, 6)},
    "1D convolutions": {"conv": {"a": shape(4, 8, 16), "b": shape(4, 16, 32)},
                        "out": kernel(32, 4)},
    "depthwise": {"conv": {"a": shape(3, 1, 8), "b": shape(3, 1, 8)},
                  "out": kernel(8, 3)},
}  # fmt: skip


@pytest.mark.parametrize("name", NO_EXPERTS)
def test_others_are_not_taken_for_experts(name):
    assert doubts(resolve("leaf", NO_EXPERTS[name])) == []
