"""Image classification: convolutional networks on CIFAR-10, CIFAR-100 and ImageNet.

Reads top to bottom: data, task, run. `options` has the options, `programs` the compiled
programs, `data` reads the data sets, and `streaming` trains on photographs.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import models
from lawn_optax import baselines, groups, losses
from train import hyperparameters, plots
from train.devices import Devices, take_devices
from train.errors import require
from train.experiment import Experiment, Sweep
from train.images import (
    augmentation,
    cifar_files,
    data,
    decoding,
    photo_files,
    programs,
)
from train.images.cifar_files import Images, Part
from train.images.inputs import DeviceImages
from train.images.options import Config, Settings, SweepConfig, grid, resolve
from train.images.photo_files import PhotoSet
from train.images.programs import Task
from train.images.report import REPORT
from train.images.streaming import StreamTrainer
from train.report import papers
from train.single_run import Programs, SingleRun, margins_in_words
from train.statistics import standard_error

HELD_OUT = 5_000  # Images, for validation.
# Groups that the -lawn forms constrain, by --constrain.
GROUPS: dict[str, Any] = {
    "all": "layer",
    "matrices": groups.only_matrices(),
    "all-but-head": groups.not_paths("head"),
}
MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn": models.CNN,
    "vgg19": models.VGG19,
    "resnet18": models.ResNet18,
    "preresnet32": models.PreResNet32,
    "resnet50": models.ResNet50,
}

# ------------------------------------------------------------------------ data


def load_data(config: Settings) -> Images | PhotoSet:
    """The images that a run trains on and those that it is tested on."""
    if config.dataset == "imagenet":
        photos = data.load_photos(config.data_dir)
        if config.validation:
            photos = photo_files.hold_out(photos, HELD_OUT, config.split_seed)
        if config.images:
            photos = photo_files.sample(photos, config.images, config.split_seed)
        photo_files.check(photos)
        return photos
    images = data.load_cifar(config.dataset, config.data_dir)
    train, test, limit = images.train, images.test, config.images
    if config.validation or limit:
        order = np.random.default_rng(config.split_seed).permutation(len(train.labels))
        held, kept = np.split(order, [HELD_OUT if config.validation else 0])
        test = _pick(train, held) if config.validation else test
        train = _pick(train, np.sort(kept[:limit]))
        test = _pick(test, np.arange(len(test.labels))[:limit])
    return dataclasses.replace(images, train=train, test=test)


def _pick(part: Part, rows: np.ndarray) -> Part:
    return Part(part.images[rows], part.labels[rows])


def on_device(images: Images) -> DeviceImages:
    """All of a data set as arrays."""
    return DeviceImages(
        jnp.asarray(images.train.images),
        jnp.asarray(images.train.labels),
        jnp.asarray(images.test.images),
        jnp.asarray(images.test.labels),
        jnp.asarray(augmentation.channel_mean(images.train.images)),
    )


# ------------------------------------------------------------------------ task


def make_task(config: Settings, images: Images | PhotoSet, devices: Devices) -> Task:
    """The task of a run, for `train.images.programs`."""
    photos = isinstance(images, PhotoSet)
    count = len(images.train if photos else images.train.labels)
    require(
        config.batch_size <= count,
        f"--batch-size {config.batch_size} is more than the {count} training images",
    )
    share = config.batch_size // devices.count
    parts = -(-share // (config.micro_batch or share)) if share else 1
    require(
        config.batch_size % (devices.count * parts) == 0,
        f"--batch-size {config.batch_size} does not divide into {parts} parts on each"
        f" of {devices.count} devices; choose a multiple of {devices.count * parts}",
    )
    make_model = MODELS[config.model]
    if photos and config.model == "resnet18":
        make_model = partial(make_model, stem="imagenet")
    bounded = config.optimizer.endswith("-bounded")
    steps = count // config.batch_size
    degrees = augmentation.DEGREES if config.dataset == "cifar100" else 0.0
    return Task(
        model=make_model(
            classes=len(images.classes) if photos else images.num_classes,
            dtype=jnp.dtype(config.dtype),
            axis_name=devices.axis,
        ),
        side=decoding.SIDE if photos else images.train.images.shape[1],
        num_images=count,
        batch_size=config.batch_size,
        parts=parts,
        optimizer=partial(
            hyperparameters.make_optimizer,
            config,
            steps,
            plateau=config.switch_plateau if "plateau" in config.switch else None,
            groups=GROUPS[config.constrain],
            mask=None if config.decay_norms else decayed,
            momentum=config.momentum,
        ),
        loss=partial(_loss, config),
        prepare=baselines.bounded_init if bounded else lambda params: params,
        degrees=degrees if config.augment else None,
        flood=config.flood,
        alpha=config.alpha,
        watch=None if config.switch == "epochs" else config.switch,
        devices=devices.count,
        axis=devices.axis,
        per_device=partial(devices.per_device, split=photos),
        unrolled=jax.default_backend() == "cpu",
    )


def decayed(params: Any) -> Any:
    """Whether each leaf has weight decay, which leaves of norm layers do not."""
    if not isinstance(params, Mapping):
        return True
    if "scale" in params:
        return jax.tree.map(lambda _: False, params)
    return {name: decayed(part) for name, part in params.items()}


def _loss(config: Settings, logits: jax.Array, labels: jax.Array) -> jax.Array:
    if config.loss == "focal":
        return losses.focal_loss(logits, labels, config.gamma)
    if config.label_smoothing:
        targets = losses.smooth_labels(
            jax.nn.one_hot(labels, logits.shape[-1]), config.label_smoothing
        )
        return optax.softmax_cross_entropy(logits, targets)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


# ------------------------------------------------------------------------- run


def introduction(config: Settings, images: Images | PhotoSet, task: Task) -> str:
    """Describes the run in a few lines."""
    device = jax.devices()[0].device_kind
    tested = "held-out training" if config.validation else "test"
    trial = hyperparameters.make_trial(config, task.steps_per_epoch)
    shapes = jax.eval_shape(partial(programs.start, task), trial).params
    weights = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    schedule = hyperparameters.describe(config, task.steps_per_epoch)
    shortened = f"{config.shortened}\n" if config.shortened else ""
    if isinstance(images, PhotoSet):
        sizes, tests = photo_files.statistics(images), len(images.val)
    else:
        sizes, tests = cifar_files.statistics(images), len(images.test.labels)
    return (
        f"{sizes}\n\n"
        f"{config.model} ({weights:,} weights, {config.dtype}), {config.optimizer},"
        f" batch {task.batch_size:,} ({task.steps_per_epoch} steps per epoch on"
        f" {task.devices} x {device}),\n"
        f"{schedule}.\n{shortened}"
        f"Accuracy on {tests:,} {tested} images."
    )


def make_programs(config: Settings, images: Images | PhotoSet, task: Task) -> Programs:
    """The programs of a run, and how it reports their results."""

    def arrays() -> DeviceImages:
        assert isinstance(images, Images)  # Photographs are streamed.
        return on_device(images)

    def documents(right: np.ndarray) -> dict[str, Any]:
        wrong = np.flatnonzero(~right).tolist()
        return {"errors": {"images": len(right), "wrong": wrong}}

    return Programs(
        model=task.model,
        arrays=arrays,
        start=partial(programs.start, task),
        advance=partial(programs.advance, task),
        compile_step=partial(programs.compile_step, task) if task.unrolled else None,
        evaluate=partial(programs.evaluate, task),
        steps_per_epoch=task.steps_per_epoch,
        epoch_size=task.epoch_size,
        metric="accuracy",
        describe=lambda value: f"accuracy {100 * value:.2f} %",
        documents=documents,
        draw=partial(
            plots.run_curves,
            score="accuracy",
            title="Accuracy",
            tested="test images",
            trained="training images",
        ),
        conclude=conclusion,
        introduction=introduction(config, images, task),
    )


def prepare(config: Settings, images: Images | PhotoSet, devices: Devices) -> SingleRun:
    """The job that the loop trains."""
    task = make_task(config, images, devices)
    make_trainer = None
    if isinstance(images, PhotoSet):
        make_trainer = partial(StreamTrainer, task, config, devices, images)
    made = make_programs(config, images, task)
    return SingleRun(config, made, devices, make_trainer)


def conclusion(options: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """The result in a few lines, beside the papers' number if there is one."""
    last, best = rows[-1], max(rows, key=lambda row: row["accuracy"])
    published = None if options["validation"] else papers.published_accuracy(options)
    lines = [
        f"accuracy {100 * last['accuracy']:.2f} %, ECE {100 * last['ece']:.2f} %"
        f" ({programs.ECE_BINS} bins), on training images without augmentation"
        f" {100 * last['train_accuracy']:.2f} %, after {last['epoch']} epochs",
        f"best accuracy of {len(rows)} evaluations {100 * best['accuracy']:.2f} %"
        f" (epoch {best['epoch']}, chosen on the same images)",
    ]
    if published:
        lines.append(f"the papers, mean of {papers.RUNS} runs: {published.text()}")
    return "\n".join(lines)


