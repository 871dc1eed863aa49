"""Least squares with more monomials than points, and noise that descent cannot see.

As in Banburski et al. 2019, "Theory III: Dynamics and Generalization in Deep Networks",
Appendix 9, Figures 5, 6, 7 and 10; NMGD is their eqs. 9 and 26. Gradient descent on a
quadratic loss is linear, so millions of updates are products of known factors, in
float64.

The paper leaves some choices open. Here the loss is half the mean square, the weights
start at 0, and points that are not Chebyshev nodes are uniformly distributed.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.plots import COLOURS, finish, new_figure
from train.report import markdown
from train.runs.progress import QUIET, ProgressReport
from train.runs.results import Findings
from train.studies.polynomials_smallest_norm import (
    DEGREES,
    Smallest,
    chebyshev,
    smallest_norms,
    target,
)

RATE, POINTS, TESTS, RUNS = 0.2, 9, 100, 30  # as in the paper
STEPS = 250_000  # of Figures 5 and 7
LONG, EVERY = 10_000_000, 120_000  # of Figure 6: in all, and between perturbations
NOISE = 0.45  # standard deviation of a perturbation in Figure 6; 0.6 in Figure 7
POWER = 0.9  # of NMGD
COURSES = 7  # that `courses` returns


class Fit(NamedTuple):
    """A problem of least squares, and points to test it on."""

    features: np.ndarray  # float64[points, monomials]
    targets: np.ndarray  # float64[points]
    test_features: np.ndarray  # float64[tests, monomials]
    test_targets: np.ndarray  # float64[tests]


class Course(NamedTuple):
    """Errors and norms of some runs."""

    times: np.ndarray  # int[times]; updates done
    training: np.ndarray  # float64[times, runs]; mean square
    test: np.ndarray  # float64[times, runs]; mean square
    norm: np.ndarray  # float64[times, runs]


# ------------------------------------------------------------------------ problem


def polynomial(x: np.ndarray, degree: int) -> Fit:
    """The problem of fitting the target at points x by monomials up to a degree."""
    tests = np.linspace(-1, 1, TESTS)
    powers = np.arange(degree + 1)
    return Fit(x[:, None] ** powers, target(x), tests[:, None] ** powers, target(tests))


# ------------------------------------------------------------------------ descent


def descend(
    fit: Fit,
    start: np.ndarray,
    times: np.ndarray,
    *,
    power: float | None = None,
    kick: float = 0.0,
    until: int = 0,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Computes the weights of gradient descent, or of NMGD, at some times.

    An update multiplies the distance to the solution by 1 - rate * eigenvalue along
    each eigenvector of the Hessian, and changes nothing else; NMGD then multiplies the
    weights by 1 - s.

    Args:
        fit: The problem.
        start: float64[runs, monomials], the weights at the first time.
        times: Numbers of updates, rising.
        power: The power a of NMGD, whose s is 1 / (n + 1)^a in update n = 1, 2, ...;
            None for gradient descent.
        kick: Standard deviation of the noise that is added to all weights at each time
            except the first, after they have been recorded.
        until: Time from which there is no noise.
        rng: Generator of the noise.

    Returns:
        float64[times, runs, monomials].
    """
    root = np.sqrt(len(fit.targets))
    u, s, v = np.linalg.svd(fit.features / root, full_matrices=False)
    goal, steps = u.T @ fit.targets / root / s, RATE * s**2
    w, found = start, [start]
    for k, (now, then) in enumerate(zip(times[:-1], times[1:], strict=True)):
        if kick and k and now < until:
            assert rng is not None
            w = w + kick * rng.normal(size=w.shape)
        kept, gained, rest = _factors(steps, now, then, power)
        seen = w @ v.T
        w = rest * (w - seen @ v) + (kept * seen + gained * goal) @ v
        found.append(w)
    return np.array(found)


def _factors(steps: np.ndarray, now: int, then: int, power: float | None) -> Any:
    """Shares after updates now + 1 to then.

    Returns:
        The share that is left of the weights along each eigenvector, the share of the
        solution that they have reached, and the share that is left of other weights.
    """
    count = then - now
    if power is None:
        kept = (1 - steps) ** count
        # For small steps, 1 - kept would be rounding error.
        small = np.where(steps < 0.5, steps, 0)
        gained = np.where(small > 0, -np.expm1(count * np.log1p(-small)), 1 - kept)
        return kept, gained, 1.0
    left = 1 - (np.arange(now + 1, then + 1) + 1.0) ** -power
    after = np.ones((count + 1, len(steps)))  # the product of all later factors
    np.cumprod((left[:, None] * (1 - steps))[::-1], axis=0, out=after[1:])
    gained = (left @ after[:-1][::-1]) * steps
    return after[-1], gained, np.prod(left)


def measure(fit: Fit, times: np.ndarray, ws: np.ndarray) -> Course:
    """Errors and norms of weights from `descend`."""
    square = lambda x, y: np.mean((ws @ x.T - y) ** 2, axis=-1)  # noqa: E731
    return Course(
        times,
        square(fit.features, fit.targets),
        square(fit.test_features, fit.test_targets),
        np.linalg.norm(ws, axis=-1),
    )


