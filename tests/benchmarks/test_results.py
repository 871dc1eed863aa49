"""The committed results: every table and figure is drawn again from its rows."""

import fnmatch
import functools
import json
import re
from collections import defaultdict

import numpy as np
import PIL.Image
import pytest

import lawn_optax as lawn
from benchmarks import arms, step_overhead
from benchmarks.compiled import optimizers, training
from benchmarks.throughput import images, ncf, operations
from train import png
from train.report import command as report

RESULTS = arms.RESULTS
# What each folder was drawn from, as in benchmarks/README.md.
SOURCES = {
    "recommenders": ("recommenders.jsonl",),
    "images": tuple(
        f"images.jsonl/{part}" for part in ("tuned", "free", "overconfident")
    ),
    "language": ("language.jsonl",),
    "digits": ("digits.jsonl",),
    "studies": ("studies.jsonl",),
}


def read(file):
    return [json.loads(line) for line in (RESULTS / file).read_text().splitlines()]


@functools.cache
def content(folder):
    """The texts of a folder, and what draws its figures."""
    folders, unfinished = report.find([RESULTS / path for path in SOURCES[folder]])
    assert not unfinished
    return report.texts_and_figures(folders)


def drawn(folder):
    """The figures of a folder, by file name."""
    return {name: draw.keywords["figure"] for name, draw in content(folder)[1].items()}


def test_no_file_but_what_is_drawn_and_what_it_is_drawn_from():
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert len(files) <= 43 and sum(path.stat().st_size for path in files) <= 2e6
    tables = {path for path in files if path.parent != RESULTS and path.suffix == ".md"}
    assert tables == {RESULTS / f / name for f in SOURCES for name in content(f)[0]}
    figures = {path for path in files if path.suffix == ".png"}
    assert figures == {RESULTS / f / name for f in SOURCES for name in content(f)[1]}


@pytest.mark.parametrize("folder", SOURCES)
def test_tables_of_runs_are_the_same_bytes(folder):
    for name, text in content(folder)[0].items():
        assert text.encode() == (RESULTS / folder / name).read_bytes()


@pytest.mark.parametrize(
    "table",
    [m.TABLE for m in (step_overhead, images, ncf, operations, optimizers, training)],
    ids=lambda table: table.name,
)
def test_tables_of_benchmarks_are_the_same_bytes(table):
    text = table.text(arms.read(table.file))
    assert text.encode() == table.file.with_suffix(".md").read_bytes()


@pytest.mark.parametrize("folder", ["recommenders", "images", "language"])
def test_committed_figures_show_the_data_of_the_rows(folder):
    for name, figure in drawn(folder).items():
        with PIL.Image.open(RESULTS / folder / name) as image:
            assert image.info["Comment"] == png.data_digest(figure)
            assert min(image.size) > 500 and np.std(image.convert("L")) > 10


def test_the_committed_curves_of_digits_look_like_those_of_the_rows(tmp_path):
    (draw,) = content("digits")[1].values()
    draw(tmp_path / "curves.png")
    files = tmp_path / "curves.png", RESULTS / "digits" / "curves.png"
    ours, there = (np.asarray(PIL.Image.open(file).convert("L")) for file in files)
    assert abs(np.subtract(ours.shape, there.shape)).max() <= 8
    height, width = np.minimum(ours.shape, there.shape)
    ours, there = ours[:height, :width] / 255, there[:height, :width] / 255
    # Other fonts or another Matplotlib change some pixels.
    assert (np.abs(ours - there) > 0.1).mean() < 0.02


def points(axes):
    """The measured points of each method: a line with error bars."""
    return {c.get_label(): c.lines[0].get_xydata() for c in axes.containers}


def finals(file, metric):
    """Mean of the last metric of the runs that differ in their seeds alone."""
    defaults = {
        r["experiment"]: r["options"] for r in read(file) if r["kind"] == "defaults"
    }
    groups = defaultdict(list)
    for row in read(file):
        if row["kind"] == "run":
            options = defaults[row["experiment"]] | row["options"]
            del options["seed"]
            groups[json.dumps(options)].append(100 * row["last"][metric])
    return [(json.loads(key), np.mean(values)) for key, values in groups.items()]


def test_the_data_of_figure_1_are_the_curves():
    figure = drawn("recommenders")["figure-1-ml-100k-100000.png"]
    curves = {row["name"]: row for row in read("recommenders-curves.jsonl")}
    plain, alpha = curves["figures/adam-2e-3"], curves["figures/adam-lawn-alpha"]
    margin, hits = figure.axes
    assert min(len(margin.get_lines()), len(hits.get_lines())) > 4
    expected = [r[f"{p}margin_p50"] for r in (plain, alpha) for p in ("", "test_")]
    for line, values in zip(margin.get_lines(), expected, strict=False):
        np.testing.assert_allclose(line.get_ydata(), values, rtol=1e-12)
    expected = [run[key] for run in (plain, alpha) for key in ("train_hr", "hr")]
    for line, values in zip(hits.get_lines(), expected, strict=False):
        np.testing.assert_allclose(line.get_ydata(), 100 * np.array(values))
        np.testing.assert_array_equal(line.get_xdata(), plain["epoch"])


