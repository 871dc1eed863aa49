"""The published HR@10 and accuracies, in percent, to print beside our own.

All values are means over three runs; where a table gives a spread, it is the standard
error in parentheses. "arXiv" is Gupta et al. 2021, arXiv:2108.05839, "sub." the ICLR
submission of LAWN. arXiv Table 4 (= sub. Table 4, which leaves SGD-LAWN out) repeats
the means of arXiv Tables 9 to 11 and puts their standard errors at 0.15 to 0.25; the
ones that Tables 10 and 11 print go down to 0.01.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

RUNS = 3  # Runs behind every published mean (Appendix D.5; "3 runs").
USERS = {"ml-100k": 943, "ml-1m": 6040, "pinterest-20": 54906}  # arXiv Table 7.
BATCH_SIZES = {
    "ml-100k": (1_000, 10_000, 100_000, 400_000),
    "ml-1m": (1_000, 10_000, 100_000, 1_000_000),
    "pinterest-20": (1_000, 10_000, 100_000, 1_000_000),
}
SOURCES = {
    "ml-100k": "arXiv Table 9",
    "ml-1m": "arXiv Table 10",
    "pinterest-20": "arXiv Table 11",
}

FAIL = (None, None)  # Printed as "Fail".
EPOCHS = {"imagenet": 90}  # Epochs of the papers' runs; of other data sets 300 or more.

# Mean and standard error at each batch size, by data set and optimizer. Those without
# LAWN have a tuned weight decay.
HIT_RATIOS: dict[str, dict[str, tuple[tuple[float | None, float | None], ...]]] = {
    "ml-100k": {
        "sgd": ((66.33, 0.24), (65.58, 0.17), FAIL, FAIL),
        "sgd-lawn": ((66.91, 0.24), (66.49, 0.16), FAIL, FAIL),
        "adam": ((66.01, 0.25), (66.03, 0.15), (63.20, 0.24), (63.98, 0.25)),
        "adam-lawn": ((66.81, 0.17), (66.91, 0.15), (66.24, 0.16), (66.14, 0.22)),
        "lamb": ((65.45, 0.25), (65.34, 0.16), (64.23, 0.16), (62.57, 0.17)),
        "lamb-lawn": ((66.56, 0.22), (66.54, 0.20), (66.52, 0.25), (66.14, 0.23)),
    },
    "ml-1m": {
        "sgd": ((70.91, 0.18), (69.31, 0.17), FAIL, FAIL),
        "sgd-lawn": ((70.91, 0.12), (70.41, 0.05), FAIL, FAIL),
        "adam": ((69.87, 0.07), (70.12, 0.11), (69.28, 0.10), (68.99, 0.21)),
        "adam-lawn": ((70.80, 0.09), (70.41, 0.20), (70.77, 0.04), (70.66, 0.22)),
        "lamb": ((69.91, 0.12), (69.77, 0.09), (69.44, 0.10), (68.95, 0.12)),
        "lamb-lawn": ((70.86, 0.21), (70.86, 0.04), (70.68, 0.08), (70.34, 0.19)),
    },
    "pinterest-20": {
        "sgd": ((86.62, 0.05), (85.57, 0.20), FAIL, FAIL),
        "sgd-lawn": ((86.61, 0.20), (85.99, 0.20), FAIL, FAIL),
        "adam": ((87.27, 0.07), (85.97, 0.01), (85.81, 0.01), (85.30, 0.20)),
        "adam-lawn": ((86.85, 0.10), (86.61, 0.10), (86.04, 0.10), (86.06, 0.20)),
        "lamb": ((86.63, 0.10), (85.91, 0.10), (85.80, 0.10), (85.65, 0.20)),
        "lamb-lawn": ((86.83, 0.10), (86.25, 0.10), (85.99, 0.10), (86.07, 0.10)),
    },
}

# Test accuracies in the same form: VGG-19 on CIFAR, and ResNet-50 on all of ImageNet,
# where "16k" is taken for 2^14. Sub. Table 1 has those of ImageNet too.
IMAGE_BATCH_SIZES = {
    "cifar10": (256, 4_000, 10_000),
    "cifar100": (256, 4_000, 10_000),
    "imagenet": (256, 16_384),
}
IMAGE_SOURCES = {
    "cifar10": ("vgg19", "arXiv Table 6"),
    "cifar100": ("vgg19", "arXiv Table 6"),
    "imagenet": ("resnet50", "arXiv Table 1, all of ImageNet"),
}
ACCURACIES: dict[str, dict[str, tuple[tuple[float, float], ...]]] = {
    "cifar10": {
        "sgd": ((93.99, 0.05), (93.48, 0.09), (92.99, 0.20)),
        "sgd-lawn": ((93.96, 0.06), (93.50, 0.05), (93.43, 0.12)),
        "adam": ((93.48, 0.11), (92.93, 0.01), (92.63, 0.06)),
        "adam-lawn": ((93.91, 0.04), (93.74, 0.04), (93.84, 0.08)),
        "lamb": ((93.76, 0.07), (93.27, 0.08), (92.91, 0.03)),
        "lamb-lawn": ((93.67, 0.04), (93.22, 0.05), (92.92, 0.03)),
    },
    "cifar100": {
        "sgd": ((73.49, 0.43), (71.68, 0.26), (71.07, 0.14)),
        "sgd-lawn": ((73.67, 0.12), (72.71, 0.07), (71.80, 0.36)),
        "adam": ((70.84, 0.23), (68.91, 0.05), (68.61, 0.28)),
        "adam-lawn": ((72.99, 0.02), (73.12, 0.11), (72.97, 0.10)),
        "lamb": ((71.29, 0.11), (69.39, 0.06), (67.76, 0.22)),
        "lamb-lawn": ((71.25, 0.17), (69.68, 0.16), (69.16, 0.09)),
    },
    "imagenet": {
        "sgd": ((76.00, 0.04), (74.48, 0.06)),
        "sgd-lawn": ((76.12, 0.01), (75.56, 0.02)),
        "adam": ((71.16, 0.05), (70.60, 0.02)),
        "adam-lawn": ((76.18, 0.03), (76.07, 0.08)),
        "lamb-plus": ((74.30, 0.01), (73.43, 0.03)),
        "lamb-lawn": ((76.48, 0.05), (75.93, 0.02)),
    },
}

# Expected calibration error of Adam and Adam-LAWN with VGG-19. Sub. Table 6.
CALIBRATION = {"cifar10": (0.132, 0.048), "cifar100": (0.292, 0.188)}

SMOOTHING = 0.05

# Means of Adam with other remedies, by data set and batch size (sub. Table 2; arXiv
# Table 2 has MovieLens-1M alone, with flooding). The rows for weight decay and LAWN
# equal those of arXiv Tables 6 and 10, but for one. On MovieLens-1M each method had
# three learning rates (arXiv D.5). "bounded" is Hoffer et al. 2018.
REMEDIES: dict[str, dict[str, dict[int, float]]] = {
    "ml-1m": {
        "label smoothing": {10_000: 68.66, 100_000: 67.34},
        "flooding": {10_000: 68.44, 100_000: 67.60},  # Best of 0.2, 0.3, 0.4.
        "weight decay": {10_000: 70.12, 100_000: 69.28},
        "bounded": {10_000: 44.54, 100_000: 45.52},
        "lawn": {10_000: 70.41, 100_000: 70.77},
    },
    "cifar10": {
        "label smoothing": {4_000: 93.09, 10_000: 92.73},
        "weight decay": {4_000: 92.93, 10_000: 92.63},
        "bounded": {4_000: 92.99, 10_000: 91.66},
        "lawn": {4_000: 93.74, 10_000: 93.84},
    },
    "cifar100": {
        "label smoothing": {4_000: 69.92, 10_000: 69.24},
        "weight decay": {4_000: 68.91, 10_000: 68.61},
        "bounded": {4_000: 70.66, 10_000: 69.35},
        "lawn": {4_000: 73.13, 10_000: 72.97},  # Other tables print 73.12.
    },
}

# Means with focal loss by data set, optimizer and gamma, where gamma 0 is cross
# entropy, at the two batch sizes (sub. Table 5).
FOCAL_BATCH_SIZES = {
    "ml-1m": (100_000, 1_000_000),
    "cifar10": (4_000, 10_000),
    "cifar100": (4_000, 10_000),
}
FOCAL: dict[str, dict[tuple[str, float], tuple[float, float]]] = {
    "ml-1m": {
        ("adam", 0.5): (67.33, 66.42),
        ("adam", 2.0): (69.02, 67.40),
        ("adam", 5.0): (67.17, 66.62),
        ("adam", 0.0): (69.28, 68.99),
        ("adam-lawn", 0.5): (71.24, 70.53),
        ("adam-lawn", 2.0): (69.68, 69.56),
        ("adam-lawn", 5.0): (69.24, 68.66),
        ("adam-lawn", 0.0): (70.77, 70.66),
    },
    "cifar10": {
        ("adam", 0.5): (93.07, 92.51),
        ("adam", 2.0): (91.16, 89.79),
        ("adam", 5.0): (87.88, 86.82),
        ("adam", 0.0): (92.93, 92.63),
        ("adam-lawn", 0.5): (93.89, 93.21),
        ("adam-lawn", 2.0): (92.22, 91.20),
        ("adam-lawn", 5.0): (89.14, 88.93),
        ("adam-lawn", 0.0): (93.74, 93.84),
    },
    "cifar100": {
        ("adam", 0.5): (69.19, 67.94),
        ("adam", 2.0): (68.85, 67.28),
        ("adam", 5.0): (67.72, 66.11),
        ("adam", 0.0): (68.91, 68.61),
        ("adam-lawn", 0.5): (73.05, 72.51),
        ("adam-lawn", 2.0): (73.29, 72.55),
        ("adam-lawn", 5.0): (72.89, 70.95),
        ("adam-lawn", 0.0): (73.12, 72.97),
    },
}


class Published(NamedTuple):
    """One published HR@10 or accuracy.

    Attributes:
        value: Number in percent; None where the paper prints "Fail".
        standard_error: Standard error of three runs, in points; None if not printed.
        source: Paper and table.
    """

    value: float | None
    standard_error: float | None
    source: str

    def text(self) -> str:
        """The value, the standard deviation of a run, and the source."""
        if self.value is None:
            return f"Fail ({self.source})"
        if self.standard_error is None:
            return f"{self.value:.2f} ({self.source})"
        deviation = self.standard_error * math.sqrt(RUNS)
        return f"{self.value:.2f} ± {deviation:.2f} ({self.source})"


def dataset_of(name: str) -> str:
    """The papers' name of one of our data sets: two of ours are MovieLens-1M."""
    return name.removesuffix("-ncf")


