"""``evaluate``: a finished recommender, loaded again, ranked on other candidates."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import numpy as np
import tyro

from train import (
    InputError,
    recommender,
    records,
    recsys,
    recsys_options,
    require,
    training,
)
from train.interactions import Interactions
from train.options import UNRELATED
from train.parallel import Devices
from train.recommender import State, Task
from train.recsys_options import Settings
from train.runs import CHECKPOINTS, open_run


@dataclasses.dataclass(frozen=True)
class Config:
    """A finished run of `recsys`, loaded and evaluated once more.

    Prints its metrics: those of the run's last evaluation, unless other candidates are
    asked for. Leaves the run as it is.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run, with its checkpoints."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """As for `recsys`."""
    candidate_draws: int | None = None
    """Draws of 99 other items for each user, 0 for the ones of the files (default: the
    run's)."""
    candidate_seed: int | None = None
    """Of the draws (default: the run's)."""


class Trained(NamedTuple):
    """A finished run in memory.

    Attributes:
        config: Its options.
        task: What was trained; ``task.model`` is the network.
        state: At the end of the run, in NumPy; ``state.params`` are the weights.
        epoch: Passes over the positives.
        data: The interactions that it was trained on.
        candidates: int32[draws, users, 100]; the test item first.
    """

    config: Settings
    task: Task
    state: State
    epoch: int
    data: Interactions
    candidates: np.ndarray


def run(config: Config) -> None:
    """Prints the metrics of a finished run."""
    trained = load(
        config.run, config.data_dir, config.candidate_draws, config.candidate_seed
    )
    options, task = trained.config, trained.task
    trial = training.make_trial(options, task.steps_per_epoch)
    data = recsys.on_device(trained.data, trained.candidates)
    evaluate = jax.jit(partial(recommender.evaluate, task))
    values, hits = jax.tree.map(np.asarray, evaluate(trained.state, trial, data))
    item = "validation (second-latest)" if options.validation else "test (latest)"
    error = hits.std(ddof=1) / len(hits) ** 0.5
    print(
        f"{options.optimizer} on {options.dataset} after {trained.epoch} epochs: each"
        f" user's {item} item among 99 others, {len(trained.candidates)} draws\n"
        f"HR@10 {100 * values['hr']:.2f} % (standard error over {len(hits)} users"
        f" {100 * error:.2f}), NDCG@10 {values['ndcg']:.4f}, AUC {values['auc']:.4f}\n"
        f"on training items HR@10 {100 * values['train_hr']:.2f} %, margins p10"
        f" {values['margin_p10']:.2f}, p50 {values['margin_p50']:.2f}, p90"
        f" {values['margin_p90']:.2f}"
    )


def load(
    folder: Path | str,
    data_dir: Path | str | None = None,
    candidate_draws: int | None = None,
    candidate_seed: int | None = None,
) -> Trained:
    """Loads a finished run, for use in a notebook.

    With ``run = load(folder)``, ``run.task.model.apply({"params": run.state.params},
    users, items)`` gives logits for users and items numbered as in ``run.data``.

    Args:
        folder: Of the run, with its checkpoints.
        data_dir: Of the original files; by default TensorFlow Datasets has them.
        candidate_draws: For other candidates than the run's; 0 for those of the files.
        candidate_seed: Of the draws.

    Raises:
        InputError: If the folder holds no finished run of ``recsys``, the data set is
            not there or another one, or the checkpoint is damaged.
    """
    folder = Path(folder)
    config = _read_config(folder)
    ranked = dataclasses.replace(
        config,
        data_dir=Path(data_dir) if data_dir else None,
        candidate_draws=_either(candidate_draws, config.candidate_draws),
        candidate_seed=_either(candidate_seed, config.candidate_seed),
    )
    recsys_options.check(ranked)
    data, candidates = recsys.load_data(ranked)
    task = recsys.make_task(config, data, Devices(limit=1))
    trial = training.make_trial(config, task.steps_per_epoch)
    initial = jax.jit(partial(recommender.start, task))(trial)
    require(
        (folder / CHECKPOINTS).is_dir(),
        f"{folder} has no checkpoints (published results come without); run its"
        " command, with another --out",
    )
    with open_run(folder, records.run_config("recsys", config, UNRELATED)) as files:
        require(files.finished, f"{folder} is not finished; run its command again")
        state, epoch = files.restore(jax.tree.map(np.asarray, initial))
    return Trained(config, task, state, epoch, data, candidates)


def _either(first: int | None, second: int) -> int:
    return second if first is None else first


def _read_config(folder: Path) -> Settings:
    """The options of a run, read back."""
    try:
        options = json.loads((folder / "config.json").read_text())["config"]
        require(options.pop("experiment") == "recsys", "")
        return recsys_options.resolve(recsys_options.Config(**options))
    except (OSError, ValueError, KeyError, TypeError, InputError):
        raise InputError(
            f"{folder} holds no run of recsys; name the folder that it printed"
        ) from None
