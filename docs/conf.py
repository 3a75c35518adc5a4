"""Settings of the site: `make docs` builds it, without network, and takes warnings for errors."""

import pathlib
import re
import sys
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.writers.html5 import HTML5Translator

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import pages  # noqa: E402

import koopman_lora  # noqa: E402

project = "koopman_lora"
author = "The koopman_lora developers"
version = release = koopman_lora.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode", "numpydoc", "myst_nb"]
exclude_patterns = ["_build"]
default_role = "py:obj"
highlight_language = "none"  # blocks without a name are formulas and commands

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests execute notebooks; here they stand with the outputs stored in them
nb_merge_streams = True
nb_ipywidgets_js = {}  # would be loaded from the network

autosummary_imported_members = True
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "inherited-members": "Module,Dataset,tuple,Exception",
}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
numpydoc_show_class_members = False
viewcode_follow_imported_members = True

html_theme = "pydata_sphinx_theme"
html_title = "koopman_lora"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"  # browsers know it by themselves: no script, nothing from the network
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_sidebars = {page: [] for page in ("index", "quickstart", "should_i_use_this")}  # they have no pages below them
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "navbar_persistent": ["search-button"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copyright = author


def write_math(translator: HTML5Translator, node: nodes.math) -> None:
    """A formula in TeX as MathML."""
    translator.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def mark_up(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written for `help`; here a star and a bar is told from markup, and `kl.fit` is a link."""
    example = False
    for i, line in enumerate(lines):
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if not example:
            told = re.sub(r"(?<=[ (])\*(?=\w)|\|", r"\\\g<0>", line)
            lines[i] = re.sub(r"(?<!`)`kl\.([\w.]+)`(?!`)", r"`kl.\1 <koopman_lora.\1>`", told)


def is_foreign(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what a class has from other packages."""
    module = getattr(getattr(thing, "fget", None) or thing, "__module__", None) or koopman_lora.__name__
    return None if module.startswith(koopman_lora.__name__) else True


def write_pages(app: Sphinx, config: Config) -> None:
    """The reference and the gallery, before Sphinx looks what pages there are."""
    pages.write_reference(koopman_lora, HERE / "reference")
    pages.write_gallery(HERE.parent / "tutorials", HERE / "tutorials")


def setup(app: Sphinx) -> None:
    """What Sphinx asks of a configuration."""
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("config-inited", write_pages)
    app.connect("autodoc-process-docstring", mark_up, priority=100)  # before numpydoc
    app.connect("autodoc-skip-member", is_foreign)
