"""Hyperparameters for images: the values of a run, and the grids of sweeps."""

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
LARGE = 2_048  # From this batch size on, the values for 16k are taken.

GRIDS = {
    "default": grids(
        {"adam": (1e-3, 3e-3, 1e-2), "lamb": (3e-3, 1e-2, 3e-2), "sgd": (0.1, 0.5, 2)},
        (1e-3, 1e-2, 1e-1),
        (1.0, 3.0, 9.0),
    ),
    # The coarse grid of arXiv, Table 5, with the decays and free epochs of Appendix
    # D.2. The second stage, five rates near the best, is given with --rates.
    "papers": grids(
        dict.fromkeys(("adam", "lamb", "sgd"), (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)),
        (1e-5, 1e-4, 1e-3),
        (1.0, 5.0, 20.0, 40.0),
    ),
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
