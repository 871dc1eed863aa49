"""Reports over made-up run folders with known numbers."""

import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from tests.support.run_folders import (
    BASE,
    USERS,
    cells,
    level,
    make_report,
    write_run,
)
from train.errors import InputError
from train.report import command as report
from train.statistics import bootstrap_interval

LAWN_SETTING = "learning rate 0.002, free epochs 20"
BASE_SETTING = "learning rate 0.001, weight decay 0.01"


def test_a_group_of_seeds_is_one_row_with_its_statistics(tmp_path):
    for seed, hits in enumerate((260, 264, 268)):
        write_run(tmp_path / "runs" / str(seed), level(hits), seed=seed)
    text = make_report(tmp_path)
    row = cells(text, "adam-lawn")
    # 65, 66, 67 %: mean 66, sample standard deviation 1.
    assert row[1:5] == [LAWN_SETTING, "not stated", "3 x 5", "66.00 ± 1.00"]
    low, high = map(float, row[5].split(" to "))
    # 260 users hit always, 4 in two seeds, 4 in one, the others never.
    values = (np.array(level(260)) + level(264) + level(268)) / 3
    error = 100 * values.std() / math.sqrt(USERS)
    np.testing.assert_allclose(
        [low, high], [66 - 1.96 * error, 66 + 1.96 * error], atol=0.3
    )
    assert row[6] == "67.00 ± 1.00 (of 3)"
    assert row[7] == "33.00 ± 0.50"
    # Standard error 0.16 of three runs.
    assert row[8] == "66.24 ± 0.28 (arXiv Table 9)"
    assert row[9] == "60"
    assert "best evaluation on the test item %" in text
    for words in ("400 users (the papers: 943)", "tower 3-layer", "init small"):
        assert words in text
    assert "epochs 300" in text and "trained on everything but the test item" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("hits, users", [(66, 100), (264, 400), (5, 50)])
def test_bootstrap_of_hits_is_binomial(hits, users):
    interval = bootstrap_interval(np.array(level(hits, users)))
    exact = stats.binom(users, hits / users).ppf([0.025, 0.975]) / users
    np.testing.assert_allclose(interval, exact, atol=1.01 / users, rtol=0)


def test_bootstrap_of_many_levels_is_the_plain_one():
    rng = np.random.default_rng(1)
    values = np.round(rng.beta(2, 1, 300), 4)
    plain = values[rng.integers(300, size=(10_000, 300))].mean(axis=1)
    expected = np.percentile(plain, (2.5, 97.5))
    width = expected[1] - expected[0]
    interval = bootstrap_interval(values)
    np.testing.assert_allclose(interval, expected, atol=0.03 * width, rtol=0)
    assert interval == bootstrap_interval(values)  # No chance between calls.


def test_a_diverged_seed_is_shown_and_not_averaged(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "0", level(260))
    write_run(runs / "1", level(268), seed=1)
    write_run(runs / "2", level(0), "diverged at step 70", seed=2)
    write_run(
        runs / "3", level(0), "diverged at step 9", optimizer="sgd", learning_rate=5.0
    )
    text = make_report(tmp_path)
    row = cells(text, "adam-lawn")
    assert row[3] == "2 of 3 x 5"
    assert row[4] == "66.00 ± 1.41; diverged at step 70 (seed 2)"
    assert row[6] == "67.00 ± 1.41 (of 3)"
    row = cells(text, "sgd")
    assert row[3:6] == ["0 of 1 x 5", "diverged at step 9 (seed 0)", ""]
    assert row[8] == "Fail (arXiv Table 9)"


def test_runs_of_older_versions_join_those_of_this_one(tmp_path):
    write_run(tmp_path / "runs" / "0", level(260))  # Without the option.
    write_run(tmp_path / "runs" / "1", level(268), seed=1, constrain="all")
    assert cells(make_report(tmp_path), "adam-lawn")[1:5] == [
        *(LAWN_SETTING, "not stated", "2 x 5", "66.00 ± 1.41")
    ]


