"""Hyperparameters for images: the values of a run, and the grids of sweeps."""

import math

from train.options import Grid, grids

# Learning rate, weight decay and free epochs of a run that gives none. They lie in the
# middle of the papers' grids for CIFAR-10 at batch 4k (arXiv, Table 5) and were not
# tuned here. (arXiv: Gupta et al. 2021, arXiv:2108.05839.)
TUNED = {
    "sgd": (1.9, 1e-4, 0.0),
    "adam": (7e-3, 0.0, 0.0),
    "adamw": (7e-3, 1e-3, 0.0),
    "lamb": (3e-2, 1e-3, 0.0),
    "sgd-lawn": (1.7, 1e-4, 5.0),
    "adam-lawn": (6e-3, 0.0, 5.0),
    "lamb-lawn": (3e-2, 0.0, 5.0),
}
# The same for ImageNet, with the epochs of the warm-up. They are the middle of the
# grids for batch 256 and for 16k, or the grid's only value (arXiv, Appendix D.4.4), and
# were not tuned here.
TUNED_256 = {
    "sgd": (0.256, 1e-4, 0.0, 0.5),
    "adam": (1.25e-3, 0.0, 0.0, 0.16),
    "adamw": (1.25e-3, 0.0, 0.0, 0.16),
    "lamb": (2e-3, 0.01, 0.0, 0.16),
    "sgd-lawn": (0.256, 1e-4, 5.0, 5.0),
    "adam-lawn": (6e-4, 0.0, 5.0, 5.0),
    "lamb-lawn": (2e-3, 0.01, 0.16, 5.0),
}
TUNED_16K = {
    "sgd": (5.0, 1e-4, 0.0, 5.0),
    "adam": (5e-3, 0.0, 0.0, 10.0),
    "adamw": (5e-3, 1e-3, 0.0, 10.0),
    "lamb": (0.02828, 0.01, 0.0, 10.0),
    "sgd-lawn": (5.0, 1e-4, 5.0, 5.0),
    "adam-lawn": (5e-3, 0.0, 5.0, 5.0),
    "lamb-lawn": (0.02828, 0.01, 10.0, 10.0),
}


def _rates(*lists: str) -> dict[str, tuple[float, ...]]:
    """Rates by optimizer, from a column of Table 5."""
    names = ("sgd", "sgd-lawn", "adam", "adam-lawn", "lamb", "lamb-lawn")
    values = [tuple(float(x) for x in text.split()) for text in lists]
    return dict(zip(names, values, strict=True))


# Rates of the second stage of the papers' search on CIFAR, by data set and batch size
# (arXiv, Table 5).
SECOND_STAGE = {
    "cifar10": {
        256: _rates(
            "0.5 0.7 0.9 1.1 1.3",
            "0.21 0.22 0.23 0.24 0.25",
            "1e-3 2e-3 3e-3 4e-3 5e-3",
            "5e-4 6e-4 7e-4 8e-4 9e-4",
            "1e-2 2e-2 3e-2 4e-2 5e-2",
            "6e-3 7e-3 8e-3 9e-3 10e-3",
        ),
        4_000: _rates(
            "1.5 1.7 1.9 2.1 2.3",
            "1.5 1.6 1.7 1.8 1.9",
            "5e-3 6e-3 7e-3 8e-3 9e-3",
            "4e-3 5e-3 6e-3 7e-3 8e-3",
            "1e-2 2e-2 3e-2 4e-2 5e-2",
            "1e-2 2e-2 3e-2 4e-2 5e-2",
        ),
        10_000: _rates(
            "1.3 1.5 1.7 1.9 2.1",
            "1.0 1.1 1.2 1.3 1.4",
            "7e-3 8e-3 9e-3 10e-3 11e-3",
            "4e-3 5e-3 6e-3 7e-3 8e-3",
            "2e-2 3e-2 4e-2 5e-2 6e-2",
            "1e-2 2e-2 3e-2 4e-2 5e-2",
        ),
    },
    "cifar100": {
        256: _rates(
            "0.20 0.21 0.22 0.23 0.24",
            "0.16 0.17 0.18 0.19 0.20",
            "6e-3 7e-3 8e-3 9e-3 10e-3",
            "3e-4 4e-4 5e-4 6e-4 7e-4",
            "4e-2 5e-2 6e-2 7e-2 8e-2",
            "0.5e-2 1e-2 2e-2 3e-2 4e-2",
        ),
        4_000: _rates(
            "0.8 0.9 1.0 1.1 1.2",
            "1.2 1.3 1.4 1.5 1.6",
            "8e-3 9e-3 10e-3 11e-3 12e-3",
            "1e-3 2e-3 3e-3 4e-3 5e-3",
            "5e-2 7e-2 9e-2 11e-2 13e-2",
            "2e-2 3e-2 4e-2 5e-2 6e-2",
        ),
        10_000: _rates(
            "1.3 1.4 1.5 1.6 1.7",
            "1.6 1.7 1.8 1.9 2.0",
            "8e-3 9e-3 10e-3 11e-3 12e-3",
            "5e-3 6e-3 7e-3 8e-3 9e-3",
            "3e-2 4e-2 5e-2 6e-2 7e-2",
            "4e-2 5e-2 6e-2 7e-2 8e-2",
        ),
    },
}
WARMUPS = (5.0, 20.0, 40.0, 60.0)  # Epochs of the warm-up; Appendix D.2.


