"""Notes of the report: norms that probably mean nothing."""

import jax.numpy as jnp
import optax
import pytest

import lawn_optax as lawn

LAYER = {"kernel": jnp.full((8, 8), 0.3), "bias": jnp.zeros(8)}
UNTRAINED = {
    "head of 0.01": (
        {"body": LAYER, "head": {"kernel": jnp.full((8, 4), 0.01)}},
        "head: captured with less than a tenth",
    ),
    "bias of -10": (
        {"body": LAYER, "head": {**LAYER, "bias": jnp.array([-10.0])}},
        "head: head/bias has 94.6% of the squared norm and 1.5% of the elements",
    ),
    "1 + scale": (
        {"body": LAYER, "norm": {"scale": jnp.full(8, 1e-2)}},
        "norm: captured with a root mean square (rms) below 0.1",
    ),
    "last gamma, stacked": (
        {"blocks": {"scale": jnp.full((3, 8), 1e-3)}, "body": {"kernel": jnp.eye(8)}},
        "blocks: captured with a root mean square (rms) below 0.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_norm_that_means_nothing_is_noted(name):
    params, note = UNTRAINED[name]
    stacked = "blocks" in params
    groups = lawn.groups.stacked("blocks") if stacked else "layer"
    state = capture(params, groups)
    (line,) = lawn.describe(params, groups, state).split("\n\n")[-1].splitlines()
    assert line.startswith(f"note: {note}")


@pytest.mark.parametrize(
    "groups", ["layer", pytest.param("neuron", marks=pytest.mark.slow)]
)
def test_ordinary_norms_are_not_noted(groups):
    params = {
        "embed": {"table": jnp.full((40, 8), 0.02)},
        "body": LAYER,
        "norm": {"scale": jnp.ones(8), "bias": jnp.zeros(8)},
        "head": {"kernel": jnp.full((8, 4), 0.1), "bias": jnp.full(4, -0.1)},
    }
    assert "note" not in lawn.describe(params, groups, capture(params, groups))


def capture(params, groups="layer"):
    """A state with the norms of these parameters."""
    tx = lawn.wrap(optax.sgd(0.0), groups=groups)
    return tx.update(params, tx.init(params), params)[1]


def test_matrices_that_hyperball_leaves_free_are_not_listed_as_constrained():
    params = {"body": LAYER, "head": {"kernel": jnp.zeros((2, 2))}}
    groups = lawn.groups.only_matrices("leaf")
    assert "note: head/kernel: zero now." in lawn.describe(params, groups)
    tx = lawn.baselines.hyperball(0.1)
    _, state = tx.update(params, tx.init(params), params)
    grown = {"body": LAYER, "head": {"kernel": jnp.full((2, 2), 0.5)}}
    table, free = lawn.describe(grown, groups, state).split("\n\n")[1:]
    assert "head" not in table and "body/kernel" in table
    (line,) = [x for x in free.splitlines() if x.startswith("head/kernel")]
    assert line.endswith("zero or not finite at the switch: free for good, "
                         "its norm is 1 now")  # fmt: skip