def test_a_dead_model_is_named_and_its_level_shown(tmp_path):
    write_run(tmp_path / "runs" / "0", [0.1] * USERS, optimizer="sgd")
    write_run(tmp_path / "runs" / "1", level(100), optimizer="lamb")
    text = make_report(tmp_path)
    assert cells(text, "sgd")[4] == "Fail: 10.00"
    assert cells(text, "lamb")[4] == "25.00"


def test_different_options_are_different_rows_which_say_so(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "0", level(260))
    write_run(runs / "1", level(268), seed=1, reset="moments")
    write_run(runs / "2", level(264), seed=1, tower="4-layer")
    text = make_report(tmp_path)
    first = f"{LAWN_SETTING}, reset"
    assert cells(text, "adam-lawn", f"{first} moments, tower 3-layer")[4] == "67.00"
    assert cells(text, "adam-lawn", f"{first} restart, tower 3-layer")[4] == "65.00"
    assert cells(text, "adam-lawn", f"{first} restart, tower 4-layer")[4] == "66.00"
    assert "tower: see the rows" in text
    assert "reset restart" not in text.split("The same in all rows:")[1].split("\n")[0]


def test_differences_are_paired_over_users_and_seeds(tmp_path):
    runs = tmp_path / "runs"
    # 12 users more in every seed; without pairing the seeds' spread would hide it.
    for seed, hits in enumerate((240, 260, 280)):
        write_run(runs / f"a{seed}", level(hits + 12 + seed), seed=seed)
        base = BASE | {"learning_rate": 0.001}
        write_run(runs / f"b{seed}", level(hits), seed=seed, **base)
        write_run(runs / f"c{seed}", level(hits - 40), seed=seed, **BASE)
        # Better, but not alike: other candidates, another remedy.
        other = base | {"candidate_seed": 1}
        write_run(runs / f"d{seed}", level(390), seed=seed, **other)
        other = base | {"label_smoothing": 0.05}
        write_run(runs / f"e{seed}", level(390), seed=seed, **other)
    text = make_report(tmp_path)
    row = cells(text, "adam-lawn - adam or adamw")
    assert row[1].startswith(LAWN_SETTING) and row[2].startswith(
        f"adamw: {BASE_SETTING}"
    )
    # 12, 13 and 14 of 400 users.
    assert row[3] == "+3.25"
    half = stats.t.ppf(0.975, 2) * 0.25 / math.sqrt(3)
    assert row[5] == f"{3.25 - half:+.2f} to {3.25 + half:+.2f}: beyond (3 seeds)"
    low, high, verdict = re.fullmatch(r"(.*) to (.*): (.*)", row[4]).groups()
    values = [
        np.array(level(hits + 12 + seed)) - level(hits)
        for seed, hits in enumerate((240, 260, 280))
    ]
    error = 100 * np.mean(values, axis=0).std() / math.sqrt(USERS)
    expected = [3.25 - 1.96 * error, 3.25 + 1.96 * error]
    np.testing.assert_allclose([float(low), float(high)], expected, atol=0.15)
    assert verdict == "beyond"


def test_a_difference_within_the_spread_is_named_so(tmp_path):
    runs = tmp_path / "runs"
    for seed, (ours, theirs) in enumerate([(260, 270), (270, 262)]):
        write_run(runs / f"a{seed}", level(ours), seed=seed)
        write_run(runs / f"b{seed}", level(theirs), seed=seed, **BASE)
    write_run(runs / "c", level(200), learning_rate=0.001)
    text = make_report(tmp_path)
    # Options that only a switch gives a meaning are not told of the base.
    base = "learning rate 0.002, weight decay 0.01"
    assert cells(text, "adamw")[1] == base
    row = cells(text, "adam-lawn - adam or adamw", f"{LAWN_SETTING}, weight decay 0")
    assert row[2:4] == [f"adamw: {base}", "-0.25"]
    assert ": within" in row[4] and row[5].endswith(": within (2 seeds)")
    slow = LAWN_SETTING.replace("0.002", "0.001") + ", weight decay 0"
    row = cells(text, "adam-lawn - adam or adamw", slow)
    assert row[3] == "-16.50" and row[4].endswith(": beyond")


