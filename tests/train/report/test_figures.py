"""Figures of reports, from made-up run folders."""

import matplotlib.image
import numpy as np
import pytest

from tests.support import commands
from tests.support.run_folders import (
    BASE,
    level,
    make_report,
    read_groups,
    write_image_run,
    write_run,
)
from train.report.figures import draw_figures


def draw(folder):
    return draw_figures(read_groups(folder))


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_figure_1_shows_factor_and_switch(tmp_path):
    free = {"optimizer": "adam", "learning_rate": 0.001, "free_epochs": 0.0}
    write_run(tmp_path / "free", level(240), **free)
    attenuated = {"alpha": 0.2, "free_epochs": 115.0, "learning_rate": 0.001}
    write_run(tmp_path / "alpha", level(260), switched_at=575, **attenuated)
    figures, missing = draw(tmp_path)
    margin, hits = figures["figure-1-ml-100k-100000.png"].axes
    training, test, *_ = [line.get_ydata() for line in margin.get_lines()]
    np.testing.assert_allclose(training, [1, 2, 3])
    np.testing.assert_allclose(test, [0.5, 1, 1.5])
    training = margin.get_lines()[2].get_ydata()
    np.testing.assert_allclose(training, [1, 0.4, 0.6])
    assert margin.get_lines()[0].get_linestyle() == ":"
    assert margin.get_lines()[2].get_linestyle() == "-"
    np.testing.assert_allclose(margin.get_lines()[4].get_xdata(), [115, 115])
    found = lines(hits)
    for label, expected in {
        "test, Adam without decay": 60,
        "test, logits times 0.2, norms fixed": 65,
        "training, logits times 0.2, norms fixed": 95,
    }.items():
        assert found[label].get_ydata()[-1] == pytest.approx(expected)
    assert "switch, epoch 115" in found
    assert not any("Figure 1 " in line for line in missing)


def test_figure_3_has_a_line_per_method_and_the_published_ones(tmp_path):
    sizes = {10_000: (200, 260), 100_000: (248,), 400_000: (240,)}
    for size, levels in sizes.items():
        for i, hits in enumerate(levels):  # Of two settings the better one.
            rate = 0.001 * (1 + i)
            options = {"batch_size": size, "learning_rate": rate}
            write_run(tmp_path / f"{size}-{i}", level(hits), **options)
    adam = {"optimizer": "adam", "batch_size": 10_000}
    write_run(tmp_path / "adam", level(244), **adam)
    write_run(tmp_path / "adamw", level(248), **BASE)
    sgd = {"optimizer": "sgd", "batch_size": 400_000}
    write_run(tmp_path / "sgd", level(0), "diverged at step 5", **sgd)
    figures, missing = draw(tmp_path)
    (axes,) = figures["figure-3-ml-100k.png"].axes
    assert axes.get_xscale() == "log"
    ours = {c.get_label(): c.lines[0].get_xydata() for c in axes.containers}
    np.testing.assert_allclose(ours["adam-lawn"], [[1e4, 65], [1e5, 62], [4e5, 60]])
    labels = [label.get_text() for label in axes.get_xticklabels()]
    # Those of the papers too; the figure shows their numbers.
    assert labels == ["1,000", "10,000", "100,000", "400,000"]
    # The papers' Adam is tuned over weight decays, 0 among them.
    np.testing.assert_allclose(ours["adam or adamw"], [[1e4, 61], [1e5, 62]])
    published = lines(axes)["adam-lawn, arXiv Table 9"]
    assert published.get_linestyle() == "--"
    np.testing.assert_allclose(published.get_ydata(), [66.81, 66.91, 66.24, 66.14])
    assert "sgd; diverged at 400,000" in ours
    assert "sgd, arXiv Table 9; Fail at 100,000, 400,000" in lines(axes)
    assert not any("Figure 3 " in line for line in missing)


@pytest.mark.parametrize("hits, outside", [(40, True), (244, False)])
def test_a_method_that_fails_does_not_flatten_figure_3(tmp_path, hits, outside):
    for i, size in enumerate((10_000, 100_000)):
        # Those at 100,000 are far below those at 10,000, but not below each other.
        write_run(tmp_path / f"lawn-{i}", level(256 - 100 * i), batch_size=size)
        sgd = {"optimizer": "sgd", "batch_size": size}
        write_run(tmp_path / f"sgd-{i}", level((hits, 150)[i]), **sgd)
    figure = draw(tmp_path)[0]["figure-3-ml-100k.png"]
    low = figure.axes[0].get_ylim()[0]
    assert (low > hits / 4) == outside and low < 150 / 4
    assert ("; left out: 1 far lower" in figure.get_suptitle()) == outside


