"""Sphinx configuration: Markdown guide pages, and a reference made of docstrings."""

from importlib.metadata import version as installed_version

from docutils import nodes

project = "lawn_optax"
author = copyright = "The lawn_optax Authors"
version = release = installed_version("lawn-optax")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Docstrings name functions in single backticks.
default_role = "py:obj"

# Names and defaults only: the types, unions of JAX arrays and numbers, fill the page,
# and each argument's description says what it takes.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
maximum_signature_line_length = 80
add_module_names = False

html_theme = "furo"
html_title = "lawn_optax"


def setup(app):
    app.connect("autodoc-skip-member", skip_named_tuple_fields)
    app.connect("doctree-read", strip_code_blocks)


def skip_named_tuple_fields(app, what, name, obj, skip, options):
    """Leaves out "Alias for field number 0": fields are described in the class."""
    return skip or type(obj).__name__ == "_tuplegetter"


def strip_code_blocks(app, doctree):
    """Drops the empty line that ends a doctest in Markdown."""
    for block in doctree.findall(nodes.literal_block):
        block.rawsource = block.astext().rstrip("\n")
        block[:] = [nodes.Text(block.rawsource)]
