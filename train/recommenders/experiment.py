"""Recommenders: neural collaborative filtering on MovieLens and Pinterest.

Reads top to bottom: data, task, run. `options` has the options, `programs` the compiled
programs, `sampling` draws the samples and `data` loads the data sets.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lawn_optax import baselines, groups, losses
from models import NCF, TOWERS
from train import hyperparameters, plots
from train.devices import Devices, memory, take_devices
from train.errors import require
from train.experiment import Experiment, Sweep
from train.recommenders import data as interactions
from train.recommenders import programs, sampling
from train.recommenders.data import Interactions
from train.recommenders.options import Config, Settings, SweepConfig, grid, resolve
from train.recommenders.programs import Data, Task
from train.recommenders.report import REPORT
from train.report import papers
from train.single_run import Programs, SingleRun, margins_in_words
from train.statistics import standard_error

# ------------------------------------------------------------------------ data

Loaded = tuple[Interactions, np.ndarray]


def load_data(config: Settings) -> Loaded:
    """The interactions that a run trains on, and its candidates."""
    remove = config.inactive_users == "remove"
    data = interactions.load(config.dataset, config.data_dir, remove)
    if config.validation:
        data = interactions.hold_out(data)
    if config.candidate_draws:
        seed = config.candidate_seed
        return data, interactions.draw_candidates(data, seed, config.candidate_draws)
    return data, interactions.file_candidates(data)


def on_device(data: Interactions, candidates: np.ndarray) -> Data:
    """All of a data set as arrays."""
    # One training item per user, for the metrics on training data; always the same.
    users = data.train[:, 0]
    first = np.searchsorted(users, np.arange(data.num_users))
    count = np.bincount(users, minlength=data.num_users)
    pick = first + np.random.default_rng(0).integers(count)
    return Data(
        sampling.positives(data),
        jnp.asarray(candidates, jnp.int32),
        jnp.asarray(data.train[pick, 1], jnp.int32),
    )


# ------------------------------------------------------------------------ task


def make_task(config: Settings, data: Interactions, devices: Devices) -> Task:
    """The task of a run, for `train.recommenders.programs`."""
    size = sampling.epoch_size(len(data.train))
    require(size < 2**31, "the data set has more than 2^31 samples per epoch")
    batch_size = min(config.batch_size, size)
    steps = -(-size // batch_size)
    on_cpu = jax.default_backend() == "cpu"
    micro_batch = config.micro_batch or (10_000 if on_cpu else 2**20)
    bounded = config.optimizer.endswith("-bounded")
    model = NCF(
        data.num_users,
        data.num_items,
        TOWERS[config.tower],
        initialization=config.init,
    )
    # Weights, two moments, gradient and update of the embeddings, in float32.
    needed = 20 * (data.num_users + data.num_items) * model.embedding
    require(
        needed < memory(),
        f"embeddings of {data.num_users:,} users and {data.num_items:,} items need"
        f" about {needed / 2**30:,.0f} GiB and the device has {memory() / 2**30:,.0f};"
        f" the items of {data.name} have the numbers from 0, without gaps",
    )
    return Task(
        model=model,
        num_positives=len(data.train),
        batch_size=batch_size,
        parts=-(-batch_size // (devices.count * micro_batch)),
        optimizer=partial(
            hyperparameters.make_optimizer, config, steps, groups=_groups(config)
        ),
        loss=partial(_loss, config),
        prepare=baselines.bounded_init if bounded else lambda params: params,
        flood=config.flood,
        alpha=config.alpha,
        watch=None if config.switch == "epochs" else config.switch,
        devices=devices.count,
        axis=devices.axis,
        per_device=devices.per_device,
    )


def _groups(config: Settings) -> Any:
    """The groups that the -lawn forms constrain, by --constrain."""
    if config.constrain == "tower":
        return groups.not_paths("user_embedding", "item_embedding")
    if config.constrain == "all-but-head":
        return groups.not_paths(f"dense_{len(TOWERS[config.tower]) - 1}")
    return "layer"


def _loss(config: Settings, logits: jax.Array, labels: jax.Array) -> jax.Array:
    targets = labels.astype(logits.dtype)
    if config.loss == "focal":
        return optax.sigmoid_focal_loss(logits, targets, gamma=config.gamma)
    targets = losses.smooth_binary_labels(targets, config.label_smoothing)
    return optax.sigmoid_binary_cross_entropy(logits, targets)


# ------------------------------------------------------------------------- run


def introduction(config: Settings, data: Interactions, task: Task) -> str:
    """Describes the run in a few lines."""
    device = jax.devices()[0].device_kind
    protocol = "validation (second-latest)" if config.validation else "test (latest)"
    schedule = hyperparameters.describe(config, task.steps_per_epoch)
    shortened = f"{config.shortened}\n" if config.shortened else ""
    candidates = f"{config.candidate_draws} draws of 99 other items"
    if not config.candidate_draws:
        candidates = "the 99 other items of the files"
    return (
        f"{interactions.statistics(data)}\n\n"
        f"NCF, tower {config.tower}, initial weights {config.init}, {config.optimizer},"
        f" batch {task.batch_size:,} ({task.steps_per_epoch} steps per epoch on"
        f" {task.devices} x {device}),\n"
        f"{schedule}.\n{shortened}"
        f"Ranked: each user's {protocol} item among {candidates}."
    )


def make_programs(config: Settings, loaded: Loaded, task: Task) -> Programs:
    """The programs of a run, and how it reports their results."""
    interacted, candidates = loaded

    def documents(hits: np.ndarray) -> dict[str, Any]:
        rounded = [round(hit, 4) for hit in hits.tolist()]
        return {"hits": {"draws": len(candidates), "hr": rounded}}

    return Programs(
        model=task.model,
        arrays=partial(on_device, *loaded),
        start=partial(programs.start, task),
        advance=partial(programs.advance, task),
        evaluate=partial(programs.evaluate, task),
        steps_per_epoch=task.steps_per_epoch,
        epoch_size=task.epoch_size,
        metric="hr",
        describe=lambda value: f"HR@10 {100 * value:.2f} %",
        documents=documents,
        draw=partial(
            plots.run_curves,
            score="hr",
            title="HR@10 among 100 candidates",
            tested="held-out item",
            trained="a training item",
        ),
        conclude=conclusion,
        introduction=introduction(config, interacted, task),
        at_once=_fitting(task),
    )


def prepare(config: Settings, loaded: Loaded, devices: Devices) -> SingleRun:
    """The job that the loop trains."""
    task = make_task(config, loaded[0], devices)
    return SingleRun(config, make_programs(config, loaded, task), devices)


def conclusion(options: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """The result in a few lines, beside the papers' number if there is one."""
    last, best = rows[-1], max(rows, key=lambda row: row["hr"])
    published = None if options["validation"] else papers.published(options)
    lines = [
        f"HR@10 {100 * last['hr']:.2f} %, NDCG@10 {last['ndcg']:.4f},"
        f" AUC {last['auc']:.4f} after {last['epoch']} epochs",
        f"best HR@10 of {len(rows)} evaluations {100 * best['hr']:.2f} %"
        f" (epoch {best['epoch']}, chosen on the same items)",
    ]
    if published:
        lines.append(f"the papers, mean of {papers.RUNS} runs: {published.text()}")
    return "\n".join(lines)


