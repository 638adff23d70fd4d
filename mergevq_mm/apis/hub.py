"""The models that the configs of this package describe, and the shipped, by name.

``model-index.yml`` and the metafiles that it imports have mmpretrain's format and are
read with the same library. They lie in the repository, and in an installed package
under ``.mim``, where OpenMMLab's tools look for them.
"""

from __future__ import annotations

import copy
import fnmatch
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..base.tier import COMMAND, MissingExtra, has_openmmlab
from ..utils.data_config import read_data
from ..utils.published import WEIGHTS
from ..utils.shipped import CONFIG, FOLDER, shipped_models

if TYPE_CHECKING:
    from modelindex.models.Model import Model

INDEX = 'model-index.yml'


def index_root() -> Path:
    """Folder of ``model-index.yml`` and ``configs``.

    Returns:
        Path: ``mergevq_mm/.mim`` of an installed package, or the repository.

    Raises:
        FileNotFoundError: If there is neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / '.mim', package.parent):
        if (folder / INDEX).is_file() and (folder / 'configs').is_dir():
            return folder
    raise FileNotFoundError(
        f'"{package}" has no {INDEX} beside it: install the package again, from a '
        'wheel or with pip install -e.'
    )


@lru_cache(maxsize=1)
def _models() -> dict[str, Model]:
    """All models by name in lower case; those of configs need OpenMMLab."""
    models: dict[str, Model] = {}
    for model in [*_of_configs(), *_shipped()]:
        name = model.name.lower()
        if name in models:
            raise ValueError(
                f'The name {model.name} stands twice, in {model.filepath} and '
                f'{models[name].filepath}; rename one of them.'
            )
        models[name] = model
    return models


def _of_configs() -> list[Model]:
    """What the metafiles say of the models of configs; none in the small tier."""
    if not has_openmmlab():
        return []
    from modelindex.load_model_index import load

    index = load(str(index_root() / INDEX))
    index.build_models_with_collections()
    return list(index.models)


def _described(**content: Any) -> Model:
    """An entry of the index; in the small tier a plain one of the same fields."""
    if not has_openmmlab():
        return SimpleNamespace(**content, results=None, filepath=None)
    from modelindex.models.Model import Model

    return Model(**content)


def _shipped() -> list[Model]:
    """What the folders of the shipped models say of them."""
    models = []
    for name in shipped_models():
        folder = FOLDER / name
        metadata = read_data(folder / CONFIG)['metadata']  # our own: nothing to check
        models.append(
            _described(
                name=name,
                metadata={
                    'Parameters': metadata['parameters'],
                    'Training Data': metadata.get('images'),
                },
                weights=str(folder / WEIGHTS),
                config=str(folder / 'config.py'),
            )
        )
    return models


def model_info(name: str) -> Model:
    """What the metafile says of a model.

    Args:
        name (str): Its name, in any case.

    Returns:
        modelindex.models.Model: With ``config``, the absolute path of its config,
        ``weights`` (None where there are none), ``metadata``, ``results``.

    Raises:
        ValueError: If there is no such model.
    """
    models = _models()
    if name.lower() not in models:
        if not has_openmmlab():
            raise MissingExtra(
                f'model="{name}" is no folder, and none of the models that come with '
                f'the package ({", ".join(models)}); the models of configs need '
                f'OpenMMLab: {COMMAND}.',
                name='mmengine',
            )
        import difflib

        close = difflib.get_close_matches(name.lower(), models, n=3, cutoff=0.4)
        hint = f' (did you mean {", ".join(close)}?)' if close else ''
        raise ValueError(
            f'model="{name}" is not known{hint}; choose one of '
            'mergevq_mm.list_models(), or give the path of a config or of a folder.'
        )
    info = copy.deepcopy(models[name.lower()])
    info.config = str(index_root() / info.config)
    return info


def list_models(
    pattern: str | None = None,
    exclude_patterns: list[str] | None = None,
    task: str | None = None,
    pretrained: bool = False,
) -> list[str]:
    """List the names of the models.

    Args:
        pattern (str, optional): What a name begins with, with wildcards. Defaults to
            None, all.
        exclude_patterns (list[str], optional): The same of names to leave out. Defaults
            to None.
        task (str, optional): A task that the paper reports results of, such as 'Image
            Generation'; 'null' for models without results. Defaults to None.
        pretrained (bool): Whether to list those alone that come with weights. Defaults
            to False.

    Returns:
        list[str]: In alphabetical order.

    Examples:
        >>> import mergevq_mm
        >>> mergevq_mm.list_models('mergevq_r')
        ['mergevq_r', 'mergevq_r_k64']
    """
    models = _models()
    names = set(models)
    if pattern is not None:
        names = set(fnmatch.filter(names, pattern.lower() + '*'))
    for excluded in exclude_patterns or []:
        names -= set(fnmatch.filter(names, excluded.lower() + '*'))
    if task is not None:
        names = {name for name in names if task in _tasks(models[name])}
    if pretrained:
        names = {name for name in names if models[name].weights}
    return sorted(names)


def _tasks(model: Model) -> set[str]:
    """Tasks of a model's results; 'null' where it has none."""
    return {result.task for result in model.results or []} or {'null'}
