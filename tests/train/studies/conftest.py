"""A check that all studies share."""

import pytest

from train.runs.progress import ProgressReport


@pytest.fixture(autouse=True)
def all_work_is_reported(monkeypatch):
    """Every study that ends must have reported exactly the work that it announced."""
    leave = ProgressReport.__exit__

    def checked(report, *error):
        leave(report, *error)
        if error[0] is None:
            assert report._done == report._total

    monkeypatch.setattr(ProgressReport, "__exit__", checked)
