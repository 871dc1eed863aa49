"""What rows say about the code."""

import subprocess

from benchmarks import environment


def test_changed_code_is_marked_and_changed_results_are_not(tmp_path, monkeypatch):
    folder = tmp_path / "benchmarks"
    (folder / "results").mkdir(parents=True)
    files = [folder / "environment.py", folder / "results" / "rows.jsonl"]
    for file in files:
        file.write_text("before\n")
    monkeypatch.setattr(environment, "__file__", str(files[0]))
    assert environment.commit() is None  # There is no checkout.
    me = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    first = environment.commit()
    assert first and first.isalnum()
    files[1].write_text("after\n")
    assert environment.commit() == first
    files[0].write_text("after\n")
    assert environment.commit() == first + "+"
