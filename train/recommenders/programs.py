"""Training a recommender: start, epochs and evaluation as compiled programs.

Data flow of a step: positions in the epoch → samples (`sampling`) → logits, in parts
that fit → summed gradients, over parts and devices → optimizer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import lawn_optax as lawn
from lawn_optax import metrics
from models import NCF
from train.optimizers import Trial
from train.recommenders import sampling
from train.recommenders.sampling import Positives
from train.shuffle import make_shuffle

MARGIN_SAMPLES = 50_000  # Training samples whose margins are reported.
_USERS_AT_ONCE = 256  # In evaluation.


class Data(NamedTuple):
    """All of a data set on the device."""

    train: Positives
    candidates: jax.Array  # int32[draws, users, 1 + negatives]; the test item first
    probes: jax.Array  # int32[users]; one training item of each user


class State(NamedTuple):
    """Everything that training changes."""

    params: dict[str, Any]  # By layer.
    opt_state: optax.OptState
    diverged_step: jax.Array  # int32[]; the first update with a loss that is not finite


class Task(NamedTuple):
    """What is trained; all static.

    Attributes:
        model: The network.
        num_positives: Training interactions.
        batch_size: Samples per step, positives and negatives, over all devices.
        parts: Into how many parts each device's share of a batch is divided; their
            gradients are summed.
        optimizer: Makes the optimizer from a trial.
        loss: Of each sample, from logits and bool labels.
        prepare: Applied to the initial weights.
        flood: Flood level, or None.
        alpha: Factor of the logits from the switch on, or 1.
        watch: ``mean-margin`` or ``median-margin`` where the switch waits for one.
        devices: Number of devices.
        axis: Name of their axis; None on one device.
        spread: Makes a function run once on each device; see `parallel.Devices`.
    """

    model: NCF
    num_positives: int
    batch_size: int
    parts: int
    optimizer: Callable[[Trial], optax.GradientTransformation]
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    prepare: Callable[[Any], Any] = lambda params: params
    flood: float | None = None
    alpha: float = 1.0
    watch: str | None = None
    devices: int = 1
    axis: str | None = None
    spread: Callable[[Callable], Callable] = lambda program: program

    @property
    def epoch_size(self) -> int:
        return sampling.epoch_size(self.num_positives)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.epoch_size // self.batch_size)


def start(task: Task, trial: Trial) -> State:
    """The state before the first update."""
    users = jnp.zeros(1, jnp.int32)
    params = task.prepare(task.model.init(_key(trial, 0), users, users)["params"])
    opt_state = task.optimizer(trial).init(params)
    return State(params, opt_state, jnp.int32(-1))


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
    tx = optax.with_extra_args_support(task.optimizer(trial))
    steps = task.steps_per_epoch

    def epoch(number, carry):
        key = jax.random.fold_in(_key(trial, 1), number)
        shuffle = make_shuffle(jax.random.fold_in(key, steps), task.epoch_size)

        def step(carry, i):
            state, total = carry
            bits = jax.random.bits(
                jax.random.fold_in(key, i), (task.batch_size,), jnp.uint32
            )
            grads, loss, watched = task.spread(partial(_gradients, task))(
                *(state.params, _logit_scale(task, state)),
                *(data.train, shuffle, i, bits),
            )
            extra = {"switch_value": watched} if task.watch else {}
            updates, opt_state = tx.update(
                grads, state.opt_state, state.params, **extra
            )
            failed = (state.diverged_step < 0) & ~jnp.isfinite(loss)
            params: Any = optax.apply_updates(state.params, updates)
            state = State(
                params,
                opt_state,
                jnp.where(failed, number * steps + i + 1, state.diverged_step),
            )
            return (state, total + loss * _share(task, i)), None

        return jax.lax.scan(step, carry, jnp.arange(steps, dtype=jnp.int32))[0]

    state, total = jax.lax.fori_loop(
        first_epoch, last_epoch, epoch, (state, jnp.zeros([]))
    )
    return state, total / jnp.maximum(last_epoch - first_epoch, 1)


def evaluate(
    task: Task, state: State, trial: Trial, data: Data
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Ranking metrics, margins and weight norms.

    Returns:
        Metrics by name, and each user's hit ratio, the mean over the candidate draws,
        float32[users].
    """
    # Read in every round: gathered once.
    model, params = task.model, task.spread(lambda params: params)(state.params)
    users = jnp.arange(model.num_users, dtype=jnp.int32)
    first = _apply(model, params, method="first_layer")

    def ranking(candidates):  # [users, 1 + negatives]
        def of_user(args):
            user, items = args
            hidden = first[0][user][None, :] + first[1][items]
            scores = _apply(model, params, hidden, method="rest")
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
        "test_margin_p50": metrics.margin_quantiles(margins[0]),
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
    logits = _apply(model, params, first[0][user] + first[1][item], method="rest")
    quantiles = metrics.margin_quantiles(
        metrics.binary_margin(logits, label), jnp.array([0.1, 0.5, 0.9])
    )
    for name, value in zip(("p10", "p50", "p90"), quantiles, strict=True):
        values[f"margin_{name}"] = value
    for name, layer in params.items():
        values[f"norm/{name}"] = optax.tree.norm(layer)
    values["logit_scale"] = _logit_scale(task, state)
    return values, hits.mean(0)


