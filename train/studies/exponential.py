"""Exponential learning rates instead of weight decay, and the equilibrium of both.

As in Li and Arora 2019, arXiv:1910.07454, on digits or CIFAR-10. The toy problem of
section 3 is in `train.studies.exponential_toy`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lawn_optax as lawn
import models
from lawn_optax import schedules
from train.digits.experiment import Split, load_data
from train.optimizers import Trial
from train.plots import COLOURS, finish, new_figure
from train.report import markdown
from train.runs.progress import QUIET, ProgressReport
from train.runs.results import Findings
from train.studies import cifar
from train.studies import exponential_toy as toy
from train.studies.exponential_network import apply_network, init_network


@dataclasses.dataclass(frozen=True)
class Config:
    """Hyperparameters of the comparison: the paper's, except size and weight decay."""

    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-2  # 20 times the paper's: the run is 100 times shorter
    steps: int = 400
    batch_size: int = 64
    channels: int = 6
    blocks: int = 1  # per stage of the network for CIFAR-10
    eval_every: int = 10
    seed: int = 0

    def stepped(self, value: float, factors: tuple[float, float]) -> optax.Schedule:
        """A value, multiplied at one half and at three quarters of the run."""
        ends = {self.steps // 2: factors[0], 3 * self.steps // 4: factors[1]}
        return optax.piecewise_constant_schedule(value, ends)


CIFAR = Config(steps=640, channels=8, eval_every=16)
# PreResNet-32. The paper divides the rate at epochs 80 and 120.
FULL = Config(
    weight_decay=5e-4,
    steps=160 * 390,
    batch_size=128,
    channels=16,
    blocks=5,
    eval_every=390,
)


class Curves(NamedTuple):
    """One run; entry k is after (k + 1) * eval_every updates."""

    rate: np.ndarray  # of the last update
    decay: np.ndarray  # of the last update
    loss: np.ndarray  # mean since the previous entry
    angle: np.ndarray  # by which an update turns all weights, root mean square
    accuracy: np.ndarray  # on held-out images
    norm: np.ndarray  # of all trained weights


Run = tuple[optax.Schedule, optax.ScalarOrSchedule]  # rates and weight decay


def equivalents(config: Config) -> dict[str, Run]:
    """Runs with weight decay, and with rates that replace it (Figures 1 to 4)."""
    decay = config.weight_decay
    arguments = config.momentum, decay, config.steps
    steps = config.stepped(config.rate, (0.1, 0.1))
    cosine = optax.cosine_decay_schedule(config.rate, config.steps)
    equivalent = schedules.exponential_equivalent(steps, *arguments)
    growing_cosine = schedules.exponential_cosine(config.rate, *arguments)
    tapered = schedules.tapered_exponential
    slow_growth = tapered(steps, *arguments, instant_decay=False)
    with jax.enable_x64(True):  # In float32, zeros at the end would have no equivalent.
        tapered_cosine = tapered(cosine, *arguments)
    return {
        "step decay, weight decay": (steps, decay),
        "exponential equivalent": (equivalent, 0.0),
        "tapered exponential": (tapered(steps, *arguments), 0.0),
        "tapered, no instant decay": (slow_growth, 0.0),
        "cosine, weight decay": (cosine, decay),
        "exponential cosine": (growing_cosine, 0.0),
        "tapered cosine": (tapered_cosine, 0.0),
    }


def together(config: Config) -> dict[str, Run]:
    """The rate divided alone, or the weight decay multiplied with it (Figure 5)."""
    decay = config.weight_decay
    return {
        "rate / 10 once": (config.stepped(config.rate, (0.1, 1.0)), decay),
        "rate / 10 and decay x 10, twice": (
            config.stepped(config.rate, (0.1, 0.1)),
            config.stepped(decay, (10.0, 10.0)),
        ),
    }


def rounded(run: Run) -> Run:
    """The same run with rates that differ in their last digit."""
    factor = 1 + 4 * float(jnp.finfo(float).eps)
    return lambda count: factor * run[0](count), run[1]


Train = Callable[..., Curves]  # (rate, weight decay, name=...) -> curves


def trainer(
    config: Config, data: dict[str, Split], progress: ProgressReport = QUIET
) -> Train:
    """Trains with given rates and weight decay, always from the same weights.

    Both are arguments of the compiled program, so it compiles only once. A run is one
    unit of progress.
    """
    kernels, head = init_network(config.seed, config.channels, config.blocks)
    (images, labels), (pictures, digits) = data["train"], data["validation"]
    rng = np.random.default_rng(config.seed)
    shape = config.steps // config.eval_every, config.eval_every, config.batch_size
    rows = jnp.asarray(rng.integers(len(labels), size=shape), jnp.int32)

    def loss_of(weights, rows):
        logits = apply_network(weights, head, images[rows])
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, labels[rows]
        ).mean()

    @jax.jit
    def run(trial):
        tx = _sgd(config, trial)

        def step(carry, rows):
            weights, state = carry
            loss, grads = jax.value_and_grad(loss_of)(weights, rows)
            updates, state = tx.update(grads, state, weights)
            angle = lawn.diagnostics.angular_update(updates, weights, groups="all")[0]
            return (optax.apply_updates(weights, updates), state), (loss, angle**2)

        def between_evaluations(carry, rows):
            carry, (losses, squares) = jax.lax.scan(step, carry, rows)
            found = apply_network(carry[0], head, pictures).argmax(-1)
            accuracy, norm = (found == digits).mean(), optax.tree.norm(carry[0])
            angle = jnp.sqrt(squares.mean())
            return carry, (losses.mean(), angle, accuracy, norm)

        return jax.lax.scan(between_evaluations, (kernels, tx.init(kernels)), rows)[1]

    def train(
        rate: optax.Schedule, decay: optax.ScalarOrSchedule, name: str = ""
    ) -> Curves:
        trial = _tables(config, rate, decay)
        with progress.part(name):
            return Curves(*_entries(config, trial), *map(np.asarray, run(trial)))

    return train


