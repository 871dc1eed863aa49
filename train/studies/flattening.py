"""Loss flattening: Adam beside Adam-LAWN, on digits or on ML-100k.

As in Gupta et al. 2021, arXiv:2108.05839, section 2.2 and Appendices B, E and F. The
paper says: margins grow until the gradients of most examples vanish; noise and
curvature vanish with them, and SGD can no longer escape from a minimum. Fixed norms
prevent this.
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

from lawn_optax import metrics
from models import MLP, NCF
from train import hyperparameters
from train.devices import Devices
from train.digits import experiment as digits
from train.optimizers import Trial
from train.plots import COLOURS, finish, new_figure, range_over_seeds
from train.recommenders import experiment as recsys
from train.recommenders import programs as recommender
from train.recommenders import (
    sampling,
)
from train.recommenders.options import (
    TUNED,
    Config,
    resolve,
)
from train.report import markdown
from train.runs.progress import QUIET, ProgressReport
from train.runs.results import Findings
from train.shuffle import make_shuffle
from train.statistics import mean_std
from train.studies.flattening_measures import Choices, Problem, measure

# For ML-100k: a run of about two minutes, and the full run. The rate is the one that
# was tuned for SGD on this data set.
SHORT = Choices(seeds=2, epochs=40, points=12, rate=TUNED["sgd"][0])
FULL = dataclasses.replace(SHORT, seeds=3, epochs=300, points=20)


class Run(NamedTuple):
    """The training of one optimizer; the first axis of states is the seed."""

    state: Any  # the initial state; has `params`
    # (state, first epoch, last epoch) -> (state, score[seeds])
    advance: Callable[..., tuple[Any, jax.Array]]
    switch: float  # epochs before it; NaN for none


class Curves(NamedTuple):
    """Measurements of a run."""

    epochs: np.ndarray  # int[points]
    values: dict[str, np.ndarray]  # by name, [points, seeds]
    switch: float


PANELS = {  # name -> title, scale of the axis
    "share": ("Share of margins above 2.5 (training)", "linear"),
    "loss": ("Training loss", "log"),
    "gradient noise": ("Trace of the gradients' covariance", "log"),
    "curvature": ("Largest eigenvalue of the Hessian", "log"),
    "Hessian noise": ("Largest of the Hessians' covariance", "log"),
    "growth": ("Escape growth of SGD, eq. 19", "symlog"),
    "smoothed margin": ("Smoothed normalised margin", "linear"),
    "score": ("", "linear"),
}


def follow(
    run: Run,
    measured: Callable[[Any], Any],
    choices: Choices,
    progress: ProgressReport = QUIET,
    name: str = "",
) -> Curves:
    """Trains, and measures at epochs that are denser at the start.

    Args:
        run: Training of one optimizer.
        measured: Function from parameters to quantities.
        choices: Size of the study.
        progress: Report of the epochs.
        name: Name of the optimizer, for the report.
    """
    progress.begin(name)
    epochs = np.geomspace(1, choices.epochs, choices.points).round().astype(int)
    epochs = np.unique(epochs)
    state, done, rows = run.state, 0, []
    for epoch in epochs.tolist():
        state, score = run.advance(state, done, epoch)
        rows.append(jax.device_get(measured(state.params) | {"score": score}))
        progress.advance(epoch - done, f"{name}: epoch {epoch} of {choices.epochs}")
        done = epoch
    values = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return Curves(epochs, values, run.switch)


# ---------------------------------------------------------------------- digits

# Tuned on validation images (`python -m train digits`); also LAWN at Adam's rate.
DIGITS: dict[str, tuple[str, dict[str, float]]] = {
    "adam": ("adam", {"learning_rate": 0.0028}),
    "adam-lawn": ("adam-lawn", {"learning_rate": 0.045, "switch_step": 20}),
    "adam-lawn, Adam's rate": (
        "adam-lawn",
        {"learning_rate": 0.0028, "switch_step": 20},
    ),
}


def on_digits(choices: Choices, progress: ProgressReport = QUIET) -> dict[str, Curves]:
    """The curves of each optimizer on handwritten digits."""
    config = digits.Config(epochs=choices.epochs)
    data = digits.load_data(config.split_seed)
    problem = Problem(
        MLP(config.widths).apply,
        optax.softmax_cross_entropy_with_integer_labels,
        metrics.multiclass_margin,
        *data["train"],
        config.batch_size,
        digits.TRAIN,
    )
    measured = jax.jit(jax.vmap(partial(measure, problem, choices)))
    keys = jax.vmap(jax.random.key)(jnp.arange(choices.seeds))
    params = digits.init_params(config.widths, keys)

    def run(name, trial):
        start, advance = digits.make_member(config, name)
        step = jax.jit(jax.vmap(advance, (0, 0, None, None, None, None)))

        def by_seed(state, first, last):
            state, values = step(state, keys, trial, data, first, last)
            return state, values["test_accuracy"]

        state = jax.vmap(start, (0, None))(params, trial)
        switch = trial.get("switch_step", np.nan) / config.steps_per_epoch
        return Run(state, by_seed, switch)

    return {
        label: follow(run(*arguments), measured, choices, progress, label)
        for label, arguments in DIGITS.items()
    }


# --------------------------------------------------------------------- ML-100k

MOVIELENS = ("adam", "adam-lawn")


def on_movielens(
    choices: Choices, folder: Path, full: bool, progress: ProgressReport = QUIET
) -> dict[str, Curves]:
    """The curves of each optimizer on ML-100k, trained as `train recsys` does."""
    curves = {}
    for name in MOVIELENS:
        options = movielens_options(choices, name, full)
        settings = resolve(Config(data_dir=folder, optimizer=name, **options))
        interacted, candidates = recsys.load_data(settings)
        task = recsys.make_task(settings, interacted, Devices(limit=1))
        if not full:
            model = NCF(interacted.num_users, interacted.num_items, (32, 16, 1), 16)
            task = dataclasses.replace(task, model=model)
        data = recsys.on_device(interacted, candidates)
        trial = hyperparameters.make_trial(settings, task.steps_per_epoch)
        trial |= {"seed": np.arange(choices.seeds, dtype=np.uint32)}
        switch = options["free_epochs"] if name == "adam-lawn" else np.nan
        run = _recommender(task, data, trial, switch)
        measured = jax.jit(jax.vmap(partial(measure, samples(task, data), choices)))
        curves[name] = follow(run, measured, choices, progress, name)
    return curves


def movielens_options(choices: Choices, name: str, full: bool) -> dict[str, Any]:
    """The options of `train recsys` with the optimizer `name`."""
    scale = choices.epochs / 300
    options: dict[str, Any] = {"free_epochs": TUNED[name][2] * scale}
    if not full:  # More steps of a narrow network, with our rate and free epochs.
        options = {"batch_size": 10_000, "learning_rate": 3e-3}
        options |= {"free_epochs": 20 * scale, "candidate_draws": 1}
    return options | {"epochs": choices.epochs, "warmup_epochs": 30 * scale}


def _recommender(
    task: recommender.Task, data: recommender.Data, trial: Trial, switch: float
) -> Run:
    start, program = map(jax.jit, programs(task, trial))

    def advance(state, first, last):
        return program(state, trial, data, first, last)

    return Run(start(trial), advance, switch)


def programs(
    task: recommender.Task, trial: Trial
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What starts the runs of all seeds, and what trains and scores them."""
    axes = {key: 0 if key == "seed" else None for key in trial}

    def one(state, trial, data, first, last):
        state, _ = recommender.advance(task, state, trial, data, first, last)
        return state, recommender.evaluate(task, state, trial, data)[0]["hr"]

    start = jax.vmap(partial(recommender.start, task), (axes,))
    return start, jax.vmap(one, (0, axes, None, None, None))


