"""The description of an experiment for reports; each experiment fills in one."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from train.report import papers

# Options that every run has, with their types.
OPTIONS: dict[str, Any] = {
    "dataset": str,
    "optimizer": str,
    "batch_size": int,
    "epochs": int,
    "learning_rate": int | float,
    "weight_decay": int | float,
    "free_epochs": int | float,
    "seed": int,
    "validation": bool,
}
# Sentences that the notes of every experiment share.
PAPERS_NOTE = (
    '"arXiv" is Gupta et al. 2021, arXiv:2108.05839, and "sub." the ICLR submission of'
    " LAWN. Their ± is the printed standard error of three runs times sqrt(3), so that"
    " it is a standard deviation like ours."
)
DIFFERENCE_NOTE = (
    "Each row of differences compares one LAWN setting with its base optimizer, both"
    " at the last epoch. Where the base has several settings, it is the one with the"
    " best number in this report. The interval over seeds is a paired Student t"
    ' interval (95%) over the seeds that both have. "beyond" means that an interval'
    ' excludes 0, "within" that it includes 0.'
)


class Protocol(NamedTuple):
    """The data that a run was trained on and measured on.

    Attributes:
        measured: Data of the metric, in the plural or as one item.
        description: The protocol in words.
    """

    measured: str
    description: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """How the runs of an experiment are read and reported.

    Attributes:
        experiment: Name of the experiment on the command line.
        Options: Class of the options on the command line.
        resolve: ``(options) -> options`` with all defaults filled in, checked.
        title: Title of the report.
        notes: Paragraphs that explain the numbers.
        metric: Name of the metric that counts, 0 to 1, as a row of metrics has it.
        score: Name of that metric in a table.
        lowest: Whether it is a loss, of which the lowest is the best; otherwise it is
            a share, of which tables have percent.
        others: Further metrics, and their names in a table; those that end in % are
            shares.
        cases: Name, in the plural, of the cases that the metric is a mean over.
        document: File with the metric of each case.
        values: ``document -> (values, draws)``: a list of numbers, and over how many
            draws each of them is a mean.
        pack: ``document -> row``: the same in less space, without loss.
        unpack: ``row -> document``.
        draws: Header of the column for seeds and draws.
        chance: Metric of a model that did not learn; a run that is no better is called
            a failure. None if no run is called so.
        options: Options that a run must have, with their types.
        metrics: Metrics that each row of a run folder must have.
        curve: Metrics that a packed run keeps of each evaluation.
        unit: Name of the loop's epochs, in the singular.
        described: Options that the caption names first.
        alike: Options that runs must share to be compared.
        validation: Protocol of a run with ``validation``.
        test: Protocol of any other run.
        published: ``options -> `` the papers' number for a run, or None.
        sizes: The papers' batch sizes by data set; none if the experiment is not
            theirs, and has no figures of theirs.
        has_attenuation: Whether the papers' Figure 1 is about this experiment.
        batch_figures: Panel of arXiv's Figure 3 by data set, or the submission's 2(d).
        free_figure: Panel of the papers' Figure 7.
        later: Options that runs of older versions lack, with what these runs did.
    """

    experiment: str
    Options: type
    resolve: Callable[[Any], Any]
    title: str
    notes: tuple[str, ...]
    metric: str
    score: str
    others: Mapping[str, str]
    cases: str
    document: str
    values: Callable[[Mapping[str, Any]], tuple[Any, Any]]
    pack: Callable[[Mapping[str, Any]], dict[str, Any]]
    unpack: Callable[[Mapping[str, Any]], dict[str, Any]]
    draws: str
    chance: float | None
    options: Mapping[str, Any]
    metrics: frozenset[str]
    curve: tuple[str, ...]
    described: tuple[str, ...]
    alike: tuple[str, ...]
    validation: Protocol
    test: Protocol
    published: Callable[[Mapping[str, Any]], papers.Published | None]
    sizes: Mapping[str, tuple[int, ...]]
    has_attenuation: bool
    batch_figures: Mapping[str, str]
    free_figure: str
    lowest: bool = False
    unit: str = "epoch"
    later: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def scale(self) -> float:
        """The factor of the metric in tables."""
        return 1 if self.lowest else 100

    @property
    def decimals(self) -> int:
        """The decimals of the metric in tables."""
        return 4 if self.lowest else 2

    @property
    def label(self) -> str:
        """The metric's name and unit in tables."""
        return self.score if self.lowest else f"{self.score} %"

    def protocol(self, options: Mapping[str, Any]) -> Protocol:
        """The protocol of a run with these options."""
        return self.validation if options["validation"] else self.test
