"""Sphinx: the pages of this folder, and the reference out of the docstrings."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_scope: dict[str, str] = {}
exec((ROOT / 'mergevq_mm' / 'version.py').read_text(encoding='utf-8'), _scope)

project = 'mergevq_mm'
author = copyright = 'the mergevq_mm authors'
release = _scope['__version__']

extensions = ['myst_parser', 'autoapi.extension', 'sphinx.ext.napoleon']
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = f'mergevq_mm {release}'
html_show_copyright = False

# The pages are read on code hosts, too: their way to name headings.
myst_heading_anchors = 4

# The sources are read, nothing is imported: the build needs none of what they need.
autoapi_dirs = [str(ROOT / 'mergevq_mm')]
autoapi_root = 'api'
autoapi_ignore = ['*/compat/*', '*/.mim/*', '*/shipped/*', '*/__main__.py']
autoapi_options = ['members', 'show-inheritance', 'show-module-summary']
autoapi_python_class_content = 'class'
autoapi_member_order = 'bysource'
autoapi_add_toctree_entry = False
# Names that a room imports when they are asked for.
suppress_warnings = ['autoapi.python_import_resolution']
