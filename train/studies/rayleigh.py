"""Twelve panels after Figure 2 of "How normalization and weight decay can affect SGD?"
(Noisy Rayleigh Quotient, ICLR submission).

The paper does not give the dimension, spectrum, noise, rate and decay. We chose them,
so only the shape of the curves can be compared. The rows show three angular updates in
equilibrium; a decay of the learning rate with and without rescaling; and one problem
from two starts, and from the second start with the rate and decay that make it
equivalent to the first.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lawn_optax as lawn
from lawn_optax import nrq
from train.plots import COLOURS, band, finish, new_figure
from train.report import markdown
from train.runs.progress import QUIET, ProgressReport
from train.runs.results import Findings
from train.studies import rayleigh_cifar


@dataclasses.dataclass(frozen=True)
class Choices:
    """Parameters that the paper leaves open, and the size of the simulation."""

    dim: int = 10
    gap: float = 1.0  # spectrum: 0, then dim - 1 times the gap
    sigma: float = 1.0  # of the gradient noise at norm 1
    rate: float = 0.5
    decay: float = 5e-3
    decays: tuple[float, ...] = (5e-3, 5e-4, 5e-5)  # of the first row
    factor: float = 10.0  # divides the rate in the second row
    start: float = 1.0  # standard deviation of the initial weights, third row
    stretch: float = 10.0  # of the initial weights, third row
    trials: int = 100  # as in the paper
    # Updates per row; the rate decays in the middle of the second row, at step 10,000
    # as in the paper.
    steps: tuple[int, int, int] = (4_000, 20_000, 2_000)
    records: int = 200  # per line

    @property
    def spectrum(self) -> np.ndarray:
        return np.array([0.0] + [self.gap] * (self.dim - 1))

    def describe(self) -> str:
        """All numbers in one line."""
        return (
            f"p = {self.dim}, spectrum 0 and {self.dim - 1} times {self.gap:g}, "
            f"sigma {self.sigma:g}, rate {self.rate:g}, decay {self.decay:g} (first row"
            f" {', '.join(f'{d:g}' for d in self.decays)}), {self.trials} trials"
        )


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve of a row: means over the trials at each recorded step, [records]."""

    label: str
    steps: np.ndarray
    loss: np.ndarray
    risk: np.ndarray
    risk_error: np.ndarray  # standard error of the mean
    angle: np.ndarray  # root mean square
    norm: np.ndarray
    predicted_norm: np.ndarray
    predicted_angle: np.ndarray
    predicted_risk: float  # limit of the risk


def compute(
    choices: Choices, seed: int = 0, progress: ProgressReport = QUIET
) -> list[list[Line]]:
    """Simulates the three rows.

    Args:
        choices: Parameters of the problem.
        seed: Seed of the starts and the noise.
        progress: Report of the lines; an update is one unit.

    Returns:
        Three rows of lines.
    """

    def line(label: str, row: int, *arguments: Any, **options: bool) -> Line:
        with progress.part(f"row {'abc'[row]}, {label}", choices.steps[row]):
            return _line(choices, label, row, seed, *arguments, **options)

    return [
        _equilibria(choices, seed, line),
        _escape(choices, seed, line),
        _starts(choices, seed, line),
    ]


def _equilibria(choices: Choices, seed: int, line: Callable[..., Line]) -> list[Line]:
    lines = []
    for decay in choices.decays:
        norm = float(
            nrq.equilibrium_norm(choices.sigma, choices.rate, decay, choices.dim)
        )
        x0 = _directions(choices, seed) * norm
        angle = np.sqrt(2 * choices.rate * decay)
        label = f"decay {decay:g}, angle {angle:.2g}"
        lines.append(line(label, 0, x0, choices.rate, decay))
    return lines


def _escape(choices: Choices, seed: int, line: Callable[..., Line]) -> list[Line]:
    law = choices.sigma, choices.rate, choices.decay
    x0 = _directions(choices, seed)
    x0 = x0 * float(nrq.equilibrium_norm(*law, choices.dim))
    start = x0, choices.rate, choices.decay
    return [
        line(f"rate / {choices.factor:g}", 1, *start, drop=True),
        line("and rescaled", 1, *start, drop=True, rescale=True),
    ]


def _starts(choices: Choices, seed: int, line: Callable[..., Line]) -> list[Line]:
    x0 = choices.start * _normal(choices, seed)
    moved, rate, decay = nrq.equivalent(
        x0, choices.rate, choices.decay, choices.stretch
    )
    lines = []
    for start, r, d in (
        (x0, choices.rate, choices.decay),
        (moved, choices.rate, choices.decay),
        (moved, float(rate), float(decay)),
    ):
        spread = choices.start if start is x0 else choices.start * choices.stretch
        label = f"rate {r:g}, decay {d:g}, start {spread:g}"
        lines.append(line(label, 2, start, r, d))
    return lines


def _normal(choices: Choices, seed: int) -> jax.Array:
    key = jax.random.key(seed)
    return jax.random.normal(key, (choices.trials, choices.dim))


