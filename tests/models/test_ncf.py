"""The network of neural collaborative filtering."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lawn_optax as lawn
from models import NCF, TOWERS
from tests.support.asserts import close
from tests.support.trees import sharing

USERS, ITEMS = 7, 11


@cache
def initial(tower="3-layer", init="small", users=USERS, items=ITEMS, seed=0):
    model = NCF(users, items, TOWERS[tower], initialization=init)
    none = jnp.zeros(1, jnp.int32)
    return model, jax.jit(model.init)(jax.random.key(seed), none, none)["params"]


def pairs(seed=0, count=40):
    rng = np.random.default_rng(seed)
    return rng.integers(USERS, size=count), rng.integers(ITEMS, size=count)


def doubled(params):
    return jax.tree.map(lambda x: np.asarray(x, "float64"), params)


def reference(params, users, items):
    """The network in NumPy."""
    tables = [params[f"{x}_embedding"]["embedding"] for x in ("user", "item")]
    hidden = np.concatenate([tables[0][users], tables[1][items]], axis=-1)
    last = len(params) - 3
    for i in range(last + 1):
        hidden = hidden @ params[f"dense_{i}"]["kernel"] + params[f"dense_{i}"]["bias"]
        if i < last:
            hidden = np.maximum(hidden, 0)
    return hidden[..., 0]


@pytest.mark.parametrize("tower", TOWERS)
def test_layers_have_the_names_and_sizes_that_group_names_rely_on(tower):
    _, params = initial(tower)
    widths = {"3-layer": (256, 128, 64, 1), "4-layer": (256, 256, 128, 64, 1)}[tower]
    dense = {
        f"dense_{i}": {"kernel": widths[i : i + 2], "bias": widths[i + 1 : i + 2]}
        for i in range(len(widths) - 1)
    }
    tables = {
        "user_embedding": {"embedding": (USERS, 128)},
        "item_embedding": {"embedding": (ITEMS, 128)},
    }
    assert jax.tree.map(jnp.shape, params) == tables | dense
    assert set(sharing(params)) == {
        tuple(f"{module}/{leaf}" for leaf in sorted(leaves))
        for module, leaves in (tables | dense).items()
    }
    assert "note" not in lawn.describe(jax.eval_shape(lambda: params))


@pytest.mark.parametrize("tower", TOWERS)
def test_logits_are_those_of_the_network_by_either_way(tower, x64):
    model, params = initial(tower, "torch")
    params, (users, items) = doubled(params), pairs()
    expected = reference(params, users, items)
    assert (expected < 0).any() and (expected > 0).any()  # No ReLU at the end.
    close(model.apply({"params": params}, users, items), expected, 1e-12, 1e-13)
    close(by_tables(model, params, users, items), expected, 1e-12, 1e-13)
    shaped = model.apply({"params": params}, users.reshape(5, 8), items.reshape(5, 8))
    close(shaped, expected.reshape(5, 8), 1e-12, 1e-13)


def by_tables(model, params, users, items):
    of_user, of_item = model.apply({"params": params}, method="project_tables")
    assert of_user.shape == (model.num_users, model.features[0])
    assert of_item.shape == (model.num_items, model.features[0])
    hidden = of_user[users] + of_item[items]
    return model.apply({"params": params}, hidden, method="score_projected")


@pytest.mark.parametrize("tower", TOWERS)
def test_both_ways_have_the_same_gradients(tower, x64):
    model, params = initial(tower, "torch")
    params, (users, items) = doubled(params), pairs()

    def plain(params):
        return jnp.sin(model.apply({"params": params}, users, items)).sum()

    def split(params):
        return jnp.sin(by_tables(model, params, users, items)).sum()

    first, second = jax.grad(plain)(params), jax.grad(split)(params)
    assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(first))
    jax.tree.map(lambda a, b: close(a, b, 1e-11, 1e-12), first, second)


def test_small_initial_weights():
    _, params = initial("4-layer", users=400, items=500)
    for name in ("user_embedding", "item_embedding"):
        table = params[name]["embedding"]
        # The deviation of 51,200 numbers has an error of 0.3 %.
        close(table.std(), 0.01, rtol=0.02)
        assert abs(float(table.mean())) < 3e-4 and float(table.max()) > 0.03
    for i, (inputs, outputs) in enumerate([(256, 256), (256, 128), (128, 64), (64, 1)]):
        layer = params[f"dense_{i}"]
        assert (layer["bias"] == 0).all()
        assert_uniform(layer["kernel"], (6 / (inputs + outputs)) ** 0.5)


def test_initial_weights_of_torch():
    _, params = initial("4-layer", "torch", users=400, items=500)
    for name in ("user_embedding", "item_embedding"):
        table = params[name]["embedding"]
        close(table.std(), 1, rtol=0.02)
        assert abs(float(table.mean())) < 0.03 and float(table.max()) > 3
    for i, inputs in enumerate([256, 256, 128, 64]):
        bound = inputs**-0.5
        assert_uniform(params[f"dense_{i}"]["kernel"], bound)
        assert_uniform(params[f"dense_{i}"]["bias"], bound)


def assert_uniform(values, bound):
    values = np.asarray(values).ravel()
    assert (np.abs(values) <= bound).all()
    if values.size >= 64:
        # Six standard errors of the mean square and of the mean.
        error = 6 / values.size**0.5
        close((values**2).mean(), bound**2 / 3, rtol=0.9 * error)
        assert abs(values.mean()) < error * bound / 3**0.5
        assert np.abs(values).max() > bound * (1 - 20 / values.size)


def test_weights_differ_by_table_and_by_seed():
    _, params = initial(users=ITEMS)
    _, other = initial(users=ITEMS, seed=1)
    user, item = (params[f"{x}_embedding"]["embedding"] for x in ("user", "item"))
    assert not (user == item).any()
    assert not (user == other["user_embedding"]["embedding"]).any()


def test_unknown_initialization_is_refused():
    with pytest.raises(ValueError, match="must be one of small, torch; got 'normal'"):
        initial(init="normal")
