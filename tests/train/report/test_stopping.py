"""Early stopping in reports: final runs at the epoch at which their trial was best."""

import json

import pytest

from tests.support.run_folders import cells, level, make_report, write_run
from train.recommenders.options import SweepConfig
from train.runs import records


@pytest.mark.parametrize("trial_epochs", [None, 300, 100])
def test_final_runs_are_also_told_at_the_epoch_of_their_trial(tmp_path, trial_epochs):
    """Trials of a shortened schedule have no epoch of the whole one."""
    options = {
        **{"epochs": 300, "eval_every": 100, "trial_epochs": trial_epochs},
        **{"optimizers": ("adam-lawn",), "rates": (0.002,), "free": (20.0, 50.0)},
    }
    sweep = tmp_path / "runs" / "sweep"
    for free, seed in ((20.0, 0), (50.0, 1)):
        out = sweep / "final" / f"adam-lawn-seed{seed}"
        write_run(out, level(260), seed=seed, free_epochs=free)
    # Of the evaluations at 100, 200 and 300, that at 200 is the last one for both.
    epoch = 250 if trial_epochs else 200
    rows = [
        {"optimizer": "adam-lawn", "batch_size": 100_000, "learning_rate": 0.002}
        | {"free_epochs": 20.0, "seed": 0, "hr": 0.6, "outcome": "finished"}
        | {"best": {"epoch": epoch, "hr": 0.61}}
    ]
    config = records.run_config("sweep recsys", SweepConfig(**options))
    (sweep / "config.json").write_text(json.dumps({"config": config}))
    (sweep / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = make_report(tmp_path)
    trials = (tmp_path / "report" / "sweeps.md").read_text()
    assert "its best (epoch)" in trials and f"| 61.00 ({epoch}) " in trials
    chosen, other = (
        cells(text, "adam-lawn", f"learning rate 0.002, free epochs {free}")
        for free in (20, 50)
    )
    if trial_epochs == 100:
        assert "of the best trial" not in text
        assert chosen[7] == "32.50"
    else:
        assert "at the epoch of the best trial %" in text
        assert chosen[6:8] == ["66.00 (of 3)", f"66.00 ({epoch})"] and other[7] == ""