def test_figure_7b_varies_the_free_phase_alone(tmp_path):
    for free, levels in {0.1: (240,), 5.0: (260, 264), 50.0: (252,)}.items():
        for seed, hits in enumerate(levels):
            options = {"free_epochs": free, "seed": seed}
            write_run(tmp_path / f"{free}-{seed}", level(hits), **options)
    # Another rate: not a point of this line.
    write_run(tmp_path / "other", level(300), free_epochs=1.0, learning_rate=0.005)
    figures, missing = draw(tmp_path)
    (axes,) = figures["figure-7b-ml-100k-100000.png"].axes
    (container,) = axes.containers
    points, _, (bars,) = container.lines
    np.testing.assert_allclose(
        points.get_xydata(), [[0.1, 60], [5, 65.5], [50, 63]], atol=1e-9
    )
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["0.1", "5", "50"] and not len(axes.get_xticks(minor=True))
    heights = [np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()]
    np.testing.assert_allclose(heights, [0, np.std([65, 66], ddof=1), 0], atol=1e-9)
    assert not any("Figure 7(b) " in line for line in missing)


def test_figures_are_written_and_not_blank(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "0", level(260))
    write_run(runs / "1", level(250), batch_size=10_000)
    write_run(runs / "2", level(250), free_epochs=0.0)
    rate = {"learning_rate": 0.002, "free_epochs": 0.0}
    write_run(runs / "3", level(240), optimizer="adam", **rate)
    write_run(runs / "4", level(264), switched_at=575, alpha=0.2, free_epochs=115.0)
    text = make_report(tmp_path)
    names = sorted(path.name for path in (tmp_path / "report").glob("*.png"))
    assert names == [
        "figure-1-ml-100k-100000.png",
        "figure-3-ml-100k.png",
        "figure-7b-ml-100k-100000.png",
    ]
    for name in names:
        assert f"]({name})" in text
        image = matplotlib.image.imread(tmp_path / "report" / name)
        assert image.shape[0] > 500 and image[..., :3].std() > 0.05
    for figure in draw(runs)[0].values():  # What fits the width of the figures.
        assert max(map(len, figure.get_suptitle().splitlines())) <= 100


def test_figures_without_their_runs_name_the_command(tmp_path):
    write_run(tmp_path / "runs" / "0", level(260), learning_rate=0.005)
    text = make_report(tmp_path)
    assert not list((tmp_path / "report").glob("*.png"))
    assert [command for command, _ in commands.in_text(text)] == [
        "recsys --optimizer adam --learning-rate 0.005",
        "recsys --optimizer adam-lawn --learning-rate 0.005 --alpha 0.2"
        " --free-epochs 115",
        "recsys --optimizer adam-lawn --batch-size 10000 --free-epochs 20",
        "recsys --optimizer adam-lawn --learning-rate 0.005 --free-epochs 50",
    ]
    for name in ("Figure 1", "Figure 3", "Figure 7(b)"):
        assert f"\n{name} (" in text


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"epochs": 40, "warmup_epochs": 4.0, "free_epochs": 5.0},
        {"epochs": 10, "warmup_epochs": 1.0, "optimizer": "adamw", "free_epochs": 0.0},
        {"epochs": 2, "warmup_epochs": 2.0, "optimizer": "sgd", "free_epochs": 0.0},
        {"tower": "4-layer", "init": "torch", "loss": "focal", "gamma": 1.5},
        {"schedule": "two-phase", "candidate_draws": 2, "batch_size": 400_000},
        {"alpha": 0.2, "free_epochs": 115.0, "dataset": "pinterest-20"},
    ],
)
@pytest.mark.parametrize("write", [write_run, write_image_run])
def test_what_a_report_suggests_can_be_run(write, changes, tmp_path):
    changes = dict(changes)
    if write is write_image_run:
        changes = {"epochs": 30, "warmup_epochs": 3.0, "free_epochs": 3.0} | changes
        changes |= {"loss": "focal"} if "loss" in changes else {}
        for name in ("tower", "init", "candidate_draws"):
            changes.pop(name, None)
        if "dataset" in changes:
            changes["dataset"] = "imagenet"
    hits = 260 if write is write_image_run else level(260)
    write(tmp_path / "runs" / "0", hits, **changes)
    suggested = commands.in_text(make_report(tmp_path))
    assert len(suggested) >= 2
    for command, _ in suggested:
        commands.check(command)
