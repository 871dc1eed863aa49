"""From options to an optimizer, and the loop of a run that may be interrupted."""

import itertools
import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lawn_optax as lawn
from lawn_optax import schedules
from train import optimizers
from train.devices import Devices, connect
from train.experiment import Experiment, Programs
from train.optimizers import Trial
from train.options import UNRELATED, Settled
from train.runs import records
from train.runs.folder import Run, open_run
from train.runs.progress import ProgressReport


def make_trial(config: Settled, steps: int) -> dict[str, Any]:
    """The hyperparameters that a compiled program takes as arguments.

    Args:
        config: Options of the run.
        steps: Updates per epoch.
    """
    free_steps = 0
    if optimizers.is_lawn(config.optimizer):
        free_steps = schedules.epochs_to_steps(config.free_epochs, steps)
    return {
        "learning_rate": np.float32(config.learning_rate),
        "weight_decay": np.float32(config.weight_decay),
        "switch_step": np.int32(free_steps),
        "seed": np.uint32(config.seed),
    }


def learning_rate(config: Settled, steps: int, trial: Trial) -> optax.Schedule:
    """The schedule of a run with `steps` updates per epoch."""
    warmup_steps = schedules.epochs_to_steps(config.warmup_epochs, steps)
    total_steps = config.epochs * steps
    if config.schedule == "two-phase":
        return schedules.two_phase(trial["learning_rate"], warmup_steps, total_steps)
    return optimizers.schedule(
        config.optimizer,
        trial["learning_rate"],
        free_steps=trial["switch_step"],
        warmup_steps=warmup_steps,
        total_steps=total_steps,
    )


def make_optimizer(config: Settled, steps: int, trial: Trial, **options: Any):
    """The optimizer of a run with `steps` updates per epoch.

    `options` are further ones of `optimizers.make`.
    """
    step = trial["switch_step"]
    if config.switch != "epochs":
        step = lawn.switch_when(config.switch_threshold, decay=1 - 1 / steps)
    name = config.optimizer
    decay = {"weight_decay": trial["weight_decay"]}
    if name in optimizers.WITHOUT_DECAY:
        decay = {}
    tx = optimizers.make(
        name,
        learning_rate(config, steps, trial),
        switch_step=step,
        reset=config.reset,
        **decay,
        **options,
    )
    if config.clip_norm is None:
        return tx
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)


def begin(config: Settled) -> Devices:
    """Joins the processes of a run and takes its devices, before anything else does."""
    if config.deterministic:
        # Read when the first device is asked for, which is below.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true"
    if config.coordinator:
        connect(config.coordinator, config.processes, config.process)
    return Devices(config.parallel, config.devices, config.shard_state)


def describe(config: Settled, steps: int) -> str:
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


class Resident:
    """Trains and evaluates on data that lie on the devices."""

    def __init__(self, programs: Programs, devices: Devices, data: Any):
        """See `execute`."""
        self._data = devices.put(data)
        self._advance = make_advance(programs, devices)
        self._evaluate = devices.compile(programs.evaluate)

    def prepare(self, state: Any, trial: Trial, done: int) -> Any:
        """Compiles; returns the state after no epochs."""
        state, _ = self.advance(state, trial, done, done)
        jax.block_until_ready(self.evaluate(state, trial))
        return state

    def advance(
        self, state: Any, trial: Trial, first: int, last: int
    ) -> tuple[Any, float]:
        """Trains from epoch `first` up to `last`; returns the state and the loss."""
        return self._advance(state, trial, self._data, first, last)

    def evaluate(self, state: Any, trial: Trial) -> tuple[Any, Any]:
        """The metrics by name, and details."""
        return self._evaluate(state, trial, self._data)

    def speeds(self, state: Any, trial: Trial) -> dict[str, float]:
        """Samples per second of what works at the same time, each alone: nothing."""
        return {}

    def close(self) -> None:
        """Ends what works at the same time: nothing."""


def make_work(
    experiment: Experiment, programs: Programs, devices: Devices, loaded: Any
) -> Any:
    """What trains and evaluates; see `execute`."""
    if programs.loop:
        return programs.loop(devices, loaded)
    return Resident(programs, devices, experiment.arrays(loaded))


def run(experiment: Experiment, config: Settled) -> None:
    """Trains, prints the result and writes the run folder."""
    devices = begin(config)
    execute(experiment, config, devices, experiment.load(config))


