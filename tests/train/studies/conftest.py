"""A check that the tests of studies share."""

import pytest

from train.runs.progress import ProgressReport


@pytest.fixture
def all_work_is_reported(monkeypatch):
    """A study that ends must have reported exactly the work that it announced."""
    leave = ProgressReport.__exit__

    def checked(report, *error):
        leave(report, *error)
        if error[0] is None:
            assert report._done == report._total

    monkeypatch.setattr(ProgressReport, "__exit__", checked)
