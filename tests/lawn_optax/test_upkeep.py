"""States that are restored, checked, captured again or adopted between two updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import baselines
from tests.support.asserts import assert_close, assert_same_bits, norms_of, signature
from tests.support.optimizers import loss, network, run, stepper


def trained(tx, steps, params=None):
    history, states = run(tx, network() if params is None else params, steps)
    return history[-1], states[-1]


# --- Renamed modules ------------------------------------------------------------------


def renamed(params):
    """The same two layers under names whose order is the other one."""
    return {"trunk": params["first"], "head": params["second"]}


@pytest.mark.parametrize(
    "make",
    [
        lambda: lawn.wrap(optax.sgd(0.05)),
        lambda: lawn.lamb(0.05),
        lambda: optax.chain(optax.sgd(0.05), lawn.renormalize()),
        lambda: optax.chain(optax.sgd(0.05), baselines.hyperball(0.1, groups="layer")),
        lambda: baselines.reparametrize(optax.sgd(0.05)),
    ],
    ids=["wrap", "lamb", "renormalize", "hyperball", "reparametrize"],
)
def test_an_update_outside_jit_refuses_the_state_of_renamed_modules(make):
    tx = make()
    params, state = trained(tx, 1)
    grads = jax.grad(loss)(params)
    tx.update(grads, state, params)
    with pytest.raises(ValueError, match=r"other groups.*lawn_optax.recapture"):
        tx.update(renamed(grads), state, renamed(params))


def test_check_finds_renamed_modules_and_recapture_serves_them():
    tx = optax.chain(lawn.wrap(optax.sgd(0.05)))
    params, state = trained(tx, 2)
    lawn.check(state, params)
    params = renamed(params)
    with pytest.raises(ValueError, match="made for other groups"):
        lawn.check(state, params)
    state = lawn.recapture(state, params)
    lawn.check(state, params)
    assert_close(state[0].norms, norms_of(params), rtol=1e-6)
    tx.update(params, state, params)


# --- Norms that are not kept ----------------------------------------------------------

# No loss counts as an improvement.
PLATEAU = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.9)


def after_updates(tx, steps=3):
    params, step = network(), jax.jit(stepper(tx))
    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize(
    ("behind", "inside"),
    [
        (optax.apply_every(2), None),
        (PLATEAU, None),
        (optax.scale(0.5), None),
        (optax.add_decayed_weights(0.01), None),
        (None, optax.apply_every(2)),
        (None, PLATEAU),
    ],
    ids=["apply_every", "plateau", "scale", "decay", "every inside", "plateau inside"],
)
def test_check_finds_in_the_first_updates_what_breaks_the_norms(behind, inside):
    inner = optax.sgd(0.5) if inside is None else optax.chain(optax.sgd(0.5), inside)
    tx = lawn.wrap(inner)
    if behind is None:
        params, state = after_updates(tx, 5)
        lawn.check(state, params)
        return
    params, state = after_updates(optax.chain(tx, behind), 5)
    with pytest.raises(ValueError, match="of 2 norms left their spheres:\n  first: c"):
        lawn.check(state, params)


def test_check_allows_what_rounding_and_freedom_allow():
    params, state = trained(lawn.wrap(optax.sgd(0.1)), 3, network(jnp.bfloat16))
    lawn.check(state, params)
    params, state = trained(lawn.wrap(optax.sgd(0.1), 9), 3)
    lawn.check(state, jax.tree.map(lambda w: 2 * w, params))  # free phase
    nan = jax.tree.map(lambda w: w * jnp.nan, params)
    _, state = trained(lawn.wrap(optax.sgd(0.1)), 1)
    with pytest.raises(ValueError, match="2 of 2 norms"):
        lawn.check(state, nan)
    with pytest.raises(ValueError, match="no LAWN state"):
        lawn.check(optax.sgd(0.1).init(params), params)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    with pytest.raises(ValueError, match="axis of replicas"):
        lawn.check(stacked, params)
    # Many slices: five are named.
    tx = lawn.wrap(optax.sgd(0.1), groups="neuron")
    wide = {"kernel": jnp.ones((2, 9))}
    _, state = tx.update(wide, tx.init(wide), wide)
    with pytest.raises(ValueError, match=r"(?s)9 of 9.*kernel\[4\].*and 4 more"):
        lawn.check(state, {"kernel": 2 * wide["kernel"]}, groups="neuron")


# --- Groups that are free because they were zero --------------------------------------

MATRICES = lawn.groups.only_matrices()
ARRAYS = lawn.groups.only_matrices("leaf")


def second_at_zero():
    """A network whose second layer starts at zero, but has a gradient."""
    params = network()
    return params | {"second": jax.tree.map(jnp.zeros_like, params["second"])}


def late(groups=MATRICES, switch_step=1):
    """An optimizer that moves nothing in its first two updates."""
    rate = lambda count: jnp.where(count < 2, 0.0, -0.1)  # noqa: E731
    return lawn.wrap(optax.scale_by_schedule(rate), switch_step, groups=groups)


def hyperball(switch_step=0):
    turn = baselines.hyperball(0.1, switch_step=switch_step)
    return optax.chain(optax.sgd(0.1), turn)


@pytest.mark.parametrize(
    ("tx", "groups", "name"),
    [
        (hyperball(), ARRAYS, "second/kernel"),
        (late(), MATRICES, "second"),
        (optax.chain(lawn.project_tangent(ARRAYS), optax.sgd(0.1)), ARRAYS, "second/k"),
    ],
    ids=["hyperball", "wrap", "project_tangent"],
)
def test_check_names_a_group_that_is_free_because_it_was_zero(tx, groups, name):
    params, state = trained(tx, 5, second_at_zero())
    lawn.check(state, params, groups=groups)  # by default it may be
    with pytest.raises(ValueError) as error:
        lawn.check(state, params, groups=groups, allow_free=False)
    head, line, *_, last = str(error.value).splitlines()
    assert head.startswith("1 of 2 norms are free, because they were zero")
    now = float(jnp.linalg.norm(params["second"]["kernel"]))
    assert line.startswith(f"  {name}") and now > 0.01
    assert line.endswith(f": captured 0, now {now:.6g}")
    assert last.endswith("say so in `groups`.")
    state = lawn.recapture(state, params, groups=groups)  # the remedy
    lawn.check(state, params, groups=groups, allow_free=False)


NOT_SECOND = lawn.groups.not_paths("second", base=MATRICES)


@pytest.mark.parametrize(
    ("tx", "groups"),
    [
        (hyperball(9), ARRAYS),  # before the switch
        (late(switch_step=9), MATRICES),
        (hyperball(2), ARRAYS),  # grown until then
        (late(switch_step=4), MATRICES),
        (late(NOT_SECOND), NOT_SECOND),  # meant to be free
    ],
    ids=["hyperball before", "wrap before", "hyperball grown", "wrap grown", "meant"],
)
def test_check_passes_what_is_not_free_or_is_meant_to_be(tx, groups):
    params, state = trained(tx, 5, second_at_zero())
    lawn.check(state, params, groups=groups, allow_free=False)


# --- A layer that is initialised again ------------------------------------------------


def test_a_layer_initialised_again_keeps_its_new_norm():
    tx = optax.chain(optax.clip_by_global_norm(1.0), lawn.wrap(optax.sgd(0.05)))
    params, state = trained(tx, 3)
    old = state[1].norms
    params["second"] = jax.tree.map(lambda w: 0.1 * w, params["second"])
    step = jax.jit(stepper(tx))
    jumped, _ = step(params, state)
    assert_close(norms_of(jumped), old, rtol=1e-6)  # what happens without it
    again = jax.jit(lambda s, p: lawn.recapture(s, p, paths=("second",)))(state, params)
    assert signature(again) == signature(state)
    assert_same_bits(again[1].norms[0], old[0])
    after, later = step(params, again)
    expected = np.asarray(old) * np.array([1, 0.1])
    assert_close(norms_of(after), expected, rtol=1e-6)
    assert int(later[1].phase.switched_at) == 0


def test_recapture_frees_zeros_binds_what_has_grown_and_waits_for_the_switch():
    tx = lawn.wrap(optax.sgd(0.05))
    params = network()
    params["first"] = jax.tree.map(jnp.zeros_like, params["first"])
    params, state = trained(tx, 2, params)
    assert np.sign(state.norms).tolist() == [0, 1]
    params["second"] = jax.tree.map(jnp.zeros_like, params["second"])
    state = lawn.recapture(state, params)
    assert_close(state.norms, norms_of(params) * np.array([1, 0]), rtol=1e-6)
    free = lawn.wrap(optax.sgd(0.05), 9).init(params)
    assert_same_bits(lawn.recapture(free, params), free)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), network(), network(seed=1))
    states = jax.vmap(tx.init)(stacked)
    _, states = jax.vmap(tx.update)(stacked, states, stacked)
    again = jax.vmap(lawn.recapture)(states, jax.tree.map(lambda w: 2 * w, stacked))
    assert_close(again.norms, 2 * states.norms, rtol=1e-6)


def test_recapture_reads_or_is_given_a_radius():
    tx = lawn.wrap(optax.sgd(0.05), radius=2.0)
    params, state = trained(tx, 1)
    lawn.check(state, params)
    doubled = jax.tree.map(lambda w: 2 * w, params)
    given = lawn.recapture(state, doubled, radius=2.0)
    assert_same_bits(given.norms, state.norms)
    with pytest.raises(ValueError, match=r"new\nradius holds from the next update"):
        lawn.check(given, doubled)
    lawn.check(given, lawn.to_norms(doubled, 2.0))
    after, given = stepper(tx)(doubled, given)
    lawn.check(given, after)
    assert_close(lawn.recapture(state, doubled).norms, norms_of(doubled), rtol=1e-6)


def test_recapture_refuses_what_it_cannot_do():
    tx = lawn.wrap(optax.sgd(0.05))
    params, state = trained(tx, 1)
    with pytest.raises(ValueError, match="No leaf has 'third' in its path"):
        lawn.recapture(state, params, paths=("third",))
    with pytest.raises(TypeError, match="tuple of paths, got 'second'"):
        lawn.recapture(state, params, paths="second")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="has the norms of these groups"):
        lawn.recapture(state, params, groups="leaf")
    with pytest.raises(ValueError, match="has the norms of these groups"):
        lawn.recapture(state, renamed(params), paths=("trunk",))
    with pytest.raises(ValueError, match="BoundedState holds the weights themselves"):
        tx = baselines.bounded_weight_norm(optax.sgd(0.1))
        lawn.recapture(
            tx.init(params), params, groups=lawn.groups.only_matrices("neuron")
        )


# --- LAWN switched on in mid-run ------------------------------------------------------


@pytest.mark.parametrize("reset", ["restart", None])
def test_a_running_optimizer_adopted_goes_on_as_if_wrap_had_been_there(reset):
    inner = optax.adamw(optax.linear_schedule(0.1, 0.01, 10), weight_decay=0.1)
    before = optax.chain(optax.clip_by_global_norm(1.0), inner)
    params, running = trained(before, 3)
    tx = optax.chain(optax.clip_by_global_norm(1.0), lawn.wrap(inner, reset=reset))
    state = lawn.adopt(tx.init(params), running)
    assert signature(state) == signature(tx.init(params))
    history, _ = run(
        optax.chain(optax.clip_by_global_norm(1.0), lawn.wrap(inner, 3, reset=reset)),
        network(), 6,
    )  # fmt: skip
    assert_close(params, history[3], rtol=1e-6)
    step = jax.jit(stepper(tx))
    for expected in history[4:]:
        params, state = step(params, state)
        assert_close(params, expected, rtol=1e-5, atol=1e-6)
    lawn.check(state, params)


def test_adopt_refuses_another_optimizer():
    params = network()
    state = lawn.wrap(optax.adam(0.1)).init(params)
    for running in (
        optax.sgd(0.1, 0.9).init(params),
        optax.chain(optax.adam(0.1)).init(params),
        optax.adam(0.1).init(network(jnp.bfloat16)),
        optax.adam(0.1).init(params["first"]),
    ):
        with pytest.raises(ValueError, match="the same optimizer without `lawn.wrap`"):
            lawn.adopt(state, running)
    with pytest.raises(ValueError) as error:
        lawn.adopt(state, optax.adam(0.1).init(params | {"third": params["first"]}))
    assert "PyTreeDef" not in str(error.value)
    assert "at 0/mu it has a dict of first, second, third, where" in str(error.value)
    with pytest.raises(ValueError, match="at 0/mu/first/bias it has bfloat16"):
        lawn.adopt(state, optax.adam(0.1).init(network(jnp.bfloat16)))
    with pytest.raises(ValueError, match="static fields. .Of train states, pass the"):
        kind = jax.tree_util.Partial  # its function is static
        lawn.adopt((kind(loss), state), (kind(run), optax.adam(0.1).init(params)))
    with pytest.raises(ValueError, match="no state of `lawn.wrap`"):
        lawn.adopt(optax.adam(0.1).init(params), optax.adam(0.1).init(params))


@pytest.mark.parametrize("jit", [False, True])
def test_recapture_leaves_the_norms_of_other_parts(jit):
    params = {"a": {"kernel": jnp.array([[3.0, 4.0]])}}
    params["b"] = {"kernel": jnp.array([[30.0, 40.0]])}
    tx = optax.chain(
        lawn.wrap(optax.sgd(0.1), groups=lawn.groups.only_paths("a")),
        lawn.wrap(optax.sgd(0.1), groups=lawn.groups.only_paths("b")),
    )
    _, state = tx.update(params, tx.init(params), params)
    params["a"]["kernel"] = 0.1 * params["a"]["kernel"]

    def recapture(state):
        return lawn.recapture(state, params, groups=lawn.groups.only_paths("a"))

    found = (jax.jit(recapture) if jit else recapture)(state)
    assert [part.norms.tolist() for part in found] == [[0.5], [50.0]]
    marks = [part.fingerprint.tolist() for part in state]
    assert [part.fingerprint.tolist() for part in found] == marks


def test_two_renamed_parts_are_not_confused():
    params = {"a": jnp.array([[3.0, 4.0]]), "b": jnp.array([[6.0, 8.0]])}
    tx = optax.chain(
        lawn.wrap(optax.sgd(0.1), groups=lawn.groups.only_paths("a", base="leaf")),
        lawn.wrap(optax.sgd(0.1), groups=lawn.groups.only_paths("b", base="leaf")),
    )
    _, state = tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="2 LAWN states for other groups"):
        lawn.recapture(state, {"c": params["a"]}, groups="leaf")
