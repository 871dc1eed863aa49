"""The rules that stand beside the options."""

import dataclasses

import pytest

from tests.support.rating_files import refused
from train.digits import experiment as digits
from train.images import options as image_options
from train.language import options as language_options
from train.recommenders import options as recsys_options
from train.rules import check_bounds, neutral_names, option

WHERE = {
    "checkpoint_minutes",
    "data_dir",
    "deterministic",
    "devices",
    "coordinator",
    "micro_batch",
    "out",
    "parallel",
    "process",
    "processes",
    "quiet",
    "shard_state",
}
FILLED_IN = {"preset", "shortened"}
SWEEP = {"checkpoint_minutes", "data_dir", "micro_batch", "out", "quiet"}


@pytest.mark.parametrize(
    "config, names",
    [
        (digits.Config(), {"checkpoint_minutes", "out", "quiet"}),
        # What a preset decides is in other options, once it has been looked up.
        (recsys_options.resolve(recsys_options.Config()), WHERE | FILLED_IN),
        (
            image_options.resolve(image_options.Config()),
            WHERE | FILLED_IN | {"workers"},
        ),
        (language_options.resolve(language_options.Config()), WHERE | FILLED_IN),
        (recsys_options.SweepConfig(), SWEEP | {"at_once"}),
        (image_options.SweepConfig(), SWEEP | {"workers"}),
        (language_options.SweepConfig(), SWEEP | {"at_once"}),
    ],
    ids=[
        *("digits", "recsys", "image", "language"),
        *("sweep recsys", "sweep image", "sweep language"),
    ],
)
def test_options_that_do_not_change_the_result(config, names):
    assert set(neutral_names(config)) == names


@dataclasses.dataclass(frozen=True)
class Base:
    size: int = option(0, least=1, below=2**4)
    rate: float | None = option(None, above=0)


@dataclasses.dataclass(frozen=True)
class Derived(Base):
    size: int = 3


def test_another_default_keeps_the_rules_of_an_option():
    check_bounds(Derived())
    check_bounds(Derived(size=15, rate=0.1))
    for options, message in (
        ({"size": 0}, "--size must be finite and at least 1; got 0"),
        ({"size": 16}, "--size must be below 2^4"),
        ({"rate": 0.0}, "--rate must be finite and above 0; got 0.0"),
        ({"rate": float("nan")}, "--rate must be finite and above 0; got nan"),
        ({"rate": float("inf")}, "--rate must be finite and above 0; got inf"),
    ):
        refused(lambda options=options: check_bounds(Derived(**options)), message)