def cifar_trainer(
    config: Config, data_dir: Path, full: bool, progress: ProgressReport = QUIET
) -> Train:
    """Trains a PreResNet, but only its convolutions; see `trainer`."""
    data = cifar.load(data_dir, full)
    task = cifar_task(config, data, full)
    run = cifar.trainer(task, data, config.steps, config.eval_every, progress)

    def train(
        rate: optax.Schedule, decay: optax.ScalarOrSchedule, name: str = ""
    ) -> Curves:
        trial = _tables(config, rate, decay)
        history = run(trial, name=name)
        means = partial(cifar.intervals, eval_every=config.eval_every)
        return Curves(
            *_entries(config, trial),
            loss=means(history.loss),
            angle=np.sqrt(means(history.angle[:, 0] ** 2)),
            accuracy=history.accuracy,
            norm=history.norm[config.eval_every - 1 :: config.eval_every, 0],
        )

    return train


def cifar_task(config: Config, data: cifar.Data, full: bool) -> cifar.Task:
    """A PreResNet on CIFAR-10; all but the convolutions stay as they are."""

    def optimizer(trial: Trial) -> optax.GradientTransformation:
        return cifar.split(_sgd(config, trial), optax.set_to_zero(), "all")

    depth = 6 * config.blocks + 2
    # With an epsilon, kernels that grow would not be exactly equivalent.
    network = models.PreResNet(
        depth, width=config.channels, epsilon=0, dtype=jnp.result_type(float)
    )
    return cifar.make_task(network, data, config.batch_size, optimizer, full)


def _sgd(config: Config, trial: Trial) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(lambda count: trial["decays"][count]),
        optax.sgd(lambda count: trial["rates"][count], config.momentum),
    )


def _tables(
    config: Config, rate: optax.Schedule, decay: optax.ScalarOrSchedule
) -> Trial:
    """Rate and decay of each update."""
    counts = jnp.arange(config.steps)
    decays = jax.vmap(decay)(counts) if callable(decay) else decay
    return {
        "rates": jax.vmap(rate)(counts),
        "decays": jnp.broadcast_to(jnp.asarray(decays, float), counts.shape),
        "seed": np.uint32(config.seed),
    }


def _entries(config: Config, trial: Trial) -> tuple[np.ndarray, np.ndarray]:
    """Rate and decay of the last update of each entry."""
    last = slice(config.eval_every - 1, None, config.eval_every)
    return np.asarray(trial["rates"])[last], np.asarray(trial["decays"])[last]


def compare(train: Train, runs: Mapping[str, Run]) -> dict[str, Curves]:
    """The curves of every run, by name."""
    return {name: train(*arguments, name=name) for name, arguments in runs.items()}