def test_a_difference_without_a_base_or_with_one_seed_says_so(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "0", level(260))
    write_run(runs / "1", level(250), **BASE)
    write_run(runs / "2", level(260), optimizer="lamb-lawn")
    write_run(runs / "3", level(260), optimizer="sgd-lawn")
    write_run(runs / "4", level(0), "diverged at step 3", optimizer="sgd")
    text = make_report(tmp_path)
    assert (
        cells(text, "adam-lawn - adam or adamw")[5] == "fewer than two seeds in common"
    )
    assert (
        cells(text, "lamb-lawn - lamb or lamb-plus")[3] == "no run of the base is alike"
    )
    row = cells(text, "sgd-lawn - sgd")
    assert row[3] == "base diverged at step 3 (seed 0)"


@pytest.mark.parametrize(
    "options, other, name",
    [
        ({"label_smoothing": 0.05}, {"label_smoothing": 0.1}, "label smoothing"),
        ({"flood": 0.3}, {"flood": 0.2}, "flooding"),
        ({"loss": "focal", "gamma": 0.5}, {"loss": "focal"}, "focal loss"),
    ],
)
def test_a_remedy_or_a_loss_is_compared_with_its_like(options, other, name, tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "0", level(264), **options)
    write_run(runs / "1", level(260), **options | BASE)
    for number, unlike in enumerate(({}, other)):  # Better, but not alike.
        write_run(runs / f"u{number}", level(390), **unlike | BASE)
    write_run(runs / "2", level(250), **options, switch="mean-margin")
    text = make_report(tmp_path)
    row = cells(text, f"adam-lawn + {name} - adam or adamw")
    assert row[2].startswith(f"adamw + {name}: ") and row[3] == "+1.00"
    row = cells(text, f"adam-lawn + {name} + automatic switch - adam or adamw")
    assert row[2].startswith(f"adamw + {name}: ") and row[3] == "-2.50"


def test_lamb_lawn_is_compared_with_the_better_of_lamb_and_lamb_plus(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "0", level(264), optimizer="lamb-lawn")
    for name, hits in (("lamb", 240), ("lamb-plus", 260)):
        write_run(runs / name, level(hits), **BASE | {"optimizer": name})
    row = cells(make_report(tmp_path), "lamb-lawn - lamb or lamb-plus")
    assert row[2].startswith("lamb-plus: ") and row[3] == "+1.00"


def test_validation_runs_have_their_own_section_and_no_published_numbers(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "0", level(260))
    write_run(runs / "1", level(268), validation=True)
    write_run(runs / "2", level(200), validation=True, **BASE)
    test, validation = make_report(tmp_path).split("## Validation item")
    assert cells(test, "adam-lawn")[4] == "65.00"
    assert cells(validation, "adam-lawn")[4] == "67.00"
    assert "arXiv Table" not in validation and "validation item" in validation
    assert cells(validation, "adam-lawn - adam or adamw")[3] == "+17.00"
    assert cells(test, "adam-lawn - adam or adamw")[3] == "no run of the base is alike"


def test_runs_are_found_at_any_depth_and_others_are_left_alone(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "sweep" / "final" / "adam-lawn-seed0", level(260))
    other = write_run(runs / "french", level(200), experiment="translation")
    killed = write_run(runs / "killed", level(200), seed=1)
    (killed / "summary.json").unlink()
    (killed / "hits.json").unlink()
    hidden = write_run(runs / ".run-abc", level(200), seed=2)
    text = make_report(tmp_path, runs, runs / "sweep")  # One twice: counted once.
    assert cells(text, "adam-lawn")[3:5] == ["1 x 5", "65.00"]
    assert "- runs/killed: not finished (no summary.json, hits.json)" in text
    assert other.name not in text and hidden.name not in text