def execute(
    experiment: Experiment,
    config: Settled,
    devices: Devices,
    loaded: Any,
    *,
    brief: bool = False,
) -> Path:
    """One run, or the rest of one, on data that is there.

    Args:
        experiment: Its kind.
        config: Options of the run.
        devices: Where it runs.
        loaded: What the experiment's `load` returned.
        brief: Whether to print neither what is trained nor the result.

    Returns:
        The run's folder.
    """
    programs = experiment.prepare(config, loaded, devices)
    options = records.run_config(experiment.name, config, UNRELATED)
    folder = config.out or records.default_folder(options)
    leader = jax.process_index() == 0
    minutes = config.checkpoint_minutes
    with open_run(folder, options, checkpoint_minutes=minutes) as files:
        if leader and not brief:
            print(programs.introduction, flush=True)
        if not files.finished:
            with closing(make_work(experiment, programs, devices, loaded)) as work:
                show = leader and not config.quiet
                _train(config, programs, devices, work, files, show)
        if leader:
            summary = json.loads((folder / "summary.json").read_text())
            # Drawn from the rows each time: the kill may have come before it.
            rows = files.rows()
            programs.draw(folder / "curves.png", rows, summary["switched_at"])
        if leader and not brief:
            conclusion = f"The run {summary['outcome']}."
            if summary["outcome"] == "finished":
                conclusion = programs.conclude(options, rows)
            for name, speed in summary.get("speeds", {}).items():
                conclusion += f"\n{name}: {speed:,.1f} images per second"
            print(f"\n{conclusion}\n\nWritten to {folder}", flush=True)
    return folder


def _train(
    config: Settled,
    programs: Programs,
    devices: Devices,
    work: Any,
    files: Run,
    show: bool,
) -> None:
    """Trains from the newest checkpoint to the end of the run."""
    steps = programs.steps_per_epoch
    trial = make_trial(config, steps)
    rate = learning_rate(config, steps, trial)
    trial = devices.put(trial)
    initial = devices.get(devices.compile(programs.start)(trial))
    host, done = files.restore(initial)
    state = devices.put_state(host)

    began = time.perf_counter()
    state = work.prepare(state, trial, done)
    compile_seconds = time.perf_counter() - began

    seconds, trained, outcome, details = 0.0, 0, "finished", None
    with ProgressReport(max(1, config.epochs - done), not show) as progress:
        while done < config.epochs and outcome == "finished":
            epoch = min(
                config.epochs, done - done % config.eval_every + config.eval_every
            )
            began = time.perf_counter()
            state, loss = work.advance(state, trial, done, epoch)
            seconds += time.perf_counter() - began
            trained += (epoch - done) * programs.epoch_size
            values, details = work.evaluate(state, trial)
            host = devices.get(state)
            row = {"epoch": epoch, "step": epoch * steps, "loss": loss}
            row |= {key: float(value) for key, value in devices.get(values).items()}
            row["learning_rate"] = float(jnp.asarray(rate(epoch * steps - 1)))
            row["constrained"] = int(_switched_at(config, host) >= 0)
            files.record(row)
            progress.advance(
                epoch - done,
                f"epoch {epoch}/{config.epochs}  loss {loss:.4f}"
                f"  {programs.describe(row[programs.metric])}"
                f"  rate {row['learning_rate']:.2g}",
            )
            done = epoch
            if host.diverged_step >= 0:
                outcome = f"diverged at step {host.diverged_step}"
            else:
                files.save(epoch, host, force=epoch == config.epochs)
    if details is None:  # It was killed after its last epoch.
        details = work.evaluate(state, trial)[1]
    best = max(files.rows(), key=lambda row: row[programs.metric] or 0)
    files.finish(
        {
            "outcome": outcome,
            "switched_at": _switched_at(config, host),
            "last": files.rows()[-1],
            "best": {key: best[key] for key in ("epoch", programs.metric)},
            "samples_per_second": trained / seconds if trained else None,
            "seconds": seconds,
            "compile_seconds": compile_seconds,
            "speeds": work.speeds(state, trial),
        },
        **programs.documents(devices.get(details)),
    )


def make_advance(programs: Programs, devices: Devices) -> Callable[..., Any]:
    """``(state, trial, data, first_epoch, last_epoch) -> (state, mean loss)``."""
    number = lambda count: devices.put(np.int32(count))  # noqa: E731
    if programs.step is None:
        whole = devices.compile(programs.advance, donate=True)

        def by_epoch(state, trial, data, first, last):
            state, loss = whole(state, trial, data, number(first), number(last))
            return state, float(devices.get(loss))

        return by_epoch
    single = devices.compile(programs.step, donate=True)
    compiled = []

    def by_step(state, trial, data, first, last):
        arguments = state, trial, data, number(0), number(0)
        if not compiled:  # Before any step, so that its time is not the first epoch's.
            compiled.append(single.lower(*arguments).compile())
        losses = []
        for epoch, step in itertools.product(
            range(first, last), range(programs.steps_per_epoch)
        ):
            state, loss = compiled[0](state, trial, data, number(epoch), number(step))
            losses.append(loss)
        return state, float(np.mean(devices.get(losses))) if losses else 0.0

    return by_step


def _switched_at(config: Settled, state: Any) -> int:
    """The first constrained update, -1 before it is known or without a switch."""
    if not optimizers.is_lawn(config.optimizer):
        return -1
    found = optax.tree.get_all_with_path(state.opt_state, "switched_at")
    return int(found[0][1])
