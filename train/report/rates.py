"""The best learning rates of sweeps, by a fit."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

NEIGHBOURS = 2  # Rates on each side of the best one that a fit may use.
# What a sweep may differ in: of the model and of the training, by name in a table.
OPTIONS = {
    "width": "width",
    "depth": "depth",
    "block": "block",
    "batch_size": "batch",
    "epochs": "length",
    "heads": "heads",
    "attention_width": "attention-width",
    "norm": "norm",
    "positions": "positions",
    "qk_norm": "qk-norm",
    "activation": "activation",
    "tied": "tied",
    "dropout": "dropout",
    "dtype": "dtype",
}
# Options of a method. Its name has them where they are not those of most of its trials.
METHOD = {
    "init": "init",
    "output_scale": "output-scale",
    "project": "project",
    "head": "head",
    "embeddings": "embeddings",
    "vectors": "vectors",
    "adam_rate": "adam-rate",
}


class Trials(NamedTuple):
    """The trials of one optimizer in one sweep that differ in rate and seed alone."""

    optimizer: str
    others: str  # Weight decay, free epochs and options of the method, in words.
    options: Mapping[str, Any]  # Those of the sweep.
    rates: np.ndarray  # [r], increasing
    losses: np.ndarray  # [seeds, r]; infinite where a trial diverged
    seeds: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best rate of some trials.

    Attributes:
        log2_rate: Its logarithm; NaN if there is none.
        half: Half the width of the 95% interval of `log2_rate`; NaN where as many
            losses as unknowns leave no residuals.
        losses: Lowest point of each seed's parabola, ``[seeds]``.
        reason: Why there is none.
    """

    log2_rate: float = np.nan
    half: float = np.nan
    losses: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    reason: str = ""

    @property
    def rate(self) -> float:
        """The rate itself."""
        return float(2**self.log2_rate)

    def text(self) -> str:
        """The rate and the factor of its interval, or why there is none."""
        if self.reason:
            return self.reason
        error = f" ×/÷ {2**self.half:.2f}" if np.isfinite(self.half) else ""
        return f"{self.rate:.3g}{error}"


def fit(trials: Trials) -> Optimum:
    """Fits the best rate of some trials, as `train.report.drift.NOTE` says."""
    means = trials.losses.mean(0)
    best = int(np.argmin(means))
    if not np.isfinite(means[best]):
        return Optimum(reason="every rate has a seed that diverged")
    window = slice(max(best - NEIGHBOURS, 0), best + NEIGHBOURS + 1)
    x, losses = np.log2(trials.rates[window]), trials.losses[:, window]
    finite = np.isfinite(losses).all(0)
    x, losses, middle = x[finite], losses[:, finite], np.log2(trials.rates[best])
    if not (x < middle).any() or not (x > middle).any():
        return Optimum(reason=f"at the edge: {trials.rates[best]:.3g}")
    x = x - middle
    levels, slope, square, covariance, free = _parabola(x, losses)
    if square <= 0:
        return Optimum(reason="the losses have no lowest point")
    offset = -slope / (2 * square)
    if not x[0] <= offset <= x[-1]:
        return Optimum(reason="the fit leaves the rates tried")
    half = np.nan
    if free:
        from scipy import stats  # Here, because it takes half a second to import.

        # Derivatives of the offset with respect to slope and square.
        gradient = np.array([-1, slope / square]) / (2 * square)
        half = stats.t.ppf(0.975, free) * np.sqrt(gradient @ covariance @ gradient)
    lowest = levels - slope**2 / (4 * square)
    return Optimum(float(middle + offset), float(half), lowest)


