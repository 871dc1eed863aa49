"""``study``: tests the papers' claims about small problems."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from train import interrupts
from train.errors import require
from train.runs import records, results
from train.runs.guard import open_folder
from train.runs.results import Findings
from train.studies import (
    constrained,
    exponential,
    flattening,
    margins,
    polynomials,
    rayleigh,
)

STUDIES: dict[str, Callable[..., Findings]] = {
    "constrained": constrained.report,
    "exponential": exponential.report,
    "flattening": flattening.report,
    "margins": margins.report,
    "polynomials": polynomials.report,
    "rayleigh": rayleigh.report,
}
# Studies that also take a folder with real data, and whether to train at full size.
WITH_DATA = frozenset({"exponential", "flattening", "margins", "rayleigh"})


@dataclasses.dataclass(frozen=True)
class Config:
    """The papers' theory on small problems, computed in a minute or two on a CPU.

    constrained: methods that fix or normalise the norm, on separable data (Theory III).
    exponential: growing learning rates instead of weight decay (Li and Arora).
    flattening: noise and curvature under Adam and Adam-LAWN (ML-100k: --data-dir).
    margins: normalised margins on true and random labels (Theory III).
    polynomials: least squares with more monomials than points (Theory III).
    rayleigh: weight decay on scale-invariant weights (noisy Rayleigh quotient).
    """

    name: Annotated[
        Literal[
            "constrained",
            "exponential",
            "flattening",
            "margins",
            "polynomials",
            "rayleigh",
        ],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="NAME"),
    ]
    """Name of the study."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder with the original files of a real data set, or the folder around it
    (default: digits or synthetic data)."""
    full: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train at the paper's size, for a GPU; needs --data-dir."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder for text and figures (default: under runs/)."""


@interrupts.held()
def run(config: Config) -> None:
    """Runs a study, prints its findings, and writes them with the figures."""
    real, real_data = config.name in WITH_DATA, config.data_dir is not None
    require(real or not real_data, f"study {config.name} takes no --data-dir")
    require(real_data or not config.full, "--full needs --data-dir")
    options = records.run_config("study", config, ("out", "data_dir"))
    options["real_data"] = real_data
    folder = config.out or records.default_folder(options)
    with open_folder(folder, options):
        arguments = (config.data_dir, config.full) if real else ()
        text, figures = STUDIES[config.name](*arguments)
        results.write(folder, {"findings.md": text + "\n"}, figures)
    print(f"Written to {folder}: {', '.join(['findings.md', *sorted(figures)])}")
