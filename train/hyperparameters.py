"""From the options of a run to its trial, schedule, optimizer and description."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

import lawn_optax as lawn
from lawn_optax import schedules
from train import optimizers
from train.errors import require
from train.optimizers import Trial
from train.options import ResolvedOptions


def make_trial(config: ResolvedOptions, steps: int) -> dict[str, Any]:
    """The hyperparameters that a compiled program takes as arguments.

    Args:
        config: Options of the run.
        steps: Updates per epoch.
    """
    require(
        config.epochs * steps < 2**31,
        f"{config.epochs} epochs of {steps} steps are more than 2^31 - 1 steps; lower"
        " --epochs or raise --batch-size",
    )
    free_steps = 0
    if optimizers.has_free_phase(config.optimizer):
        free_steps = schedules.epochs_to_steps(config.free_epochs, steps)
        if config.schedule == "three-phase":
            # The free phase and the warm-up that follows it may both be rounded up, to
            # one update more than the run has.
            warmup_steps = schedules.epochs_to_steps(config.warmup_epochs, steps)
            free_steps = min(free_steps, config.epochs * steps - warmup_steps)
    return {
        "learning_rate": np.float32(config.learning_rate),
        "weight_decay": np.float32(config.weight_decay),
        "switch_step": np.int32(free_steps),
        "seed": np.uint32(config.seed),
    }


def learning_rate(config: ResolvedOptions, steps: int, trial: Trial) -> optax.Schedule:
    """The schedule of a run with `steps` updates per epoch."""
    warmup_steps = schedules.epochs_to_steps(config.warmup_epochs, steps)
    total_steps = config.epochs * steps
    if config.schedule == "two-phase":
        return schedules.two_phase(trial["learning_rate"], warmup_steps, total_steps)
    if config.schedule in ("cosine", "constant"):
        return optimizers.warm_schedule(
            config.schedule, trial["learning_rate"], warmup_steps, total_steps
        )
    return optimizers.schedule(
        config.optimizer,
        trial["learning_rate"],
        free_steps=trial["switch_step"],
        warmup_steps=warmup_steps,
        total_steps=total_steps,
    )


def make_optimizer(
    config: ResolvedOptions,
    steps: int,
    trial: Trial,
    plateau: float | None = None,
    **options: Any,
) -> optax.GradientTransformation:
    """The optimizer of a run with `steps` updates per epoch.

    Args:
        config: Options of the run.
        steps: Updates per epoch.
        trial: Hyperparameters from `make_trial`, which may be traced.
        plateau: Largest rise per epoch of what the switch watches that it waits for;
            None does not wait.
        **options: Further options of `optimizers.make`.
    """
    switch_step = trial["switch_step"]
    if config.switch != "epochs":
        switch_step = lawn.switch_when(
            config.switch_threshold, decay=1 - 1 / steps, plateau=plateau
        )
    if config.optimizer not in optimizers.WITHOUT_DECAY:
        options["weight_decay"] = trial["weight_decay"]
    tx = optimizers.make(
        config.optimizer,
        learning_rate(config, steps, trial),
        switch_step=switch_step,
        reset=config.reset,
        **options,
    )
    if config.clip_norm is None:
        return tx
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)


def switched_at(config: ResolvedOptions, opt_state: optax.OptState) -> int:
    """The first constrained update; -1 if it is not known yet or there is no switch."""
    if not optimizers.is_lawn(config.optimizer):
        return -1
    found = optax.tree.get_all_with_path(opt_state, "switched_at")
    return int(found[0][1])


def describe(config: ResolvedOptions, steps: int) -> str:
    """Epochs, schedule and hyperparameters of a run in words."""
    switch = ""
    if optimizers.is_lawn(config.optimizer):
        switch = f"; switch at {config.switch_threshold:g} ({config.switch})"
        if config.switch == "epochs":
            step = make_trial(config, steps)["switch_step"]
            switch = f"; switch after {config.free_epochs:g} epochs (step {step})"
    return (
        f"{config.epochs} epochs, {config.schedule} schedule, rate"
        f" {config.learning_rate:g}, weight decay {config.weight_decay:g}{switch}"
    )


def tuned_help(
    what: str, table: Mapping[str, tuple[float, ...]], position: int, note: str = ""
) -> str:
    """The help of an option whose default depends on the optimizer.

    Args:
        what: Meaning of the option.
        table: Values of the tuned forms, see `train.options.tuned`.
        position: Position of the option's values in the table.
        note: Words about other tables.
    """
    values = {name: row[position] for name, row in table.items()}
    named = ", ".join(f"{name} {value:g}" for name, value in values.items() if value)
    if 0 in values.values():
        named += ", others 0"
    return f"{what} (default: {named}{note}; LAMB+, -bounded: as their base)"
