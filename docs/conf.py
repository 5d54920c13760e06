"""Sphinx configuration. `make docs` builds the pages into docs/_build/html."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]
# Commands of the tutorial run with this interpreter and this checkout, on one core.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["PYTHONPATH"] = str(HERE.parent)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["COLUMNS"] = "110"
os.environ.pop("GMU_STORE", None)

from gmu_lightning import __version__  # noqa: E402

project = "gmu_lightning"
author = "the gmu_lightning authors"
copyright = "the gmu_lightning authors, Apache License 2.0"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "configuration_reference", "plain_docstrings"]
exclude_patterns = ["_build", "_extensions"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
highlight_language = "none"
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 1200
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# The build needs no network, so the types of other packages, and of modules without a page, have no target.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|np|collections|annotated_types|os|pandas|pathlib|pytorch_lightning)\..*"),
    ("py:.*", r"Level|Explanation|Explain|Reasons|Tensor|Module|Axes|Dtype|DataFrame|Path|InputRow|Form|Audit|Layout"),
    ("py:.*", r"(tuple|dict|Mapping)\[.*"),
    (
        "py:.*",
        r"gmu_lightning\.(data\.(store|audit|batching|readers|files)|fusion\.baselines\._|report|prediction|explanation)\w*.*",
    ),
]

html_theme = "furo"
html_title = "gmu_lightning"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sphinx = False
