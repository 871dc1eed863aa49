"""The experiments by name. To add one takes a folder and a line here."""

from train.digits.experiment import EXPERIMENT as DIGITS
from train.experiment import Experiment
from train.images.experiment import EXPERIMENT as IMAGES
from train.language.experiment import EXPERIMENT as LANGUAGE
from train.recommenders.experiment import EXPERIMENT as RECOMMENDERS

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        DIGITS,
        RECOMMENDERS,
        IMAGES,
        LANGUAGE,
    )
}
