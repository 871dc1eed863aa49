"""``evaluate``: a finished run, loaded again, and its metrics."""

import dataclasses
import os
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import tyro

from train import interrupts, recorded
from train.devices import Devices
from train.errors import InputError, require
from train.experiment import FINISHED, Experiment
from train.registry import EXPERIMENTS
from train.rules import neutral_names
from train.runs import documents, records
from train.runs.folder import CHECKPOINTS, Run, open_run
from train.single_run import Programs, SingleRun


@dataclasses.dataclass(frozen=True)
class Config:
    """A finished run of `recsys`, `image` or `language`, loaded and evaluated again.

    Prints its metrics. They are those of the run's last evaluation, unless you ask for
    other candidates. The run does not change.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run, with its checkpoints."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the original files, as for the run."""
    candidate_draws: int | None = None
    """For recsys: draws of 99 other items for each user; 0 takes the items of the files
    (default: as in the run)."""
    candidate_seed: int | None = None
    """Seed for drawing candidates (default: as in the run)."""


class FinishedRun(NamedTuple):
    """A finished run in memory.

    Attributes:
        config: Its options.
        experiment: Its kind.
        job: The job that the loop trained.
        variables: Variables for ``model.apply``, in NumPy: ``params``, and the
            ``batch_stats`` of a classifier.
        state: The whole state at the end of the run, in NumPy; of a run that diverged,
            at its last checkpoint before.
        epoch: Passes over the data until then.
        outcome: ``finished`` or ``diverged at step n``.
        data: The run's data set as it was loaded. For a recommender it is a pair: the
            interactions that it was trained on, and the candidates, int32[draws, users,
            100], of which the test item is first.
    """

    config: Any
    experiment: Experiment
    job: SingleRun
    variables: dict[str, Any]
    state: Any
    epoch: int
    outcome: str
    data: Any

    @property
    def programs(self) -> Programs:
        """The programs of the run; ``programs.model`` is the network."""
        return self.job.programs


@interrupts.held()
def run(config: Config) -> None:
    """Prints the metrics of a finished run."""
    finished = load(
        config.run, config.data_dir, config.candidate_draws, config.candidate_seed
    )
    with closing(finished.job) as job:
        values, details = job.measure(job.place(finished.state))
    assert finished.experiment.evaluation is not None
    if finished.outcome != FINISHED:
        print(
            f"The run {finished.outcome}; these are the weights of its last checkpoint,"
            f" after {finished.epoch} epochs."
        )
    print(finished.experiment.evaluation(finished, values, details))


def load(
    folder: Path | str,
    data_dir: Path | str | None = None,
    candidate_draws: int | None = None,
    candidate_seed: int | None = None,
) -> FinishedRun:
    """Loads a finished run, for use in a notebook.

    With ``run = load(folder)``, ``run.programs.model.apply(run.variables, users,
    items)`` gives the logits of a recommender, for users and items numbered as in its
    data. For a classifier the arguments are ``images, train=False``, with images that
    `train.images.augmentation.normalise` returned; for a language model they are bytes
    as integers, ``[..., time]``.

    Args:
        folder: Folder of the run, with its checkpoints.
        data_dir: Folder of the original files; by default TensorFlow Datasets has them.
        candidate_draws: Number of draws, for candidates other than those of the run; 0
            takes those of the files.
        candidate_seed: Seed for drawing candidates.

    Raises:
        InputError: If the folder holds no finished run that can be evaluated, the data
            set is not there or another one, or the checkpoint of the run's end is
            damaged or lost.
    """
    folder = Path(folder)
    experiment, config = _read_config(folder)
    given = {"candidate_draws": candidate_draws, "candidate_seed": candidate_seed}
    given = {key: value for key, value in given.items() if value is not None}
    require(
        all(hasattr(config, key) for key in given),
        "--candidate-draws and --candidate-seed are for runs of recsys",
    )
    content = records.run_config(experiment.name, config, neutral_names(config))
    data_dir = Path(data_dir) if data_dir else None
    config = experiment.resolve(dataclasses.replace(config, data_dir=data_dir, **given))
    data = experiment.load(config)
    job: Any = experiment.prepare(config, data, Devices(limit=1))
    require(
        (folder / CHECKPOINTS).is_dir(),
        f"{folder} has no checkpoints (published results come without); run its"
        " command, with another --out",
    )
    with open_run(folder, content) as files:
        require(files.finished, f"{folder} is not finished; run its command again")
        outcome, end = _ending(files)
        state, epoch = files.restore(job.start())
    require(epoch > 0, f"{folder} ({outcome}) has no checkpoint of trained weights")
    require(
        epoch == end or outcome != FINISHED,
        f"{folder} has lost the checkpoint of its end, after {end} epochs (the newest"
        f" is of epoch {epoch}); run its command again, with another --out",
    )
    variables = {"params": state.params}
    if jax.tree.leaves(state.statistics):
        variables["batch_stats"] = state.statistics
    return FinishedRun(config, experiment, job, variables, state, epoch, outcome, data)


def _ending(files: Run) -> tuple[str, int]:
    """How a finished run ended, and the epoch of its last row of metrics."""
    outcome = files.summary().get("outcome")
    if not isinstance(outcome, str) or not files.rows():
        raise documents.malformed(files.folder, "no outcome or no rows of metrics")
    return outcome, files.rows()[-1]["epoch"]


def _read_config(folder: Path) -> tuple[Experiment, Any]:
    """The kind of a run and its options, read back."""
    known = {name: e for name, e in EXPERIMENTS.items() if e.evaluation}
    given = {}
    if os.path.isfile(folder / "config.json"):
        given = documents.read_config(folder)["config"]
    experiment = known.get(given.get("experiment", ""))
    if experiment is None:
        raise InputError(
            f"{folder} holds no run of {' or '.join(known)}; name the folder that it"
            " printed"
        )
    options = recorded.read(experiment.Options, given, folder)
    try:
        return experiment, experiment.resolve(options)
    except InputError as error:
        raise documents.malformed(folder / "config.json", str(error)) from None
