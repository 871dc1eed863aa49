"""What the training loop, sweeps and `evaluate` need to know about a kind of run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flax import linen as nn

from train.devices import Devices


class Programs(NamedTuple):
    """What a run computes, in pure functions of arrays, and how that is reported.

    Attributes:
        model: The network.
        start: ``(trial) -> state``. A state has ``opt_state`` and ``diverged_step``.
        advance: ``(state, trial, data, first_epoch, last_epoch) -> (state, loss)``.
        step: The same for one update, ``(state, trial, data, epoch, number) -> (state,
            loss)``, where Python is to loop; None where whole epochs are one program.
        evaluate: ``(state, trial, data) -> (metrics by name, details)``.
        steps_per_epoch: Updates.
        epoch_size: Samples.
        metric: Name of the one by which the best evaluation is found.
        describe: Its value in words, for the progress report.
        documents: What to keep of the details of the last evaluation, by the names of
            JSON files.
        draw: Draws the curves: ``(path, rows of metrics, step of the switch)``.
        conclude: The result in words: ``(options, rows of metrics)``.
        introduction: What is trained, in a few lines.
        at_once: Trials that a sweep may train side by side.
        loop: Makes what trains and evaluates, from the devices and the loaded data; by
            default a `training.Resident`, for which these become arrays.
    """

    model: nn.Module
    start: Callable[..., Any]
    advance: Callable[..., Any]
    step: Callable[..., Any] | None
    evaluate: Callable[..., Any]
    steps_per_epoch: int
    epoch_size: int
    metric: str
    describe: Callable[[float], str]
    documents: Callable[[Any], Mapping[str, Any]]
    draw: Callable[[Path, list[dict[str, Any]], int], None]
    conclude: Callable[[Mapping[str, Any], list[dict[str, Any]]], str]
    introduction: str
    at_once: int = 1
    loop: Callable[[Devices, Any], Any] | None = None


class Experiment(NamedTuple):
    """A kind of run.

    Attributes:
        name: As on the command line.
        load: Reads the data that a run with some options needs.
        prepare: ``(options, data, devices) -> Programs``.
        arrays: Those data as arrays, if they are to lie on the devices.
    """

    name: str
    load: Callable[[Any], Any]
    prepare: Callable[[Any, Any, Devices], Programs]
    arrays: Callable[[Any], Any]
