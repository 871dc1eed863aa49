"""Names of flattened trees, and leaves at the root."""

import lawn_optax as lawn
from lawn_optax import groups
from lawn_optax.groups._resolve import resolve
from tests.support.trees import dense, shape, sharing


def test_flat_names_are_split_where_a_module_ends():
    expected = {
        ("enc/a/bias", "enc/a/kernel"): (), ("enc/b/bias", "enc/b/kernel"): (),
    }  # fmt: skip
    nested = {"enc": {"a": dense(), "b": dense(3, 3)}}
    flat = {
        (outer, inner, leaf): value
        for outer, modules in nested.items()
        for inner, leaves in modules.items()
        for leaf, value in leaves.items()
    }
    assert sharing(nested) == expected
    assert sharing(flat) == expected
    fingerprint = resolve("layer", nested).fingerprint
    for separator in ("/", "."):
        named = {separator.join(path): value for path, value in flat.items()}
        assert sharing(named) == expected
        assert resolve("layer", named).fingerprint == fingerprint
        assert sharing(named, groups.not_paths("enc/a")) == {
            ("enc/b/bias", "enc/b/kernel"): ()
        }


def test_numbers_at_the_end_of_flat_names_are_items():
    flat = {"scales.0": shape(3), "scales.1": shape(3), "head.weight": shape(2, 3)}
    assert len(sharing(flat)) == 3


def test_a_scalar_at_the_root_is_free():
    towers = {"image": dense(), "text": dense()}
    clip = {"logit_scale": shape(), "text_projection": shape(6, 6), **towers}
    siglip = {"t": shape(1), "b": shape(1), **towers}
    for params, names in ((clip, {"logit_scale"}), (siglip, {"t", "b"})):
        for tree, prefix in ((params, ""), ({"params": params}, "params/")):
            report = lawn.describe(tree)
            free = report.split("\n\n")[1]
            assert {line.split()[0] for line in free.splitlines()[1:]} == {
                prefix + name for name in names
            }
            assert "one element: no tangent direction" in free


def test_a_bias_of_one_unit_at_the_root_joins_its_kernel():
    assert sharing({"w": shape(3, 1), "b": shape(1)}) == {("b", "w"): ()}
    assert sharing({"w": shape(3), "b": shape()}) == {("b", "w"): ()}
    assert sharing((shape(3, 1), shape(1))) == {("0", "1"): ()}
