"""Reports on image classifiers, over made-up run folders with known numbers."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from tests.support.run_folders import (
    BASE,
    USERS,
    cells,
    level,
    make_report,
    read_groups,
    write_image_run,
    write_run,
)
from train.errors import InputError
from train.report import papers
from train.report.figures import draw_figures

SETTING = "learning rate 0.002, free epochs 20"


def test_a_group_of_seeds_is_one_row_with_its_statistics(tmp_path):
    for seed, right in enumerate((260, 264, 268)):
        write_image_run(tmp_path / "runs" / str(seed), right, seed=seed)
    text = make_report(tmp_path)
    row = cells(text, "adam-lawn")
    assert row[1:5] == [SETTING, "not stated", "3", "66.00 ± 1.00"]
    low, high = map(float, row[5].split(" to "))
    values = (np.array(level(260)) + level(264) + level(268)) / 3
    error = 196 * values.std() / math.sqrt(USERS)
    np.testing.assert_allclose([low, high], [66 - error, 66 + error], atol=0.3)
    assert row[6:] == [
        "67.00 ± 1.00 (of 2)",
        "6.60 ± 0.10",
        "90.00 ± 0.00",
        "none",
        "30",
    ]
    assert "400 images; model cnn, dtype float32, epochs 2" in text
    assert "cifar10 Adam 13.2, Adam-LAWN 4.8" in " ".join(text.split())
    for header in ("accuracy %, last epoch", "ECE %", "95% over images"):
        assert header in text
    assert "Fail" not in text and "HR@10" not in text and "users;" not in text


def test_vgg_stands_beside_the_papers(tmp_path):
    options = {"model": "vgg19", "batch_size": 4_000, "epochs": 300}
    write_image_run(tmp_path / "runs" / "0", 372, **options)
    write_image_run(tmp_path / "runs" / "1", 368, **options | BASE)
    text = make_report(tmp_path)
    # arXiv Table 6; standard errors times sqrt(3).
    assert cells(text, "adam-lawn")[9] == "93.74 ± 0.07 (arXiv Table 6)"
    assert cells(text, "adamw")[9] == "92.93 ± 0.02 (arXiv Table 6)"
    row = cells(text, "adam-lawn - adam or adamw")
    assert row[3] == "+1.00" and row[5] == "fewer than two seeds in common"
    spread = math.sqrt(0.01 * 0.99 / USERS)
    low, high = (float(x) for x in row[4].split(":")[0].split(" to "))
    np.testing.assert_allclose([low, high], [0, 1 + 196 * spread], atol=0.3)


def test_published_accuracies_go_to_the_runs_they_are_of():
    run = {"dataset": "cifar100", "model": "vgg19", "loss": "cross-entropy"}
    run |= {"optimizer": "lamb-lawn", "batch_size": 10_000}
    assert papers.published_accuracy(run).text() == "69.16 ± 0.16 (arXiv Table 6)"
    others = {"model": "cnn"}, {"batch_size": 512}, {"loss": "focal"}, {"images": 512}
    for other in others:
        assert papers.published_accuracy(run | other) is None


# arXiv Table 1, read from the paper once more.
TABLE_1 = """sgd 76.00 74.48
sgd-lawn 76.12 75.56
adam 71.16 70.60
adamw 71.16 70.60
adam-lawn 76.18 76.07
lamb-plus 74.30 73.43
lamb-lawn 76.48 75.93"""


def test_runs_on_imagenet_stand_beside_table_1():
    run = {"dataset": "imagenet", "model": "resnet50", "loss": "cross-entropy"}
    for line in TABLE_1.splitlines():
        name, *values = line.split()
        for batch, value in zip((256, 16_384), values, strict=True):
            options = run | {"optimizer": name, "batch_size": batch}
            found = papers.published_accuracy(options)
            assert f"{found.value:.2f}" == value and 0 < found.standard_error < 0.1
            assert found.source == "arXiv Table 1, all of ImageNet"
            assert papers.published_accuracy(options | {"model": "vgg19"}) is None
    assert (
        papers.published_accuracy(run | {"optimizer": "lamb", "batch_size": 256})
        is None
    )


def test_figures_over_batch_sizes_and_free_epochs(tmp_path):
    options = {"model": "vgg19", "free_epochs": 5.0, "epochs": 300}
    write_image_run(tmp_path / "a", 360, **options)
    write_image_run(tmp_path / "b", 364, batch_size=4_000, **options)
    write_image_run(tmp_path / "c", 352, **options | {"free_epochs": 20.0})
    figures, missing = draw_figures(read_groups(tmp_path))
    assert sorted(figures) == ["figure-3a-cifar10.png", "figure-7a-cifar10-256.png"]
    assert missing == []
    (axes,) = figures["figure-3a-cifar10.png"].axes
    (container,) = axes.containers
    np.testing.assert_allclose(container.lines[0].get_xydata(), [[256, 90], [4e3, 91]])
    assert axes.get_ylabel() == "accuracy %"
    (published,) = (x for x in axes.get_lines() if "arXiv Table 6" in x.get_label())
    np.testing.assert_allclose(published.get_ydata(), [93.91, 93.74, 93.84])
    (axes,) = figures["figure-7a-cifar10-256.png"].axes
    (container,) = axes.containers
    np.testing.assert_allclose(container.lines[0].get_xydata(), [[5, 90], [20, 88]])
    for figure in figures.values():
        assert max(map(len, figure.get_suptitle().splitlines())) <= 100


def test_batch_sizes_on_imagenet_are_a_figure_of_the_submission(tmp_path):
    options = {"dataset": "imagenet", "model": "resnet50", "epochs": 90}
    options |= {"free_epochs": 5.0}
    write_image_run(tmp_path / "a", 300, **options)
    _, missing = draw_figures(read_groups(tmp_path))
    assert any("Figure 2(d) of the ICLR submission of LAWN (" in x for x in missing)
    write_image_run(tmp_path / "b", 304, batch_size=16_384, **options)
    figures, _ = draw_figures(read_groups(tmp_path))
    title = figures["figure-2d-imagenet.png"].get_suptitle().splitlines()
    assert title[0].endswith("Figure 2(d) of the ICLR submission of LAWN")


def test_runs_on_another_number_of_images_are_not_compared(tmp_path):
    write_image_run(tmp_path / "runs" / "lawn", 300, images=5000)
    write_image_run(tmp_path / "runs" / "base", 280, **BASE, images=None)
    assert "no run of the base is alike" in make_report(tmp_path)


def test_both_experiments_in_one_report(tmp_path):
    write_image_run(tmp_path / "runs" / "0", 372)
    write_run(tmp_path / "runs" / "1", level(260))
    text = make_report(tmp_path)
    assert text.index("# Images beside") < text.index("# Recommenders beside")
    assert "Figure 3(a) (accuracy against batch size) is not drawn" in text
    command = "`python -m train image --optimizer adam-lawn --batch-size 4000 --epochs"
    # A warm-up as long as the run would leave no room for a free phase.
    assert f"{command} 2 --warmup-epochs 0.2 --free-epochs 0.12`" in text


@pytest.mark.parametrize(
    "document, message",
    [
        ({"wrong": []}, "errors.json: no number for each of the images"),
        ({"images": 400, "wrong": [400]}, "errors.json: no number for each"),
        ({"images": 400, "wrong": [1]}, "errors.json: not the accuracy of the last"),
    ],
)
def test_a_damaged_run_is_one_line_that_names_the_file(document, message, tmp_path):
    folder = write_image_run(tmp_path / "runs" / "0", 260)
    (folder / "errors.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=message):
        make_report(tmp_path)


def test_spread_of_the_difference_over_seeds(tmp_path):
    for seed, right in enumerate((240, 260, 280)):
        write_image_run(tmp_path / "runs" / f"a{seed}", right + seed, seed=seed)
        base = {"seed": seed} | BASE
        write_image_run(tmp_path / "runs" / f"b{seed}", right, **base)
    row = cells(make_report(tmp_path), "adam-lawn - adam or adamw")
    half = stats.t.ppf(0.975, 2) * 0.25 / math.sqrt(3)
    assert row[5] == f"{0.25 - half:+.2f} to {0.25 + half:+.2f}: within (3 seeds)"
