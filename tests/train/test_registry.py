"""Which module of `train` imports which."""

import ast
from functools import cache
from pathlib import Path

from train.registry import EXPERIMENTS

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): (
        path
    )
    for path in (ROOT / "train").rglob("*.py")
}


@cache
def imported(module):
    """The modules of `train` that a module imports, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                found.add(whole if whole in MODULES else node.module)
    return found & MODULES.keys()


def reached(module):
    """All modules that a module imports, by way of others too."""
    found, left = set(), [module]
    while left:
        new = imported(left.pop()) - found
        found |= new
        left += new
    return found


def test_no_module_imports_itself_by_way_of_others():
    assert len(MODULES) > 50 and "train.loop" in imported("train.sweep")
    assert [module for module in MODULES if module in reached(module)] == []


def test_the_loop_knows_no_experiment():
    folders = {
        f"train.{name}" for name in ("digits", "images", "language", "recommenders")
    }
    for module in ("train.loop", "train.single_run", "train.step", "train.sweep"):
        assert {
            x for x in reached(module) if ".".join(x.split(".")[:2]) in folders
        } == set()
    assert "train.optimizers" not in imported("train.loop")


def test_experiments_are_found_by_their_names():
    assert list(EXPERIMENTS) == ["digits", "recsys", "image", "language"]
    assert all(experiment.name == name for name, experiment in EXPERIMENTS.items())
