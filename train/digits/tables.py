"""Comparing optimizers over the same seeds: means, spreads, differences."""

import itertools
from collections.abc import Sequence

from train import optimizers
from train.digits.grid import (
    GridResult,
    describe_trial,
)
from train.report import markdown
from train.statistics import paired_interval


def result_table(results: Sequence[GridResult]) -> str:
    """The last metrics of every optimizer's best trial, as a Markdown table."""
    header = "optimizer,best trial,test accuracy %,ECE %,median margin,layer norms"
    rows = []
    for result in results:
        best = result.best()
        if best is None:
            rows.append([result.name, result.divergence()])
            continue
        final = result.final(best)
        norms = [f"{v.mean:.1f}" for key, v in final.items() if key.startswith("norm_")]
        rows.append(
            [
                result.name,
                describe_trial(result.trials[best]),
                final["test_accuracy"].text(2, scale=100),
                final["ece"].text(2, scale=100),
                final["median_margin"].text(1),
                " / ".join(norms),
                f"{result.seconds:.1f}",
            ]
        )
    return markdown.table([*header.split(","), "seconds"], rows)


def trial_table(results: Sequence[GridResult]) -> str:
    """The validation accuracy of every trial, as a Markdown table."""
    rows = []
    for result in results:
        for i, trial in enumerate(result.trials):
            accuracy = result.final(i)["validation_accuracy"].text(2, scale=100)
            outcome = result.divergence(i) or accuracy
            rows.append([result.name, describe_trial(trial), outcome])
    return markdown.table(("optimizer", "trial", "validation accuracy %"), rows)


def differences(results: Sequence[GridResult]) -> str:
    """Test accuracy of each LAWN form against each other optimizer, seed by seed.

    Args:
        results: Results of runs over the same seeds.

    Returns:
        One line per pair, empty if there is nothing to compare.
    """
    lines = []
    accuracy = {
        r.name: 100 * r.history["test_accuracy"][-1, best]
        for r in results
        if (best := r.best()) is not None
    }
    for ours, other in itertools.product(accuracy, accuracy):
        if not optimizers.is_lawn(ours) or optimizers.is_lawn(other):
            continue
        if accuracy[ours].size < 2:
            continue
        mean, half = paired_interval(accuracy[ours], accuracy[other])
        verdict = "beyond" if abs(mean) > half else "within"
        lines.append(
            f"{ours} minus {other}: {mean:+.2f} points of test accuracy, 95% interval"
            f" {mean - half:+.2f} to {mean + half:+.2f}: {verdict} the seeds' spread."
        )
    return "\n".join(lines)
