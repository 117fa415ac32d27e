"""Sphinx's settings. `make docs` writes what pages take from the code, builds, runs the examples and checks links."""

import doctest
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from sphinx.addnodes import pending_xref  # noqa: E402

from sign_zs3 import __version__  # noqa: E402

project = "sign-zs3"
author = "The sign-zs3 developers"
copyright = "the sign-zs3 developers, Apache-2.0"
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "_generated", "results"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

# -- Markdown and notebooks
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
# `make docs NOTEBOOKS=off` shows them without outputs
nb_execution_mode = "off" if os.environ.get("NOTEBOOKS") == "off" else "force"
nb_execution_in_temp = True
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
# progress bars, and warnings with paths of the machine that builds
nb_output_stderr = "remove"

# -- docstrings
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
viewcode_line_numbers = True
# `name` in a docstring is a link where the reference has the name, code otherwise
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    (r"py:obj", r".*"),
    # other libraries', whose references are not fetched
    (r"py:.*", r"(?!sign_zs3).*"),
    # types in signatures that a caller makes no use of
    (
        r"py:class",
        r"sign_zs3\..*\.(_Task|Loader|Place|PositionedModule|PretrainedFolder|ProjectionClassifier|PseudoLabels|Samples|"
        r"Item|SpatialModule|StreamLoader|Training|Transform|Updates|View)",
    ),
]
doctest_global_setup = """
import numpy as np
import torch
from sign_zs3 import *
from sign_zs3.embeddings import *
from sign_zs3.functional import *
from sign_zs3.functional.geometry import *
"""
doctest_default_flags = doctest.NORMALIZE_WHITESPACE
doctest_test_doctest_blocks = "default"

# -- pages
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"sign-zs3 {version}"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "tango"
pygments_dark_style = "monokai"


def _skip(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which their class describes."""
    return True if type(member).__name__ == "_tuplegetter" else None


PAGES = {"CHANGELOG.md": "changelog", "CONTRIBUTING.md": "contributing", "SECURITY.md": "security"}
"""Files of the repository's root -> the pages that include them."""


def _lead_to_pages(app: Any, doctree: Any) -> None:
    """Lead links to files of the repository's root to their pages."""
    for node in doctree.findall(pending_xref):
        if page := PAGES.get(node.get("reftarget", "")):
            # as Sphinx's role "doc" makes it
            node["refdomain"], node["reftype"], node["reftarget"] = "std", "doc", f"/{page}"
            node["refexplicit"] = True


def setup(app: Any) -> None:
    """Tell Sphinx."""
    app.connect("autodoc-skip-member", _skip)
    app.connect("doctree-read", _lead_to_pages)
