"""Optimizers and learning-rate schedules by name."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lawn_optax as lawn
from lawn_optax import baselines, schedules

Trial = Mapping[str, Any]  # learning_rate, weight_decay, switch_step, seed

BASES = ("sgd", "adam", "adamw", "lamb", "lamb-plus")
# Optimizers without weight decay; the form with it is adamw.
WITHOUT_DECAY = ("adam", "adam-bounded")
NAMES = tuple(base + form for form in ("", "-lawn", "-bounded") for base in BASES)
# What `make` knows beside `NAMES`, for matrices: Muon, and the steps of a fixed angle
# of `baselines.hyperball` behind SGD with momentum, Adam and Muon.
MUON = ("muon", "muon-lawn")
HYPERBALL = ("sgdh", "adamh", "muonh")

# lawn.lamb and lawn.lamb_plus are the papers' LAMB (one trust ratio per layer) until
# their switch: a step that no run reaches gives the base optimizer.
_NEVER = 2**31 - 1


def is_lawn(name: str) -> bool:
    """Whether `name` is the LAWN form of an optimizer."""
    return name.endswith("-lawn")


def has_free_phase(name: str) -> bool:
    """Whether an optimizer can begin with free steps, before it fixes norms."""
    return is_lawn(name) or name in HYPERBALL


def make(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float | jax.Array = 0.0,
    mask: Any = None,
    momentum: float = 0.9,
    b2: float = 0.999,
    switch_step: Any = 0,
    reset: Any = "restart",
    groups: Any = "layer",
    dimensions: Any = None,
    free_rate: optax.ScalarOrSchedule | None = None,
    project: bool = False,
) -> optax.GradientTransformation:
    """Makes an optimizer by name, with its usual defaults.

    The base forms of SGD, Adam and AdamW are Optax's; those of LAMB and LAMB+ are the
    papers' (one trust ratio per layer). ``-lawn`` adds the switch to
    constrained training, ``-bounded`` the bounded weight norm of Hoffer et al. around
    the base form. Muon is Optax's, which trains vectors with Adam; its LAWN form is
    `lawn_optax.wrap` around it. For ``sgdh``, ``adamh`` and ``muonh`` the learning rate
    is the length of a step in units of the norm. All hyperparameters may be traced.

    Args:
        name: One of `NAMES`, `MUON` and `HYPERBALL`.
        learning_rate: Per update, or a schedule.
        weight_decay: Coefficient. In the LAWN forms the decay ends at the switch.
            ``adam`` itself takes none: its form with decay is ``adamw``. The forms of
            `HYPERBALL` do not read it.
        mask: Leaves that decay, as in `optax.adamw`.
        momentum: Momentum of SGD and its forms.
        b2: Decay of Adam's second moments, also behind ``adamh``.
        switch_step: Number of free updates, or what `lawn_optax.switch_when` returns;
            only the LAWN forms and those of `HYPERBALL` read it.
        reset: State that the switch resets, as in `lawn_optax.wrap`; only the LAWN
            forms read it.
        groups: Leaves that share a norm or have none, as in `lawn_optax.wrap`; only
            the LAWN forms, those of `HYPERBALL` and LAMB read it.
        dimensions: Axes of the matrices that Muon orthogonalises, as
            ``muon_weight_dimension_numbers`` of Optax's Muon.
        free_rate: Learning rate of the free updates of a form of `HYPERBALL`, and of
            its free leaves; None means `learning_rate`.
        project: Whether a form of `HYPERBALL` projects its updates to the tangent
            space.

    Returns:
        The gradient transformation.

    Raises:
        ValueError: For an unknown name, or weight decay with ``adam``.
    """
    known = NAMES + MUON + HYPERBALL
    if name not in known:
        raise ValueError(f"unknown optimizer {name!r}; choose from: {', '.join(known)}")
    build = _BUILDERS[name.removesuffix("-bounded")]
    decay = {"weight_decay": weight_decay, "mask": mask}
    constraint = {"switch_step": _NEVER, "groups": groups}
    if name in HYPERBALL:
        rate = learning_rate if free_rate is None else free_rate
        constraint |= {"switch_step": switch_step, "project": project, "inner": rate}
    if name.endswith("-bounded"):
        constraint["groups"] = "layer"
    if is_lawn(name):
        constraint |= {"switch_step": switch_step, "reset": reset}
    moments = {"momentum": momentum, "b2": b2, "dimensions": dimensions}
    tx = build(learning_rate, decay, moments, constraint)
    return baselines.bounded_weight_norm(tx) if name.endswith("-bounded") else tx


def _sgd(rate, decay, moments, _):
    decayed = optax.add_decayed_weights(decay["weight_decay"], decay["mask"])
    return optax.chain(decayed, optax.sgd(rate, moments["momentum"]))


def _adam(rate, decay, moments, _):
    weight_decay = decay["weight_decay"]
    if not isinstance(weight_decay, int | float) or weight_decay != 0:
        raise ValueError("adam takes no weight decay; the form with it is adamw")
    return optax.adam(rate, b2=moments["b2"])


def _adamw(rate, decay, moments, _):
    return optax.adamw(rate, b2=moments["b2"], **decay)


def _lamb(rate, decay, _, constraint):
    return lawn.lamb(rate, **decay, **constraint)


def _lamb_plus(rate, decay, _, constraint):
    return lawn.lamb_plus(rate, **decay, **constraint)


def _muon(rate, decay, moments, _):
    return optax.contrib.muon(
        rate,
        weight_decay=decay["weight_decay"],
        weight_decay_mask=decay["mask"],
        adam_b2=moments["b2"],
        muon_weight_dimension_numbers=moments["dimensions"],
    )


def _sgd_lawn(rate, decay, moments, constraint):
    return lawn.sgd(rate, moments["momentum"], **decay, **constraint)


def _adam_lawn(rate, decay, moments, constraint):
    return lawn.adam(rate, b2=moments["b2"], **decay, **constraint)


def _wrapped(build):
    """The LAWN form of a base optimizer, by `lawn_optax.wrap`."""
    return lambda rate, decay, moments, constraint: lawn.wrap(
        build(rate, decay, moments, None), **constraint
    )


def _hyperball(build):
    """A base optimizer whose steps have a fixed angle; its decay would be radial."""

    def make_one(rate, _, moments, constraint):
        none = {"weight_decay": 0.0, "mask": None}
        own = dict(constraint)
        inner = build(own.pop("inner"), none, moments, None)
        return optax.chain(inner, baselines.hyperball(rate, **own))

    return make_one


# (learning rate, weight decay and its mask, moments, constraint) -> optimizer
_BUILDERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "lamb": _lamb,
    "lamb-plus": _lamb_plus,
    "muon": _muon,
    "sgd-lawn": _sgd_lawn,
    "adam-lawn": _adam_lawn,
    "adamw-lawn": _wrapped(_adamw),
    "lamb-lawn": _lamb,
    "lamb-plus-lawn": _lamb_plus,
    "muon-lawn": _wrapped(_muon),
    "sgdh": _hyperball(_sgd),
    "adamh": _hyperball(_adam),
    "muonh": _hyperball(_muon),
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


def warm_schedule(
    shape: str, peak_value: float | jax.Array, warmup_steps: int, total_steps: int
) -> optax.Schedule:
    """A linear warm-up, then a cosine to a tenth of the peak, or the peak itself.

    Args:
        shape: ``cosine`` or ``constant``.
        peak_value: Highest learning rate, per update.
        warmup_steps: Updates of the warm-up.
        total_steps: Updates of the whole training.
    """

    def at(count: Any) -> jax.Array:
        warm = jnp.minimum((count + 1) / max(warmup_steps, 1), 1)
        if shape == "constant":
            return peak_value * warm
        share = (count - warmup_steps) / max(total_steps - warmup_steps, 1)
        cosine = 0.55 + 0.45 * jnp.cos(jnp.pi * jnp.clip(share, 0, 1))
        return peak_value * jnp.where(count < warmup_steps, warm, cosine)

    return at
