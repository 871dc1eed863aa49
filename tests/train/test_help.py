"""What the command line says of itself."""

import re

import pytest

from train.__main__ import main
from train.images import grids
from train.recommenders.options import TUNED


def printed(capsys, *words):
    assert main(words) == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_lines_of_a_text_are_joined_and_names_of_the_code_explained(
    capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["language", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("one on each device, for models that do not fit" in x for x in lines)
    assert any("Weight decay: added to the gradient (sgd)" in x for x in lines)
    assert not any("`" in line for line in lines)


def test_the_list_of_commands_has_sweeps(capsys):
    text = printed(capsys)
    for name in ("digits", "recsys", "image", "sweep", "study", "evaluate", "report"):
        assert f" {name} " in text
    assert "sweep --help" in text


@pytest.mark.parametrize(
    "name, tuned, time",
    [
        ("recsys", TUNED, "five minutes on 2 CPU cores"),
        ("image", grids.TUNED, "20 minutes on a CPU core"),
    ],
)
def test_help_has_the_defaults_by_optimizer_and_the_time(name, tuned, time, capsys):
    text = printed(capsys, name, "--help")
    for optimizer, (rate, _, free) in tuned.items():
        assert f"{optimizer} {rate:g}" in text
        assert not free or f"{optimizer} {free:g}" in text
    assert time in text


@pytest.mark.parametrize(
    "words", ["digits", "recsys", "image", "language", "sweep language", "report"]
)
def test_no_option_has_two_defaults(words, capsys):
    text = printed(capsys, *words.split(), "--help")
    for option in re.split(r" (?=--[a-z])", text):
        assert option.count("(default") <= 1, option
    assert "(default: None)" not in text and "(default: )" not in text