def published(options: Mapping[str, Any]) -> Published | None:
    """The papers' number for a run.

    Args:
        options: Options of the run by name; one that is left out counts as not used.

    Returns:
        The number for the same data set, batch size, optimizer, loss and remedy, or
        None where the papers have none and for shorter runs.
    """
    if not is_full_length(options):
        return None
    dataset, batch = dataset_of(options["dataset"]), options["batch_size"]
    if tried_remedy(options):
        return _with_remedy(dataset, options)
    row = HIT_RATIOS.get(dataset, {}).get(_method(options))
    if row is None or batch not in BATCH_SIZES[dataset]:
        return None
    return Published(*row[BATCH_SIZES[dataset].index(batch)], SOURCES[dataset])


def _method(options: Mapping[str, Any]) -> str:
    """The papers' name of an optimizer: their Adam has weight decay, of either kind."""
    name = options["optimizer"]
    return "adam" if name == "adamw" else name


def _with_remedy(dataset: str, options: Mapping[str, Any]) -> Published | None:
    """The papers' number for a run with another loss, or with another remedy."""
    method, remedy = _method(options), tried_remedy(options)
    if remedy == "focal loss":
        row = FOCAL.get(dataset, {}).get((method, options.get("gamma", 2.0)), ())
        known = dict(zip(FOCAL_BATCH_SIZES.get(dataset, ()), row, strict=False))
        source = "sub. Table 5"
    else:
        same = method == ("adam-bounded" if remedy == "bounded" else "adam")
        same &= remedy != "label smoothing" or options["label_smoothing"] == SMOOTHING
        known = REMEDIES.get(dataset, {}).get(remedy, {}) if same else {}
        source = "arXiv Table 2" if dataset == "ml-1m" else "sub. Table 2"
    value = known.get(options["batch_size"])
    return None if value is None else Published(value, None, source)


