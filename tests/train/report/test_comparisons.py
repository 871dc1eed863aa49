"""Methods at their best rates side by side."""

import numpy as np
import pytest

from train.report import comparisons, rates

RATES = np.array([0.01, 0.02, 0.04])


def method(optimizer, losses, seeds=(0, 1, 2), others="", **options):
    """Trials whose parabolas have these lowest points, one for each seed, at 0.02."""
    curves = np.array(losses)[:, None] + np.array([1.0, 0.0, 1.0])
    options = {"width": 64, "epochs": 100, "init": "fan-in", "project": False} | options
    return rates.Trials(optimizer, others, options, RATES, curves, seeds)


def lines(found):
    text = "\n".join(comparisons.sections(found))
    table = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]


def test_differences_are_paired_by_seed_and_from_the_best_adamw():
    found = [
        method("muonh", [1.7, 1.8, 2.2]),
        method("adamw", [3.0, 3.0, 3.0], others="decay 1"),
        method("adamw", [1.8, 2.0, 2.3], others="decay 0.1"),
        method("muon", [1.0, 1.0], seeds=(0, 1)),  # Other seeds are no pairs.
        method("adamw", [1.0], seeds=(0,), others="decay 3"),
    ]
    head, _, first, *others = lines(found)
    assert head == ["method", "loss", "difference", "n"]
    assert first == ["adamw, decay 0.1", "2.0333 ± 0.2517", "", ""]
    assert [row[0] for row in others] == ["muonh", "adamw, decay 1"]
    # Differences of -0.1, -0.2 and -0.1; Student's t for three is 4.3027.
    half = 4.3027 * np.std([0.1, 0.2, 0.1], ddof=1) / 3**0.5
    low, high = -0.4 / 3 - half, -0.4 / 3 + half
    assert others[0][2] == f"{-0.4 / 3:+.4f} ({low:+.4f} to {high:+.4f})"


def test_only_methods_on_one_task_are_compared():
    found = [method("adamw", [2, 2, 2]), method("muonh", [1, 1, 1], width=32)]
    assert lines(found) == []


def test_unusual_options_of_a_method_are_in_its_name():
    found = [
        method("adamh", [2, 2, 2], width=32),
        method("adamh", [2, 2, 2]),
        method("adamh", [1, 1, 1], init="zero-out", others="free 3", project=True),
        method("muonh", [1, 1, 1], init="zero-out"),  # All that muonh has.
    ]
    names = [one.others for one in rates.named(found)]
    assert names == ["", "", "free 3, init zero-out, project", ""]
    cells = [cell for row in lines(rates.named(found)) for cell in row]
    assert "adamh, free 3, init zero-out, project" in cells


def lengths(optimizer, losses):
    return [
        method(optimizer, [loss, loss, loss + 0.1], epochs=steps)
        for steps, loss in losses.items()
    ]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        # Halfway between two lengths in the logarithm: 100 * 2^0.5 of 200 steps.
        ({100: 2.1, 200: 1.9, 400: 1.7}, "0.71 (0.71 to 0.71)"),
        ({100: 1.9, 200: 1.8}, "fewer than 0.50"),
        ({100: 2.4, 200: 2.2}, "more than 1.00"),
        ({100: 2.1, 200: 2.2}, "its loss does not fall with the steps"),
    ],
)
def test_steps_to_the_same_loss(losses, expected):
    found = lengths("muonh", losses) + lengths("adamw", {200: 2.0})
    assert ["200", "muonh", expected] in lines(found)
