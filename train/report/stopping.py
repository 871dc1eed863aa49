"""The epochs at which the trials of sweeps were best, to stop their final runs at."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train import recorded
from train.experiment import Experiment
from train.report.folders import Folder
from train.rules import neutral_names
from train.runs import documents, records
from train.trials import HYPERPARAMETERS, make_config, sweep_of

NOTE = (
    '"At the epoch of the best trial" is where early stopping would have ended the'
    " runs of a setting: at the epoch at which the trial of that setting was best by"
    " the validation data."
)
# A trial and its final run differ in these.
_APART = ("experiment", "seed", "validation")


def epochs(experiment: Experiment, sweeps: Sequence[Folder]) -> dict[str, int]:
    """The best epoch of each setting that trials of full length had.

    Shortened trials, and those of versions that kept no best evaluation, say nothing
    about the epoch.

    Args:
        experiment: Experiment of the sweeps.
        sweeps: Sweeps of that experiment.

    Returns:
        The mean over the trials of a setting, rounded, by `key` of its options.
    """
    found: dict[str, list[int]] = {}
    for folder in sweeps:
        kind = sweep_of(experiment).Options
        config = recorded.read(kind, folder.options, folder.place)
        with documents.as_written(folder.place / "trials.jsonl"):
            for row in folder.files["trials.jsonl"]:
                tuned = {name: row[name] for name in HYPERPARAMETERS if name in row}
                full = make_config(experiment, config, row["optimizer"], **tuned)
                whole = config.trial_epochs in (None, full.epochs)
                if whole and row.get("best"):
                    run = records.run_config("", full, neutral_names(full))
                    found.setdefault(key(run), []).append(int(row["best"]["epoch"]))
    return {setting: round(np.mean(values)) for setting, values in found.items()}


def key(options: Mapping[str, Any]) -> str:
    """A run's options as text, without those that its trial had otherwise."""
    kept = {name: value for name, value in options.items() if name not in _APART}
    return json.dumps(kept, sort_keys=True)
