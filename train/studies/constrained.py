"""Constrained descent on separable data, and how norms grow without constraints.

After Banburski et al. 2019, "Theory III: Dynamics and Generalization in Deep Networks":
sections 6 and 12 (methods), Appendix 22 and Figure 11 (growth). The paper has no data
for the linear case; ours are random. What LAMB does to the norm is in
`train.studies.constrained_lamb`.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lawn_optax as lawn
from lawn_optax import baselines
from train.plots import COLOURS, finish, new_figure
from train.report import markdown
from train.runs.progress import QUIET, ProgressReport
from train.runs.results import Findings
from train.studies import constrained_lamb as lamb

# Methods on the sphere whose steps are as long as the gradient, like those of LAWN.
_SPHERE = (
    "Lagrange multiplier",
    "coefficients",
    "tangent gradient",
    "natural gradient",
    "LAWN, reparametrised",
)


class Trajectory(NamedTuple):
    """The weights of one method, update by update."""

    margin: np.ndarray  # float64[steps + 1]; smallest margin of the normalised weights
    angle: np.ndarray  # float64[steps + 1]; radians to the direction of largest margin
    norm: np.ndarray  # float64[steps + 1]
    direction: np.ndarray  # float64[steps + 1, 4]; the normalised weights


class Growth(NamedTuple):
    """Norms of a network of some depth against time."""

    time: np.ndarray  # float64[points]
    product: np.ndarray  # float64[points]; product of the layers' norms
    layer: np.ndarray  # float64[points]; norm of each layer


def separable(seed: int = 3) -> np.ndarray:
    """Eleven points times their labels, float64[11, 4], separable through the origin.

    The last input is a constant 1, whose weight is the bias.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(14, 4))
    x[:, -1] = 1
    score = x @ np.array([1.0, -0.5, 0.8, 0.3])
    keep = np.abs(score) > 0.3
    return x[keep] * np.sign(score[keep])[:, None]


def max_margin(points: np.ndarray) -> np.ndarray:
    """The unit vector of largest margin for points times labels.

    The support-vector machine always fits an intercept. With the mirror image of each
    point among the data, the intercept is 0.
    """
    from sklearn.svm import SVC  # Here, because it takes a while to import.

    x = np.concatenate([points, -points])
    y = np.repeat([1.0, -1.0], len(points))
    w = SVC(kernel="linear", C=1e8, tol=1e-10).fit(x, y).coef_[0]
    return w / np.linalg.norm(w)


def methods(rate: float = 1.0) -> dict[str, optax.GradientTransformation]:
    """All methods, by the names that the figure shows."""
    sgd = optax.sgd(rate)
    shrinking = lambda count: 1 / (count + 4.0)  # noqa: E731
    # At a constant rate, v would turn faster and faster as g grows, and oscillate.
    slower = optax.sgd(lambda t: rate * (1 + 0.3 * t) ** -2.0)
    parts = baselines.Polar("v", "g")
    apart = optax.partition({"v": slower, "g": sgd}, parts)
    # Eqs. 12 to 14: v has unit norm, and g is the paper's rho, which grows. Otherwise v
    # itself grows too, and turns less for it.
    slower_still = optax.sgd(lambda t: rate * (1 + 0.5 * t) ** -2.0)
    on_sphere = optax.chain(slower_still, baselines.unit_norm("lagrange"))
    unit = optax.partition({"v": on_sphere, "g": sgd}, parts)
    return {
        "gradient descent": sgd,
        "NMGD, a = 0.75": baselines.nmgd(rate, 0.75),
        "weight normalisation": baselines.weight_normalization(apart),
        "unit norm, growing ρ": baselines.weight_normalization(unit),
        "Lagrange multiplier": optax.chain(sgd, baselines.unit_norm("lagrange")),
        "coefficients": optax.chain(sgd, baselines.unit_norm("coefficient")),
        "tangent gradient": optax.chain(sgd, baselines.unit_norm("tangent")),
        "natural gradient": optax.chain(sgd, baselines.unit_norm("natural")),
        "LAWN": lawn.wrap(sgd),
        "LAWN, reparametrised": baselines.reparametrize(sgd),
        "hyperball, 1/t": optax.chain(sgd, baselines.hyperball(shrinking)),
    }


