"""Commands that a report suggests, for figures that lack runs."""

from typing import Any

from train import optimizers, recorded
from train.report.read import Group


def free_epochs(group: Group, wanted: float) -> float:
    """A free phase that fits into a run: `wanted`, or its share of 300 epochs."""
    left = group.options["epochs"] - _warmup_epochs(group)
    return float(wanted if wanted <= left else f"{wanted * left / 300:.3g}")


def _warmup_epochs(group: Group) -> float:
    warmup, epochs = group.options.get("warmup_epochs", 0.0), group.options["epochs"]
    return warmup if warmup < epochs else epochs / 10


def command(group: Group, optimizer: str, **changes: float) -> str:
    """The command of a run like another one, with another optimizer."""
    report = group.report
    kept = ("dataset", *report.alike, *report.described, "schedule")
    options: dict[str, Any] = {"optimizer": optimizer}
    options |= {key: group.options[key] for key in kept if key in group.options}
    options["warmup_epochs"] = _warmup_epochs(group)
    if optimizers.is_lawn(optimizer):
        own = optimizers.is_lawn(group.options["optimizer"])
        wanted = group.options["free_epochs"] if own else 20
        options["free_epochs"] = free_epochs(group, wanted)
    options |= changes
    shown = ("optimizer", *changes)
    flags = recorded.flags(report.Options, report.resolve, options, shown)
    return f"`python -m train {report.experiment} {' '.join(flags)}`"