def samples(task: recommender.Task, data: recommender.Data) -> Problem:
    """Draws some samples of an epoch, the same for all measurements."""
    count, key = min(2048, task.epoch_size), jax.random.key(0)
    users, items, labels = sampling.samples(
        data.train,
        make_shuffle(key, task.epoch_size),
        jnp.arange(count, dtype=jnp.int32),
        jax.random.bits(key, (count,), jnp.uint32),
        task.model.num_items,
    )
    return Problem(
        lambda params, pair: task.model.apply({"params": params}, *pair),
        task.loss,
        metrics.binary_margin,
        (users, items),
        labels,
        task.batch_size,
        task.epoch_size,
    )


# ---------------------------------------------------------------------- report

CLAIMS = """\
Claims (LAWN, arXiv, section 2.2, Appendices B, E and F): with Adam the margins of most
examples pass 2.5, the gradients' covariance and the Hessian become small, and with them
what SGD needs to escape from a minimum; with fixed norms they stay large."""


def draw(
    path: Path, curves: Mapping[str, Curves], choices: Choices, title: str, score: str
) -> None:
    """Draws all quantities against epochs: means over the seeds, and their range."""
    figure = new_figure(15, 7.5)
    axes = dict(zip(PANELS, figure.subplots(2, 4).flat, strict=True))
    for (label, run), colour in zip(curves.items(), COLOURS, strict=False):
        for name, panel in axes.items():
            values = run.values[name]
            range_over_seeds(panel, run.epochs, values, color=colour, label=label)
            if run.switch >= 1:
                panel.axvline(run.switch, color="grey", ls=":", lw=1)
    for name, (heading, scale) in PANELS.items():
        linear = {"linthresh": 0.01} if scale == "symlog" else {}
        axes[name].set_yscale(scale, **linear)
        axes[name].set(title=heading or score, xscale="log", xlabel="epoch")
    limit = 2 / choices.rate
    line = axes["curvature"].axhline(limit, color="black", ls="--", lw=1)
    line.set_label(f"2 / rate of SGD ({choices.rate:g}): escape above")
    axes["growth"].axhline(0, color="grey", lw=1)
    axes["growth"].set_ylim(bottom=-0.005)
    figure.suptitle(f"{title}\ndotted: switch to fixed norms", fontsize=11)
    finish(figure, path, axes["curvature"], columns=4)