def margins(
    steps: int = 5000, norm: float = 40.0, progress: ProgressReport = QUIET
) -> dict[str, Trajectory]:
    """Trains with each method, from one random direction.

    The loss is the logarithm of the exponential loss summed over the points. Gradient
    flow of both takes the same path, at another speed.

    Args:
        steps: Updates per method.
        norm: Norm of weights that are constrained. Methods that let the norm grow start
            from norm 1.
        progress: Report of the methods as they train.

    Returns:
        The trajectories, by method.
    """
    points = separable()
    best = max_margin(points)
    start = np.random.default_rng(5).normal(size=(4, 1))
    start /= np.linalg.norm(start)
    free = {
        "gradient descent",
        "NMGD, a = 0.75",
        "weight normalisation",
        "unit norm, growing ρ",
    }
    found = {}
    for name, tx in methods().items():
        with progress.part(name):
            first = (1.0 if name in free else norm) * start
            found[name] = _trajectory(_train(tx, first, points, steps), points, best)
    return found


def _train(
    tx: optax.GradientTransformation, start: np.ndarray, points: np.ndarray, steps: int
) -> np.ndarray:
    z = jnp.asarray(points, jnp.float32)

    def loss(w):
        return jax.nn.logsumexp(-z @ w[:, 0])

    def body(carry, _):
        w, state = carry
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        w = w + updates
        return (w, state), w[:, 0]

    w = jnp.asarray(start, jnp.float32)
    run = jax.jit(lambda w: jax.lax.scan(body, (w, tx.init(w)), length=steps)[1])
    return np.concatenate([start.T, np.asarray(run(w), np.float64)])


def _trajectory(ws: np.ndarray, points: np.ndarray, best: np.ndarray) -> Trajectory:
    norm = np.linalg.norm(ws, axis=1)
    units = ws / norm[:, None]
    return Trajectory((units @ points.T).min(axis=1), _angle(units, best), norm, units)