@pytest.mark.parametrize(
    "protocol, item", [("validation", "validation item"), ("papers", "test item")]
)
def test_final_runs_of_a_sweep_say_what_their_setting_was_chosen_on(
    protocol, item, tmp_path
):
    sweep = tmp_path / "runs" / "sweep"
    write_run(sweep / "final" / "adam-lawn-seed0", level(260))
    config = {"experiment": "sweep recsys", "protocol": protocol}
    (sweep / "config.json").write_text(json.dumps({"config": config}))
    assert cells(make_report(tmp_path), "adam-lawn")[2] == item


# ------------------------------------------------------------------------ bad input


def overwrite(name, text):
    return lambda folder: (folder / name).write_text(text)


def change(name, **values):
    def apply(folder):
        document = json.loads((folder / name).read_text())
        target = document["config"] if name == "config.json" else document
        target.update(values)
        (folder / name).write_text(json.dumps(document))

    return apply


@pytest.mark.parametrize(
    "damage, message",
    [
        (overwrite("config.json", "{"), "config.json: not JSON"),
        (change("config.json", tower=3), "config.json: no valid tower"),
        (change("config.json", batch_size="1k"), "config.json: no valid batch_size"),
        (overwrite("summary.json", "[]"), "summary.json: not a JSON object"),
        (
            change("summary.json", outcome="lost"),
            "summary.json: unknown outcome 'lost'",
        ),
        (change("summary.json", seconds=None), "summary.json: no valid seconds"),
        (change("summary.json", best={}), "summary.json: best without a valid hr"),
        (overwrite("metrics.jsonl", ""), "metrics.jsonl: no rows"),
        (overwrite("metrics.jsonl", '{"epoch": 1}'), "metrics.jsonl: row 1 is not"),
        (overwrite("metrics.jsonl", "{\n"), "metrics.jsonl: row 1 is not a row"),
        (overwrite("hits.json", '{"draws": 5, "hr": NaN}'), "hits.json: not JSON"),
        (change("hits.json", hr=["a"]), "hits.json: no number for each of the users"),
        (change("hits.json", hr=[[1.0]]), "hits.json: no number for each of the users"),
        (change("hits.json", hr=[]), "hits.json: no users"),
        (change("hits.json", hr=[None, 1.0]), "hits.json: hr outside 0 to 1"),
        (
            change("hits.json", hr=level(250)),
            "hits.json: not the HR@10 of the last row",
        ),
    ],
)
def test_a_damaged_run_is_one_line_that_names_the_file(damage, message, tmp_path):
    damage(write_run(tmp_path / "runs" / "0", level(260)))
    with pytest.raises(InputError) as error:
        make_report(tmp_path)
    text = str(error.value)
    assert message in text and "\n" not in text
    assert str(tmp_path / "runs" / "0") in text
    assert not (tmp_path / "report").exists()


def test_other_bad_input_is_one_line(tmp_path):
    runs = tmp_path / "runs"
    with pytest.raises(InputError, match="^no folder .*runs; name a run"):
        make_report(tmp_path)
    runs.mkdir()
    with pytest.raises(InputError, match="^no finished run below"):
        make_report(tmp_path)
    write_run(runs / "0", level(260))
    with pytest.raises(
        InputError, match="holds the results of another command, recsys;"
    ):
        report.run(report.Config((runs,), runs / "0"))
    with pytest.raises(InputError, match="table.md is not a folder"):
        (tmp_path / "table.md").touch()
        report.run(report.Config((runs,), tmp_path / "table.md"))
    write_run(runs / "1", level(264))
    with pytest.raises(InputError, match="^runs/0 and runs/1 hold the same run"):
        make_report(tmp_path)
    with pytest.raises(InputError, match="name folders of runs"):
        report.run(report.Config(()))
