"""Models that the package ships with their weights, and how a name finds them.

A name is that of a shipped model, unless a folder of a model (with a config.json) of
this name lies where the process works: then that is meant, and it is said. What else
has the name, such as a folder of pictures, is no model and hides nothing. A ``Path``,
or a text such as './digits', is always a path.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / 'shipped'
CONFIG = 'config.json'


def shipped_models() -> list[str]:
    """Names of the models that come with the package, in alphabetical order."""
    return sorted(path.parent.name for path in FOLDER.glob(f'*/{CONFIG}'))


def find_model(source: str | os.PathLike) -> str | os.PathLike:
    """The folder of a shipped model, where a name is one.

    Args:
        source (str | PathLike): What somebody names.

    Returns:
        str | PathLike: A ``Path`` where it is the name of a shipped model, otherwise
        ``source``.
    """
    if not isinstance(source, str) or source.lower() not in shipped_models():
        return source
    here = Path(source)
    if not (here / CONFIG).is_file():
        return FOLDER / source.lower()
    logging.getLogger('mergevq_mm').warning(
        '"%s" is the model in the folder "%s", not the shipped one of this name: that '
        'one is had from another folder.',
        source,
        here.resolve(),
    )
    return here
