"""Language models: a small transformer that predicts the next byte of a text.

Reads top to bottom: data, task, run. `options` has the options, `programs` the compiled
programs, `routing` the optimizers of the network's parts, and `data` reads the texts.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lawn_optax as lawn
from models import Transformer
from train import hyperparameters
from train.devices import Devices, memory, take_devices
from train.errors import require
from train.experiment import Evaluation, Experiment, Row, Sweep
from train.language import data as texts
from train.language import programs, routing
from train.language.data import Text
from train.language.figures import draw
from train.language.options import MODEL, Config, Settings, SweepConfig, grid, resolve
from train.language.programs import Data, Details, Task
from train.language.report import REPORT
from train.report import markdown
from train.runs.documents import malformed, read_json
from train.single_run import Programs, SingleRun, margins_in_words
from train.statistics import standard_error
from train.terminal import visible

PIECES = 200  # Most pieces of the held-out text whose losses are kept.
ROWS = 8  # Evaluations in the table of a run.

# ------------------------------------------------------------------------ data


def load_data(config: Settings) -> Text:
    """The text that a run trains on and the one that it is tested on."""
    text = texts.load(config.dataset, config.data_dir, validation=config.validation)
    require(
        config.text_sha256 in (None, text.sha256),
        f"{text.origin} is another text than that of the run; check --data-dir, or"
        " start a new run",
    )
    for part, name in ((text.train, "training"), (text.test, "held-out")):
        require(
            len(part) > config.block,
            f"{text.origin}: the {name} text has {len(part):,} bytes, too few for"
            f" --block {config.block}",
        )
    return text


def on_device(config: Settings, text: Text) -> Data:
    """A text as arrays, and the held-out windows, spread evenly."""
    most = (len(text.test) - 1) // config.block
    count = max(1, min(most, config.eval_bytes // config.block))
    first = np.arange(count) * most // count * config.block
    windows = text.test[first[:, None] + np.arange(config.block + 1)]
    # The end of a file or of a line: a sample begins with a new one.
    prompt = text.test[: config.block].copy()
    prompt[-1] = texts.END[0] if sum(text.files) > 2 else ord("\n")
    return Data(*(jnp.asarray(part) for part in (text.train, windows, prompt)))


# ------------------------------------------------------------------------ task


def make_task(config: Settings, devices: Devices) -> Task:
    """The task of a run, for `train.language.programs`."""
    share = config.batch_size // devices.count
    parts = -(-share // (config.micro_batch or share)) if share else 1
    require(
        config.batch_size % (devices.count * parts) == 0,
        f"--batch-size {config.batch_size} does not divide into {parts} parts on each"
        f" of {devices.count} devices; choose a multiple of {devices.count * parts}",
    )
    _check_memory(config, devices, parts)
    form = {name: getattr(config, name) for name in MODEL}
    return Task(
        model=Transformer(
            programs.VOCABULARY,
            initialization=config.init,
            # None is the type of the weights, which is float32.
            dtype=jnp.bfloat16 if config.dtype == "bfloat16" else None,
            **form,
        ),
        block=config.block,
        dropout=config.dropout > 0,
        sample_bytes=config.sample_bytes,
        batch_size=config.batch_size,
        parts=parts,
        optimizer=partial(routing.make_optimizer, config),
        loss=partial(_loss, config),
        flood=config.flood,
        alpha=config.alpha,
        watch=None if config.switch == "epochs" else config.switch,
        devices=devices.count,
        axis=devices.axis,
        per_device=devices.per_device,
    )


def _check_memory(config: Settings, devices: Devices, parts: int) -> None:
    """Raises an `InputError` for a model and a batch that no device can hold.

    It counts what every form needs at least, so that it refuses no run that fits.
    """
    width, inner = config.width, config.attention_width or config.width
    weights = config.depth * width * (4 * inner + 8 * width)
    weights += programs.VOCABULARY * width
    # Weights, gradient, one moment, update.
    state = 4 * 4 * weights / (devices.count if config.shard_state else 1)
    # What the backward pass reads: attention of all pairs, queries, keys, values, MLP.
    kept = config.heads * config.block + 3 * inner + 8 * width
    kept *= config.depth * (2 if config.dtype == "bfloat16" else 4)
    sequences = config.batch_size // (devices.count * parts)
    batch = sequences * config.block * (kept + 4 * programs.VOCABULARY)
    there = memory() / 2**30
    require(
        (state + batch) / 2**30 < there,
        f"the model needs about {state / 2**30:,.1f} GiB, and {sequences:,} sequences"
        f" {batch / 2**30:,.1f}; the device has {there:,.1f}. Lower --width, --depth,"
        " --heads or --block, or set a lower --micro-batch",
    )


def _loss(config: Settings, logits: jax.Array, labels: jax.Array) -> jax.Array:
    if config.label_smoothing:
        targets = lawn.losses.smooth_labels(
            jax.nn.one_hot(labels, logits.shape[-1]), config.label_smoothing
        )
        return optax.softmax_cross_entropy(logits, targets)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


# ------------------------------------------------------------------------- run


class LanguageRun(SingleRun):
    """A run of a language model; what is an epoch in the loop is one step."""

    def evaluate(self, state: Any, host: Any, epoch: int, loss: float) -> Evaluation:
        found = super().evaluate(state, host, epoch, loss)
        return found._replace(text=found.text.replace("epoch", "step", 1))

    def conclude(
        self, folder: Path, options: Mapping[str, Any], rows: list[Row], summary: Any
    ) -> str:
        text = super().conclude(folder, options, rows, summary)
        path = folder / "sample.json"
        sample = read_json(path).get("text")
        if not isinstance(sample, str):
            raise malformed(path, "no valid text")
        return f"{text}\n\nA sample:\n\n{visible(sample)}" if sample else text


def introduction(config: Settings, text: Text, task: Task) -> str:
    """Describes the run in a few lines."""
    device = jax.devices()[0].device_kind
    shapes = jax.eval_shape(
        partial(programs.start, task), hyperparameters.make_trial(config, 1)
    )
    weights = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    held_out = "validation text" if config.validation else "held-out text"
    shortened = f"{config.shortened}\n" if config.shortened else ""
    return (
        f"{texts.statistics(text)}\n\n"
        f"Transformer of width {config.width}, depth {config.depth}, {config.heads}"
        f" heads ({weights:,} weights, {config.dtype}), batch {task.batch_size:,} x"
        f" {task.block} bytes on {task.devices} x {device},\n"
        f"{routing.describe(config)}.\n{shortened}"
        f"Loss on the {held_out}."
    )


def make_programs(config: Settings, text: Text, task: Task) -> Programs:
    """The programs of a run, and how it reports their results."""

    def documents(details: Details) -> dict[str, Any]:
        count = len(details.losses)  # All pieces are of equal length.
        pieces = max(n for n in range(1, min(PIECES, count) + 1) if count % n == 0)
        means = details.losses.reshape(pieces, -1).mean(1)
        means = [round(mean, 4) for mean in means.tolist()]
        sample = bytes(details.sample.tolist()).decode(errors="replace")
        about = {"text": text.origin, "sha256": text.sha256}
        return {
            "losses": {"pieces": len(means), "loss": means} | about,
            "sample": {"text": sample},
        }

    return Programs(
        model=task.model,
        arrays=partial(on_device, config, text),
        start=partial(programs.start, task),
        advance=partial(programs.advance, task),
        evaluate=partial(programs.evaluate, task),
        steps_per_epoch=1,
        epoch_size=config.batch_size * config.block,
        metric="test_loss",
        lowest=True,
        describe=lambda value: f"held-out {value:.4f}",
        documents=documents,
        draw=draw,
        conclude=conclusion,
        introduction=introduction(config, text, task),
    )


def prepare(config: Settings, text: Text, devices: Devices) -> LanguageRun:
    """The job that the loop trains."""
    task = make_task(config, devices)
    return LanguageRun(config, make_programs(config, text, task), devices)


def conclusion(options: Mapping[str, Any], rows: list[Row]) -> str:
    """The result as a table, with the best evaluation."""
    last, best = rows[-1], min(rows, key=lambda row: row["test_loss"])
    chosen = sorted(set(np.linspace(0, len(rows) - 1, ROWS).astype(int).tolist()))
    header = ("step", "loss", "held-out loss", "bits per byte", "accuracy %")
    lines = [
        [
            f"{row['step']:,}",
            f"{row['loss']:.4f}",
            f"{row['test_loss']:.4f}",
            f"{row['bits_per_byte']:.4f}",
            f"{100 * row['accuracy']:.2f}",
        ]
        for row in (rows[i] for i in chosen)
    ]
    return (
        f"{markdown.table(header, lines)}\n\n"
        f"{options['optimizer']}: {last['test_loss']:.4f} nats and"
        f" {last['bits_per_byte']:.4f} bits per held-out byte after"
        f" {last['step']:,} steps; best of {len(rows)} evaluations"
        f" {best['test_loss']:.4f} (step {best['step']:,}, chosen on the same text)"
    )


def evaluation(finished: Any, values: Mapping[str, float], details: Details) -> str:
    """The metrics of a `train.evaluate.FinishedRun` in words."""
    config, losses = finished.config, np.asarray(details.losses)
    held_out = "validation text" if config.validation else "held-out text"
    return (
        f"{config.optimizer} on {config.dataset} after {finished.epoch:,} steps,"
        f" {held_out}\n"
        f"loss {values['test_loss']:.4f} (standard error over"
        f" {len(losses):,} sequences {standard_error(losses):.4f}),"
        f" {values['bits_per_byte']:.4f} bits per byte, accuracy"
        f" {100 * values['accuracy']:.2f} %, {margins_in_words(values)}"
    )


def _subject(config: SweepConfig) -> str:
    given = {name: getattr(config, name) for name in (*MODEL, "dtype")}
    words = [f"{name} {value}" for name, value in given.items() if value is not None]
    return ", ".join([f"preset {config.preset}", *words])


def _measured(config: SweepConfig) -> str:
    which = "validation" if config.protocol == "validation" else "held-out"
    return f"on the {which} text, in nats per byte"


EXPERIMENT = Experiment(
    name="language",
    Options=Config,
    resolve=resolve,
    load=load_data,
    prepare=prepare,
    take_devices=take_devices,
    evaluation=evaluation,
    sweep=Sweep(
        Options=SweepConfig,
        grid=grid,
        together=True,
        metrics=("test_loss", "bits_per_byte", "accuracy"),
        column="Held-out loss",
        subject=_subject,
        measured=_measured,
        lowest=True,
        unit="steps",
    ),
    report=REPORT,
)
