"""Margins of networks that fit true and random labels, before and after normalisation.

As in Banburski et al. 2019, "Theory III: Dynamics and Generalization in Deep Networks",
Appendix 9, Figures 2, 3 and 8. The paper trains a convolutional network on CIFAR-10;
here it is the multilayer perceptron of `train.studies.margins_network`, on 8x8 digits
or some small images of CIFAR-10, and the paper's network at full size.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.digits.experiment import CLASSES, PIXELS
from train.plots import COLOURS, finish, new_figure
from train.report import markdown
from train.runs.progress import ProgressReport
from train.runs.results import Findings
from train.studies import cifar
from train.studies.margins_network import (
    Outcome,
    cifar_images,
    digits,
)
from train.studies.margins_noise import (
    Disturbance,
    perturbed,
)
from train.studies.margins_trials import (
    CIFAR,
    FULL,
    Config,
    members,
    sizes_and_labels,
    widths,
)


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
    real: str = "",
) -> str:
    """The claims of the paper beside our measurements.

    With real data, which `real` describes, only the measurements: what they say is
    known for digits alone.
    """
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
    ranks = f"rank correlation {after:.2f}, {before:.2f} without normalisation"
    ratios = (
        "Median margins of true labels are"
        f" {margins:.2g} times those of random ones before normalisation, and"
        f" {normalized:.2g} times after it."
    )
    sizes = (
        f"Figure 3, {config.width_size} images, means over {config.width_seeds} seeds"
    )
    noise = f"Figure 8, {config.kicks.size} images"
    if real:
        parts = (
            f"Networks without biases on {real}; hidden layers of {config.hidden[0]},"
            f" {config.steps} updates of SGD, one seed.",
            "Figure 2, says the paper: random labels are fitted without error, and the"
            " test is no better than chance; the training loss of normalised networks"
            f" predicts their test loss. {ratios} The two losses: {ranks}.",
            f"{sizes}, says the paper: more parameters do not make the test error"
            " larger, but its cross entropy.",
            f"{noise}, says the paper: after noise on the weights the training loss"
            " goes back, and test loss and norm grow.",
        )
    else:
        parts = (
            f"Networks {PIXELS + 1}-{'-'.join(map(str, config.hidden))}-{CLASSES}"
            f" without biases on 8x8 digits, {config.steps} updates of SGD in float64,"
            " one seed; one of 450 test images is 0.2%.",
            "Figure 2, says the paper: random labels are fitted without error, and"
            f" the test is no better than chance: yes. {ratios} The training loss"
            f" of normalised networks predicts their test loss: {ranks}"
            " (in part because both"
            " are near log 10 where norms are large). But among true labels more"
            " images leave smaller normalised margins and fewer errors. Larger initial"
            " weights end with a larger norm: yes; and a larger test error: not here.",
            f"{sizes}: more parameters do not make the test error"
            " larger: yes. They do make its cross entropy larger: not here.",
            f"{noise}: after noise on the weights the"
            " training loss goes back, and test loss and norm grow: yes.\n"
            "The paper's network is convolutional, on CIFAR-10; sizes and rates are"
            " chosen.",
        )
    errors = ["parameters", "training error %", "test error %", "training loss", "test"]
    ends = ["run", "training loss", "test loss", "test error %", "norm"]
    tables = (
        markdown.table(header, rows),
        markdown.table(errors, widths),
        markdown.table(ends, disturbed),
    )
    paired = zip(tables, parts[1:], strict=True)
    return "\n\n".join([parts[0], *(text for pair in paired for text in pair)])


def _rank_correlation(trained: Sequence[Outcome], first: str, second: str) -> float:
    from scipy.stats import spearmanr  # Here, because it takes a while to import.

    values = np.array(
        [[getattr(one, key) for key in (first, second)] for one in trained]
    )
    return float(np.asarray(spearmanr(values))[0])


def report(data_dir: Path | None = None, full: bool = False) -> Findings:
    """The findings, and what draws the figure."""
    # In float32, rounding would grow, and findings would differ between machines.
    with jax.enable_x64(not full):
        if data_dir is None:
            config, data, real = Config(), digits(), ""
        else:
            config, data = FULL if full else CIFAR, cifar_images(data_dir, full)
            real = "CIFAR-10" if full else cifar.describe(False)
        # Updates of all networks, by figure.
        sizes = config.steps * len(members(config))
        wider = config.steps // 2 * len(config.widths) * config.width_seeds
        noisy = 2 * config.kicks.blocks[-1] * config.kicks.every
        with ProgressReport(sizes + wider + noisy) as progress:
            trained = sizes_and_labels(config, data, progress)
            wide = widths(config, data, progress)
            with progress.part("Figure 8", noisy):
                kicked = perturbed(config.kicks, data)
    drawn = partial(figure, trained=trained, wide=wide, kicked=kicked)
    return findings(config, trained, wide, kicked, real), {"margins.png": drawn}
