"""Sphinx configuration: Markdown guide pages, and a reference made of docstrings.

The pages are plain Markdown, so that they read well on GitHub too. What Sphinx needs
beyond that is made here: the table of contents from the links of `index.md`, links from
names such as `lawn.wrap` to the reference, and formulas as MathML, without scripts.
"""

import os
import re
from importlib.metadata import version as installed_version

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx import addnodes

project = "lawn_optax"
author = copyright = "The lawn_optax Authors"
version = release = installed_version("lawn-optax")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
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
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"

# On GitHub Actions the site links to the repository; elsewhere it copies the files.
repository = os.environ.get("GITHUB_REPOSITORY")
if repository:
    html_theme_options = {
        "source_repository": f"https://github.com/{repository}/",
        "source_branch": "main",
        "source_directory": "docs/",
    }


def setup(app):
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda html, node: write_mathml(html, node, False), None),
        block_renderers=(lambda html, node: write_mathml(html, node, True), None),
    )
    app.connect("autodoc-skip-member", skip_named_tuple_fields)
    app.connect("source-read", add_contents)
    app.connect("source-read", link_repository_files)
    app.connect("doctree-read", strip_code_blocks)
    app.connect("doctree-read", link_names)
    app.connect("doctree-resolved", let_names_break)


def write_mathml(html, node, as_block):
    """Writes a formula as MathML, which browsers draw by themselves."""
    # Without the braces docutils sets the index of an accented letter below it.
    formula = re.sub(r"(\\(?:hat|tilde)\\[a-z]+)_", r"\1{}_", node.astext())
    html.body.append(latex2mathml.tex2mathml(formula, as_block=as_block))
    raise nodes.SkipNode


def skip_named_tuple_fields(app, what, name, obj, skip, options):
    """Leaves out "Alias for field number 0": fields are described in the class."""
    return skip or type(obj).__name__ == "_tuplegetter"


def add_contents(app, docname, source):
    """Makes tables of contents of the lists of links in `index.md`."""
    if docname != "index":
        return
    for section in source[0].split("\n## ")[1:]:
        caption, body = section.split("\n", 1)
        pages = re.findall(r"^- \[.*?\]\((.*?)\.md\)", body, re.M)
        if pages:
            lines = "\n".join([f":caption: {caption}", ":hidden:", "", *pages])
            source[0] += f"\n```{{toctree}}\n{lines}\n```\n"


def strip_code_blocks(app, doctree):
    """Drops the empty line that ends a doctest in Markdown."""
    for block in doctree.findall(nodes.literal_block):
        block.rawsource = block.astext().rstrip("\n")
        block[:] = [nodes.Text(block.rawsource)]


def link_names(app, doctree):
    """Links names such as `lawn.wrap` to their entry in the reference."""
    for literal in list(doctree.findall(nodes.literal)):
        name = re.fullmatch(r"lawn\.([\w.]+)", literal.astext())
        if name and not isinstance(literal.parent, nodes.reference):
            link = addnodes.pending_xref(
                refdomain="py", reftype="obj", reftarget=f"lawn_optax.{name[1]}"
            )
            literal.replace_self(link)
            link += literal


def let_names_break(app, doctree, docname):
    """Lets long names and paths break after a dot, a slash or an underscore."""
    for literal in doctree.findall(nodes.literal):
        first, *rest = re.split(r"(?<=[./_])(?=\w)", literal.astext())
        literal[:] = [nodes.Text(first)]
        for piece in rest:
            literal += [nodes.raw("", "<wbr>", format="html"), nodes.Text(piece)]


def link_repository_files(app, docname, source):
    """Links files outside of `docs/` to the repository, or to a copy on the site.

    Images stay as they are: Sphinx copies them.
    """
    up = "../" * (docname.count("/") + 1)
    outside = re.compile(rf"(?<!!)(\[[^]]*\]\(){re.escape(up)}([^)#]*)(#[^)]*)?\)")
    target = rf"\1path:{up}\2)"  # A copied file has no headings to link to.
    if repository:
        target = rf"\1https://github.com/{repository}/blob/main/\2\3)"
    source[0] = outside.sub(target, source[0])
