"""The pages: links lead to files, and tables name existing code; without a network."""

import importlib
import pathlib
import re
import string

import pytest

import lawn_optax as lawn
from tests.support import commands
from train.errors import InputError

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.glob("**/*.md")),
]
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.S | re.M)
MODULES = sorted(
    page.stem for page in (DOCS / "api").glob("*.md") if hasattr(lawn, page.stem)
)
PAPERS = (DOCS / "papers-to-code.md").read_text()


def name(page):
    return str(page.relative_to(ROOT))


def anchors(page):
    """What GitHub and Sphinx make of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text()), re.M)
    kept = string.ascii_lowercase + string.digits + "-_ "
    return {
        "".join(c for c in h.strip().lower() if c in kept).replace(" ", "-")
        for h in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_to_a_file_and_a_heading(page):
    links = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text()))
    for link in links:
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{name(page)} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{name(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_are_plain_markdown(page):
    # Sphinx's roles and tables of contents would stand on GitHub as they are.
    assert not re.findall(r"\{(?:func|class|doc|ref|toctree|mod)\}", page.read_text())


@pytest.mark.parametrize("page", sorted((DOCS / "api").glob("*.md")), ids=name)
def test_reference_pages_say_something_before_their_directives(page):
    before = page.read_text().split("```{eval-rst}")[0]
    assert len(before.split()) > 50 and "| name |" in before


@pytest.mark.parametrize("module", MODULES)
def test_the_table_of_a_module_has_its_names(module):
    page = (DOCS / f"api/{module}.md").read_text()
    listed = re.findall(rf"^\| `lawn\.{module}\.(\w+)` \|", page, re.M)
    there = getattr(lawn, module)
    expected = getattr(there, "__all__", None) or [
        key
        for key, x in vars(there).items()
        if getattr(x, "__module__", "") == there.__name__ and not key.startswith("_")
    ]
    assert sorted(listed) == sorted(expected)


def test_the_table_of_all_names_has_the_public_names():
    page = (DOCS / "api/index.md").read_text()
    listed = re.findall(r"^\| \[?`lawn\.(\w+)`", page, re.M)
    assert sorted(listed) == lawn.__all__


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_in_the_text_are_public(page):
    for path in re.findall(r"`(?:help\()?lawn\.([\w.]+)\)?`", page.read_text()):
        thing = lawn
        for part in path.split("."):
            thing = getattr(thing, part)


def test_papers_to_code_names_files_that_exist():
    tests = [str(path) for path in (ROOT / "tests").glob("**/*.py")]
    pages = PAPERS + (DOCS / "guide/formulas.md").read_text()
    for file in set(re.findall(r"`([\w/]*test_\w+\.py)`", pages)):
        assert any(path.endswith(f"/{file}") for path in tests), file
    for file in set(re.findall(r"`((?:train|models)/[\w/]+\.py)`", PAPERS)):
        assert (ROOT / file).is_file(), file


def test_papers_to_code_names_studies_that_exist():
    studies = set(re.findall(r"`python -m train study (\w+)", PAPERS))
    assert studies
    for study in studies:
        importlib.import_module(f"train.studies.{study}")


SHOWN = sorted(
    {
        shown
        for page in [*PAGES, *sorted((ROOT / "benchmarks").glob("**/*.md"))]
        for shown in commands.in_text(page.read_text())
        if "NAME" not in shown[0]
    }
)


@pytest.mark.parametrize("command, whole", SHOWN)
def test_a_command_of_the_pages_is_one(command, whole):
    try:
        commands.check(command)
    except InputError as error:
        # A sentence may leave out the rest.
        assert not whole and "Missing" in str(error), error
