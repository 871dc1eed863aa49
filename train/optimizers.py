"""Optimizers and learning-rate schedules by name."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

import lawn_optax as lawn
from lawn_optax import baselines, schedules

Trial = Mapping[str, Any]  # learning_rate, weight_decay, switch_step, seed

BASES = ("sgd", "adam", "adamw", "lamb", "lamb-plus")
# Optimizers without weight decay; the form with it is adamw.
WITHOUT_DECAY = ("adam", "adam-bounded")
NAMES = tuple(base + form for form in ("", "-lawn", "-bounded") for base in BASES)

# lawn.lamb and lawn.lamb_plus are the papers' LAMB (one trust ratio per layer) until
# their switch: a step that no run reaches gives the base optimizer.
_NEVER = 2**31 - 1


def is_lawn(name: str) -> bool:
    """Whether `name` is the LAWN form of an optimizer."""
    return name.endswith("-lawn")


def make(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float | jax.Array = 0.0,
    mask: Any = None,
    momentum: float = 0.9,
    switch_step: Any = 0,
    reset: Any = "restart",
    groups: Any = "layer",
) -> optax.GradientTransformation:
    """Makes an optimizer by name, with its usual defaults.

    The base forms of SGD, Adam and AdamW are Optax's; those of LAMB and LAMB+ are the
    papers' (one trust ratio per layer). ``-lawn`` adds the switch to
    constrained training, ``-bounded`` the bounded weight norm of Hoffer et al. around
    the base form. All hyperparameters may be traced.

    Args:
        name: One of `NAMES`.
        learning_rate: Per update, or a schedule.
        weight_decay: Coefficient. In the LAWN forms the decay ends at the switch.
            ``adam`` itself takes none: its form with decay is ``adamw``.
        mask: Leaves that decay, as in `optax.adamw`.
        momentum: Momentum of SGD and its forms.
        switch_step: Number of free updates, or what `lawn_optax.switch_when` returns;
            only the LAWN forms read it.
        reset: State that the switch resets, as in `lawn_optax.wrap`; only the LAWN
            forms read it.
        groups: Leaves that share a norm or have none, as in `lawn_optax.wrap`; only
            the LAWN forms and LAMB read it.

    Returns:
        The gradient transformation.

    Raises:
        ValueError: For an unknown name, or weight decay with ``adam``.
    """
    if name not in NAMES:
        raise ValueError(f"unknown optimizer {name!r}; choose from: {', '.join(NAMES)}")
    build = _BUILDERS[name.removesuffix("-bounded")]
    decay = {"weight_decay": weight_decay, "mask": mask}
    constraint = {"switch_step": _NEVER, "groups": groups}
    if name.endswith("-bounded"):
        constraint["groups"] = "layer"
    if is_lawn(name):
        constraint |= {"switch_step": switch_step, "reset": reset}
    tx = build(learning_rate, decay, momentum, constraint)
    return baselines.bounded_weight_norm(tx) if name.endswith("-bounded") else tx


def _sgd(rate, decay, momentum, _):
    decayed = optax.add_decayed_weights(decay["weight_decay"], decay["mask"])
    return optax.chain(decayed, optax.sgd(rate, momentum))


def _adam(rate, decay, *_):
    weight_decay = decay["weight_decay"]
    if not isinstance(weight_decay, int | float) or weight_decay != 0:
        raise ValueError("adam takes no weight decay; the form with it is adamw")
    return optax.adam(rate)


def _lamb(rate, decay, _, constraint):
    return lawn.lamb(rate, **decay, **constraint)


def _lamb_plus(rate, decay, _, constraint):
    return lawn.lamb_plus(rate, **decay, **constraint)


def _sgd_lawn(rate, decay, momentum, constraint):
    return lawn.sgd(rate, momentum, **decay, **constraint)


# (learning rate, weight decay and its mask, momentum, constraint) -> optimizer
_BUILDERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": lambda rate, decay, *_: optax.adamw(rate, **decay),
    "lamb": _lamb,
    "lamb-plus": _lamb_plus,
    "sgd-lawn": _sgd_lawn,
    "adam-lawn": lambda rate, decay, _, constraint: lawn.adam(
        rate, **decay, **constraint
    ),
    "adamw-lawn": lambda rate, decay, _, constraint: lawn.wrap(
        optax.adamw(rate, **decay), **constraint
    ),
    "lamb-lawn": _lamb,
    "lamb-plus-lawn": _lamb_plus,
}


def schedule(
    name: str,
    peak_value: float | jax.Array,
    *,
    free_steps: int | jax.Array,
    warmup_steps: int | jax.Array,
    total_steps: int,
) -> optax.Schedule:
    """The papers' learning-rate schedule for an optimizer.

    LAWN forms: linear warm-up over the free phase, again over `warmup_steps`, then
    linear decay to 0. Base forms: linear warm-up over `warmup_steps`, then linear
    decay to 0.

    Args:
        name: One of `NAMES`.
        peak_value: Highest learning rate, per update.
        free_steps: Updates before the switch; only the LAWN forms read it.
        warmup_steps: Updates of the (second) warm-up.
        total_steps: Updates of the whole training.

    Returns:
        A function from the update's number to its learning rate.

    References:
        Gupta et al. 2021, arXiv:2108.05839, Appendix D.1.
    """
    if is_lawn(name):
        return schedules.three_phase(peak_value, free_steps, warmup_steps, total_steps)
    return schedules.two_phase(peak_value, warmup_steps, total_steps)
