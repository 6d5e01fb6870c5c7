"""How Sphinx builds this site: ``scripts/docs``. Nothing is fetched, and a warning is an error."""

import sys
from pathlib import Path

from superbatch import __version__


sys.path.insert(0, str(Path(__file__).parent / "_ext"))


project = "Superbatch"
author = "the Superbatch contributors"
project_copyright = "Apache-2.0"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "api",
    "as_written",
]
exclude_patterns = ["_build", "results"]
suppress_warnings = [
    "toc.empty_glob",  # method cards and how-tos are found, not listed
    "ref.python",  # a name that a package takes from its module is one thing with two addresses
]

autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config"}
autosummary_generate = False
autodoc_preserve_defaults = True
default_role = "py:obj"
python_maximum_signature_line_length = 80

# Cells run where nothing is in their way, and a cell that fails is an error.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True
nb_render_markdown_format = "myst"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"Superbatch {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