def table(curves: Mapping[str, Curves], score: str) -> str:
    """A table of the last values."""
    columns = {
        "share": "margins > 2.5",
        "loss": "loss",
        "gradient noise": "gradient noise",
        "curvature": "curvature",
        "Hessian noise": "Hessian noise",
        "growth": "escape growth",
        "growth residual": "its residual",
        "smoothed margin": "smoothed margin",
        "smallest margin": "smallest margin",
        "score": score,
    }
    cells = []
    for label, run in curves.items():
        ends = [mean_std(run.values[name][-1]) for name in columns]
        cells.append([label, *(f"{end.mean:.3g} ± {end.std:.1g}" for end in ends)])
    return markdown.table(["at the end", *columns.values()], cells)


def report(data_dir: Path | None = None, full: bool = False) -> Findings:
    """The findings, and what draws the figure.

    Args:
        data_dir: Folder with the files of ML-100k; None for digits.
        full: Whether to train the recommender at its full size.
    """
    if data_dir is None:
        choices, score = Choices(), "Test accuracy"
        title = f"Digits, batch {digits.Config().batch_size} of {digits.TRAIN}"
        with ProgressReport(choices.epochs * len(DIGITS)) as progress:
            curves = on_digits(choices, progress)
    else:
        choices, score = FULL if full else SHORT, "HR@10"
        title = "ML-100k, batch 100,000" if full else "ML-100k, narrow, batch 10,000"
        with ProgressReport(choices.epochs * len(MOVIELENS)) as progress:
            curves = on_movielens(choices, data_dir, full, progress)
    title += f", {choices.epochs} epochs, {choices.seeds} seeds"
    drawn = partial(draw, curves=curves, choices=choices, title=title, score=score)
    text = (
        f"Loss flattening: {title}.\n{CLAIMS}\n\n{table(curves, score)}\n\n"
        "Mean and sample standard deviation over the seeds. Gradient noise: trace of"
        " the examples' covariance. Curvature, Hessian noise: largest eigenvalues.\n"
        f"Escape growth: eq. 19 less 1, for SGD at rate {choices.rate:g} with that"
        " batch; above its residual, escape is possible. Curvature above"
        f" {2 / choices.rate:.3g} is enough.\n"
        "Margins are divided by the product of the layers' norms (biases included);"
        " smoothed: of the mean loss."
    )
    return text, {"flattening.png": drawn}
