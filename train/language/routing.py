"""Which optimizer trains which weights of a language model.

The hidden matrices are trained by the method of the run. The head, the embeddings and
the gains of the norms are trained by the method too, by Adam, or with a fixed norm by
AdamH: see `train.language.options`.
"""

from collections.abc import Hashable
from typing import Any

import jax
import optax

import lawn_optax as lawn
from train import hyperparameters, optimizers
from train.language.options import Settings
from train.optimizers import Trial

SCANNED = "blocks"  # The module whose leaves have an axis for the depth.


def part(path: tuple[Any, ...]) -> str:
    """The part of the network that a leaf belongs to: ``hidden``, ``head``,
    ``embeddings`` or ``vectors``.

    Args:
        path: Path of the leaf among the parameters, from JAX.
    """
    names = [entry.key for entry in path]
    if names[0] in ("embedding", "positions"):
        return "embeddings"
    if names[-1] == "scale":
        return "vectors"
    return "head" if names[0] == "head" else "hidden"


def is_matrix(params: Any) -> Any:
    """Whether each leaf is a matrix, or a stack of them; these have weight decay."""
    return jax.tree.map_with_path(lambda path, _: part(path) != "vectors", params)


def matrix_axes(params: Any) -> Any:
    """The axes that Muon orthogonalises, for each leaf; None where it is a vector."""
    axes = optax.contrib.MuonDimensionNumbers(-2, -1)
    return jax.tree.map(lambda matrix: axes if matrix else None, is_matrix(params))


def methods(config: Settings) -> dict[str, str]:
    """The method of each part: ``method``, ``adam`` or ``adamh``."""
    return {
        "hidden": "method",
        "head": config.head,
        "embeddings": config.embeddings,
        "vectors": config.vectors,
    }


def make_optimizer(config: Settings, trial: Trial) -> optax.GradientTransformation:
    """The optimizer of a run.

    Args:
        config: Options of the run.
        trial: Hyperparameters from `hyperparameters.make_trial`; they may be traced.
    """
    own_switch = trial["switch_step"]
    if config.switch != "epochs":
        decay = 1 - 1 / config.switch_steps
        own_switch = lawn.switch_when(config.switch_threshold, decay=decay)
    options: dict[str, Any] = {"b2": config.b2}
    own = options | {
        "momentum": config.momentum,
        "switch_step": own_switch,
        "reset": config.reset,
        "groups": lawn.groups.stacked(SCANNED) if config.scanned else "layer",
        "dimensions": matrix_axes,
        "project": config.project,
    }
    if config.optimizer not in (*optimizers.WITHOUT_DECAY, *optimizers.HYPERBALL):
        own |= {"weight_decay": trial["weight_decay"], "mask": is_matrix}

    def rate(peak: float | None) -> optax.Schedule:
        peaks = trial if peak is None else {**trial, "learning_rate": peak}
        return hyperparameters.learning_rate(config, 1, peaks)

    if config.optimizer == "adamh":  # A share of the norm is no rate for Adam.
        own["free_rate"] = rate(config.adam_rate)
    settings = {
        "method": (config.optimizer, rate(None), own),
        "adam": ("adam", rate(config.adam_rate), options),
        "adamh": ("adamh", rate(config.adamh_rate), options),
    }
    chosen = methods(config)
    used: dict[Hashable, optax.GradientTransformation] = {
        name: optimizers.make(optimizer, schedule, **others)
        for name, (optimizer, schedule, others) in settings.items()
        if name in chosen.values()
    }
    tx = used["method"]
    if len(used) > 1:
        tx = optax.partition(
            used,
            lambda params: jax.tree.map_with_path(
                lambda path, _: chosen[part(path)], params
            ),
        )
    if config.clip_norm is None:
        return tx
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)


def describe(config: Settings) -> str:
    """Steps, optimizers, rates and the switch of a run in words."""
    rates = {"adam": config.adam_rate, "adamh": config.adamh_rate}
    parts: dict[str, list[str]] = {}  # By what trains them.
    for name, method in methods(config).items():
        rate = rates.get(method) or config.learning_rate
        called = f"{method} (rate {rate:g})"
        if method == "method":
            called = f"{config.optimizer} (rate {rate:g})"
            if config.weight_decay:
                called = f"{called[:-1]}, weight decay {config.weight_decay:g})"
        if not (config.tied and name == "head"):
            parts.setdefault(called, []).append(name)
    words = [f"{called} for {', '.join(names)}" for called, names in parts.items()]
    begins_free = optimizers.has_free_phase(config.optimizer) and config.free_epochs
    if begins_free or optimizers.is_lawn(config.optimizer):
        when = f"{config.free_epochs:g} free steps"
        if config.switch != "epochs":
            when = f"at {config.switch_threshold:g} ({config.switch})"
        words.append(f"switch: {when}")
    return f"{config.epochs:,} steps, {config.schedule} schedule;\n{'; '.join(words)}"
