"""The presets of language models, and the default rates of each optimizer."""

from typing import Any

_DEFAULT: dict[str, Any] = {
    "optimizer": "adamh",
    "epochs": 500,
    "warmup_epochs": 20.0,
    "schedule": "two-phase",
    "batch_size": 16,
    "eval_bytes": 65_536,
    "clip_norm": None,
    "b2": 0.99,
    "width": 128,
    "depth": 4,
    "heads": 4,
    "block": 128,
    "norm": "rms",
    "positions": "rotary",
    "qk_norm": True,
    "activation": "relu2",
    "tied": False,
    "dropout": 0.0,
    "output_scale": 1.0,
    "init": "fan-in",
}
_PUBLISHED: dict[str, Any] = _DEFAULT | {
    "optimizer": "adamw",
    "epochs": 2_000,
    "eval_bytes": 2**30,
    "block": 64,
    "norm": "layer",
    "positions": "learned",
    "qk_norm": False,
    "activation": "gelu",
}
PRESETS: dict[str, dict[str, Any]] = {
    "default": _DEFAULT,
    # A hundred million weights and ten million bytes, for a GPU. Not run yet.
    "full": _DEFAULT
    | {
        "epochs": 300,
        "warmup_epochs": 12.0,
        "batch_size": 32,
        "eval_bytes": 2**20,
        "width": 1024,
        "depth": 8,
        "heads": 16,
        "block": 1024,
    },
    # The README of nanoGPT, for CPUs: 1.88 after 2,000 steps.
    "nanogpt": _PUBLISHED
    | {
        "schedule": "cosine",
        "warmup_epochs": 100.0,
        "batch_size": 12,
        "clip_norm": 1.0,
        "tied": True,
        "init": "small",
        "adamw": (1e-3, 0.1, 0.0),
    },
    # An earlier version of Optax's example nanolm: 1.4253 after 2,000 steps. It has
    # biases and other first weights, drops within the MLP and holds out a twentieth.
    "nanolm": _PUBLISHED
    | {
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "batch_size": 128,
        "width": 256,
        "depth": 6,
        "heads": 8,
        "attention_width": 32,
        "activation": "relu",
        "dropout": 0.2,
        "b2": 0.999,
        "adamw": (5e-3, 1e-4, 0.0),
    },
}
# Learning rate, weight decay and free steps of a run that gives none. Those of adamw,
# muon, adam-lawn, adamh and muonh are near the best of sweeps at width 128, those of
# muon-lawn and Adam's rate below at width 64: docs/guide/rates.md.
TUNED = {
    "sgd": (0.3, 0.0, 0.0),
    "adam": (2e-3, 0.0, 0.0),
    "adamw": (0.012, 0.3, 0.0),
    "muon": (0.05, 0.0, 0.0),
    "sgd-lawn": (0.3, 0.0, 25.0),
    "adam-lawn": (6e-3, 0.0, 25.0),
    "muon-lawn": (0.05, 0.0, 25.0),
    "sgdh": (0.02, 0.0, 0.0),
    "adamh": (0.014, 0.0, 0.0),
    "muonh": (0.04, 0.0, 0.0),
}
ADAM_RATE, ADAMH_RATE = 0.05, 0.01
AROUND = (0.5, 1.0, 2.0)