def second_stage(dataset: str, batch_size: int) -> dict[str, tuple[float, ...]]:
    """The papers' rates on CIFAR at the batch size that is nearest by its ratio."""
    by_size = SECOND_STAGE[dataset]
    return by_size[min(by_size, key=lambda size: abs(math.log(size / batch_size)))]


def papers_values(dataset: str, batch_size: int) -> dict[str, tuple[float, ...]]:
    """`TUNED` with the middle one of the papers' rates."""
    rates = second_stage(dataset, batch_size)
    return {
        name: (rates[name.replace("adamw", "adam")][2], *others)
        for name, (_, *others) in TUNED.items()
    }


LARGE = 2_048  # From this batch size on, the values for 16k are taken.

GRIDS = {
    "default": grids(
        {"adam": (1e-3, 3e-3, 1e-2), "lamb": (3e-3, 1e-2, 3e-2), "sgd": (0.1, 0.5, 2)},
        (1e-3, 1e-2, 1e-1),
        (1.0, 3.0, 9.0),
    ),
    # The coarse grid of arXiv, Table 5, with the decays, free epochs and warm-ups of
    # Appendix D.2.
    "papers": {
        name: grid._replace(warmups=WARMUPS)
        for name, grid in grids(
            dict.fromkeys(("adam", "lamb", "sgd"), (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)),
            (1e-5, 1e-4, 1e-3),
            (1.0, 5.0, 20.0, 40.0),
        ).items()
    },
}

_SMALL, _LARGE = (1.0, 5.0, 10.0), (5.0, 10.0, 20.0)
_LAMB = (1e-3, 2e-3, 3.5e-3, 5e-3)
_ADAM_16K = (1e-3, 3e-3, 5e-3, 8e-3, 1e-2)
_LAMB_16K = (0.01, 0.02, 0.02828, 0.03, 0.04)
# The papers' grids for ImageNet (arXiv, Appendix D.4.4). Where a LAWN form keeps the
# best rate of its base optimizer, it has one rate here: LAMB's 0.02828, and for SGD,
# whose best rate is not printed, the middle one. As in the paper, LAWN has more trials.
PAPERS_256 = {
    "sgd": Grid((0.1, 0.256, 0.5), (1e-4,), (), (0.5,)),
    "adam": Grid((1e-4, 1.25e-3, 2.5e-3, 5e-3), (0.0,), (), (0.16,)),
    "lamb": Grid(_LAMB, (0.01,), (), (0.16,)),
    "sgd-lawn": Grid((0.256,), (), _SMALL, _SMALL),
    "adam-lawn": Grid((3e-4, 6e-4, 8e-4, 4e-3), (), _SMALL, _SMALL),
    "lamb-lawn": Grid(_LAMB, (), (0.16,), _SMALL),
}
PAPERS_16K = {
    "sgd": Grid((1.0, 5.0, 10.0), (1e-4,), (), (0.16, 1.0, 5.0, 10.0)),
    "adam": Grid(_ADAM_16K, (0.0, 1e-3, 1e-2), (), _LARGE),
    "lamb": Grid(_LAMB_16K, (0.01,), (), _LARGE),
    "sgd-lawn": Grid((1.0, 5.0, 10.0), (), _SMALL, _SMALL),
    "adam-lawn": Grid(_ADAM_16K, (), _SMALL, _SMALL),
    "lamb-lawn": Grid((0.02828,), (), _LARGE, _LARGE),
}
