"""Margins of networks that fit true and random labels, before and after normalisation.

As in Banburski et al. 2019, "Theory III: Dynamics and Generalization in Deep Networks",
Appendix 9, Figures 2, 3 and 8. The paper trains a convolutional network on CIFAR-10;
here it is the multilayer perceptron of `train.studies.margins_network` on 8x8 digits.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.digits.experiment import CLASSES, PIXELS
from train.plots import COLOURS, finish, new_figure
from train.report import markdown
from train.runs.progress import QUIET, ProgressReport
from train.runs.results import Findings
from train.studies.margins_network import (
    Data,
    Outcome,
    Training,
    digits,
    initial,
    outcome,
    randomised,
    train,
)
from train.studies.margins_noise import (
    Disturbance,
    Kicks,
    perturbed,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the experiments."""

    hidden: tuple[int, int] = (64, 64)
    rate: float = 0.05
    momentum: float = 0.9
    batch_size: int = 100  # as in Figure 2
    steps: int = 4_000
    seed: int = 0
    sizes: tuple[int, ...] = (100, 200, 400, 898)  # training images
    shares: tuple[float, ...] = (0.0, 0.5, 1.0)  # of random labels
    stretches: tuple[float, ...] = (2.0, 3.0)  # of the initial weights
    widths: tuple[int, ...] = (4, 8, 16, 32, 64, 128)  # of Figure 3
    width_size: int = 400  # training images of Figure 3
    width_seeds: int = 3
    kicks: Kicks = dataclasses.field(default_factory=Kicks)  # of Figure 8


# ----------------------------------------------------------------------- training


def sizes_and_labels(
    config: Config, data: Data, progress: ProgressReport = QUIET
) -> list[Outcome]:
    """Figure 2: sizes, shares of random labels, and stretched initial weights."""
    members = _members(config)
    first = initial(config.hidden, config.seed)
    labels = [randomised(data.labels, share, config.seed) for _, share, _ in members]
    training = Training(
        kernels=_stack(
            [jax.tree.map(lambda w, k=k: k * w, first) for *_, k in members]
        ),
        labels=jnp.stack(labels),
        size=jnp.array([size for size, *_ in members]),
        seed=jnp.arange(len(members)),
        inputs=data.inputs,
        rate=config.rate,
        momentum=config.momentum,
    )
    trained = train(
        training, config.steps, config.batch_size, progress=progress, name="Figure 2"
    )
    return [
        outcome(_member(trained, k), labels[k], n, data, share=share, stretch=stretch)
        for k, (n, share, stretch) in enumerate(members)
    ]


def _members(config: Config) -> list[tuple[int, float, float]]:
    """Size, share of random labels and stretch of the networks of Figure 2."""
    members = [(n, share, 1.0) for share in config.shares for n in config.sizes]
    largest = max(config.sizes)
    return members + [(largest, 0.0, stretch) for stretch in config.stretches]


def widths(
    config: Config, data: Data, progress: ProgressReport = QUIET
) -> dict[int, list[Outcome]]:
    """Figure 3: outcomes by number of parameters, one per seed."""
    found, seeds = {}, config.width_seeds
    for width in config.widths:
        starts = [initial((width, width), seed) for seed in range(seeds)]
        training = Training(
            kernels=_stack(starts),
            labels=jnp.stack([data.labels] * seeds),
            size=jnp.full(seeds, config.width_size),
            seed=jnp.arange(seeds),
            inputs=data.inputs,
            rate=config.rate,
            momentum=config.momentum,
        )
        trained = train(
            training,
            config.steps // 2,
            config.batch_size,
            progress=progress,
            name=f"Figure 3, width {width}",
        )
        parameters = sum(w.size for w in starts[0].values())
        found[parameters] = [
            outcome(_member(trained, k), data.labels, config.width_size, data)
            for k in range(seeds)
        ]
    return found


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _member(tree: Any, k: int) -> Any:
    return jax.tree.map(lambda x: x[k], tree)


# ------------------------------------------------------------------------- report


