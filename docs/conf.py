"""Sphinx configuration (``make docs``). The build downloads nothing, and warnings are errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import diffvae

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))
# The kernels that execute tutorials inherit these. Waiting threads must not spin, which would slow down working ones.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# tqdm would warn, with a local path, that its notebook widgets are missing.
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(DOCS / "_ext"), os.environ.get("PYTHONPATH")]))

project = "diffvae"
author = "The diffvae developers"
copyright = author
version = release = diffvae.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "command_reference",
    "mathml",
]
exclude_patterns = ["_build", "_ext", "jupyter_execute", "**.ipynb_checkpoints"]
templates_path = ["_templates"]

# Tutorials are executed at each build. DOCS_EXECUTION=cache skips unchanged ones; DOCS_EXECUTION=off skips all.
nb_execution_mode = os.environ.get("DOCS_EXECUTION", "force")
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_excludepatterns = ["study.md"]
nb_output_stderr = "warn"  # output on stderr fails the build
nb_merge_streams = True
nb_execution_show_tb = True
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]

autosummary_generate = True
autosummary_imported_members = True
# `passport` and its result `Passport` would share a file on case-insensitive file systems.
autosummary_filename_map = {
    f"diffvae.{space}.{name}": f"diffvae.{space}.{name}_result"
    for space in diffvae.__all__
    for names in [getattr(diffvae, space).__all__]
    for name in names
    if name != name.lower() and name.lower() in names
}
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
add_module_names = False

html_theme = "furo"
html_title = f"diffvae {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"