def _parabola(
    x: np.ndarray, losses: np.ndarray
) -> tuple[np.ndarray, float, float, np.ndarray, int]:
    """Least squares of ``losses[s, r] = level[s] + slope x[r] + square x[r]^2``.

    Returns:
        Levels, ``[s]``; slope; square; the covariance of slope and square,
        ``[2, 2]``; and the degrees of freedom of the residuals, without which the
        covariance is 0.
    """
    seeds, rates = losses.shape
    shape = np.tile(np.stack([x, x**2], 1), (seeds, 1))
    design = np.hstack([np.repeat(np.eye(seeds), rates, 0), shape])
    found, *_ = np.linalg.lstsq(design, losses.ravel(), rcond=None)
    free = losses.size - seeds - 2
    residuals = losses.ravel() - design @ found
    variance = residuals @ residuals / free if free else 0.0
    covariance = variance * np.linalg.inv(design.T @ design)[-2:, -2:]
    return found[:seeds], float(found[-2]), float(found[-1]), covariance, free


class Loss(NamedTuple):
    """The loss of one trial; infinite if it diverged."""

    optimizer: str
    others: str
    rate: float
    seed: int
    value: float


def read(rows: Sequence[Mapping[str, Any]], metric: str) -> list[Loss]:
    """The losses in the rows of a sweep.

    Args:
        rows: Its trials.
        metric: The loss, or another number whose lowest value is the best.

    Raises:
        ValueError: For a rate that is not positive and finite.
    """
    found = []
    for row in rows:
        words = {"weight_decay": "decay", "free_epochs": "free", "flood": "flood"}
        others = ", ".join(
            f"{word} {row[key]:g}" for key, word in words.items() if row.get(key)
        )
        rate = row["learning_rate"]
        if not 0 < rate < np.inf:
            raise ValueError("a fit needs the logarithm of the rate")
        value = row[metric] if row["outcome"] == "finished" else np.inf
        found.append(Loss(row["optimizer"], others, rate, row["seed"], value))
    return found


def collect(options: Mapping[str, Any], losses: Sequence[Loss]) -> list[Trials]:
    """The trials of each optimizer and each choice of the rest.

    Args:
        options: What the losses have in common.
        losses: Losses of any trials.

    Returns:
        Those with three rates or more and with every seed at each rate.
    """
    found: dict[tuple[str, str], dict[float, dict[int, float]]] = {}
    for loss in losses:
        by_rate = found.setdefault((loss.optimizer, loss.others), {})
        by_rate.setdefault(loss.rate, {})[loss.seed] = loss.value
    complete = []
    for (optimizer, others), by_rate in found.items():
        rates = sorted(by_rate)
        seeds = sorted(set.intersection(*(set(by_rate[rate]) for rate in rates)))
        if len(rates) >= 3 and seeds:
            table = [[by_rate[rate][seed] for rate in rates] for seed in seeds]
            arrays = np.array(rates), np.array(table)
            complete.append(Trials(optimizer, others, options, *arrays, tuple(seeds)))
    return complete


def named(found: Sequence[Trials]) -> list[Trials]:
    """The trials, with the options of their method in words where these are unusual."""
    by_method: dict[str, list[Trials]] = {}
    for trials in found:
        by_method.setdefault(trials.optimizer, []).append(trials)
    usual = {
        (name, key): collections.Counter(t.options.get(key) for t in members)
        for name, members in by_method.items()
        for key in METHOD
    }
    renamed = []
    for trials in found:
        words = [trials.others] * bool(trials.others)
        for key, label in METHOD.items():
            value = trials.options.get(key)
            if value != usual[trials.optimizer, key].most_common(1)[0][0]:
                words.append(label if value is True else f"{label} {value}")
        renamed.append(trials._replace(others=", ".join(words)))
    return renamed


def by_text(found: Sequence[Trials]) -> dict[str, list[Trials]]:
    """The trials by the data set, and by the text where several have its name."""
    texts = {(t.options["dataset"], t.options["text_sha256"]) for t in found}
    names = [name for name, _ in texts]
    parts: dict[str, list[Trials]] = {}
    for trials in found:
        name, text = trials.options["dataset"], trials.options["text_sha256"]
        name += f"-{text}"[:9] if names.count(name) > 1 else ""
        parts.setdefault(name, []).append(trials)
    return parts