def figure(
    path: Path,
    trained: Sequence[Outcome],
    wide: Mapping[int, Sequence[Outcome]],
    kicked: Disturbance,
) -> None:
    """Draws errors, margins and losses of Figures 2, 3 and 8.

    Args:
        path: Path of the PNG file to write.
        trained: Outcomes from `sizes_and_labels`.
        wide: Outcomes from `widths`.
        kicked: Runs from `perturbed`.
    """
    drawing = new_figure(16, 8)
    axes = drawing.subplots(2, 4)
    size, before, after, predicted, width, risk, losses, norm = axes.flat
    largest = max(one.size for one in trained)
    for colour, (share, ones) in zip(COLOURS, _by_share(trained).items(), strict=False):
        style: dict[str, Any] = {"color": colour, "label": f"{share:.0%} random labels"}
        sizes = [one.size for one in ones]
        size.plot(sizes, [100 * one.test_error for one in ones], "o-", **style)
        size.plot(sizes, [100 * one.training_error for one in ones], "--", color=colour)
        last = ones[-1]
        ranks = (1 + np.arange(last.size)) / last.size
        before.plot(last.margins, ranks, **style)
        after.plot(last.normalized, ranks, **style)
        for one in ones:
            predicted.scatter(
                np.median(one.normalized), 100 * one.test_error, one.size / 8, colour
            )
    for one in trained:
        if one.stretch != 1:
            x, y = np.median(one.normalized), 100 * one.test_error
            predicted.scatter(x, y, one.size / 8, COLOURS[0], marker="x")
    size.set(title="Figure 2: test (training: dashed)", xlabel="training images")
    size.set(ylabel="error, %", xscale="log", ylim=(-3, 100))
    before.set(title=f"Margins of {largest} images", xlabel="margin", xlim=(0, None))
    after.set(title="The same, all layers' norms 1", xlabel="normalised margin")
    after.set(xscale="log")
    for panel in (before, after):
        panel.set(ylabel="share of the images below")
    predicted.set(
        title="Area: training images, x: larger start", ylabel="test error, %"
    )
    predicted.set(xscale="log", xlabel="median normalised margin")
    for panel, key, scale in ((width, "error", 100), (risk, "loss", 1)):
        for name, colour in (("test", COLOURS[0]), ("training", COLOURS[1])):
            values = np.array(
                [[getattr(one, f"{name}_{key}") for one in w] for w in wide.values()]
            )
            panel.plot(
                list(wide), scale * values.mean(axis=1), color=colour, label=name
            )
            panel.plot(list(wide), scale * values, ".", color=colour)
        panel.axvline(len(next(iter(wide.values()))[0].margins), color="grey", ls=":")
        panel.set(xscale="log", xlabel="parameters (dotted: training images)")
    width.set(title="Figure 3: error", ylabel="error, %")
    risk.set(title="Figure 3: risk", ylabel="cross entropy", yscale="log")
    for k, name in enumerate(("undisturbed", "perturbed")):
        style = {"color": COLOURS[k]}
        for values, line, what in (
            (kicked.test_loss, "-", "test"),
            (kicked.training_loss, "--", "training"),
        ):
            label = f"{name}, {what}"
            losses.plot(kicked.updates, values[k], line, label=label, **style)
        norm.plot(kicked.updates, kicked.norm[k], label=name, **style)
    losses.set(title="Figure 8: risk", ylabel="cross entropy", yscale="log")
    norm.set(title="Figure 8: norm", ylabel="norm of all weights")
    for panel in (losses, norm):
        panel.set_xlabel("update")
    for panel in axes.flat:
        if panel is not predicted:
            panel.legend(frameon=False, fontsize="small")
    # Between the lines of half and all random labels.
    size.legend(frameon=False, fontsize="small", loc=(0.02, 0.62))
    finish(drawing, path)


def _by_share(trained: Sequence[Outcome]) -> dict[float, list[Outcome]]:
    """The networks whose initial weights are not stretched, sorted by size."""
    shares = sorted({one.share for one in trained})
    ones = sorted(
        (one for one in trained if one.stretch == 1), key=lambda one: one.size
    )
    return {share: [one for one in ones if one.share == share] for share in shares}


