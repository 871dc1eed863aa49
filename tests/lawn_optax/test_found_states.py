"""Reports find the norms that the optimizer keeps, or say what to pass."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lawn_optax as lawn
from lawn_optax import baselines
from tests.support.asserts import assert_close, signature
from tests.support.reports import PARAMS, train


def as_dicts(node):
    """A state as a checkpoint has it that was restored without a target."""
    if hasattr(node, "_fields"):
        return {name: as_dicts(getattr(node, name)) for name in node._fields}
    return list(map(as_dicts, node)) if isinstance(node, tuple) else node


# --- norms that nothing keeps ---------------------------------------------------------


@pytest.mark.parametrize("form", [lambda state: state, as_dicts], ids=["own", "dicts"])
def test_the_parts_with_a_radius_are_read_as_what_they_keep(form):
    tx = optax.chain(
        lawn.project_tangent(),
        optax.sgd(0.1),
        lawn.project_tangent(),
        lawn.renormalize(radius=2.0),
    )
    params, state = train(tx)
    state = form(state)
    lawn.check(state, params)
    assert lawn.captured_norms(state, params) == {"dense": 2, "head": 2}
    report = lawn.describe(params, state=state)
    assert [line.split()[3] for line in report.splitlines()[3:5]] == ["2", "2"]


def test_a_projection_alone_keeps_no_norm_to_check():
    tx = optax.chain(lawn.project_tangent(), optax.sgd(0.3))
    params, state = train(tx)
    lawn.check(state, params)
    assert lawn.captured_norms(state, PARAMS)["head"] == 5
    with pytest.raises(ValueError, match="made for other groups"):
        lawn.check(state, params, groups="leaf")
    doubled = jax.tree.map(lambda w: 2 * w, params)
    again = lawn.recapture(state, doubled)
    assert type(again[0]) is lawn.TangentState
    assert_close(again[0].captured, lawn.diagnostics.group_norms(doubled), rtol=1e-6)


# --- gradients that are None ----------------------------------------------------------


def test_a_leaf_without_a_gradient_is_no_part_of_the_norm():
    tx = lawn.wrap(optax.sgd(0.1))
    params = {"dense": {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.ones(2)}}
    grads = {"dense": {"kernel": jnp.array([[1.0, 2.0]]), "bias": None}}
    updates, state = tx.update(grads, tx.init(params), params)
    params["dense"]["kernel"] += updates["dense"]["kernel"]
    lawn.check(state, params, grads=grads)
    off = lawn.describe(params, state=state, grads=grads).splitlines()[3].split()[5]
    assert float(off) < 1e-6
    with pytest.raises(ValueError, match="If gradients are None, pass `grads=`"):
        lawn.check(state, params)
    params["dense"]["kernel"] *= 2
    state = lawn.recapture(state, params, grads=grads)
    assert_close(state.norms, np.array([10.0], np.float32), rtol=1e-6)
    lawn.check(state, params, grads=grads)


# --- boxes and mappings ---------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_nnx():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    tx = optax.chain(optax.clip(1.0), lawn.wrap(optax.adam(0.1)))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    grads = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    optimizer.update(model, grads)
    return model, optimizer, grads


def test_recapture_gives_back_the_state_of_an_nnx_optimizer(trained_nnx):
    model, optimizer, grads = trained_nnx
    for factor, give in (
        (2.0, lambda: optimizer.opt_state),
        (3.0, lambda: nnx.state(optimizer)),
        (0.5, lambda: nnx.state(optimizer, nnx.optimizer.OptState)),
    ):
        model.kernel[...] *= factor
        params = nnx.state(model, nnx.Param)
        state = give()
        again = lawn.recapture(state, params)
        assert signature(again) == signature(state) and type(again) is type(state)
        norms = lawn.captured_norms(again, params)
        assert_close(norms["/"], lawn.diagnostics.group_norms(params)[0], rtol=1e-6)
        if isinstance(again, nnx.State):
            nnx.update(optimizer, again)
        else:
            optimizer.opt_state = again
        optimizer.update(model, grads)
        lawn.check(nnx.state(optimizer), nnx.state(model, nnx.Param))


def test_recapture_takes_a_state_of_dicts():
    params, state = train(lawn.wrap(optax.adam(0.1)))
    doubled = jax.tree.map(lambda w: 2 * w, params)
    again = lawn.recapture(as_dicts(state), doubled, paths=("head",))
    assert_close(again["norms"], np.array([5.0, 10.0], np.float32), rtol=1e-6)
    assert again["inner_state"][0]["count"] == 3


def test_every_reader_takes_dicts_and_nnx_states(trained_nnx):
    model, _, grads = trained_nnx
    tx = optax.chain(lawn.wrap(optax.sgd(0.1), 1), lawn.monitor(switch_step=1))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for _ in range(2):
        optimizer.update(model, grads)
    params = nnx.state(model, nnx.Param)
    is_box = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
    plain = jax.tree.map(lambda x: x[...], optimizer.opt_state, is_leaf=is_box)
    for state in (optimizer.opt_state, nnx.state(optimizer), as_dicts(plain)):
        assert lawn.logit_scale(state, 0.25) == 0.25
        start = "constrained updates: 1; norms not kept: 0 of 1"
        assert lawn.health(state, params).startswith(start)
        assert "constrained since update 1 of 2" in lawn.describe(params, state=state)


# --- arguments in another order -------------------------------------------------------


def test_swapped_arguments_are_named():
    tx = optax.chain(lawn.wrap(optax.adam(0.1)))
    state = tx.init(PARAMS)
    for call in (
        lambda: lawn.describe(state, PARAMS),
        lambda: lawn.describe(PARAMS, state),
        lambda: lawn.describe(state, state=PARAMS),
        lambda: lawn.captured_norms(PARAMS, state),
        lambda: lawn.check(PARAMS, state),
        lambda: lawn.recapture(PARAMS, state),
        lambda: lawn.health(PARAMS, state),
        lambda: lawn.diagnostics.group_norms(state),
    ):
        with pytest.raises(TypeError, match=r"place of parameters: call `[\w.]+\("):
            call()


@pytest.mark.parametrize(
    "make",
    [
        lambda: lawn.wrap(optax.sgd(0.1)),
        lambda: lawn.renormalize(),
        lambda: lawn.switch_at(1, optax.sgd(0.1)),
        lambda: lawn.reset_at(1, optax.sgd(0.1)),
        lambda: lawn.monitor(),
        lambda: baselines.reparametrize(optax.sgd(0.1)),
        lambda: baselines.hyperball(0.1),
    ],
)
def test_an_update_with_parameters_for_a_state_says_how_to_call_it(make):
    tx = make()
    tx.init(PARAMS)
    with pytest.raises(TypeError, match=r"Call `tx.update\(grads, state, params\)`"):
        tx.update(PARAMS, PARAMS, PARAMS)


def test_gradients_of_another_structure_are_told_by_their_paths():
    tx = lawn.wrap(optax.sgd(0.1))
    grads = {"dense": {"kernel": PARAMS["dense"]["kernel"]}, "tail": jnp.ones(2)}
    with pytest.raises(ValueError) as error:
        tx.update(grads, tx.init(PARAMS), PARAMS)
    assert str(error.value).endswith(
        "but it lacks dense/bias, head/kernel and has besides tail."
    )


def test_what_is_no_optimizer_is_refused():
    for wrong in (1e-3, None, optax.adam):
        for make in (
            lawn.wrap,
            baselines.reparametrize,
            lawn.master_weights,
            lambda inner: lawn.unfuse(inner, {}),
            lambda inner: lawn.reset_at(1, inner),
            lambda inner: lawn.switch_at(1, inner),
        ):
            with pytest.raises(TypeError, match="must be an Optax transformation"):
                make(wrong)


def test_reports_without_values_say_so():
    tx = lawn.wrap(optax.sgd(0.1))
    params, state = train(tx)
    for call in (
        lambda p, s: lawn.describe(p, state=s),
        lambda p, s: lawn.captured_norms(s, p),
        lambda p, s: lawn.check(s, p),
        lambda p, s: lawn.check(state, p),
        lambda p, s: lawn.describe(p, state=state),
    ):
        with pytest.raises(ValueError, match=r"call them outside `jit`, with arrays"):
            jax.eval_shape(lambda p, s, f=call: [f(p, s)] and 0, params, state)
    with pytest.raises(ValueError, match=r"outside `jit`.*ShapeDtypeStruct"):
        lawn.describe(params, state=jax.eval_shape(tx.init, params))


# --- the free phase -------------------------------------------------------------------


def test_the_report_of_the_free_phase_says_what_it_waits_for():
    def after(step, *values):
        tx = lawn.wrap(optax.sgd(0.1), step)
        state = tx.init(PARAMS)
        for value in values:
            _, state = tx.update(PARAMS, state, PARAMS, switch_value=value)
        forms = (
            lawn.describe(PARAMS, state=state),
            lawn.describe(PARAMS, state=as_dicts(state)),
        )
        assert forms[0] == forms[1]
        return forms[0].splitlines()[0]

    captures = "the next update captures the norms"
    assert after(0) == f"free phase after 0 updates: {captures}"
    assert after(2, 1.0).endswith("no norm is captured yet")
    assert after(2, 1.0, 1.0) == f"free phase after 2 updates: {captures}"
    for trigger in (lawn.switch_when(3.0), lawn.switch_when(-1.0)):
        for values in ((), (float("nan"),)):
            assert after(trigger, *values).endswith("had no finite value yet")
    trigger = lawn.switch_when(3.0, decay=0.5)
    line = after(trigger, 1.0, 2.0)
    assert "the watched statistic is 1.66667 on average" in line
    assert line.endswith("the switch waits for 3")
    assert after(trigger, 9.0) == f"free phase after 1 updates: {captures}"
    waiting = lawn.switch_when(3.0, decay=0.5, plateau=0.1)
    assert after(waiting, 9.0).endswith("past 3, and the switch waits for a plateau")