def _directions(choices: Choices, seed: int) -> jax.Array:
    x = _normal(choices, seed)
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def _line(
    choices: Choices,
    label: str,
    row: int,
    seed: int,
    x0: jax.Array,
    rate: float,
    decay: float,
    *,
    drop: bool = False,
    rescale: bool = False,
) -> Line:
    total = choices.steps[row]
    every = max(total // choices.records, 1)
    half, factor = total // 2, choices.factor
    schedule = optax.piecewise_constant_schedule(rate, {half: 1 / factor})
    schedule = schedule if drop else optax.constant_schedule(rate)
    parts = [optax.add_decayed_weights(decay), optax.sgd(schedule)]
    if rescale:
        parts.append(lawn.rescale_on_decay(schedule, groups="layer"))
    _, seen = nrq.simulate(
        optax.chain(*parts),
        x0,
        jnp.asarray(choices.spectrum),
        choices.sigma,
        total // every * every,
        key=jax.random.key(seed + 1),
        every=every,
    )
    seen = jax.tree.map(np.asarray, seen)
    steps = every * np.arange(seen.norm.shape[0])
    # One value for each trial, because trials of the third row begin at other norms.
    start, times = seen.norm[:1], steps[:, None]
    law = choices.sigma, rate, decay, choices.dim
    norms = np.asarray(nrq.norm(times, start, *law))
    rates = np.full(times.shape, rate)
    if drop:
        then = np.asarray(nrq.norm(half, start, *law))
        then = then / factor**0.25 if rescale else then
        law = choices.sigma, rate / factor, decay, choices.dim
        after = nrq.norm(np.maximum(times - half, 0), then, *law)
        norms = np.where(times < half, norms, np.asarray(after))
        rates = np.where(times < half, rate, rate / factor)
    angles = np.asarray(nrq.angular_update(norms, choices.sigma, rates, choices.dim))
    risks = 1 - seen.alignment
    return Line(
        label=label,
        steps=steps,
        loss=seen.loss.mean(axis=1),
        risk=risks.mean(axis=1),
        risk_error=risks.std(axis=1, ddof=1) / np.sqrt(choices.trials),
        angle=np.sqrt(np.mean(seen.angular_update**2, axis=1)),
        norm=seen.norm.mean(axis=1),
        predicted_norm=norms.mean(axis=1),
        predicted_angle=np.sqrt(np.mean(angles**2, axis=1)),
        predicted_risk=float(
            nrq.stationary_risk(
                jnp.asarray(choices.spectrum), choices.sigma, rates[-1, 0], decay
            )
        ),
    )


def table(rows: list[list[Line]]) -> str:
    """A table of the limits of each line beside their predictions."""
    cells = []
    for letter, row in zip("abc", rows, strict=True):
        for line in row:
            end = slice(-max(line.risk.size // 10, 1), None)
            risk, error = line.risk[end].mean(), line.risk_error[end].mean()
            cells.append(
                [
                    letter,
                    line.label,
                    f"{risk:.4f} ± {error:.4f}",
                    f"{line.predicted_risk:.4f}",
                    f"{line.risk.min():.4f}",
                    f"{line.angle[end].mean():.5f}",
                    f"{line.predicted_angle[-1]:.5f}",
                ]
            )
    header = ["row", "line", "risk at the end", "predicted", "lowest risk"]
    return markdown.table([*header, "angle, rad", "predicted"], cells)


def draw(path: Path, rows: list[list[Line]], choices: Choices) -> None:
    """Draws the twelve panels.

    Args:
        path: Path of the PNG file to write.
        rows: Lines from `compute`.
        choices: Parameters that `compute` was given, for the title.
    """
    figure = new_figure(16, 10.5)
    panels = figure.subplots(3, 4)
    titles = (
        "In equilibrium",
        f"Rate divided by {choices.factor:g}",
        "Other starts, rates and decays",
    )
    letters = iter("abcdefghijkl")
    for axes_row, lines, title in zip(panels, rows, titles, strict=True):
        loss, risk, angle, norm = axes_row
        for k, (line, colour) in enumerate(zip(lines, COLOURS, strict=False)):
            # Earlier lines are wider, so that they show where later ones cover them.
            style: dict[str, Any] = {"color": colour, "lw": 2.6 - 0.8 * k}
            loss.plot(line.steps, line.loss, label=line.label, **style)
            low, high = line.risk - line.risk_error, line.risk + line.risk_error
            band(risk, line.steps, line.risk, low, high, **style)
            risk.axhline(line.predicted_risk, color=colour, ls=":", lw=1)
            angle.plot(line.steps, line.angle, **style)
            angle.plot(line.steps, line.predicted_angle, color="black", ls=":", lw=1)
            norm.plot(line.steps, line.norm, **style)
            norm.plot(line.steps, line.predicted_norm, color="black", ls=":", lw=1)
        loss.legend(frameon=False, fontsize="small")
        for axes, name in zip(
            axes_row,
            ("loss", "risk 1 - E[f]", "angular update (radians)", "norm of x"),
            strict=True,
        ):
            axes.set(yscale="log", ylabel=name)
            axes.set_title(f"({next(letters)}) {title}", fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("updates")
    figure.suptitle(
        'Noisy Rayleigh quotient, in the shape of Figure 2 of "How normalization and'
        f' weight decay can affect SGD?"\n{choices.describe()}\nlines: means over the'
        " trials (root mean square of angles), bands: standard error, dotted:"
        " predictions (of the risk its limit)",
        fontsize=10,
    )
    finish(figure, path)


def report(data_dir: Path | None = None, full: bool = False) -> Findings:
    """The findings, and what draws the figure.

    With a folder of CIFAR-10 they are those of `train.studies.rayleigh_cifar`.
    """
    if data_dir is not None:
        return rayleigh_cifar.report(data_dir, full)
    choices = Choices()
    equilibria, escape, starts = choices.steps
    total = len(choices.decays) * equilibria + 2 * escape + 3 * starts
    with ProgressReport(total) as progress:
        rows = compute(choices, progress=progress)
    text = (
        f"Noisy Rayleigh quotient: {choices.describe()}.\n"
        "Claims: a smaller angular update ends at a lower risk, later (a); after a"
        " decay of the rate the risk falls below its limit and comes back, unless the"
        " weights are rescaled (b); the start matters only through rate and decay"
        " (c).\n\n"
        f"{table(rows)}"
    )
    return text, {"rayleigh.png": partial(draw, rows=rows, choices=choices)}