def findings(
    config: Config,
    trained: Sequence[Outcome],
    wide: Mapping[int, Sequence[Outcome]],
    kicked: Disturbance,
) -> str:
    """The claims of the paper beside our measurements."""
    rows = [
        [
            f"{one.size}",
            f"{one.share:.0%}",
            f"{one.stretch:g}",
            f"{100 * one.training_error:.1f}",
            f"{100 * one.test_error:.1f}",
            f"{one.margins[0]:.2f}",
            f"{np.median(one.margins):.2f}",
            f"{np.median(one.normalized):.5f}",
            f"{one.product:.0f}",
        ]
        for one in trained
    ]
    header = ["images", "random", "start", "training error %", "test error %"]
    header += ["least margin", "median", "normalised median", "product of norms"]
    largest = [ones[-1] for ones in _by_share(trained).values()]
    margins, normalized = (
        np.median(getattr(largest[0], key)) / np.median(getattr(largest[-1], key))
        for key in ("margins", "normalized")
    )
    before = _rank_correlation(trained, "training_loss", "test_loss")
    after = _rank_correlation(trained, "normalized_loss", "normalized_test_loss")
    columns = ("training_error", "test_error", "training_loss", "test_loss")
    means = {
        key: [np.mean([getattr(one, key) for one in ones]) for ones in wide.values()]
        for key in columns
    }
    widths = [
        [
            f"{parameters}",
            *(f"{100 * means[key][k]:.1f}" for key in columns[:2]),
            *(f"{means[key][k]:.2g}" for key in columns[2:]),
        ]
        for k, parameters in enumerate(wide)
    ]
    disturbed = [
        [
            name,
            f"{kicked.training_loss[k, -1]:.1e}",
            f"{kicked.test_loss[k, -1]:.2f}",
            f"{100 * kicked.test_error[k, -1]:.1f}",
            f"{kicked.norm[k, -1]:.1f}",
        ]
        for k, name in enumerate(("undisturbed", "perturbed"))
    ]
    return (
        f"Networks {PIXELS + 1}-{'-'.join(map(str, config.hidden))}-{CLASSES} without"
        f" biases on 8x8 digits, {config.steps} updates of SGD, one seed; one of 450"
        " test images is 0.2%.\n\n"
        + markdown.table(header, rows)
        + "\n\nFigure 2, says the paper: random labels are fitted without error, and"
        " the test is no better than chance: yes. Median margins of true labels are"
        f" {margins:.0f} times those of random ones before normalisation, and"
        f" {normalized:.0f} times after it. The training loss"
        " of normalised networks predicts their test loss: rank correlation"
        f" {after:.2f}, {before:.2f} without normalisation (in part because both"
        " are near log 10 where norms are large). But among true labels more"
        " images leave smaller normalised margins and fewer errors. Larger initial"
        " weights end with a larger norm: yes; and a larger test error: not here.\n\n"
        + markdown.table(
            ["parameters", "training error %", "test error %", "training loss", "test"],
            widths,
        )
        + f"\n\nFigure 3, {config.width_size} images, means over"
        f" {config.width_seeds} seeds: more parameters do not make the test error"
        " larger: yes. They do make its cross entropy larger: not here.\n\n"
        + markdown.table(
            ["run", "training loss", "test loss", "test error %", "norm"], disturbed
        )
        + f"\n\nFigure 8, {config.kicks.size} images: after noise on the weights the"
        " training loss goes back, and test loss and norm grow: yes.\n"
        "The paper's network is convolutional, on CIFAR-10; sizes and rates are chosen."
    )


def _rank_correlation(trained: Sequence[Outcome], first: str, second: str) -> float:
    from scipy.stats import spearmanr  # Here, because it takes a while to import.

    values = np.array(
        [[getattr(one, key) for key in (first, second)] for one in trained]
    )
    return float(np.asarray(spearmanr(values))[0])


def report() -> Findings:
    """The findings, and what draws the figure."""
    config, data = Config(), digits()
    # Updates of all networks, by figure.
    sizes = config.steps * len(_members(config))
    wider = config.steps // 2 * len(config.widths) * config.width_seeds
    noisy = 2 * config.kicks.blocks[-1] * config.kicks.every
    with ProgressReport(sizes + wider + noisy) as progress:
        trained = sizes_and_labels(config, data, progress)
        wide = widths(config, data, progress)
        with progress.part("Figure 8", noisy):
            kicked = perturbed(config.kicks, data)
    drawn = partial(figure, trained=trained, wide=wide, kicked=kicked)
    return findings(config, trained, wide, kicked), {"margins.png": drawn}