def draw_curves(path: Path, config: Config, curves: Mapping[str, Curves]) -> None:
    """Draws quantities that agree between the runs (above) and that differ (below)."""
    figure = new_figure(14, 7.5)
    loss, accuracy, angle, norm, rate, effective = figure.subplots(
        2, 3, sharex=True
    ).flat
    twins = not all(run.decay.any() for run in curves.values())
    for colour, (name, run) in zip(COLOURS, curves.items(), strict=False):
        # Curves of equivalent runs coincide: draw one thick, the other thin on top.
        decayed = bool(run.decay.any())
        below = twins and decayed
        style: dict[str, Any] = {"lw": 4, "alpha": 0.35} if below else {"lw": 1.2}
        style["color"] = colour
        steps = (1 + np.arange(len(run.loss))) * config.eval_every
        loss.plot(steps, run.loss, label=name, **style)
        for axes, values in (
            (accuracy, run.accuracy),
            (angle, run.angle),
            (norm, run.norm),
            (rate, run.rate),
            (effective, run.rate / run.norm**2),
        ):
            axes.plot(steps, values, **style)
        if decayed:
            angle.plot(steps, _predicted(config, run), color=colour, ls=":", lw=1.5)
    loss.set(title="Training loss", ylabel="cross entropy")
    accuracy.set(title="Accuracy on images held out")
    angle.set(title="Angle per update, radians (dotted: equilibrium)", yscale="log")
    norm.set(title="Norm of all trained weights", yscale="log", xlabel="update")
    rate.set(title="Learning rate", yscale="log", xlabel="update")
    effective.set(title="Rate / squared norm", yscale="log", xlabel="update")
    finish(figure, path, loss)


def _predicted(config: Config, run: Curves) -> np.ndarray:
    """The angle per update in equilibrium (Theorem B.2)."""
    rate, decay = np.float32(run.rate), np.float32(run.decay)
    angle = lawn.diagnostics.sgd_equilibrium_angle
    return np.asarray(angle(rate, decay, config.momentum))


def table(config: Config, curves: Mapping[str, Curves]) -> str:
    """A table of the runs: after each phase and at the end."""
    header = ["run", "loss at the end", "accuracy %", "weight norm", "learning rate"]
    header += ["angle after 1/2", "3/4", "the end", "predicted"]
    rows = []
    for name, run in curves.items():
        entries = len(run.loss)
        angles = run.angle[[entries // 2 - 1, 3 * entries // 4 - 1, -1]]
        predicted = _predicted(config, run)[-1] if run.decay.any() else None
        rows.append(
            [
                name,
                f"{run.loss[-1]:.4f}",
                f"{100 * run.accuracy[-1]:.1f}",
                f"{run.norm[-1]:.3g}",
                f"{run.rate[-1]:.3g}",
                *(f"{angle:.2g}" for angle in angles),
                "" if predicted is None else f"{predicted:.2g}",
            ]
        )
    return markdown.table(header, rows)


def report(data_dir: Path | None = None, full: bool = False) -> Findings:
    """The findings, and what draws the figures."""
    config = Config() if data_dir is None else FULL if full else CIFAR
    # In float32, rounding would grow to 1% of the loss, and differ between machines.
    precise = partial(jax.enable_x64, data_dir is None)
    with precise():
        runs, pair_of_runs = equivalents(config), together(config)
    count = len(runs) + len(pair_of_runs) + 1
    toys, figures, total = "", {}, count * (config.steps // config.eval_every)
    if data_dir is None:
        total = len(toy.CASES) + count
    with ProgressReport(total) as progress, precise():
        if data_dir is None:
            toys, figures = toy.report(progress)
            train = trainer(config, load_data(0), progress)
            trained = "A small PreResNet on 8x8 digits, in float64"
        else:
            train = cifar_trainer(config, data_dir, full, progress)
            network = f"PreResNet-{6 * config.blocks + 2}, {config.channels} channels"
            trained = f"{network}, on {cifar.describe(full)}"
        curves = compare(train, runs)
        pair = compare(train, pair_of_runs)
        again = train(*rounded(runs["tapered, no instant decay"]), name="last digit")
    losses = [run.loss for run in curves.values()]
    steps, cosine = (np.abs(losses[k] / losses[k + 1] - 1).max() for k in (0, 4))
    for name, drawn in (("exponential.png", curves), ("together.png", pair)):
        figures[name] = partial(draw_curves, config=config, curves=drawn)
    text = (
        f"{toys}{trained}: rate {config.rate:g}, momentum {config.momentum:g}, weight"
        f" decay {config.weight_decay:g}, batch {config.batch_size},"
        f" {config.steps:,} updates. Steps decayed twice or a cosine: with weight"
        " decay, and by exponential rates without it. The paper says that the exact"
        " equivalents train through the same functions, and that without instant decay"
        " a slow growth takes long to have an effect.\n\n"
        f"{table(config, curves)}\n\n"
        "The losses of exact equivalents differ by at most"
        f" {steps:.0e} (steps) and {cosine:.0e} (cosine) of their value. The run"
        " without instant decay, with rates that differ in their last digit, ends at"
        f" {again.loss[-1]:.4f} and {100 * again.accuracy[-1]:.1f}%.\n\n"
        "The rate divided alone, or the weight decay multiplied with it: the paper says"
        " that the angle settles at a value that their product decides.\n\n"
        f"{table(config, pair)}"
    )
    return text, figures