def published_accuracy(options: Mapping[str, Any]) -> Published | None:
    """The papers' accuracy for a run of VGG-19 on CIFAR or ResNet-50 on ImageNet.

    Args:
        options: Options of the run by name; one that is left out counts as not used.

    Returns:
        The number for the same data set, batch size, optimizer, loss and remedy, or
        None where the papers have none and for shorter runs.
    """
    dataset, batch = options["dataset"], options["batch_size"]
    model, source = IMAGE_SOURCES.get(dataset, ("", ""))
    if options["model"] != model or options.get("images"):
        return None
    if not is_full_length(options):
        return None
    if tried_remedy(options):
        return _with_remedy(dataset, options)
    row = ACCURACIES.get(dataset, {}).get(_method(options), ())
    known = dict(zip(IMAGE_BATCH_SIZES.get(dataset, ()), row, strict=False))
    return Published(*known[batch], source) if batch in known else None


def is_full_length(options: Mapping[str, Any]) -> bool:
    """Whether a run is as long as the papers' runs on its data set."""
    return options.get("epochs", math.inf) >= EPOCHS.get(options["dataset"], 300)


def tried_remedy(options: Mapping[str, Any]) -> str:
    """The remedy for growing logits that a run uses beside weight decay and plain LAWN.

    Args:
        options: Options of the run by name; one that is left out counts as not used.

    Returns:
        The remedy's name, several joined by " + ", or "" for none.
    """
    names = {
        "focal loss": options.get("loss", "bce") == "focal",
        "label smoothing": options.get("label_smoothing"),
        "flooding": options.get("flood"),
        "bounded": options["optimizer"].endswith("-bounded"),
        "attenuated logits": options.get("alpha", 1) != 1,
        "automatic switch": options.get("switch", "epochs") != "epochs",
    }
    return " + ".join(name for name, used in names.items() if used)
