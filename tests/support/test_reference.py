"""The reference against numbers worked out by hand, so that an error in it shows.

With w = (3, 4) and g = (1, 0) the projected gradient is h = (0.64, -0.48) =
0.8 (0.8, -0.6). A tangent step of length 12 leads to (-6.6, 11.2), of norm 13, and back
on the sphere of radius 5 to (-33, 56) / 13.
"""

import functools

import numpy as np
import pytest

from tests.support import asserts, reference

ONE = {"layer": ["kernel", "bias"]}
W = {"kernel": np.array([[3.0]]), "bias": np.array([4.0])}
G = {"kernel": np.array([[1.0]]), "bias": np.array([0.0])}
AFTER = [-33 / 13, 56 / 13]
FAR = 10**6  # a switch that never comes


def leaves(kernel, bias):
    return {"kernel": np.array([[kernel]]), "bias": np.array([bias])}


def check(params, expected):
    actual = [float(params["kernel"].item()), float(params["bias"].item())]
    np.testing.assert_allclose(actual, expected, rtol=1e-14, atol=0, equal_nan=False)


close = functools.partial(asserts.close, rtol=1e-14)


def test_sgd_takes_two_constrained_steps_with_momentum():
    # Second step: g = 0, so m = 0.9 h = 0.72 (0.8, -0.6), whose part orthogonal to the
    # new w is (3.6 / 13) (56, 33) / 65; at rate 130 / 3 it is 12 long.
    ref = reference.sgd(lambda count: [15, 130 / 3][count], groups=ONE)
    first = ref.step(W, G)
    check(first, AFTER)
    check(ref.step(first, leaves(0.0, 0.0)), [-837 / 169, -116 / 169])
    assert ref.norms == {"layer": 5.0} and ref.free == set()
    assert ref.count == 2 and W["kernel"].item() == 3.0  # the argument is not changed


def test_sgd_divides_by_the_present_norm_and_returns_to_the_captured_one():
    ref = reference.sgd(30.0, momentum=0.0, groups=ONE)
    ref.step(W, leaves(0.0, 0.0))  # captures 5
    check(ref.step(leaves(6.0, 8.0), G), AFTER)


def test_sgd_nesterov_and_decay_inside_the_momentum():
    # g: 1, 2; m: 1, 2.5; steps 1 + 0.5, 2 + 1.25.
    ref = reference.sgd(1.0, 0.5, nesterov=True, switch_step=FAR, groups=ONE)
    params = ref.step(leaves(0.0, 0.0), leaves(1.0, 1.0))
    check(ref.step(params, leaves(2.0, 2.0)), [-4.75, -4.75])
    # g + lambda w: 2, 0.9; m: 2, 1.9; w: 2, 1.8, 1.61.
    ref = reference.sgd(0.1, 0.5, weight_decay=0.5, switch_step=FAR, groups=ONE)
    params = ref.step(leaves(2.0, 2.0), leaves(1.0, 1.0))
    check(ref.step(params, leaves(0.0, 0.0)), [1.61, 1.61])


def test_nesterov_projects_what_it_adds_to_the_weights():
    # At the first step r = h + 0.5 h.
    ref = reference.sgd(10.0, 0.5, nesterov=True, weight_decay=9.0, groups=ONE)
    check(ref.step(W, G), AFTER)


def test_adam_free_step_has_epsilon_outside_the_root_and_decay_after_it():
    # r = (3 / (3 + 1), -1 / (1 + 1)); r + 0.1 w = (1.75, 1.5).
    ref = reference.adam(2.0, eps=1.0, weight_decay=0.1, switch_step=FAR, groups=ONE)
    check(ref.step(leaves(10.0, 20.0), leaves(3.0, -1.0)), [6.5, 17.0])


@pytest.mark.parametrize(
    ("reset", "t", "r"),
    [
        ("restart", 1, 1 / 2),  # m_hat = v_hat = 1
        ("moments", 2, (2 / 3) / (2 / 7**0.5 + 1)),  # 0.5 / 0.75, 0.25 / 0.4375
        (None, 2, (4 / 3) / (4 / 7**0.5 + 1)),  # (0.5+0.5) / 0.75, (0.75+0.25) / 0.4375
    ],
)
def test_adam_resets_at_the_switch(reset, t, r):
    # Gradients 2, then 1, seen on a leaf that is never projected: resets reach it too,
    # and decay ends for it too.
    ref = reference.adam(
        1.0, 0.5, 0.75, 1.0, weight_decay=0.5, switch_step=1, reset=reset,
        groups={"layer": ["kernel"]},
    )  # fmt: skip
    params = {"kernel": np.array([3.0, 4.0]), "free": np.array([4.0])}
    grads = {"kernel": np.array([1.0, 0.0])}
    params = ref.step(params, grads | {"free": np.array([2.0])})
    close(params["free"], [4 - 2 / 3 - 2])
    params = ref.step(params, grads | {"free": np.array([1.0])})
    close(params["free"], [4 - 2 / 3 - 2 - r])
    assert ref.t == t


@pytest.mark.parametrize(
    ("projections", "rate", "expected"),
    [
        # r = (0.64 / 0.8, -0.48 / 0.64) = (0.8, -0.75); its tangent part, 1.09 long.
        (2, 12 / 1.09, AFTER),
        (1, 4.0, [-0.2 * 5 / 49.04**0.5, 7 * 5 / 49.04**0.5]),
    ],
)
def test_adam_projects_once_or_twice(projections, rate, expected):
    ref = reference.adam(
        rate, eps=0.16, weight_decay=9.0, projections=projections, groups=ONE
    )
    check(ref.step(W, G), expected)


