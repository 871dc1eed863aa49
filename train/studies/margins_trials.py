"""Networks of some sizes on true and random labels, for `train.studies.margins`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from train.runs.progress import QUIET, ProgressReport
from train.studies.margins_network import (
    Data,
    Outcome,
    Training,
    initial,
    outcome,
    randomised,
    train,
)
from train.studies.margins_noise import Kicks


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the experiments."""

    hidden: tuple[int, ...] = (64, 64)  # channels, where there are images
    rate: float = 0.05
    momentum: float = 0.9
    batch_size: int = 100  # as in Figure 2
    steps: int = 4_000
    seed: int = 0
    sizes: tuple[int, ...] = (100, 200, 400, 898)  # training images
    shares: tuple[float, ...] = (0.0, 0.5, 1.0)  # of random labels
    stretches: tuple[float, ...] = (2.0, 3.0)  # of the initial weights
    widths: tuple[int, ...] = (4, 8, 16, 32, 64, 128)  # of Figure 3
    width_size: int = 400  # training images of Figure 3
    width_seeds: int = 3
    kicks: Kicks = dataclasses.field(default_factory=Kicks)  # of Figure 8


CIFAR = Config(
    rate=0.02,
    steps=2_000,
    sizes=(256, 512, 1_024, 2_048),
    widths=(4, 8, 16, 32, 64),
    width_size=512,
    width_seeds=2,
    kicks=Kicks(rate=0.02),
)
# The paper's network, batch and epochs (70 of 500 updates). Figure 8 has noise after
# 1,800 epochs of gradient descent. Sizes, widths and rates are chosen. Not run yet: it
# needs a GPU.
FULL = Config(
    hidden=(16,) * 4,
    rate=0.02,
    steps=70 * 500,
    sizes=(1_000, 5_000, 10_000, 25_000, 50_000),
    widths=(2, 4, 8, 16, 32, 64),
    width_size=50_000,
    kicks=Kicks(hidden=(16,) * 4, size=50_000, blocks=(18, 48, 68)),
)


def sizes_and_labels(
    config: Config, data: Data, progress: ProgressReport = QUIET
) -> list[Outcome]:
    """Figure 2: sizes, shares of random labels, and stretched initial weights."""
    networks = members(config)
    first = initial(config.hidden, config.seed, data)
    labels = [randomised(data.labels, share, config.seed) for _, share, _ in networks]
    training = Training(
        kernels=_stack(
            [jax.tree.map(lambda w, k=k: k * w, first) for *_, k in networks]
        ),
        labels=jnp.stack(labels),
        size=jnp.array([size for size, *_ in networks]),
        seed=jnp.arange(len(networks)),
        inputs=data.inputs,
        rate=config.rate,
        momentum=config.momentum,
    )
    trained = train(
        training, config.steps, config.batch_size, progress=progress, name="Figure 2"
    )
    return [
        outcome(_member(trained, k), labels[k], n, data, share=share, stretch=stretch)
        for k, (n, share, stretch) in enumerate(networks)
    ]


def members(config: Config) -> list[tuple[int, float, float]]:
    """Size, share of random labels and stretch of the networks of Figure 2."""
    plain = [(n, share, 1.0) for share in config.shares for n in config.sizes]
    largest = max(config.sizes)
    return plain + [(largest, 0.0, stretch) for stretch in config.stretches]


def widths(
    config: Config, data: Data, progress: ProgressReport = QUIET
) -> dict[int, list[Outcome]]:
    """Figure 3: outcomes by number of parameters, one per seed."""
    found, seeds = {}, config.width_seeds
    for width in config.widths:
        hidden = (width,) * len(config.hidden)
        starts = [initial(hidden, seed, data) for seed in range(seeds)]
        training = Training(
            kernels=_stack(starts),
            labels=jnp.stack([data.labels] * seeds),
            size=jnp.full(seeds, config.width_size),
            seed=jnp.arange(seeds),
            inputs=data.inputs,
            rate=config.rate,
            momentum=config.momentum,
        )
        trained = train(
            training,
            config.steps // 2,
            config.batch_size,
            progress=progress,
            name=f"Figure 3, width {width}",
        )
        parameters = sum(w.size for w in starts[0].values())
        found[parameters] = [
            outcome(_member(trained, k), data.labels, config.width_size, data)
            for k in range(seeds)
        ]
    return found


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _member(tree: Any, k: int) -> Any:
    return jax.tree.map(lambda x: x[k], tree)
