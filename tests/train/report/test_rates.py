"""Best learning rates by a fit, and how they drift."""

from pathlib import Path

import numpy as np
import pytest

from train.errors import InputError
from train.language.options import SweepConfig
from train.report import command, comparisons, drift, rates
from train.report.folders import Folder
from train.runs import records

RATES = 0.01 * 2.0 ** (np.arange(7) / 2)


def trials(optimum, losses=None, width=64):
    """Parabolas whose lowest points are at `optimum`."""
    if losses is None:
        parabola = 2 + 0.5 * (np.log2(RATES) - np.log2(optimum)) ** 2
        losses = np.tile(parabola, (3, 1))
    options = {"width": width, "depth": 2}
    losses = np.array(losses)
    return rates.Trials("adamh", "", options, RATES, losses, tuple(range(len(losses))))


def test_the_lowest_points_of_parabolas_are_found():
    levels = np.array([[2.0], [2.5], [1.5]])
    exact = 0.5 * (np.log2(RATES) - np.log2(0.03)) ** 2 + levels
    found = rates.fit(trials(0, exact))
    np.testing.assert_allclose(found.losses, levels[:, 0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.rate, 0.03, rtol=1e-9)
    assert found.text() == "0.03 ×/÷ 1.00"


def test_the_interval_of_an_optimum_holds_the_true_one_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), []
    for _ in range(300):
        exact = 0.5 * (np.log2(RATES) - np.log2(0.04)) ** 2
        noisy = exact + rng.normal(0, 1, (3, 1)) + rng.normal(0, 0.05, (3, 7))
        found = rates.fit(trials(0, noisy))
        hits.append(abs(found.log2_rate - np.log2(0.04)) < found.half)
    assert 0.91 < np.mean(hits) < 0.98


def test_an_optimum_of_as_many_losses_as_unknowns_has_no_interval():
    losses = np.log2(RATES[:3] / 0.014) ** 2
    three = trials(0, losses[None])._replace(rates=RATES[:3])
    assert rates.fit(three).text() == "0.014"


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([[1, 2, 3, 4, 5, 6, 7]], "at the edge: 0.01"),
        ([[7, 6, 5, 4, 3, 2, 1]], "at the edge: 0.08"),
        ([[np.inf] * 7], "every rate has a seed that diverged"),
        ([[9, 4, 2, 1, np.inf, np.inf, np.inf]], "at the edge: 0.0283"),
        ([[1, 1, 2, 0.9, 2, 1, 1]], "no lowest point"),
    ],
)
def test_no_optimum_is_made_up(losses, reason):
    found = rates.fit(trials(0, np.array(losses, float)))
    assert reason in found.text()
    assert found.losses.size == 0


def test_the_section_states_optima_and_drift():
    found = [trials(0.02, width=32), trials(0.03, width=128)]
    text = drift.section("a text", found)
    assert "| optimizer |  | width | rates" in text
    assert "| adamh     | width  | 32, 128    | 1.50  | +0.29 ± 0.00 " in text
    assert "depth" not in text  # It is the same in all trials.
    figure = drift.figure(found)
    assert figure and [axes.get_title() for axes in figure.axes] == ["adamh"]


def test_at_most_four_panels_are_side_by_side():
    found = [
        trials(0.02, width=width)._replace(optimizer=name)
        for name in "abcde"
        for width in (32, 128)
    ]
    figure = drift.figure(found)
    assert [axes.get_title() for axes in figure.axes] == list("abcde")
    rows = {axes.get_subplotspec().rowspan.start for axes in figure.axes}
    assert rows == {0, 1} and figure.axes[0].get_gridspec().ncols == 4


def sweep_folder(name, **options):
    """A sweep of two seeds at three rates, the last of which diverged once."""
    options = {"optimizers": ("adamh",), "epochs": 20, "trial_seeds": (0, 1),
               "dataset": "python", "text_sha256": 64 * "0"} | options  # fmt: skip
    about = {"optimizer": "adamh", "weight_decay": 0.0, "outcome": "finished"}
    rows = [
        about | {"learning_rate": rate, "seed": seed, "test_loss": rate + seed}
        for rate in (0.01, 0.02, 0.04)
        for seed in (0, 1)
    ]
    rows[-1]["outcome"] = "diverged at step 3"
    kept = records.run_config("sweep language", SweepConfig(**options))
    files = {"config.json": {"config": kept}, "trials.jsonl": rows}
    return Folder(Path(name), Path(name), files)


