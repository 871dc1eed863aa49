"""The loop of a training that may be interrupted at any moment."""

import time
from contextlib import closing, nullcontext
from typing import Any

import jax

from train import interrupts
from train.devices import Devices
from train.errors import Diverged
from train.experiment import FINISHED, Clock, Experiment, Job
from train.rules import neutral_names
from train.runs import documents, records
from train.runs.folder import Run, open_run
from train.runs.progress import ProgressReport


def run(experiment: Experiment, config: Any) -> None:
    """Trains, prints the result and writes the run folder.

    Args:
        experiment: Kind of the run.
        config: Options from the command line.

    Raises:
        Diverged: If the run diverged; its results are written.
    """
    config = experiment.resolve(config)
    devices = experiment.take_devices(config)
    outcome = execute(experiment, config, devices, experiment.load(config))
    if outcome != FINISHED:
        raise Diverged(outcome)


def execute(
    experiment: Experiment,
    config: Any,
    devices: Devices,
    loaded: Any,
    *,
    brief: bool = False,
) -> str:
    """Runs or resumes one run on loaded data.

    Args:
        experiment: Kind of the run.
        config: Resolved options.
        devices: Devices that it runs on.
        loaded: Data from the experiment's `load`.
        brief: Whether to leave out the introduction and the result.

    Returns:
        `FINISHED`, or why the training ended early.
    """
    options = records.run_config(experiment.name, config, neutral_names(config))
    folder = config.out or records.default_folder(options)
    leader = jax.process_index() == 0
    minutes = config.checkpoint_minutes
    job = experiment.prepare(config, loaded, devices)
    with (
        open_run(folder, options, checkpoint_minutes=minutes) as files,
        closing(job),
        interrupts.held(interrupts.GOES_ON),
    ):
        if leader and not brief:
            print(job.introduction, flush=True)
        # What an earlier process wrote may have been damaged since.
        checked = documents.as_written(folder) if files.finished else nullcontext()
        if not files.finished:
            train(job, files, show=leader and not config.quiet)
        summary = files.summary()
        if leader:
            # Done again on every start: an earlier kill may have come before it.
            with checked:
                result = job.conclude(folder, options, files.rows(), summary)
            if not brief:
                print(f"\n{result}\n\nWritten to {folder}", flush=True)
    return summary.get("outcome", FINISHED)


@interrupts.held(interrupts.GOES_ON)
def train(job: Job, files: Run, *, show: bool) -> None:
    """Trains from the newest checkpoint to the end of the run.

    Ctrl-C ends it after the present step, epoch or compilation, or in their midst if
    that takes longer than `interrupts.PATIENCE`.

    Args:
        job: Training to continue.
        files: Its folder, open and unfinished.
        show: Whether to show progress.
    """
    host, done = files.restore(job.start())
    state = job.place(host)
    interrupts.safe_point(state)

    began = time.perf_counter()
    state = job.prepare(state, done)
    clock = Clock(compile_seconds=time.perf_counter() - began)
    interrupts.safe_point(state)

    outcome = FINISHED
    at_start = job.evaluates_start and done == 0
    with ProgressReport(max(1, job.epochs - done), not show) as progress:
        while (done < job.epochs or at_start) and outcome == FINISHED:
            epoch = 0 if at_start else next_evaluation(job, done)
            began = time.perf_counter()
            state, loss = job.advance(state, done, epoch)
            clock = clock._replace(
                seconds=clock.seconds + time.perf_counter() - began,
                epochs=clock.epochs + epoch - done,
            )
            interrupts.safe_point(state)
            host = job.fetch(state)
            rows, text, outcome = job.evaluate(state, host, epoch, loss)
            for row in rows:
                files.record(row)
            progress.advance(epoch - done, text)
            if outcome == FINISHED and not at_start:
                files.save(epoch, host, force=epoch == job.epochs)
            done, at_start = epoch, False
            interrupts.safe_point(state)
    summary, documents = job.summarize(state, host, files.rows(), outcome, clock)
    files.finish(summary, **documents)


def next_evaluation(job: Job, done: int) -> int:
    """The epoch of the first evaluation after epoch `done`."""
    return min(job.epochs, done - done % job.eval_every + job.eval_every)
