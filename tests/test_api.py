"""The public names, their docs and docstrings, and the imports between packages."""

import ast
import graphlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import lawn_optax as lawn

ROOT = pathlib.Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "lawn_optax").glob("**/*.py"))
MODULES = [name for name in lawn.__all__ if inspect.ismodule(getattr(lawn, name))]


def exported(module):
    """`__all__`, or else what Sphinx shows: the public functions defined there."""
    module = getattr(lawn, module)
    defined = [
        name
        for name, x in inspect.getmembers(module, inspect.isfunction)
        if x.__module__ == module.__name__ and not name.startswith("_")
    ]
    return getattr(module, "__all__", defined)


PUBLIC = {
    **{name: getattr(lawn, name) for name in lawn.__all__ if name not in MODULES},
    **{
        f"{module}.{name}": getattr(getattr(lawn, module), name)
        for module in MODULES
        for name in exported(module)
    },
}
FUNCTIONS = {name: x for name, x in PUBLIC.items() if inspect.isfunction(x)}
SAME_AS = re.compile(r"Arguments, result and state are those of `(\w+)`")


def arguments(function):
    """Names, kinds and defaults; of functions as defaults, only that they are some."""
    return [
        (p.name, p.kind, "function" if inspect.isfunction(p.default) else p.default)
        for p in inspect.signature(function).parameters.values()
    ]


def docstring(name):
    return inspect.getdoc(PUBLIC[name]) or ""


def test_all_is_sorted_and_complete():
    assert lawn.__all__ == sorted(lawn.__all__)
    public = {name for name in vars(lawn) if not name.startswith("_")}
    assert public == set(lawn.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_shows_is_its_all(name):
    # A package shows what its `__init__` imports from its own files, a module what it
    # defines.
    module, names = getattr(lawn, name), exported(name)
    assert list(names) == sorted(names)
    shown = {
        member
        for member, x in inspect.getmembers(module, inspect.isfunction)
        if x.__module__.startswith(module.__name__) and not member.startswith("_")
    }
    assert shown <= set(names) <= set(vars(module))


def test_every_state_is_exported_beside_the_function_that_makes_it():
    states = {
        node.name
        for path in LIBRARY
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith("State")
    }
    assert len(states) > 10
    assert states <= {name.rpartition(".")[2] for name in PUBLIC}


def test_the_api_pages_show_each_public_name_once():
    pages = "\n".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    shown = re.findall(r"auto(?:function|class):: lawn_optax\.(\w+)", pages)
    modules = re.findall(r"automodule:: lawn_optax\.(\w+)\n   :members:", pages)
    assert sorted(shown + modules) == lawn.__all__


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_callable_is_documented(name):
    doc, thing = docstring(name), PUBLIC[name]
    assert re.match(r"[^\n]+[.?]$", doc.split("\n\n")[0]), "one line, then a blank one"
    if inspect.isclass(thing):
        return
    if same := SAME_AS.search(doc):
        assert arguments(thing) == arguments(FUNCTIONS[same[1]])
        return
    signature = inspect.signature(thing)
    assert not signature.parameters or "\nArgs:\n" in doc
    for parameter in signature.parameters.values():
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        written = stars.get(parameter.kind, "") + parameter.name
        assert f"\n  {written}" in doc, f"{written} is not in Args"
    assert "\nReturns:\n" in doc


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_formula_has_an_example_or_a_source(name):
    doc = docstring(name)
    block = "::\n" in doc
    inline = re.search(r"``[^`]*[-+*/^|<>=][^`]*[a-z|)][^`]*``", doc)
    if block or inline:
        assert "\nExamples:\n" in doc or "\nReferences:\n" in doc


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_public_function_has_type_hints(name):
    signature = inspect.signature(FUNCTIONS[name])
    assert signature.return_annotation is not signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty, parameter.name


def test_examples_are_doctests_that_print():
    for name in FUNCTIONS:
        if "\nExamples:\n" in docstring(name):
            assert ">>> " in docstring(name), name


# --- imports --------------------------------------------------------------------------


def test_importing_the_library_brings_jax_optax_and_numpy_alone():
    # What it brings beyond jax and Optax, in a process of its own.
    code = (
        "import sys, jax, numpy, optax; before = set(sys.modules); import lawn_optax;"
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    brought = set(run.stdout.split()) - set(sys.stdlib_module_names)
    assert "lawn_optax" in brought
    assert brought <= {"lawn_optax", "jax", "jaxlib", "numpy", "optax"}


def imports(path):
    """Top-level packages that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays in the package of the file.
            package = path.relative_to(ROOT).parts[0]
            yield package if node.level else (node.module or "").split(".")[0]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.name)
def test_the_library_imports_jax_optax_and_numpy_alone(path):
    foreign = set(imports(path)) - set(sys.stdlib_module_names)
    assert foreign <= {"jax", "jaxlib", "numpy", "optax", "lawn_optax"}


def test_models_import_neither_the_library_nor_the_training():
    files = sorted((ROOT / "models").glob("**/*.py"))
    assert files
    for path in files:
        assert not {"lawn_optax", "train"} & set(imports(path)), path


def test_the_training_is_imported_by_nothing_below_it():
    for package in ("lawn_optax", "models"):
        for path in sorted((ROOT / package).glob("**/*.py")):
            assert "train" not in set(imports(path)), path


def imported_files(path):
    """The repository's files that an import of this one runs, at whatever time.

    Imports inside functions count, those under `if TYPE_CHECKING` do not. An import of
    `package.module` also runs the package's face, `__init__`. A file does not depend on
    the face of its own package unless it imports from it by name.
    """
    tree = ast.parse(path.read_text())
    skipped = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from files_of(alias.name, path, by_name=True)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level]
            module = ".".join([*package, *filter(None, [node.module])])
            module = module if node.level else str(node.module)
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                if file_of(submodule):  # `from package import module`
                    yield from files_of(submodule, path)
                else:
                    yield from files_of(module, path, by_name=True)


def file_of(module):
    stem = ROOT.joinpath(*module.split("."))
    for file in (stem.with_suffix(".py"), stem / "__init__.py"):
        if file.is_file():
            return file
    return None


def files_of(module, importer, by_name=False):
    """The file of a module, and the faces of packages around it but not the importer.

    `by_name` says that the module itself is named, also if it is such a face.
    """
    parts = module.split(".")
    for n in range(1, len(parts) + 1):
        file = file_of(".".join(parts[:n]))
        if file is None:
            continue
        own_face = file.name == "__init__.py" and importer.is_relative_to(file.parent)
        if not own_face or (by_name and n == len(parts)):
            yield file


def test_no_file_imports_itself_by_way_of_others():
    files = [
        path
        for package in ("lawn_optax", "models", "train")
        for path in sorted((ROOT / package).glob("**/*.py"))
    ]
    graph = {path: set(imported_files(path)) & set(files) for path in files}
    assert sum(map(len, graph.values())) > len(files)
    circle: list[str] = []
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = [str(path.relative_to(ROOT)) for path in error.args[1]]
    assert not circle, " <- ".join(circle)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.name)
def test_no_file_is_longer_than_a_reader_s_patience(path):
    assert len(path.read_text().splitlines()) <= 350


def test_types_are_shipped():
    assert (ROOT / "lawn_optax" / "py.typed").is_file()
