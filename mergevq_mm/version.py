"""The version of the package, in this place alone; ``setup.py`` reads it unimported.

What it promises stands in CONTRIBUTING.md; the changelog has a heading for each.
"""

__version__ = '0.2.0'
