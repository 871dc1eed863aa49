"""Image classification: convolutional networks on CIFAR-10, CIFAR-100 and ImageNet.

Reads top to bottom: data, task, run. `options` has the options, `programs` the compiled
programs, `cifar_files` reads CIFAR, and `streaming` trains on photographs.
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
from train import (
    loop as training,
)
from train import (
    plots,
    require,
)
from train.devices import Devices
from train.experiment import Experiment, Programs
from train.images import (
    augmentation,
    data,
)
from train.images import (
    cifar_files as image_files,
)
from train.images import (
    decoding as image_views,
)
from train.images import (
    photo_files as image_folder,
)
from train.images import (
    programs as classifier,
)
from train.images import (
    streaming as photographs,
)
from train.images.cifar_files import Images, Part
from train.images.options import (
    Config,
    Settings,
    resolve,
)
from train.images.photo_files import PhotoSet
from train.images.programs import Data, Task
from train.report import papers

HELD_OUT = 5_000  # Images, for validation.
# What the -lawn forms constrain, by --constrain.
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
            photos = image_folder.hold_out(photos, HELD_OUT, config.split_seed)
        if config.images:
            photos = image_folder.sample(photos, config.images, config.split_seed)
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


def on_device(images: Images) -> Data:
    """All of a data set as arrays."""
    return Data(
        jnp.asarray(images.train.images),
        jnp.asarray(images.train.labels),
        jnp.asarray(images.test.images),
        jnp.asarray(images.test.labels),
        jnp.asarray(augmentation.channel_mean(images.train.images)),
    )


# ------------------------------------------------------------------------ task


def make_task(config: Settings, images: Images | PhotoSet, devices: Devices) -> Task:
    """What the programs of `train.images.programs` need to know about a run."""
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
        side=image_views.SIDE if photos else images.train.images.shape[1],
        num_images=count,
        batch_size=config.batch_size,
        parts=parts,
        optimizer=partial(
            *(training.make_optimizer, config, steps),
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
        spread=partial(devices.spread, split=photos),
        unrolled=jax.default_backend() == "cpu",
    )


def decayed(params: Any) -> Any:
    """Whether a leaf of the parameters has weight decay: not in a norm layer."""
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


def run(config: Config) -> None:
    """Trains, prints the result and writes the run folder."""
    training.run(EXPERIMENT, resolve(config))


def introduction(config: Settings, images: Images | PhotoSet, task: Task) -> str:
    """What is trained, in a few lines."""
    device = jax.devices()[0].device_kind
    tested = "held-out training" if config.validation else "test"
    trial = training.make_trial(config, task.steps_per_epoch)
    shapes = jax.eval_shape(partial(classifier.start, task), trial).params
    weights = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    schedule = training.describe(config, task.steps_per_epoch)
    if isinstance(images, PhotoSet):
        sizes, tests = image_folder.statistics(images), len(images.val)
    else:
        sizes, tests = image_files.statistics(images), len(images.test.labels)
    return (
        f"{sizes}\n\n"
        f"{config.model} ({weights:,} weights, {config.dtype}), {config.optimizer},"
        f" batch {task.batch_size:,} ({task.steps_per_epoch} steps per epoch on"
        f" {task.devices} x {device}),\n"
        f"{schedule}.\n"
        f"Accuracy on {tests:,} {tested} images."
    )


def prepare(config: Settings, images: Images | PhotoSet, devices: Devices) -> Programs:
    """What `train.loop` needs to know about a run."""
    task = make_task(config, images, devices)
    streamed = partial(photographs.Streamed, task, config)

    def documents(right: np.ndarray) -> dict[str, Any]:
        wrong = np.flatnonzero(~right).tolist()
        return {"errors": {"images": len(right), "wrong": wrong}}

    return Programs(
        task.model,
        partial(classifier.start, task),
        partial(classifier.advance, task),
        partial(classifier.step, task) if task.unrolled else None,
        partial(classifier.evaluate, task),
        task.steps_per_epoch,
        task.epoch_size,
        "accuracy",
        lambda value: f"accuracy {100 * value:.2f} %",
        documents,
        partial(
            plots.run_curves,
            score="accuracy",
            title="Accuracy",
            tested="test images",
            trained="training images",
        ),
        conclusion,
        introduction(config, images, task),
        loop=streamed if isinstance(images, PhotoSet) else None,
    )


EXPERIMENT = Experiment("image", load_data, prepare, on_device)


def conclusion(options: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """The result in a few lines, beside the papers' number if there is one."""
    last, best = rows[-1], max(rows, key=lambda row: row["accuracy"])
    published = None if options["validation"] else papers.published_accuracy(options)
    lines = [
        f"accuracy {100 * last['accuracy']:.2f} %, ECE {100 * last['ece']:.2f} %"
        f" ({classifier.ECE_BINS} bins), on training images as they are"
        f" {100 * last['train_accuracy']:.2f} %, after {last['epoch']} epochs",
        f"best accuracy of {len(rows)} evaluations {100 * best['accuracy']:.2f} %"
        f" (epoch {best['epoch']}, chosen on the same images)",
    ]
    if published:
        lines.append(f"the papers, mean of {papers.RUNS} runs: {published.text()}")
    return "\n".join(lines)
