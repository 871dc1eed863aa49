"""Exponential rates by hand, their domain, and the range of float types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lawn_optax import schedules
from tests.support import asserts
from tests.support.optional import enable_x64

LIMIT = (1 - np.sqrt(0.9)) ** 2  # of rate times decay with momentum 0.9


def exact(etas, lambdas, momentum):
    """Eq. 6 and Theorem 2.5 as they are written: (rates, P)."""
    alphas = [1.0]
    for t in range(1, len(etas) + 1):
        before = etas[t - 2] if t > 1 else 1.0  # alpha_0 = 1 makes it irrelevant
        a = 1 - etas[t - 1] * lambdas[t - 1]
        alphas.append(a + etas[t - 1] / before * momentum * (1 - 1 / alphas[-1]))
    p = np.cumprod(1 / np.array(alphas))
    return p[:-1] * p[1:] * etas, p


def root(product, momentum):
    return max(np.roots([1, -(1 + momentum - product), momentum]).real)


def of(values):
    """A schedule from a list."""
    return lambda count: jnp.asarray(values)[count]


# float64 rounding of some hundred factors
close = functools.partial(asserts.close, rtol=1e-12)


# --- values ---------------------------------------------------------------------------


def test_equivalent_by_hand():
    # alpha_1 = 1 - 1/2, alpha_2 = 1 - 1/4 (no momentum): P = 1, 2, 8/3.
    rates = schedules.exponential_equivalent(
        of([0.5, 0.25]), momentum=0.0, weight_decay=1.0, total_steps=2
    )
    close(np.exp(rates.log_growth), [1, 2, 8 / 3])
    close(np.exp(rates.log_rates), [0.5 * 1 * 2, 0.25 * 2 * 8 / 3])
    # With momentum 1/4: alpha_1 = 15/16, alpha_2 = 15/16 + 1/4 (1 - 16/15).
    rates = schedules.exponential_equivalent(0.0625, 0.25, 1.0, 2)
    close(np.exp(rates.log_growth[1:]), [16 / 15, 16 / 15 / (15 / 16 - 1 / 60)])
    assert rates.momentum == 0.25


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_equivalent_is_eq_6(momentum):
    rng = np.random.default_rng(0)
    # float32, which the schedules below are read in.
    etas = np.float32(0.1 * rng.uniform(0.2, 1, 50)).astype(float)
    lambdas = np.float32(0.005 * rng.uniform(0, 1, 50)).astype(float)
    rates = schedules.exponential_equivalent(of(etas), momentum, of(lambdas), 50)
    expected, p = exact(etas, lambdas, momentum)
    close(np.exp(rates.log_rates), expected)
    close(np.exp(rates.log_growth), p)


def test_small_decays_lose_no_digits():
    # 1 - alpha is about 1e-13: in eq. 6 as written four digits of it are left.
    rates = schedules.exponential_equivalent(1e-3, 0.9, 1e-11, 2000)
    slope = np.diff(rates.log_growth)[-1]
    close(slope, 1e-14 / 0.1, rtol=1e-9)
    close(schedules.growth_exponent(1e-3, 0.9, 1e-11), 2e-14 / 0.1, rtol=1e-9)


def test_without_decay_the_rates_are_those_of_the_schedule():
    etas = np.float32([0.1, 0.3, 0.2])
    for function in (schedules.exponential_equivalent, schedules.tapered_exponential):
        rates = function(of(etas), 0.9, 0.0, 3)
        np.testing.assert_array_equal(rates.log_growth, np.zeros(4))
        close(rates(jnp.arange(3)), etas, rtol=1e-6)


def test_cosine_changes_once_per_epoch():
    epochs = np.arange(10) // 3  # of 10 / 3 epochs
    etas = 0.2 * (1 + np.cos(np.pi * epochs / (10 / 3))) / 2
    rates = schedules.exponential_cosine(0.2, 0.5, 0.01, 10, steps_per_epoch=3)
    expected, p = exact(etas, np.full(10, 0.01), 0.5)
    close(np.exp(rates.log_rates), expected)
    close(np.exp(rates.log_growth), p)
    each = schedules.exponential_cosine(0.2, 0.5, 0.01, 10)
    optaxs = optax.cosine_decay_schedule(0.2, 10)
    same = schedules.exponential_equivalent(optaxs, 0.5, 0.01, 10)
    close(each.log_rates, same.log_rates, rtol=1e-5)  # Optax has float32


@pytest.mark.parametrize("momentum", [0.3, 0.9])
def test_tapered_grows_by_the_root_in_each_phase(momentum):
    limit = (1 - np.sqrt(momentum)) ** 2
    etas = np.float32(np.repeat([0.9 * limit, 0.3 * limit], [4, 5])).astype(float)
    z = np.array([root(eta, momentum) for eta in etas])
    ratio = etas[1:] / etas[:-1] / z[1:] ** 2
    rates = schedules.tapered_exponential(of(etas), momentum, 1.0, 9)
    close(np.exp(np.diff(rates.log_rates)), ratio)
    close(np.exp(rates.log_rates[0]), etas[0])
    close(np.exp(np.diff(rates.log_growth)), 1 / z)
    rates = schedules.tapered_exponential(
        of(etas), momentum, 1.0, 9, instant_decay=False
    )
    close(np.exp(np.diff(rates.log_rates)), z[1:] ** -2)  # eq. 7


def test_no_instant_decay_is_a_constant_rate_with_less_decay():
    etas = np.repeat([0.1, 0.01], 200)
    tapered = schedules.tapered_exponential(
        of(etas), 0.9, 0.01, 400, instant_decay=False
    )
    exact = schedules.exponential_equivalent(0.1, 0.9, of(etas * 0.1), 400)
    ratios = np.diff(tapered.log_rates) - np.diff(exact.log_rates)
    # "Up to fluctuations when entering a new phase": gone as (gamma / z^2)^t.
    for phase in (ratios[150:198], ratios[350:]):
        assert np.abs(phase).max() < 1e-6 < np.abs(ratios).max()


def test_theorem_2_7_bounds_the_difference():
    rng = np.random.default_rng(0)
    tightest = 0.0
    for _ in range(40):
        momentum = rng.uniform(0.1, 0.95)
        lengths = np.diff([0, *sorted(rng.choice(np.arange(2, 58), 2)), 60])
        lengths = lengths[lengths > 0]  # of two or three phases
        levels = np.cumprod([1, *rng.choice([0.99, 0.5, 0.1], len(lengths) - 1)])
        etas = np.float32(rng.uniform(0.1, 1) * np.repeat(levels, lengths) * 0.999)
        decay, total = (1 - np.sqrt(momentum)) ** 2, len(etas)
        arguments = of(etas), momentum, decay, total
        hat = schedules.exponential_equivalent(*arguments).log_rates
        tapered = schedules.tapered_exponential(*arguments).log_rates
        bound = schedules.tapered_bound(*arguments)
        z = root(float(etas[0]) * decay, momentum)
        starts = np.cumsum([0, *lengths])
        for start, end in zip(starts[:-1], starts[1:], strict=True):
            assert bound[start] == np.inf
            since = np.arange(1, end - start)
            close(bound[start + 1 : end], 1.5 * (momentum / z**2) ** since, rtol=1e-8)
        difference = np.abs(np.exp(-np.diff(hat)) - np.exp(-np.diff(tapered)))
        # 1e-13: rounding, where the bound is smaller.
        assert np.all(difference <= bound[1:] + 1e-13)
        tightest = max(tightest, np.max(difference / (bound[1:] + 1e-10)))
    assert tightest > 0.1  # so that a wrong formula of either would show


def test_growth_of_figure_1():
    # 0.1, 0.9, 5e-4, 391 updates of 128 in 50,000 images: "0.1 * 1.481^t".
    per_epoch = np.exp(391 * schedules.growth_exponent(0.1, 0.9, 5e-4))
    assert abs(per_epoch - 1.481) < 2e-3


# --- domain ---------------------------------------------------------------------------

FUNCTIONS = [
    schedules.exponential_equivalent,
    schedules.tapered_exponential,
    schedules.tapered_bound,
]
every_function = pytest.mark.parametrize("function", FUNCTIONS)


@every_function
def test_a_rate_of_0_is_allowed_at_the_end_alone(function):
    with pytest.raises(ValueError, match="positive at every step.*got 0 at step 1"):
        function(of([0.2, 0.0, 0.0]), 0.9, 0.001, 3)
    function(of([0.2, 0.1, 0.0]), 0.9, 0.001, 3)
    rates = schedules.exponential_equivalent(of([0.2, 0.1, 0.0]), 0.9, 0.001, 3)
    assert rates.log_rates[-1] == -np.inf and float(rates(2)) == 0
    assert np.all(np.isfinite(rates.log_growth))
    assert rates.log_growth[-1] == rates.log_growth[-2]  # nothing moves


@every_function
def test_the_product_must_leave_the_roots_real(function):
    message = r"at most \(1 - sqrt\(momentum\)\)\^2 = 0.00263.*got 0.003 at step 1"
    with pytest.raises(ValueError, match=message) as error:
        function(of([0.1, 0.1, 0.01]), 0.9, of([0.01, 0.03, 0.0]), 3)
    allowed = (
        f"must be at most {LIMIT / 0.03:.6g} or the weight decay {LIMIT / 0.1:.6g}"
    )
    assert allowed in str(error.value)
    function(1.0, 0.9, LIMIT, 3)  # the limit itself
    with pytest.raises(ValueError, match="at step 0"):
        function(1.0, 0.9, LIMIT * (1 + 1e-9), 3)
    with pytest.raises(ValueError, match="must be below .* = 1; got 1 at step 0"):
        function(1.0, 0.0, 1.0, 3)


def test_weights_must_keep_their_sign():
    # Ten times the rate at a tenth of the decay, long at the limit: alpha falls to 0.
    etas = np.repeat([0.02, 0.2], [200, 20])
    lambdas = np.repeat([0.1, 0.01], [200, 20])
    with pytest.raises(ValueError, match="alpha must be positive, got -.*at step") as e:
        schedules.exponential_equivalent(of(etas), 0.9, of(lambdas), 220)
    step = int(str(e.value).split("at step ")[1].split(".")[0])
    below = float(str(e.value).split("must be below ")[1].split(";")[0])
    _, p = exact(etas[:step], lambdas[:step], 0.9)
    assert 200 < step and np.all(p > 0)
    etas[step] = below  # and alpha is linear in the last rate
    _, p = exact(etas[: step + 1], lambdas[: step + 1], 0.9)
    assert abs(p[-2] / p[-1]) < 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.1, 1.0, 0.01, 3), r"`momentum` must be in \[0, 1\); got 1.0"),
        ((0.1, -0.1, 0.01, 3), "`momentum`.*got -0.1"),
        ((0.1, float("nan"), 0.01, 3), "`momentum`.*got nan"),
        ((-0.1, 0.9, 0.01, 3), "`schedule`.*got -0.1 at step 0"),
        ((of([0.1, float("nan"), 0.1]), 0.9, 0.01, 3), "`schedule`.*nan at step 1"),
        ((0.1, 0.9, -0.01, 3), "`weight_decay`.*at least 0; got -0.01 at step 0"),
        ((0.1, 0.9, float("inf"), 3), "`weight_decay`.*finite"),
        ((0.1, 0.9, 0.01, 0), "`total_steps` must be a whole number.*got 0"),
        ((0.1, 0.9, 0.01, 2.5), "`total_steps`.*got 2.5"),
        ((0.1, 0.9, 0.01, float("nan")), "`total_steps`.*got nan"),
    ],
)
@every_function
def test_impossible_arguments_are_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


def test_other_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="`schedule` must be a step decay.*at step 2"):
        schedules.tapered_bound(of([0.1, 0.05, 0.06]), 0.9, 0.01, 3)
    with pytest.raises(ValueError, match="`weight_decay` must be a step decay"):
        schedules.tapered_bound(0.1, 0.9, of([0.001, 0.002]), 2)
    with pytest.raises(ValueError, match="`steps_per_epoch`.*got 0"):
        schedules.exponential_cosine(0.1, 0.9, 0.01, 3, 0)
    with pytest.raises(ValueError, match="got -0.1 at step 0"):
        schedules.exponential_cosine(-0.1, 0.9, 0.01, 3)
    with pytest.raises(ValueError, match="`learning_rate` must be positive; got 0"):
        schedules.growth_exponent(0.0, 0.9, 0.01)


# --- the table in use -----------------------------------------------------------------


@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
def test_rates_have_the_default_precision_and_end_with_the_run(x64):
    with enable_x64(x64):
        rates = schedules.exponential_equivalent(0.1, 0.9, 0.01, 5)
        dtype = jnp.float64 if x64 else jnp.float32
        counts = jnp.arange(7).reshape(7, 1)
        for function in (rates, jax.jit(rates), jax.vmap(rates)):
            found = function(counts)
            assert found.dtype == dtype and found.shape == (7, 1)
            close(found[:5, 0], np.exp(rates.log_rates), rtol=1e-14 if x64 else 1e-7)
            np.testing.assert_array_equal(found[5:], np.zeros((2, 1)))
        assert rates(2).shape == () and rates(jnp.int32(2)).dtype == dtype


def test_schedules_are_read_once_also_inside_jit():
    @jax.jit
    def first_rate(x):
        schedule = optax.linear_schedule(0.1, 0.05, 10)
        return schedules.exponential_equivalent(schedule, 0.5, 0.5, 4)(x)

    same = schedules.exponential_equivalent(
        optax.linear_schedule(0.1, 0.05, 10), 0.5, 0.5, 4
    )
    close(first_rate(jnp.arange(4)), same(jnp.arange(4)), rtol=1e-6)


def test_the_tables_cannot_be_changed():
    rates = schedules.exponential_equivalent(0.1, 0.9, 0.01, 5)
    for table in (rates.log_rates, rates.log_growth):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 0


def test_rates_beyond_the_type_are_reported_with_their_step():
    # Half the weights are left after each update: rate t is 0.5 * 2 * 4^t.
    rates = schedules.exponential_equivalent(0.5, 0.0, 1.0, 600)
    assert rates.overflow_step() == 64  # 2^128
    message = r"update 64 is 3\.40e\+38, beyond float32.*rescaled_sgd"
    tx, w = optax.sgd(rates), jnp.ones(2)
    for first_use in (
        lambda: rates(0),
        lambda: jax.jit(rates)(0),
        lambda: jax.jit(tx.update)(w, tx.init(w), w),
    ):
        with pytest.raises(ValueError, match=message):
            first_use()
    shorter = schedules.exponential_equivalent(0.5, 0.0, 1.0, 64)
    assert shorter.overflow_step() is None
    assert float(shorter(63)) == 2.0**126
    with enable_x64(True):
        assert rates.overflow_step() == 512  # 2^1024
        with pytest.raises(ValueError, match=r"update 512 is 1\.80e\+308, .*float64"):
            rates(0)


@pytest.mark.parametrize(
    ("w", "dtype", "step"),
    [
        # After update t the weights are 2^(t+1) times these.
        pytest.param([1.0, 0.0], "float32", 63, id="square_of_the_norm"),
        pytest.param([2.0**40, 0.0], "float32", 23, id="larger_weights_earlier"),
        pytest.param([2.0**-60, 0.0], "float32", 64, id="smaller_weights_not_later"),
        pytest.param([1.0, 0.0], "float16", 15, id="the_weights_themselves"),
        pytest.param([1.0, 0.0], "bfloat16", 63, id="bfloat16_has_float32_range"),
        pytest.param([0.0, 0.0], "float32", 64, id="zeros_do_not_grow"),
    ],
)
def test_overflow_of_weights_is_foreseen(w, dtype, step):
    rates = schedules.exponential_equivalent(0.5, 0.0, 1.0, 100)
    params = {"w": jnp.asarray(w, dtype), "n": jnp.arange(3), "none": jnp.zeros((0,))}
    assert rates.overflow_step(params) == step
    # Not by the formula, but by doubling the squares.
    if w[0]:
        limit, squares = float(jnp.finfo("float32").max), w[0] ** 2
        top = float(jnp.finfo(dtype).max)
        for t in range(step + 1):
            fits = squares * 4.0 ** (t + 1) <= limit and w[0] * 2.0 ** (t + 1) <= top
            assert (fits and 4.0**t <= limit) == (t < step)


def test_injected_hyperparameters_take_the_rates():
    rates = schedules.exponential_equivalent(0.1, 0.9, 0.01, 5)
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=rates, momentum=0.9)
    w = jnp.ones(2)
    state = tx.init(w)
    for _ in range(2):
        _, state = tx.update(w, state, w)
    close(state.hyperparams["learning_rate"], np.exp(rates.log_rates[1]), rtol=1e-6)