def _apply(model: NCF, params: Any, *args: jax.Array, method: str = "__call__") -> Any:
    return model.apply({"params": params}, *args, method=method)


def _key(trial: Trial, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(trial["seed"]), purpose)


def _share(task: Task, step: jax.Array) -> jax.Array:
    """What part of the epoch's samples a step has: the last batch may be smaller."""
    count = jnp.minimum(task.batch_size, task.epoch_size - step * task.batch_size)
    return count / task.epoch_size


def _logit_scale(task: Task, state: State) -> jax.Array:
    if task.alpha == 1:
        return jnp.float32(1)
    return lawn.logit_scale(state.opt_state, task.alpha)


def _gradients(
    task: Task,
    params: Any,
    scale: jax.Array,
    data: Positives,
    shuffle: sampling.Shuffle,
    step: jax.Array,
    bits: jax.Array,
) -> tuple[optax.Updates, jax.Array, jax.Array]:
    """Gradient of a batch's mean loss, that loss, and the margin to watch."""
    model = task.model
    size = -(-task.batch_size // (task.parts * task.devices))
    count = jnp.minimum(task.batch_size, task.epoch_size - step * task.batch_size)
    device = jax.lax.axis_index(task.axis) if task.axis else 0

    # A row per user and one per item make a sample's input. Where the batch is the
    # larger, the first layer is applied to the tables instead of to the samples.
    if task.batch_size >= model.num_users + model.num_items:
        tables, pull = jax.vjp(
            lambda params: _apply(model, params, method="first_layer"), params
        )
        first, method, join = 1, "rest", jnp.add
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

    def add_part(sums, part):
        offset = (part * task.devices + device) * size + jnp.arange(
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
        # Added in place: a part has no gradient of the size of the tables.
        sums = (
            jax.tree.map(jnp.add, sums[0], of_layers),
            sums[1].at[user].add(of_rows[0]),
            sums[2].at[item].add(of_rows[1]),
            sums[3] + loss,
        )
        return sums, margins if task.watch else ()

    zeros = jax.tree.map(jnp.zeros_like, (layers, *tables, jnp.zeros([])))
    parts = jnp.arange(task.parts, dtype=jnp.int32)
    sums, margins = jax.lax.scan(add_part, zeros, parts)
    if task.axis:
        sums = jax.lax.psum(sums, task.axis)
        margins = jax.lax.all_gather(margins, task.axis)
    of_layers, of_users, of_items, loss = sums
    (grads,) = pull((of_users, of_items))
    grads |= of_layers
    loss = loss / count
    factor = (
        1.0 if task.flood is None else jax.grad(lawn.losses.flood)(loss, task.flood)
    )
    grads = jax.tree.map(lambda g: g * (factor / count).astype(g.dtype), grads)
    return grads, loss, _watched(task, margins)


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
