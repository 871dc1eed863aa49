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

from lawn_optax import baselines, losses
from models import NCF, TOWERS
from train import (
    loop as training,
)
from train import (
    plots,
    require,
)
from train.devices import Devices
from train.experiment import Experiment, Programs
from train.recommenders import (
    data as interactions,
)
from train.recommenders import (
    programs as recommender,
)
from train.recommenders import (
    sampling,
)
from train.recommenders.data import Interactions
from train.recommenders.options import (
    Config,
    Settings,
    resolve,
)
from train.recommenders.programs import Data, Task
from train.report import papers

# ------------------------------------------------------------------------ data

Loaded = tuple[Interactions, np.ndarray]


def load_data(config: Settings) -> Loaded:
    """The interactions that a run trains on, and its candidates."""
    data = interactions.load(config.dataset, config.data_dir)
    if config.validation:
        data = interactions.hold_out(data)
    if config.candidate_draws:
        seed = config.candidate_seed
        return data, interactions.draw_candidates(data, seed, config.candidate_draws)
    return data, interactions.file_candidates(data)


def on_device(data: Interactions, candidates: np.ndarray) -> Data:
    """All of a data set as arrays."""
    # One training item per user, for the metrics on training data; the same each time.
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
    """What the programs of `train.recommenders.programs` need to know about a run."""
    size = sampling.epoch_size(len(data.train))
    require(size < 2**31, "the data set has more than 2^31 samples per epoch")
    batch_size = min(config.batch_size, size)
    steps = -(-size // batch_size)
    on_cpu = jax.default_backend() == "cpu"
    micro_batch = config.micro_batch or (10_000 if on_cpu else 2**20)
    bounded = config.optimizer.endswith("-bounded")
    return Task(
        model=NCF(
            data.num_users,
            data.num_items,
            TOWERS[config.tower],
            initialization=config.init,
        ),
        num_positives=len(data.train),
        batch_size=batch_size,
        parts=-(-batch_size // (devices.count * micro_batch)),
        optimizer=partial(training.make_optimizer, config, steps),
        loss=partial(_loss, config),
        prepare=baselines.bounded_init if bounded else lambda params: params,
        flood=config.flood,
        alpha=config.alpha,
        watch=None if config.switch == "epochs" else config.switch,
        devices=devices.count,
        axis=devices.axis,
        spread=devices.spread,
    )


def _loss(config: Settings, logits: jax.Array, labels: jax.Array) -> jax.Array:
    targets = labels.astype(logits.dtype)
    if config.loss == "focal":
        return optax.sigmoid_focal_loss(logits, targets, gamma=config.gamma)
    targets = losses.smooth_binary_labels(targets, config.label_smoothing)
    return optax.sigmoid_binary_cross_entropy(logits, targets)


# ------------------------------------------------------------------------- run


def run(config: Config) -> None:
    """Trains, prints the result and writes the run folder."""
    training.run(EXPERIMENT, resolve(config))


def introduction(config: Settings, data: Interactions, task: Task) -> str:
    """What is trained, in a few lines."""
    device = jax.devices()[0].device_kind
    protocol = "validation (second-latest)" if config.validation else "test (latest)"
    schedule = training.describe(config, task.steps_per_epoch)
    candidates = f"{config.candidate_draws} draws of 99 other items"
    if not config.candidate_draws:
        candidates = "the 99 other items of the files"
    return (
        f"{interactions.statistics(data)}\n\n"
        f"NCF, tower {config.tower}, initial weights {config.init}, {config.optimizer},"
        f" batch {task.batch_size:,} ({task.steps_per_epoch} steps per epoch on"
        f" {task.devices} x {device}),\n"
        f"{schedule}.\n"
        f"Ranked: each user's {protocol} item among {candidates}."
    )


def prepare(config: Settings, loaded: Loaded, devices: Devices) -> Programs:
    """What `train.loop` needs to know about a run."""
    interacted, candidates = loaded
    task = make_task(config, interacted, devices)

    def documents(hits: np.ndarray) -> dict[str, Any]:
        rounded = [round(hit, 4) for hit in hits.tolist()]
        return {"hits": {"draws": len(candidates), "hr": rounded}}

    return Programs(
        task.model,
        partial(recommender.start, task),
        partial(recommender.advance, task),
        None,
        partial(recommender.evaluate, task),
        task.steps_per_epoch,
        task.epoch_size,
        "hr",
        lambda value: f"HR@10 {100 * value:.2f} %",
        documents,
        partial(
            plots.run_curves,
            score="hr",
            title="HR@10 among 100 candidates",
            tested="held-out item",
            trained="a training item",
        ),
        conclusion,
        introduction(config, interacted, task),
        _fitting(task),
    )


EXPERIMENT = Experiment("recsys", load_data, prepare, lambda loaded: on_device(*loaded))


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


def _fitting(task: Task) -> int:
    """How many runs train side by side."""
    if jax.default_backend() == "cpu":
        return 1  # More gains nothing.
    size = -(-task.batch_size // task.parts)
    model = task.model
    weights = (model.num_users + model.num_items) * model.embedding
    # Activations and their gradients of a part; weights, moments and gradients.
    numbers = 4 * size * sum(model.features) + 10 * weights
    memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", 2**33)
    return max(1, int(memory / 2 / (4 * numbers)))
