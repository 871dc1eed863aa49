"""Training a recommender: start, epochs and evaluation as compiled programs.

Data flow of a step: positions in the epoch → samples (`train.recommenders.sampling`) →
logits → gradients, and the rest of `train.step`.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lawn_optax import metrics
from models import NCF
from train import step as training_step
from train.optimizers import Trial
from train.recommenders import sampling
from train.recommenders.sampling import Positives
from train.shuffle import make_shuffle
from train.step import State

MARGIN_SAMPLES = 50_000  # Training samples whose margins are reported.
_USERS_AT_ONCE = 256  # In evaluation.


class Data(NamedTuple):
    """All of a data set on the device."""

    train: Positives
    candidates: jax.Array  # int32[draws, users, 1 + negatives]; the test item first
    probes: jax.Array  # int32[users]; one training item of each user


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(training_step.Task):
    """The task of a run. The last batch of an epoch may be smaller than the others.

    Attributes:
        num_positives: Number of training interactions.
    """

    num_positives: int

    @property
    def epoch_size(self) -> int:
        return sampling.epoch_size(self.num_positives)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.epoch_size // self.batch_size)


def start(task: Task, trial: Trial) -> State:
    """The state before the first update."""
    users = jnp.zeros(1, jnp.int32)
    variables = task.model.init(training_step.key(trial, 0), users, users)
    return training_step.start(task, trial, variables)


def advance(
    task: Task,
    state: State,
    trial: Trial,
    data: Data,
    first_epoch: jax.Array,
    last_epoch: jax.Array,
) -> tuple[State, jax.Array]:
    """Trains from `first_epoch` up to `last_epoch` (0-based, exclusive).

    Returns:
        The state, and the mean loss of the samples on the way, float32[].
    """
    steps = task.steps_per_epoch

    def make_step(epoch):
        key = jax.random.fold_in(training_step.key(trial, 1), epoch)
        shuffle = make_shuffle(jax.random.fold_in(key, steps), task.epoch_size)

        def one_step(state, number):
            bits = jax.random.bits(
                jax.random.fold_in(key, number), (task.batch_size,), jnp.uint32
            )
            count, gradient = epoch * steps + number + 1, partial(_gradient, task)
            batch = data.train, shuffle, number, bits
            state, loss = training_step.step(
                task, state, trial, count, gradient, *batch
            )
            return state, loss * _share(task, number)

        return one_step

    return training_step.run_epochs(make_step, steps, state, first_epoch, last_epoch)


def evaluate(
    task: Task, state: State, trial: Trial, data: Data
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Ranking metrics, margins with the factor of the logits, and weight norms.

    Returns:
        Metrics by name, and each user's hit ratio, the mean over the candidate draws,
        float32[users].
    """
    # Gathered here once instead of in every round of the ranking.
    scale = training_step.logit_scale(task, state)
    model, params = task.model, task.per_device(lambda params: params)(state.params)
    users = jnp.arange(model.num_users, dtype=jnp.int32)
    first = _apply(model, params, method="project_tables")

    def ranking(candidates):  # [users, 1 + negatives]
        def of_user(args):
            user, items = args
            hidden = first[0][user][None, :] + first[1][items]
            scores = _apply(model, params, hidden, method="score_projected")
            # A candidate that is the test item itself does not compete with it.
            mask = jnp.append(True, items[1:] != items[0])
            margin = scores[0]
            return (
                metrics.hit_ratio(scores, mask=mask),
                metrics.ndcg(scores, mask=mask),
                _auc(scores, mask),
                margin,
            )

        return jax.lax.map(of_user, (users, candidates), batch_size=_USERS_AT_ONCE)

    hits, ndcg, auc, margins = jax.lax.map(ranking, data.candidates)
    seen = data.candidates[0].at[:, 0].set(data.probes)
    values = {
        "hr": hits.mean(),
        "ndcg": ndcg.mean(),
        "auc": auc.mean(),
        "train_hr": ranking(seen)[0].mean(),
        "test_margin_p50": metrics.margin_quantiles(scale * margins[0]),
    }
    count = min(MARGIN_SAMPLES, task.epoch_size)
    key = jax.random.key(0)  # The same samples at each evaluation.
    shuffle = make_shuffle(key, task.epoch_size)
    user, item, label = sampling.samples(
        data.train,
        shuffle,
        jnp.arange(count, dtype=jnp.int32),
        jax.random.bits(key, (count,), jnp.uint32),
        model.num_items,
    )
    logits = _apply(
        model, params, first[0][user] + first[1][item], method="score_projected"
    )
    quantiles = metrics.margin_quantiles(
        metrics.binary_margin(scale * logits, label), jnp.array([0.1, 0.5, 0.9])
    )
    for name, value in zip(("p10", "p50", "p90"), quantiles, strict=True):
        values[f"margin_{name}"] = value
    for name, layer in params.items():
        values[f"norm/{name}"] = optax.tree.norm(layer)
    values["logit_scale"] = scale
    return values, hits.mean(0)


