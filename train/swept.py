"""What a sweep needs to know about each experiment."""

from collections.abc import Callable
from typing import Any, NamedTuple

from train import options
from train.experiment import Experiment
from train.images import experiment as image
from train.images import options as image_options
from train.options import Settled
from train.recommenders import experiment as recsys
from train.recommenders import options as recsys_options


class Swept(NamedTuple):
    """What a sweep needs to know about an experiment.

    Attributes:
        experiment: What is run.
        Config: Options of a single run.
        shared: The options that it shares with a sweep.
        resolve: Fills in and checks the former.
        grid: ``(sweep, optimizer)`` -> the hyperparameters to try.
        together: Whether the trials of an optimizer are one program, on one device;
            else each is a run of its own.
        metrics: What is kept of a trial; the first one chooses, higher is better.
        column: The first one, in percent, as a table names it.
        subject: What is trained, in words.
        measured: On what a trial is, in words.
    """

    experiment: Experiment
    Config: Callable[..., Any]
    shared: type
    resolve: Callable[[Any], Settled]
    grid: Callable[[Any, str], options.Grid]
    together: bool
    metrics: tuple[str, ...]
    column: str
    subject: Callable[[Any], str]
    measured: Callable[[Any], str]


def _ranked(config: recsys_options.SweepConfig) -> str:
    validation = config.protocol == "validation"
    item = "second-latest (validation)" if validation else "latest (test)"
    candidates = f"mean of {config.candidate_draws} draws of candidates"
    if not config.candidate_draws:
        candidates = "candidates of the files"
    return f"of each user's {item} item, {candidates}"


def _tested(config: image_options.SweepConfig) -> str:
    held_out = f"{image.HELD_OUT:,} held-out training images"
    return f"on {held_out if config.protocol == 'validation' else 'the test images'}"


ALL: dict[type, Swept] = {
    recsys_options.SweepConfig: Swept(
        recsys.EXPERIMENT,
        recsys_options.Config,
        recsys_options.Options,
        recsys_options.resolve,
        recsys_options.grid,
        True,
        ("hr", "ndcg", "auc"),
        "HR@10 %",
        lambda config: f"tower {config.tower}, initial weights {config.init}",
        _ranked,
    ),
    image_options.SweepConfig: Swept(
        image.EXPERIMENT,
        image_options.Config,
        image_options.Options,
        image_options.resolve,
        image_options.grid,
        False,
        ("accuracy", "ece", "test_loss"),
        "Accuracy %",
        lambda config: f"{config.model}, {config.dtype}",
        _tested,
    ),
}