@pytest.mark.parametrize(
    ("cap", "phi", "ratio"),
    [(None, lambda x: x, 5.0), (1.0, lambda x: x, 1.0), (None, lambda x: x - 3, 2.0)],
    ids=["lamb", "lamb_plus", "phi"],
)
def test_lamb_free_step_has_one_ratio_per_group_and_decay_in_it(cap, phi, ratio):
    # r = (-3 / 4, 0); r + w / 4 = (0, 1); ||w|| = 5. Per leaf the ratio would be 4.
    ref = reference.lamb(
        0.1, eps=1.0, weight_decay=0.25, switch_step=FAR, cap=cap, phi=phi, groups=ONE
    )
    check(ref.step(W, leaves(-3.0, 0.0)), [3.0, 4 - 0.1 * ratio])


@pytest.mark.parametrize(("cap", "rate"), [(None, 2.4), (1.0, 12 / 1.09)])
def test_lamb_constrained_step_takes_the_ratio_of_the_projected_r(cap, rate):
    # r projected is 1.09 (0.8, -0.6): ratio times r is 5 (0.8, -0.6) without the cap.
    ref = reference.lamb(rate, eps=0.16, weight_decay=9.0, cap=cap, groups=ONE)
    check(ref.step(W, G), AFTER)


def test_lamb_ratio_is_one_at_zero_norms_and_a_free_leaf_has_its_own():
    ref = reference.lamb(1.0, eps=1.0, phi=lambda x: x + 7, groups={"a": ["a"]})
    params = {"a": np.zeros(2), "b": np.array([3.0, 4.0]), "c": np.array([2.0])}
    grads = {"a": np.array([3.0, -1.0]), "b": np.zeros(2), "c": np.array([3.0])}
    new = ref.step(params, grads)
    close(new["a"], [-0.75, 0.5])
    close(new["b"], [3.0, 4.0])
    close(new["c"], [2 - 9.0])  # ratio (2 + 7) / 0.75


def test_switch_captures_after_switch_step_updates_and_the_schedule_runs_on():
    counts = []
    ref = reference.sgd(
        lambda count: counts.append(count) or 1.0, 0.0, switch_step=1, groups=ONE
    )
    params = ref.step(W, leaves(-3.0, -4.0))
    check(params, [6.0, 8.0])
    assert ref.norms == {"layer": None}
    params = ref.step(params, leaves(-3.0, -4.0))
    check(params, [6.0, 8.0])  # a radial gradient moves nothing
    assert ref.norms == {"layer": 10.0}
    ref.step(params, G)
    assert counts == [0, 1, 2]


def test_zero_and_one_element_and_infinite_groups_stay_free():
    ref = reference.sgd(1.0, 0.0, groups={k: [k] for k in ("zero", "one", "huge")})
    params = {"zero": np.zeros(2), "one": np.array([2.0])}
    params["huge"] = np.array([np.inf, 1.0])
    grads = {"zero": np.array([-1.0, 0.0]), "one": np.array([0.5]), "huge": np.ones(2)}
    new = ref.step(params, grads)
    close(new["zero"], [1.0, 0.0])
    new = ref.step(new, grads | {"zero": np.array([-1.0, -1.0])})
    close(new["zero"], [2.0, 1.0])  # neither projected nor renormalised, though grown
    close(new["one"], [1.0])
    close(new["huge"], [np.inf, -1.0])
    assert ref.free == {"zero", "one", "huge"}
    assert ref.norms == {"zero": None, "one": None, "huge": None}


def test_per_slice_groups_have_a_norm_per_unit_with_its_bias():
    # Units (3, 4) and (6, 8); the second goes to (6 - 9.6, 8 + 7.2), of norm 244**0.5.
    ref = reference.sgd(15.0, groups={"dense": (["kernel", "bias"], -1)})
    params = {"kernel": np.array([[3.0, 6.0]]), "bias": np.array([4.0, 8.0])}
    new = ref.step(params, {"kernel": np.array([[1.0, 1.0]]), "bias": np.zeros(2)})
    close(new["kernel"], [[AFTER[0], -36 / 244**0.5]])
    close(new["bias"], [AFTER[1], 152 / 244**0.5])
    assert ref.norms == {"dense[0]": 5.0, "dense[1]": 10.0}


def test_per_slice_groups_over_two_axes_and_a_stacked_axis():
    kernel = np.arange(1.0, 13.0).reshape(2, 2, 3)
    for axes, shape in (((-2, -1), (2, 3)), (0, (2,))):
        ref = reference.sgd(0.1, groups={"a": (["kernel"], axes)})
        new = ref.step({"kernel": kernel}, {"kernel": np.ones((2, 2, 3))})["kernel"]
        summed = 0 if axes == (-2, -1) else (1, 2)
        expected = np.sqrt(np.sum(kernel**2, axis=summed))
        close(list(ref.norms.values()), expected.ravel())
        close(np.sqrt(np.sum(new**2, axis=summed)), expected)
        first = "a[0,0]" if len(shape) == 2 else "a[0]"
        assert next(iter(ref.norms)) == first and not np.allclose(new, kernel)


@pytest.mark.parametrize(
    "groups",
    [
        {"a": ["kernel"], "b": ["kernel"]},
        {"a": ["kernal"]},
        {"a": (["kernel", "bias"], 0)},
    ],
    ids=["leaf_listed_twice", "unknown_leaf", "slices_that_do_not_match"],
)
def test_groups_that_do_not_fit_are_refused(groups):
    params = {"kernel": np.ones((3, 2)), "bias": np.ones(2)}
    with pytest.raises(ValueError, match="kern"):
        reference.sgd(0.1, groups=groups).step(params, params)
