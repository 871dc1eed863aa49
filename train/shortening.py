"""Defaults of a run that is shorter or smaller than the one that they were made for.

Free phase, warm-up and batch size belong to a number of epochs and of samples. Where
the user gives fewer of these and leaves the others open, they shrink alike.
"""

from collections.abc import Mapping
from typing import Any

from train import optimizers
from train.options import Grid

_PHASES = {"free_epochs": "free phase", "warmup_epochs": "warm-up"}


def scaled(epochs: float, factor: float) -> float:
    """Epochs of a phase in a run whose length is multiplied by `factor`."""
    return float(f"{epochs * factor:.4g}")


def factor(config: Any, epochs: int) -> float:
    """The length of a run as a share of its preset's `epochs`, at most 1."""
    given = config.epochs
    # What is out of range is refused later, under its own name.
    return given / epochs if given is not None and 0 < given < epochs else 1.0


def phases(config: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Scales the defaults of free phase and warm-up with the epochs that are given.

    Args:
        config: Options from the command line.
        defaults: Values of the options that it leaves open, with the preset's epochs.
    """
    share = factor(config, defaults["epochs"])
    names = [name for name in _PHASES if name in defaults]
    return dict(defaults) | {name: scaled(defaults[name], share) for name in names}


def grid(config: Any, tried: Grid, epochs: int) -> Grid:
    """Scales the free epochs and warm-ups of a sweep's grid in the same way.

    Args:
        config: Options of the sweep; values that are given there stay as they are.
        tried: The grid.
        epochs: The preset's epochs.
    """
    share = factor(config, epochs)

    def shortened(values: tuple[float, ...], given: Any) -> tuple[float, ...]:
        return values if given else tuple(scaled(value, share) for value in values)

    return tried._replace(
        free=shortened(tried.free, config.free),
        warmups=shortened(tried.warmups, getattr(config, "warmups", ())),
    )


def grid_in_words(tried: Grid, full: Grid) -> str:
    """A line that says which values of a grid `grid` scaled; empty if it did none."""
    lists = {
        "--free": (tried.free, full.free),
        "--warmups": (tried.warmups, full.warmups),
    }
    changes = [
        f"{flag} {' '.join(f'{x:g}' for x in new)} instead of"
        f" {' '.join(f'{x:g}' for x in old)}"
        for flag, (new, old) in lists.items()
        if new != old
    ]
    return f"The grid is shortened too: {', '.join(changes)}." if changes else ""


def in_words(config: Any, settings: Mapping[str, Any], epochs: int) -> str:
    """A line that says what was scaled; empty if nothing was.

    Args:
        config: Options from the command line.
        settings: All options by name, with the values that were filled in.
        epochs: The preset's epochs.
    """
    lines = []
    planned = settings["switch"] == "epochs"
    has_phase = planned and optimizers.has_free_phase(settings["optimizer"])
    names = [
        key
        for key in _PHASES
        if getattr(config, key) is None
        and settings[key]
        and (has_phase or key != "free_epochs")
    ]
    if factor(config, epochs) < 1 and names:
        phase = " and ".join(f"{_PHASES[n]} ({settings[n]:g} epochs)" for n in names)
        flags = " and ".join(f"--{n.replace('_', '-')}" for n in names)
        lines.append(
            f"Shortened from {epochs} epochs, with {phase} alike; {flags} would set"
            " other values."
        )
    if config.batch_size is None and getattr(config, "images", None):
        lines.append(
            f"The batch of {settings['batch_size']:,} goes with {config.images:,}"
            " images; --batch-size would set another one."
        )
    return "\n".join(lines)