def evaluation(finished: Any, values: Mapping[str, float], hits: np.ndarray) -> str:
    """The metrics of a `train.evaluate.FinishedRun`, and each user's hit ratio, in
    words.
    """
    config, (_, candidates) = finished.config, finished.data
    item = "validation (second-latest)" if config.validation else "test (latest)"
    return (
        f"{config.optimizer} on {config.dataset} after {finished.epoch} epochs: each"
        f" user's {item} item among 99 others, {len(candidates)} draws\n"
        f"HR@10 {100 * values['hr']:.2f} % (standard error over {len(hits)} users"
        f" {100 * standard_error(hits):.2f}), NDCG@10 {values['ndcg']:.4f},"
        f" AUC {values['auc']:.4f}\n"
        f"on training items HR@10 {100 * values['train_hr']:.2f} %,"
        f" {margins_in_words(values)}"
    )


def _fitting(task: Task) -> int:
    """The number of runs that train side by side."""
    if jax.default_backend() == "cpu":
        return 1  # On CPUs, more runs side by side are not faster.
    size = -(-task.batch_size // task.parts)
    model = task.model
    weights = (model.num_users + model.num_items) * model.embedding
    # Activations of a part and their gradients; weights, moments and gradients.
    numbers = 4 * size * sum(model.features) + 10 * weights
    return max(1, int(memory() / 2 / (4 * numbers)))


def _measured(config: SweepConfig) -> str:
    validation = config.protocol == "validation"
    item = "second-latest (validation)" if validation else "latest (test)"
    candidates = f"mean of {config.candidate_draws} draws of candidates"
    if not config.candidate_draws:
        candidates = "candidates of the files"
    return f"of each user's {item} item, {candidates}"


EXPERIMENT = Experiment(
    name="recsys",
    Options=Config,
    resolve=resolve,
    load=load_data,
    prepare=prepare,
    take_devices=take_devices,
    evaluation=evaluation,
    sweep=Sweep(
        Options=SweepConfig,
        grid=grid,
        together=True,
        metrics=("hr", "ndcg", "auc"),
        column="HR@10 %",
        subject=lambda config: f"tower {config.tower}, initial weights {config.init}",
        measured=_measured,
    ),
    report=REPORT,
)