@pytest.mark.parametrize(
    "folder, figure, file, metric, shown",
    [
        ("recommenders", "figure-3-ml-100k.png", "recommenders.jsonl", "hr", 11),
        ("images", "figure-3a-cifar10.png", "images.jsonl", "accuracy", 4),
        ("images", "figure-7a-cifar10-256.png", "images.jsonl", "accuracy", 3),
        (
            "recommenders",
            "figure-7b-ml-100k-100000.png",
            "recommenders.jsonl",
            "hr",
            4,
        ),
    ],
)
def test_the_points_of_figures_are_means_of_rows(folder, figure, file, metric, shown):
    (axes,) = drawn(folder)[figure].axes
    option = "batch_size" if figure.startswith("figure-3") else "free_epochs"
    known = [(options[option], mean) for options, mean in finals(file, metric)]
    found = np.concatenate(list(points(axes).values()))
    assert len(found) >= shown
    for x, y in found:
        assert any(x == value and abs(y - mean) < 1e-9 for value, mean in known)


def test_the_curves_of_digits_are_means_of_rows(monkeypatch):
    found = []
    monkeypatch.setattr(png, "save", lambda _, figure: found.append(figure))
    content("digits")[1]["curves.png"](RESULTS / "digits" / "curves.png")
    (figure,) = found
    (curves,) = read("digits-curves.jsonl")
    margin = figure.axes[0]
    lines = [line for line in margin.get_lines() if len(line.get_xdata()) > 2]
    names = [grid["optimizer"] for grid in read("digits.jsonl")[-1]["grids"]]
    assert len(lines) == len(names) == 3
    for line, name in zip(lines, names, strict=True):
        curve, values = curves[name], defaultdict(list)
        for epoch, value in zip(curve["epoch"], curve["median_margin"], strict=True):
            values[epoch].append(value)
        np.testing.assert_array_equal(line.get_xdata(), sorted(values))
        means = [np.mean(values[epoch]) for epoch in sorted(values)]
        np.testing.assert_allclose(line.get_ydata(), means, rtol=1e-12)


def test_the_curves_of_digits_end_in_the_last_metrics():
    (curves,) = read("digits-curves.jsonl")
    for grid in read("digits.jsonl")[-1]["grids"]:
        curve = curves[grid["optimizer"]]
        for metric in ("loss", "median_margin", "test_accuracy", "weight_norm"):
            ends = {
                seed: value
                for seed, epoch, value in zip(
                    curve["seed"], curve["epoch"], curve[metric], strict=True
                )
                if epoch == grid["epoch"]
            }
            assert list(ends.values()) == grid["last"][metric][curve["trial"]]


@pytest.mark.parametrize(
    "file, metric, best",
    [
        ("recommenders", "hr", max),
        ("images", "accuracy", max),
        ("language", "test_loss", min),
    ],
)
def test_the_curves_of_runs_end_in_the_last_metrics(file, metric, best):
    curves = {row["name"]: row for row in read(f"{file}-curves.jsonl")}
    runs = [row for row in read(f"{file}.jsonl") if row["kind"] == "run"]
    assert curves.keys() == {run["name"] for run in runs}
    for run in runs:
        curve = curves[run["name"]]
        assert {k: v[-1] for k, v in curve.items() if k != "name"}.items() <= (
            run["last"].items()
        )
        assert best(curve[metric]) == run["summary"]["best"][metric]


@pytest.mark.parametrize("decay", [0.3, 1])
def test_the_guides_ratio_of_adamws_angle_to_adamhs_best_rate(decay):
    """The best rates of both, by their table, in the settings that have both."""
    optima = defaultdict(dict)
    for line in (RESULTS / "language" / "rates.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        wanted = cells[:2] in (["adamw", f"decay {decay}"], ["adamh", ""])
        if len(cells) == 10 and wanted and cells[8][0].isdigit():
            optima[tuple(cells[2:6])][cells[0]] = float(cells[8].split()[0])
    angle = lawn.diagnostics.adamw_equilibrium_angle
    pairs = [x for x in optima.values() if len(x) == 2]
    ratios = [float(angle(x["adamw"], decay)) / x["adamh"] for x in pairs]
    thumb = [(decay * x["adamw"]) ** 0.5 / x["adamh"] for x in pairs]
    shown = (
        f"{min(ratios):.2f} to {max(ratios):.2f} times AdamH's best rate in the"
        f" {len(pairs)} settings",
        f"{min(thumb):.1f} to {max(thumb):.1f} times AdamH's",
    )
    guide = (arms.ROOT / "docs" / "guide" / "rates.md").read_text()
    assert all(text in " ".join(guide.split()) for text in shown), shown


def test_abandoned_grids_are_one_line_each():
    rows = read("abandoned.jsonl")
    assert [row["name"] for row in rows] == ["adam-10k", "five-epochs", "ynnpack"]
    assert all(row["kind"] == "abandoned" and row["why"] for row in rows)


def test_the_rows_of_every_claim_exist():
    claims = (RESULTS.parent / "README.md").read_text().split("## Claims")[1]
    checked = 0
    for line in claims.splitlines():
        if not line.startswith("| ") or line.startswith("| claim"):
            continue
        cited = re.findall(r"`([^`]+)`", line.split("|")[3])
        files = [name for name in cited if name.endswith(".jsonl")]
        assert files
        texts = {
            value
            for f in files
            for row in read(f)
            for value in row.values()
            if isinstance(value, str)
        }
        for name in set(cited) - set(files):
            assert fnmatch.filter(texts, name), name
            checked += 1
    assert checked > 20


def test_links_of_the_findings_lead_somewhere():
    for page in [RESULTS.parent / "README.md", *RESULTS.glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)
