"""Simulated trials of the noisy Rayleigh quotient, for `train.studies.rayleigh`.

Three rows of lines: in equilibrium, after a decay of the rate, and from other starts.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lawn_optax as lawn
from lawn_optax import nrq
from train.runs.progress import QUIET, ProgressReport


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
    parts: int = 4  # steps per update of the differential equation, first row

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
    equation: np.ndarray | None = None  # risk by the differential equation


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
        with progress.part(f"row {'abc'[row]}, {label}", units(choices, row)):
            return _line(choices, label, row, seed, *arguments, **options)

    return [
        _equilibria(choices, seed, line),
        _escape(choices, seed, line),
        _starts(choices, seed, line),
    ]


def units(choices: Choices, row: int) -> int:
    """Updates of a line, and the steps of its differential equation."""
    return choices.steps[row] * (1 if row else 1 + choices.parts)


def _equilibria(choices: Choices, seed: int, line: Callable[..., Line]) -> list[Line]:
    lines = []
    for decay in choices.decays:
        norm = float(
            nrq.equilibrium_norm(choices.sigma, choices.rate, decay, choices.dim)
        )
        x0 = _directions(choices, seed) * norm
        angle = np.sqrt(2 * choices.rate * decay)
        label = f"decay {decay:g}, angle {angle:.2g}"
        lines.append(line(label, 0, x0, choices.rate, decay, equation=True))
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
    equation: bool = False,
) -> Line:
    total = choices.steps[row]
    every = max(total // choices.records, 1)
    half, factor = total // 2, choices.factor
    schedule = optax.piecewise_constant_schedule(rate, {half: 1 / factor})
    schedule = schedule if drop else optax.constant_schedule(rate)
    parts = [optax.add_decayed_weights(decay), optax.sgd(schedule)]
    if rescale:
        parts.append(lawn.rescale_on_decay(schedule, groups="layer"))
    run = partial(_simulated, choices, x0, seed, total // every * every, every)
    seen, other = run(optax.chain(*parts), choices.sigma), None
    if equation:
        n = choices.parts
        noise, part = nrq.euler_maruyama(choices.sigma, rate, n)
        sgd = optax.chain(optax.add_decayed_weights(decay), optax.sgd(part))
        other = 1 - np.mean(run(sgd, noise, n).alignment, axis=1)
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
        equation=other,
    )


def _simulated(
    choices: Choices,
    x0: jax.Array,
    seed: int,
    total: int,
    every: int,
    tx: optax.GradientTransformation,
    sigma: jax.Array | float,
    parts: int = 1,
) -> Any:
    """Records every so many updates, each in some parts."""
    spectrum, key = jnp.asarray(choices.spectrum), jax.random.key(seed + 1)
    steps, every = parts * total, parts * every
    _, seen = nrq.simulate(tx, x0, spectrum, sigma, steps, key=key, every=every)
    return jax.tree.map(np.asarray, seen)


def quadratic_limits(choices: Choices) -> np.ndarray:
    """Limits of the quadratic model's mean loss at the decays of the first row."""
    last, start, spectrum = 10**9, jnp.zeros(choices.dim), jnp.asarray(choices.spectrum)
    law = choices.sigma, choices.rate
    limits = [
        nrq.quadratic_risk(last, start, spectrum, *law, d) for d in choices.decays
    ]
    return np.array(limits)
