"""A ResNet-18 on CIFAR-10 in and out of equilibrium, as in Figure 3 of "How
normalization and weight decay can affect SGD?" (ICLR submission, section 4).

SGD without momentum, as in the paper. The runs differ only in how they train the
convolutions, which are scale invariant: in all runs, the norm layers and the last layer
train at the rates of the first run, without decay. The rows show rates and decays with
the same product; the first run with and without rescaling where the rate is divided;
and the first run from longer weights, with its own rate and decay and with those that
are equivalent for the longer weights.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

import lawn_optax as lawn
import models
from train.optimizers import Trial
from train.plots import COLOURS, band, finish, new_figure
from train.report import markdown
from train.runs.progress import QUIET, ProgressReport
from train.runs.results import Findings
from train.studies import cifar


@dataclasses.dataclass(frozen=True)
class Choices:
    """Size and hyperparameters; `FULL` has the paper's."""

    rate: float = 0.5
    decay: float = 2e-2
    exchanges: tuple[float, ...] = (4.0, 0.25)  # multiply the rate, divide the decay
    drops: tuple[float, ...] = (0.4,)  # shares of the run where the rate is divided
    factor: float = 5.0
    stretch: float = 10.0  # of the initial weights, third row
    batch_size: int = 32
    steps: int = 640
    eval_every: int = 16
    width: int = 8
    stages: tuple[int, ...] = (2, 2, 2, 2)
    seed: int = 0
    trials: int = 1  # with one seed after the other

    def describe(self) -> str:
        """All numbers in one line."""
        after = ", ".join(f"{round(s * self.steps):,}" for s in self.drops)
        one = self.trials == 1
        seeds = f"seed {self.seed}" if one else f"means of {self.trials} trials"
        return (
            f"width {self.width}, batch {self.batch_size}, {self.steps:,} updates of"
            f" SGD without momentum, rate {self.rate:g} (divided by {self.factor:g}"
            f" after {after}), decay {self.decay:g}, {seeds}"
        )


# 200 epochs of 195 updates; the rate is divided at epochs 60, 120 and 160. Not run yet:
# it needs a GPU.
FULL = Choices(
    decay=1e-3,
    drops=(0.3, 0.6, 0.8),
    batch_size=256,
    steps=200 * 195,
    eval_every=195,
    width=64,
    trials=10,
)


class Setting(NamedTuple):
    """One run."""

    rate: float
    decay: float
    rescale: bool = False
    stretch: float = 1.0


class Line(NamedTuple):
    """One run; entry k is after (k + 1) * eval_every updates."""

    label: str
    loss: np.ndarray  # on the batches since the previous entry
    accuracy: np.ndarray  # on the test images
    test_loss: np.ndarray
    angle: np.ndarray  # [entries, kernels]; root mean square since the previous entry
    norm: np.ndarray  # [entries, kernels]
    predicted: np.ndarray  # angle in equilibrium, at the rate of the last update


def settings(choices: Choices) -> list[dict[str, Setting]]:
    """The settings of the three rows; equal settings are one run."""
    rate, decay, c = choices.rate, choices.decay, choices.stretch
    first = {f"rate {rate:g}, decay {decay:g}": Setting(rate, decay)}
    exchanged = [Setting(rate * k, decay / k) for k in choices.exchanges]
    longer = Setting(rate, decay, stretch=c)
    same = Setting(rate * c**2, decay / c**2, stretch=c)
    return [
        first | {f"rate {s.rate:g}, decay {s.decay:g}": s for s in exchanged},
        first | {"and rescaled": Setting(rate, decay, rescale=True)},
        first
        | {
            f"weights x {c:g}": longer,
            f"and rate {same.rate:g}, decay {same.decay:g}": same,
        },
    ]


def optimizer(trial: Trial) -> optax.GradientTransformation:
    """SGD: the trial decides how convolutions train; the rest trains as in all runs."""

    def rate(count):
        return trial["rates"][count]

    kernels = optax.chain(
        optax.add_decayed_weights(trial["decay"]),
        optax.sgd(rate),
        # The power 0 rescales nothing.
        lawn.rescale_on_decay(rate, groups="layer", power=trial["power"]),
    )
    others = optax.sgd(lambda count: trial["shared_rates"][count])
    return cifar.split(kernels, others, "layer")


def make_task(choices: Choices, data: cifar.Data, full: bool) -> cifar.Task:
    """ResNet-18 on CIFAR-10."""
    network = models.ResNet18(stages=choices.stages, width=choices.width)
    return cifar.make_task(network, data, choices.batch_size, optimizer, full)


def make_trial(choices: Choices, setting: Setting) -> Trial:
    """The numbers of a setting that the compiled update takes."""
    ends = [round(share * choices.steps) for share in choices.drops]
    passed = np.arange(choices.steps)[:, None] >= np.array(ends)
    factors = choices.factor ** -np.sum(passed, axis=1, dtype=float)
    return {
        "rates": jnp.asarray(setting.rate * factors, jnp.float32),
        "shared_rates": jnp.asarray(choices.rate * factors, jnp.float32),
        "decay": np.float32(setting.decay),
        "power": np.float32(0.25 if setting.rescale else 0.0),
        "seed": np.uint32(choices.seed),
    }


