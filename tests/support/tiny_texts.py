"""Made-up texts and tiny language models."""

import numpy as np

from train.language import options

WORDS = ["the", "norm", "of", "a", "layer", "stays", "where", "it", "was", "\n"]


def words(count, seed=0):
    """Words at random, as bytes."""
    chosen = np.random.default_rng(seed).choice(WORDS, count)
    return " ".join(chosen).encode()


def write_files(folder, count=10, length=300):
    """Files of about equal lengths, some in a folder of their own."""
    (folder / "more").mkdir(parents=True)
    for number in range(count):
        name = f"more/{number}.txt" if number % 2 else f"{number}.txt"
        (folder / name).write_bytes(words(length, number))
    return folder


def settings(**changes):
    """Options of a run of a model that compiles fast."""
    sizes = {"width": 8, "depth": 2, "heads": 2, "block": 8, "batch_size": 8}
    sizes |= {"epochs": 6, "warmup_epochs": 2.0, "sample_bytes": 4, "eval_bytes": 200}
    return options.resolve(options.Config(**sizes | {"text_sha256": ""} | changes))