def evaluation(finished: Any, values: Mapping[str, float], right: np.ndarray) -> str:
    """The metrics of a `train.evaluate.FinishedRun`, and whether each image is right,
    in words.
    """
    config = finished.config
    kind = "held-out training" if config.validation else "test"
    return (
        f"{config.model}, {config.optimizer} on {config.dataset} after"
        f" {finished.epoch} epochs: {len(right):,} {kind} images\n"
        f"accuracy {100 * values['accuracy']:.2f} % (standard error over images"
        f" {100 * standard_error(right):.2f}), ECE {100 * values['ece']:.2f} %"
        f" ({programs.ECE_BINS} bins), loss {values['test_loss']:.4f}\n"
        f"on training images without augmentation"
        f" {100 * values['train_accuracy']:.2f} %, {margins_in_words(values)}"
    )


def _measured(config: SweepConfig) -> str:
    held_out = f"{HELD_OUT:,} held-out training images"
    return f"on {held_out if config.protocol == 'validation' else 'the test images'}"


EXPERIMENT = Experiment(
    name="image",
    Options=Config,
    resolve=resolve,
    load=load_data,
    prepare=prepare,
    take_devices=take_devices,
    evaluation=evaluation,
    sweep=Sweep(
        Options=SweepConfig,
        grid=grid,
        together=False,
        metrics=("accuracy", "ece", "test_loss"),
        column="Accuracy %",
        subject=lambda config: f"{config.model}, {config.dtype}",
        measured=_measured,
    ),
    report=REPORT,
)