def test_sweeps_of_language_models_are_read():
    (found,), _ = command._losses_at_rates([sweep_folder("x", width=32)])
    assert found.options["width"] == 32
    assert found.options["epochs"] == 20
    np.testing.assert_array_equal(found.rates, (0.01, 0.02, 0.04))
    np.testing.assert_allclose(found.losses, [[0.01, 0.02, 0.04], [1.01, 1.02, np.inf]])


def few():
    """A sweep of too few rates for a fit."""
    folder = sweep_folder("few", width=16)
    del folder.files["trials.jsonl"][2:]
    return folder


def test_sweeps_of_one_task_are_taken_together():
    """A grid that was widened in a second sweep is one grid."""
    wider = sweep_folder("y", width=32, rates=(0.04, 0.08, 0.16))
    for row in wider.files["trials.jsonl"]:
        row["learning_rate"] *= 4
    narrow = sweep_folder("x", width=32, rates=(0.01, 0.02, 0.04))
    narrow.files["trials.jsonl"][-1]["outcome"] = "finished"
    folders = [narrow, wider, sweep_folder("z", width=64), few()]
    found, fitted = command._losses_at_rates(folders)
    assert fitted == folders[:3]
    assert [len(one.rates) for one in found] == [5, 3]
    np.testing.assert_array_equal(found[0].rates, (0.01, 0.02, 0.04, 0.08, 0.16))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), "0.1"])
def test_damaged_rates_are_refused(rate):
    folder = sweep_folder("x")
    folder.files["trials.jsonl"][2]["learning_rate"] = rate
    with pytest.raises(InputError, match="trials.jsonl"):
        command._losses_at_rates([folder])


def test_sweeps_that_differ_in_two_options_have_no_drift():
    found = [
        trials(0.02)._replace(options={"width": width, "norm": norm})
        for width, norm in ((32, "rms"), (128, "layer"))
    ]
    text = drift.section("a text", found)
    assert "| width | norm  | rates" in text and "drift" not in text
    assert drift.figure(found) is None


def test_each_text_has_figures_of_its_own():
    texts = ("python", "tiny-shakespeare")
    folders = [
        sweep_folder(f"{text}-{width}", dataset=text, width=width)
        for text in texts
        for width in (32, 64)
    ]
    _, figures = command.texts_and_figures(folders)
    assert {*figures} == {f"rates-{text}.png" for text in texts}
    _, figures = command.texts_and_figures(folders[:2])
    assert {*figures} == {"rates.png"}
    shas = "a" * 64, "b" * 64
    found = [sweep_folder(sha, dataset="files", text_sha256=sha) for sha in shas]
    found = rates.by_text(command._losses_at_rates(found)[0])
    assert {*found} == {"files-aaaaaaaa", "files-bbbbbbbb"}


@pytest.mark.parametrize(
    ("heads", "states"), [((1, 4), True), ((1, 1), True), ((1, 2), False)]
)
def test_heads_of_one_size_grow_with_the_width(heads, states):
    found = [
        one._replace(options={**one.options, "heads": count})
        for one, count in zip(
            (trials(0.02, width=32), trials(0.03, width=128)), heads, strict=True
        )
    ]
    assert ("drift" in drift.section("a text", found)) is states


def test_the_figure_of_comparisons_has_differences_and_losses_by_length():
    def method(name, level, epochs):
        losses = level + 0.5 * (np.log2(RATES) - np.log2(0.03)) ** 2
        losses = losses + np.array([[0.0], [0.1], [0.3]])
        options = {"epochs": epochs, "width": 64, "depth": 2}
        return rates.Trials(name, "", options, RATES, losses, (0, 1, 2))

    found = [method("adamw", 2.0, 300), method("muonh", 1.75, 300)]
    figure = comparisons.figure(found)
    assert figure
    (axes,) = figure.axes
    (container,) = axes.containers
    np.testing.assert_allclose(container.lines[0].get_xydata(), [(-0.25, 0)])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["muonh"]
    assert "minus that of adamw" in axes.get_xlabel()
    found += [method("adamw", 1.5, 600), method("muonh", 1.25, 600)]
    figure = comparisons.figure([*found, method("adamh", 1.8, 600)])
    assert figure
    differences, lengths = figure.axes
    assert differences.get_title() == "length 600"  # It has the most methods.
    lines = {line.get_label(): line.get_xydata() for line in lengths.get_lines()}
    mean = np.mean([0, 0.1, 0.3])
    for name, levels in (("adamw", (2.0, 1.5)), ("muonh", (1.75, 1.25))):
        expected = [(300, levels[0] + mean), (600, levels[1] + mean)]
        np.testing.assert_allclose(lines[name], expected)
    assert len(lines) == 2  # AdamH has one length.
    assert comparisons.figure(found[:1]) is None