def _apply(model: NCF, params: Any, *args: jax.Array, method: str = "__call__") -> Any:
    return model.apply({"params": params}, *args, method=method)


def _share(task: Task, step: jax.Array) -> jax.Array:
    """The share of a step in the epoch's samples: the last batch may be smaller."""
    count = jnp.minimum(task.batch_size, task.epoch_size - step * task.batch_size)
    return count / task.epoch_size


def _gradient(
    task: Task,
    params: Any,
    statistics: Any,
    scale: jax.Array,
    data: Positives,
    shuffle: sampling.Shuffle,
    step: jax.Array,
    bits: jax.Array,
) -> tuple[optax.Updates, Any, jax.Array, jax.Array]:
    """Gradient of a batch's mean loss, statistics, that loss, margin to watch."""
    model = task.model
    size = -(-task.batch_size // (task.parts * task.devices))
    count = jnp.minimum(task.batch_size, task.epoch_size - step * task.batch_size)

    # A sample's input is the row of its user and the row of its item. If the batch is
    # larger than the tables, the first layer is applied to the tables instead.
    if task.batch_size >= model.num_users + model.num_items:
        tables, pull = jax.vjp(
            lambda params: _apply(model, params, method="project_tables"), params
        )
        first, method, join = 1, "score_projected", jnp.add
    else:
        tables, pull = jax.vjp(
            lambda params: _apply(model, params, method="embeddings"), params
        )
        first, method = 0, "tower"
        join = lambda user, item: jnp.concatenate([user, item], -1)  # noqa: E731
    layers = {
        f"dense_{i}": params[f"dense_{i}"] for i in range(first, len(model.features))
    }

    def part_loss(layers, rows, label, valid):
        logits = scale * _apply(model, layers, join(*rows), method=method)
        losses = jnp.where(valid, task.loss(logits, label), 0)
        margins = jnp.where(valid, metrics.binary_margin(logits, label), jnp.nan)
        return losses.sum(), margins

    def add_part(sums, statistics, part):
        offset = training_step.place(task, part, size) + jnp.arange(
            size, dtype=jnp.int32
        )
        valid = offset < count
        user, item, label = sampling.samples(
            data,
            shuffle,
            jnp.where(valid, step * task.batch_size + offset, 0),
            bits[jnp.minimum(offset, task.batch_size - 1)],
            model.num_items,
        )
        rows = tables[0][user], tables[1][item]
        (loss, margins), (of_layers, of_rows) = jax.value_and_grad(
            part_loss, (0, 1), has_aux=True
        )(layers, rows, label, valid)
        # Added in place, so that no part needs a gradient as large as the tables.
        sums = (
            jax.tree.map(jnp.add, sums[0], of_layers),
            sums[1].at[user].add(of_rows[0]),
            sums[2].at[item].add(of_rows[1]),
            sums[3] + loss,
        )
        return sums, statistics, margins

    zeros = jax.tree.map(jnp.zeros_like, (layers, *tables, jnp.zeros([])))
    sums, statistics, margins = training_step.accumulate(
        task, add_part, zeros, statistics
    )
    of_layers, of_users, of_items, loss = sums
    (grads,) = pull((of_users, of_items))
    grads |= of_layers
    loss = loss / count
    factor = training_step.flood_factor(task, loss)
    grads = jax.tree.map(lambda g: g * (factor / count).astype(g.dtype), grads)
    return grads, statistics, loss, _watched(task, margins)


def _watched(task: Task, margins: Any) -> jax.Array:
    if task.watch == "mean-margin":
        return jnp.nanmean(margins)
    if task.watch == "median-margin":
        return jnp.nanmedian(margins)
    return jnp.float32(jnp.nan)


def _auc(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """The chance that the first of the scores exceeds another one; ties count half."""
    above = (scores[0] > scores[1:]) + 0.5 * (scores[0] == scores[1:])
    return jnp.where(mask[1:], above, 0).sum() / mask[1:].sum()
