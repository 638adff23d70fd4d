"""The files of ``mergevq_mm`` that a tokenizer needs, for who has not the package.

A copy of this file lies in every published folder of a tokenizer, and with it, below,
the text of each file: as it stands in the package, each line behind a bar. Nothing of
it is used where the package is installed. In the package itself there is no text.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import CodeType, ModuleType

# Path -> text. The bars keep transformers from reading the imports in it as ours.
SOURCES: dict[str, str] = {}


class SourceFinder(MetaPathFinder, InspectLoader):
    """Imports the modules whose text is in :data:`SOURCES`."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Where a module is: here, or not.

        Args:
            fullname (str): Of the module.
            path (Sequence[str], optional): Of the package above it. Defaults to None.
            target (ModuleType, optional): Of a reload. Defaults to None.

        Returns:
            ModuleSpec | None: None where its text is not here.
        """
        file = _file(fullname)
        if file is None:
            return None
        package = file.endswith('__init__.py')
        origin = f'{__file__}/{file}'  # for the lines of a traceback
        spec = spec_from_loader(fullname, self, origin=origin, is_package=package)
        if spec is not None:
            spec.has_location = True
        return spec

    def is_package(self, fullname: str) -> bool:
        """Whether a module holds others."""
        return (_file(fullname) or '').endswith('__init__.py')

    def get_source(self, fullname: str) -> str | None:
        """The text of a module, as it stands in the package."""
        file = _file(fullname)
        if file is None:
            return None
        return SOURCES[file].replace('\n|', '\n')[1:]

    def get_code(self, fullname: str) -> CodeType:
        """The compiled text of a module.

        Raises:
            ImportError: If it is not here.
        """
        source, file = self.get_source(fullname), _file(fullname)
        if source is None:
            raise ImportError(f'{fullname} is none of the {len(SOURCES)} files here')
        return compile(source, f'{__file__}/{file}', 'exec', dont_inherit=True)


def _file(fullname: str) -> str | None:
    """Path of a module among the texts."""
    path = fullname.replace('.', '/')
    found = (name for name in (f'{path}/__init__.py', f'{path}.py') if name in SOURCES)
    return next(found, None)


def provide() -> None:
    """Let ``import mergevq_mm...`` find the texts, where the package is not installed.

    Raises:
        ImportError: If there are no texts: this is the package's own file.
    """
    if not SOURCES:
        raise ImportError(f'"{__file__}" carries no files; save the folder again.')
    for name in [n for n in sys.modules if n.partition('.')[0] == 'mergevq_mm']:
        del sys.modules[name]  # of a folder of that name, where somebody works
    sys.meta_path.insert(0, SourceFinder())
    # They are for people who do not train, whatever else is installed. (transformers
    # wants to have installed what an import statement names.)
    tier = import_module('mergevq_mm.base.tier')
    tier.has_openmmlab = lambda: False  # type: ignore[attr-defined]
