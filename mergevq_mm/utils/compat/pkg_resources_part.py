"""What mmengine and openmim ask of ``pkg_resources``, on :mod:`importlib.metadata`.

setuptools 82 has no ``pkg_resources`` any more. This file is imported under that name
where there is none; other names of the real module are missing here, so that who asks
for them sees the ImportError that they would see without it.
"""

from __future__ import annotations

from importlib import metadata
from importlib.metadata import PackageNotFoundError as DistributionNotFound

from packaging.version import parse as parse_version

__all__ = [
    'Distribution',
    'DistributionNotFound',
    'declare_namespace',
    'fixup_namespace_packages',
    'get_distribution',
    'parse_version',
]


class Distribution:
    """An installed package.

    Args:
        name (str): Name of the package.

    Raises:
        DistributionNotFound: If it is not installed.
    """

    def __init__(self, name: str) -> None:
        self._found = metadata.distribution(name)
        self.project_name = self._found.metadata['Name']
        self.version = self._found.version
        self.location = str(self._found.locate_file(''))

    def has_metadata(self, name: str) -> bool:
        """Tell whether the package's metadata have a file of that name."""
        return self._found.read_text(name) is not None

    def get_metadata(self, name: str) -> str:
        """Return a file of the package's metadata.

        Raises:
            FileNotFoundError: If there is none of that name.
        """
        text = self._found.read_text(name)
        if text is None:
            raise FileNotFoundError(f'{self.project_name} has no metadata {name!r}.')
        return text


def get_distribution(dist: str) -> Distribution:
    """Return an installed package by its name.

    Args:
        dist (str): The name.

    Returns:
        Distribution: The package.

    Raises:
        DistributionNotFound: If it is not installed.
    """
    return Distribution(dist)


def declare_namespace(name: str) -> None:
    """Say that there is no such thing, as an import of the real module would.

    Old namespace packages call it in a ``try``, and then use :mod:`pkgutil`.

    Args:
        name (str): Of the package.

    Raises:
        ImportError: Always.
    """
    raise ImportError(f'{name} is declared by pkgutil where pkg_resources is missing.')


def fixup_namespace_packages(path_item: str, parent: str | None = None) -> None:
    """Do nothing: pytest calls it for packages that only the real module declares.

    Args:
        path_item (str): A folder that came onto ``sys.path``.
        parent (str, optional): Name of the package above. Defaults to None.
    """