def courses(runs: int = RUNS, progress: ProgressReport = QUIET) -> dict[str, Course]:
    """Computes the runs of Figures 5 to 7, and NMGD with the noise of Figure 6."""
    short = np.unique(np.r_[0, np.geomspace(1, STEPS, 60).astype(int)])
    found = {}
    uniform = [np.random.default_rng(r).uniform(-1, 1, POINTS) for r in range(runs)]
    for degree in (30, 4):
        name = f"degree {degree}, uniform points"
        with progress.part(name):
            found[name] = _each(uniform, degree, short)
    nodes = chebyshev(POINTS)
    with progress.part(name := "degree 4, nodes"):
        found[name] = _course(polynomial(nodes, 4), short, 1)
    for where, points in (("uniform points", uniform), ("nodes", [nodes] * runs)):
        name = f"degree 4, {where}, perturbed"
        times = np.arange(0, STEPS, 4000)
        with progress.part(name):
            found[name] = _each(points, 4, times, kick=0.6, until=STEPS)
    rest: dict[str, Any] = {"kick": NOISE, "until": LONG // 2}
    times, fit = np.arange(0, LONG + 1, EVERY), polynomial(nodes, 39)
    for name, power in (("descent", None), ("NMGD", POWER)):
        rng = np.random.default_rng(0)  # the same noise
        name = f"degree 39, {name}"
        with progress.part(name):
            found[name] = _course(fit, times, runs, power=power, rng=rng, **rest)
    return found


def _course(fit: Fit, times: np.ndarray, runs: int, **rest: Any) -> Course:
    start = np.zeros((runs, fit.features.shape[1]))
    return measure(fit, times, descend(fit, start, times, **rest))


def _each(points: list[np.ndarray], degree: int, times: np.ndarray, **rest: Any) -> Any:
    """Runs that each have their own points."""
    alone = []
    for seed, x in enumerate(points):
        rng = np.random.default_rng((seed, 1))
        alone.append(_course(polynomial(x, degree), times, 1, rng=rng, **rest))
    stacked = zip(*(course[1:] for course in alone), strict=True)
    return Course(times, *(np.concatenate(x, axis=1) for x in stacked))


def smallest(fit: Fit) -> np.ndarray:
    """The solution of smallest norm."""
    return np.linalg.lstsq(fit.features, fit.targets, rcond=None)[0]


# ------------------------------------------------------------------------- report


def random_walk(kicks: np.ndarray) -> np.ndarray:
    """Root mean square norm after some perturbations of Figure 6, from weights 0.

    Descent removes a perturbation except for the 40 - 9 numbers of it that the gradient
    cannot see.
    """
    fit = polynomial(chebyshev(POINTS), 39)
    hidden = fit.features.shape[1] - POINTS
    return np.sqrt(np.linalg.norm(smallest(fit)) ** 2 + kicks * hidden * NOISE**2)


def hidden_risk() -> float:
    """Expected increase of the test error by one perturbation of Figure 6."""
    fit = polynomial(chebyshev(POINTS), 39)
    tests = fit.test_features
    v = np.linalg.svd(fit.features, full_matrices=False)[2]
    return NOISE**2 * float(np.mean(np.sum((tests - tests @ v.T @ v) ** 2, axis=1)))


def figure(path: Path, found: Mapping[str, Course], norms: Smallest) -> None:
    """Draws errors and norms of Figures 5 to 7 and 10.

    Args:
        path: Path of the PNG file to write.
        found: Runs from `courses`.
        norms: Solutions from `smallest_norms`.
    """
    drawing = new_figure(13, 8)
    axes = drawing.subplots(2, 3)
    many, few, degrees, short, walk, kicked = axes.flat

    def errors(panel: Any, course: Course, scale: Any, colour: str, label: str) -> None:
        at = course.times[1:] / scale
        for values, style, what in (
            (course.training, "--", "training"),
            (course.test, "-", "test"),
        ):
            mean = values[1:].mean(axis=1)
            panel.plot(at, mean, style, color=colour, label=f"{label}{what}")

    errors(many, found["degree 30, uniform points"], 1, COLOURS[0], "")
    many.set(title="Figure 5: degree 30, 9 points", xscale="log", xlabel="update")
    errors(few, found["degree 4, nodes"], 1, COLOURS[0], "")
    errors(few, found["degree 4, nodes, perturbed"], 1, COLOURS[1], "perturbed, ")
    few.set(title="Figure 7: degree 4, 9 nodes", xscale="log", xlabel="update")
    degrees.plot(norms.monomials, norms.exact, color=COLOURS[0], label="exact")
    degrees.plot(norms.monomials, norms.rounded, color=COLOURS[1], label="float64")
    degrees.axvline(76, color="grey", ls=":", label="as many as points")
    degrees.set(title="Figure 10: smallest norm, test", xlabel="monomials")
    for k, name in enumerate(("degree 30, uniform points", "degree 4, nodes")):
        course = found[name]
        norm = course.norm[1:].mean(axis=1)
        short.plot(course.times[1:], norm, color=COLOURS[k], label=name)
    short.set(title="Figures 5 and 7: norm", xlabel="update", xscale="log")
    for k, name in enumerate(("descent", "NMGD")):
        course = found[f"degree 39, {name}"]
        at, norm = course.times[1:] / 1e6, course.norm[1:].mean(axis=1)
        walk.plot(at, norm, color=COLOURS[k], label=name)
        errors(kicked, course, 1e6, COLOURS[k], f"{name}, ")
    course = found["degree 39, descent"]
    kicks = np.minimum(np.arange(len(course.times) - 1), _kicks(course))
    walk.plot(
        course.times[1:] / 1e6, random_walk(kicks), "k:", label="random walk, predicted"
    )
    walk.axhline(random_walk(np.array(0)), color="grey", ls="--", label="smallest norm")
    walk.set(title="Figure 6: degree 39, perturbed, norm", xlabel="million updates")
    kicked.set(title="Figure 6: errors", xlabel="million updates", ylim=(1e-9, 1e3))
    few.set(ylim=(0, 0.6), ylabel="mean square")
    for panel in (many, degrees, kicked):
        panel.set(yscale="log", ylabel="mean square")
    for panel in (short, walk):
        panel.set(ylabel="norm of the weights")
    for panel in axes.flat:
        panel.legend(frameon=False, fontsize="small")
    finish(drawing, path)


def _kicks(course: Course) -> int:
    return int(np.sum((course.times > 0) & (course.times < LONG // 2)))


def report() -> Findings:
    """The findings, and what draws the figure."""
    with ProgressReport(COURSES + len(DEGREES)) as progress:
        found = courses(progress=progress)
        norms = smallest_norms(progress=progress)
    rows = [
        [
            name,
            f"{course.training[-1].mean():.2g}",
            f"{course.test.mean(axis=1).min():.3f}",
            f"{course.test[-1].mean():.3f}",
            f"{np.median(course.test[-1]):.3f}",
            f"{np.sqrt(np.mean(course.norm[-1] ** 2)):.2f}",
        ]
        for name, course in found.items()
    ]
    header = ["run", "training error", "lowest test error", "last", "median", "norm"]
    walk = found["degree 39, descent"]
    kicks = _kicks(walk)
    change = walk.test[-1] - walk.test[1]
    error = change.std(ddof=1) / np.sqrt(len(change))
    kicked = walk.training[2 : kicks + 2].mean()
    shown = {*range(1, len(norms.monomials), 4), int(np.argmin(norms.exact))}
    picks = [
        [f"{norms.monomials[k]}", f"{norms.exact[k]:.1e}", f"{norms.rounded[k]:.1e}"]
        for k in sorted(shown)
    ]
    nodes = found["degree 4, nodes"]
    best = np.argmin(nodes.test[:, 0])
    text = (
        f"A sine of frequency 4 on [-1, 1] by monomials, {POINTS} points, rate"
        f" {RATE:g}, means over {len(change)} runs; errors are mean squares, 0.495 for"
        " weights of 0, the start. Norm: root mean square. Fits with 9 points are"
        " poor at any degree.\n\n"
        + markdown.table(header, rows)
        + "\n\nFigure 5, says the paper, overfits in the test error: yes. Figure 7,"
        " degree 4, does not, also when perturbed: mildly at Chebyshev nodes, where the"
        f" test error is lowest after {nodes.times[best]} updates,"
        f" {nodes.test[best, 0]:.4f}, and ends at {nodes.test[-1, 0]:.4f}, above the"
        f" {nodes.test[0, 0]:.4f} of weights of 0; strongly at uniform points, where"
        " some runs have no point near an end.\n"
        f"Figure 6, {kicks} perturbations by noise of {NOISE:g} in the first half. The"
        " norm walks at random in the directions that the gradient cannot see: yes, to"
        f" {random_walk(np.array(kicks)):.2f} in expectation, from the smallest,"
        f" {random_walk(np.array(0)):.2f}. The training error comes back to machine"
        f" precision each time: no, to {kicked:.0e} at this rate. The test error"
        f" rises: by {kicks * hidden_risk():.3f} in expectation, so little that these"
        f" runs do not show it ({change.mean():.3f} ± {error:.3f}, standard error)."
        " NMGD comes back to the smallest norm whatever the weights were: yes; descent"
        " does not.\n"
        "Figure 10, the solution of smallest norm overfits eventually: yes, in exact"
        " arithmetic (150 digits) too; float64 makes the error"
        f" {norms.rounded[-1] / norms.exact[-1]:.0f} times as large at the end.\n\n"
        + markdown.table(["monomials", "test error", "in float64"], picks)
    )
    return text, {"polynomials.png": partial(figure, found=found, norms=norms)}
