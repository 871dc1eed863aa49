"""``evaluate``: a finished run, loaded again, and its metrics."""

import dataclasses
import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro

from train import (
    InputError,
    require,
    swept,
)
from train import (
    loop as training,
)
from train.devices import Devices
from train.experiment import Experiment, Programs
from train.images import programs as classifier
from train.options import UNRELATED
from train.runs import records
from train.runs.folder import CHECKPOINTS, open_run
from train.swept import Swept

KINDS = {kind.experiment.name: kind for kind in swept.ALL.values()}


@dataclasses.dataclass(frozen=True)
class Config:
    """A finished run of `recsys` or `image`, loaded and evaluated once more.

    Prints its metrics: those of the run's last evaluation, unless other candidates are
    asked for. Leaves the run as it is.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run, with its checkpoints."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """As for the run."""
    candidate_draws: int | None = None
    """For recsys: draws of 99 other items for each user, 0 for the ones of the files
    (default: the run's)."""
    candidate_seed: int | None = None
    """Of the draws (default: the run's)."""


class Trained(NamedTuple):
    """A finished run in memory.

    Attributes:
        config: Its options.
        experiment: Its kind.
        programs: What it computed; ``programs.model`` is the network.
        variables: For ``model.apply``, in NumPy: ``params``, and the ``batch_stats`` of
            a classifier.
        state: All of the state at the end of the run, in NumPy.
        epoch: Passes over the data.
        data: What the run's data set was loaded as. Of a recommender a pair: the
            interactions that it was trained on, and the candidates, int32[draws, users,
            100], of which the test item is first.
    """

    config: Any
    experiment: Experiment
    programs: Programs
    variables: dict[str, Any]
    state: Any
    epoch: int
    data: Any


def run(config: Config) -> None:
    """Prints the metrics of a finished run."""
    trained = load(
        config.run, config.data_dir, config.candidate_draws, config.candidate_seed
    )
    devices, steps = Devices(limit=1), trained.programs.steps_per_epoch
    state = devices.put_state(trained.state)
    trial = devices.put(training.make_trial(trained.config, steps))
    parts = trained.experiment, trained.programs, devices, trained.data
    with closing(training.make_work(*parts)) as work:
        values, cases = jax.tree.map(np.asarray, work.evaluate(state, trial))
    show = _ranking if trained.experiment.name == "recsys" else _classification
    print(show(trained, values, cases))


def _ranking(trained: Trained, values: dict[str, Any], hits: np.ndarray) -> str:
    options, (_, candidates) = trained.config, trained.data
    item = "validation (second-latest)" if options.validation else "test (latest)"
    return (
        f"{options.optimizer} on {options.dataset} after {trained.epoch} epochs: each"
        f" user's {item} item among 99 others, {len(candidates)} draws\n"
        f"HR@10 {100 * values['hr']:.2f} % (standard error over {len(hits)} users"
        f" {_error(hits):.2f}), NDCG@10 {values['ndcg']:.4f}, AUC {values['auc']:.4f}\n"
        f"on training items HR@10 {100 * values['train_hr']:.2f} %, {_margins(values)}"
    )


def _classification(trained: Trained, values: dict[str, Any], right: np.ndarray) -> str:
    options = trained.config
    kind = "held-out training" if options.validation else "test"
    return (
        f"{options.model}, {options.optimizer} on {options.dataset} after"
        f" {trained.epoch} epochs: {len(right):,} {kind} images\n"
        f"accuracy {100 * values['accuracy']:.2f} % (standard error over images"
        f" {_error(right):.2f}), ECE {100 * values['ece']:.2f} %"
        f" ({classifier.ECE_BINS} bins), loss {values['test_loss']:.4f}\n"
        f"on training images as they are {100 * values['train_accuracy']:.2f} %,"
        f" {_margins(values)}"
    )


def _error(cases: np.ndarray) -> float:
    """The standard error of a mean, in percent."""
    return 100 * cases.std(ddof=1) / len(cases) ** 0.5


def _margins(values: dict[str, Any]) -> str:
    return "margins " + ", ".join(
        f"{name} {values[f'margin_{name}']:.2f}" for name in ("p10", "p50", "p90")
    )


def load(
    folder: Path | str,
    data_dir: Path | str | None = None,
    candidate_draws: int | None = None,
    candidate_seed: int | None = None,
) -> Trained:
    """Loads a finished run, for use in a notebook.

    With ``run = load(folder)``, ``run.programs.model.apply(run.variables, users,
    items)`` gives the logits of a recommender, for users and items numbered as in its
    data. For a classifier it is ``images, train=False``, with images as from
    `train.images.augmentation.normalise`.

    Args:
        folder: Of the run, with its checkpoints.
        data_dir: Of the original files; by default TensorFlow Datasets has them.
        candidate_draws: For other candidates than the run's; 0 for those of the files.
        candidate_seed: Of the draws.

    Raises:
        InputError: If the folder holds no finished run of ``recsys`` or ``image``, the
            data set is not there or another one, or the checkpoint is damaged.
    """
    folder = Path(folder)
    kind, config = _read_config(folder)
    given = {"candidate_draws": candidate_draws, "candidate_seed": candidate_seed}
    given = {key: value for key, value in given.items() if value is not None}
    require(
        not given or kind.experiment.name == "recsys",
        "--candidate-draws and --candidate-seed are for runs of recsys",
    )
    content = records.run_config(kind.experiment.name, config, UNRELATED)
    data_dir = Path(data_dir) if data_dir else None
    config = kind.resolve(dataclasses.replace(config, data_dir=data_dir, **given))
    data = kind.experiment.load(config)
    programs = kind.experiment.prepare(config, data, Devices(limit=1))
    trial = training.make_trial(config, programs.steps_per_epoch)
    initial = jax.jit(programs.start)(trial)
    require(
        (folder / CHECKPOINTS).is_dir(),
        f"{folder} has no checkpoints (published results come without); run its"
        " command, with another --out",
    )
    with open_run(folder, content) as files:
        require(files.finished, f"{folder} is not finished; run its command again")
        state, epoch = files.restore(jax.tree.map(np.asarray, initial))
    variables = {"params": state.params}
    if hasattr(state, "statistics"):
        variables["batch_stats"] = state.statistics
    return Trained(config, kind.experiment, programs, variables, state, epoch, data)


def _read_config(folder: Path) -> tuple[Swept, Any]:
    """The kind of a run and its options, read back."""
    try:
        given = json.loads((folder / "config.json").read_text())["config"]
        kind = KINDS[given.pop("experiment")]
        return kind, kind.resolve(kind.Config(**given))
    except (OSError, ValueError, KeyError, TypeError, InputError):
        raise InputError(
            f"{folder} holds no run of recsys or image; name the folder that it printed"
        ) from None