def compute(
    choices: Choices,
    data_dir: Path,
    full: bool,
    progress: ProgressReport = QUIET,
) -> list[list[Line]]:
    """Trains the trials of each setting, and returns the three rows of lines."""
    data = cifar.load(data_dir, full)
    task = make_task(choices, data, full)
    train = cifar.trainer(task, data, choices.steps, choices.eval_every, progress)
    means = partial(cifar.intervals, eval_every=choices.eval_every)
    last = slice(choices.eval_every - 1, None, choices.eval_every)
    known: dict[Setting, cifar.History] = {}

    def line(label: str, setting: Setting) -> Line:
        trial = make_trial(choices, setting)
        if setting not in known:
            seeds = range(choices.seed, choices.seed + choices.trials)
            trials = ({**trial, "seed": np.uint32(seed)} for seed in seeds)
            known[setting] = _mean([train(t, setting.stretch, label) for t in trials])
        seen = known[setting]
        rates, angle = trial["rates"][last], lawn.diagnostics.sgd_equilibrium_angle
        return Line(
            label=label,
            loss=means(seen.loss),
            accuracy=seen.accuracy,
            test_loss=seen.test_loss,
            angle=np.sqrt(means(seen.angle**2)),
            norm=seen.norm[last],
            predicted=np.asarray(angle(rates, setting.decay)),
        )

    return [[line(*item) for item in row.items()] for row in settings(choices)]


def _mean(trials: list[cifar.History]) -> cifar.History:
    """Means over the trials; root mean squares of the angles."""
    squares = [seen._replace(angle=seen.angle**2) for seen in trials]
    mean = cifar.History(*(np.mean(x, axis=0) for x in zip(*squares, strict=True)))
    return mean._replace(angle=np.sqrt(mean.angle))


def table(rows: list[list[Line]]) -> str:
    """A table of the loss, accuracy and angles of each line."""
    cells = []
    for letter, row in zip("abc", rows, strict=True):
        for line in row:
            late = slice(-max(len(line.loss) // 10, 1), None)
            angles = np.sqrt(np.mean(line.angle[late] ** 2, axis=0))
            cells.append(
                [
                    letter,
                    line.label,
                    f"{line.loss[late].mean():.4f}",
                    f"{100 * line.accuracy[late].mean():.1f}",
                    f"{np.median(line.norm[-1]):.3g}",
                    f"{np.median(angles):.4f}",
                    f"{angles.min():.4f} to {angles.max():.4f}",
                    f"{line.predicted[-1]:.4f}",
                ]
            )
    header = ["row", "line", "training loss", "test accuracy %", "norm"]
    return markdown.table([*header, "angle, rad", "of all kernels", "predicted"], cells)


def draw(path: Path, rows: list[list[Line]], choices: Choices, title: str) -> None:
    """Draws the fifteen panels into a PNG file."""
    figure = new_figure(19, 10.5)
    panels = figure.subplots(3, 5, sharex=True)
    titles = (
        "One product of rate and decay",
        f"Rescaled where the rate is divided by {choices.factor:g}",
        "Other starts, rates and decays",
    )
    for axes_row, lines, what in zip(panels, rows, titles, strict=True):
        loss, test_loss, accuracy, angle, norm = axes_row
        for k, (line, colour) in enumerate(zip(lines, COLOURS, strict=False)):
            # Earlier lines are wider, so that they show where later ones cover them.
            style: dict[str, Any] = {"color": colour, "lw": 3 - 0.9 * k}
            steps = (1 + np.arange(len(line.loss))) * choices.eval_every
            loss.plot(steps, line.loss, label=line.label, **style)
            test_loss.plot(steps, line.test_loss, **style)
            accuracy.plot(steps, line.accuracy, **style)
            for axes, values in ((angle, line.angle), (norm, line.norm)):
                low, middle, high = np.quantile(values, [0, 0.5, 1], axis=1)
                band(axes, steps, middle, low, high, alpha=0.12, **style)
            angle.plot(steps, line.predicted, color="black", ls=":", lw=1)
        loss.legend(frameon=False, fontsize="small")
        loss.set(yscale="log", ylabel="training loss")
        test_loss.set(yscale="log", ylabel="test loss")
        accuracy.set(ylabel="test accuracy")
        angle.set(yscale="log", ylabel="angle per update (radians)")
        norm.set(yscale="log", ylabel="norm of each convolution")
        for axes in axes_row:
            axes.set_title(what, fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("updates")
    figure.suptitle(
        'In the shape of Figure 3 of "How normalization and weight decay can affect'
        f' SGD?"\n{title}\nangles and norms: medians over the convolutions, bands from'
        " least to largest; dotted: the predicted equilibrium",
        fontsize=10,
    )
    finish(figure, path)


def report(data_dir: Path, full: bool) -> Findings:
    """The findings, and what draws the figure."""
    choices = FULL if full else Choices()
    runs = {setting for row in settings(choices) for setting in row.values()}
    total = len(runs) * choices.trials * (choices.steps // choices.eval_every)
    with ProgressReport(total) as progress:
        rows = compute(choices, data_dir, full, progress)
    title = f"ResNet-18 on {cifar.describe(full)}: {choices.describe()}"
    drawn = partial(draw, rows=rows, choices=choices, title=title)
    text = (
        f"{title}.\n"
        "Claims: rates and decays of one product settle at one angle per update,"
        " sqrt(2 rate decay), and at one loss (a); after a division of the rate the"
        " angle falls and comes back, and the loss gets worse meanwhile, unless the"
        " weights are rescaled (b); longer initial weights train slower, and with"
        " rate and decay adjusted as if they were not (c).\n\n"
        f"{table(rows)}"
    )
    return text, {"equilibrium.png": drawn}