def _angle(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Angle between unit vectors. The chord is exact where the cosine rounds to 1."""
    return 2 * np.arcsin(np.linalg.norm(one - other, axis=-1) / 2)


def growth(
    depth: int, margin: float = 1.0, until: float = 100.0, factor: float | None = None
) -> Growth:
    """Norms under gradient flow of the exponential loss for one example, eq. 103.

    All layers start with norm 1, and their norms stay equal. K is the depth, f the
    margin of the normalised network, R the exponential of f times the product of
    norms::

        R' = factor f^(2/K) (log R)^(2 - 2/K)

    Args:
        depth: K, the number of layers.
        margin: f.
        until: Time of the last point.
        factor: Factor of the equation; K by default, as eqs. 13 and 99 imply. The paper
            prints K squared.

    Returns:
        Norms at 400 times, which are denser at the start.
    """
    # In s = log R the time is an integral of known functions: dt = e^s / (...) ds.
    s = margin + np.linspace(0, np.log1p(2 * until * margin) * 3 + 1, 40_001)
    k = depth if factor is None else factor
    slowness = np.exp(s) / (k * margin ** (2 / depth) * s ** (2 - 2 / depth))
    parts = np.diff(s) * (slowness[1:] + slowness[:-1]) / 2
    time = np.concatenate([[0.0], np.cumsum(parts)])
    at = np.concatenate([[0.0], np.geomspace(until / 1e4, until, 399)])
    product = np.interp(at, time, s) / margin
    return Growth(at, product, product ** (1 / depth))


def figure(
    path: Path,
    trajectories: Mapping[str, Trajectory],
    growths: Mapping[int, Growth],
) -> None:
    """Draws angles, margins and norms against updates, and growth against time.

    Args:
        path: Path of the PNG file to write.
        trajectories: Trajectories from `margins`.
        growths: Results of `growth`, by depth.
    """
    drawing = new_figure(10, 10.5)
    axes = drawing.subplots(3, 2)
    angle, gap, norm, between, product, layer = axes.flat
    styles = {}
    best = max(run.margin.max() for run in trajectories.values())
    for k, (name, run) in enumerate(trajectories.items()):
        styles[name] = {
            "color": COLOURS[k % len(COLOURS)],
            "ls": ("-", "--", ":")[k // len(COLOURS)],
        }
        steps = np.arange(1, len(run.angle))
        angle.loglog(steps, run.angle[1:], **styles[name])
        gap.semilogx(steps, run.margin[1:] / best, **styles[name])
        norm.loglog(steps, run.norm[1:], label=name, **styles[name])
        if name in _SPHERE:
            apart = _angle(run.direction, trajectories["LAWN"].direction)
            between.loglog(steps, apart[1:], **styles[name])
    angle.set(title="Angle to the largest margin", ylabel="radians")
    gap.set(title="Margin, of the largest seen", ylim=(0, 1.02))
    norm.set(title="Norm of the weights", ylabel="norm")
    between.set(title="Angle to LAWN's weights", ylabel="radians", ylim=(1e-6, 1))
    for one in (angle, gap, norm, between):
        one.set_xlabel("update")
    for k, (depth, grown) in enumerate(sorted(growths.items())):
        style = {"color": COLOURS[k], "label": f"{depth} layer{'s'[: depth > 1]}"}
        product.plot(grown.time, grown.product, **style)
        layer.plot(grown.time, grown.layer, **style)
    product.set(title="Product of the layers' norms", xlabel="time")
    layer.set(title="Norm of each layer", xlabel="time")
    for one in (product, layer):
        one.legend(frameon=False, fontsize="small")
    finish(drawing, path, norm, columns=4)


def report() -> Findings:
    """The findings, and what draws the figure."""
    with ProgressReport(len(methods()) + len(lamb.OPTIMIZERS)) as progress:
        trajectories = margins(progress=progress)
        of_lamb = lamb.report(progress)
    growths = {depth: growth(depth) for depth in (1, 2, 3)}
    best = max(run.margin.max() for run in trajectories.values())
    rows = [
        [
            name,
            f"{run.angle[-1]:.3f}",
            f"{100 * run.margin[-1] / best:.1f}",
            f"{run.norm[0]:.0f}",
            f"{run.norm[-1]:.1f}",
        ]
        for name, run in trajectories.items()
    ]
    header = ["method", "angle, rad", "margin, % of largest", "first norm", "last norm"]
    depths = [
        [
            f"{depth}",
            f"{grown.product[-1]:.2f}",
            f"{growth(depth, factor=depth**2).product[-1]:.2f}",
            f"{grown.layer[-1]:.2f}",
        ]
        for depth, grown in growths.items()
    ]
    drawn = partial(figure, trajectories=trajectories, growths=growths)
    text = (
        "Separable data, loss the logarithm of the summed exponential loss, 5,000"
        " updates; angle to the direction of largest margin (SVM without intercept).\n"
        "Theorem 3 of the paper is about unit norms beside a factor ρ that grows (eqs."
        " 12 to 14). These converge to it, as all methods do whose norm may grow. With"
        " a fixed norm c the angle stops at about 1/c.\n\n"
        f"{markdown.table(header, rows)}\n\n"
        "Growth under gradient flow for one example with margin 1, at time 100. The"
        " paper's eq. 103 prints K^2 where K belongs.\n\n"
        + markdown.table(
            ["layers K", "product of norms", "with K^2 as printed", "norm of a layer"],
            depths,
        )
        + f"\n\n{of_lamb}"
    )
    return text, {"constrained.png": drawn}
