"""What a published folder carries so that transformers loads it.

::

    config.json               names the classes beside what from_pretrained reads
    preprocessor_config.json  how images are prepared
    modeling_mergevq.py       the classes, a copy of mergevq_mm/huggingface's
    mergevq_sources.py        the files of this package that they work with

There is no second copy of a model: the folder is written from the files of this
package, those that its tokenizer imports. transformers copies a file's relative imports
along, from a folder as from the hub, at the same revision, and when it saves a model;
but only files that lie beside each other. So the files of the package stand as text in
one file, which imports them from there.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .building import build_on_meta

PACKAGE = Path(__file__).resolve().parents[1]
CODE = ('modeling_mergevq.py', 'mergevq_sources.py')
PREPROCESSOR = 'preprocessor_config.json'

_AUTO = {
    'AutoConfig': 'modeling_mergevq.MergeVQConfig',
    'AutoModel': 'modeling_mergevq.MergeVQModel',
}
_PROCESSOR = 'MergeVQImageProcessor'
_PARTS = ('backbone', 'quantizer', 'neck', 'decoder')
# Where imports begin; what a published config can name registers itself.
_ENTRY = 'mergevq_mm.apis.published_tokenizer'
_MODELS = (
    'backbones.mergevq_encoder',
    'decoders.mergevq_decoder',
    'heads.alignment_head',
    'heads.mergevq_head',
    'necks.source_recovery',
    'quantizers.lfq',
    'selfsup.mergevq',
    'selfsup.mergevq_refinement',
)
# They read configs that are scripts, which no published folder has.
_LEFT_OUT = ('mergevq_mm.apis.model_config', 'mergevq_mm.utils.config')


def is_tokenizer(model: Mapping[str, Any]) -> bool:
    """Whether a published config is of a tokenizer.

    Args:
        model (Mapping): The config.

    Returns:
        bool: False of a generator.
    """
    return all(name in model for name in _PARTS)


def transformers_entries(model: Mapping[str, Any]) -> dict[str, Any]:
    """What ``config.json`` says to transformers.

    Args:
        model (Mapping): Published config.

    Returns:
        dict[str, Any]: Of a tokenizer or a generator, whose class says that it is none;
        nothing of another model.
    """
    if not (is_tokenizer(model) or 'tokenizer' in model):
        return {}
    return {
        'model_type': 'mergevq',
        'architectures': ['MergeVQModel'],
        'auto_map': _AUTO,
        'dtype': 'float32',  # also where the file holds float16
    }


def transformers_files(
    model: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, str]:
    """The files of a folder that transformers reads, beside config and weights.

    Args:
        model (Mapping): Published config.
        metadata (Mapping): What is told of it, with ``preparation`` where it is known.

    Returns:
        dict[str, str]: Names and texts.
    """
    if not transformers_entries(model):
        return {}
    modeling, sources = (
        (PACKAGE / 'huggingface' / name).read_text('utf-8') for name in CODE
    )
    files = dict(zip(CODE, (modeling, sources + carried_text()), strict=True))
    if is_tokenizer(model):
        files[PREPROCESSOR] = _preprocessor(model, metadata)
    return files


def _preprocessor(model: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Text of what AutoImageProcessor reads."""
    backbone: Any = build_on_meta(model['backbone'])
    content = {
        'image_processor_type': _PROCESSOR,
        'auto_map': {'AutoImageProcessor': f'modeling_mergevq.{_PROCESSOR}'},
        'preparation': metadata.get('preparation'),
        'shortest_edge': min(backbone.img_size),
        'stride': backbone.stride,
    }
    return json.dumps(content, indent=2) + '\n'


# ------------------------------------------------------------------ files as text


@cache
def carried_text() -> str:
    """The files of this package that a tokenizer needs, as ``SOURCES`` has them.

    Returns:
        str: Lines of Python that are to follow ``mergevq_sources.py``.

    Raises:
        ValueError: If a file cannot stand in a text.
    """
    texts = []
    for name, text in sorted(carried_sources().items()):
        if "'''" in text or text and not text.endswith('\n'):
            raise ValueError(f"{name} has ''' in it, or no end of its last line")
        barred = ''.join(f'|{line}' for line in text.splitlines(keepends=True))
        texts.append(f"SOURCES['{name}'] = r'''\n{barred}'''\n")
    return '\n\n' + ''.join(texts)


@cache
def carried_sources() -> dict[str, str]:
    """The files of this package that a tokenizer needs.

    A package of which nothing is imported but its modules is empty; that of the models
    imports those that are here, which register themselves.

    Returns:
        dict[str, str]: Texts by their paths, 'mergevq_mm/registry.py'.
    """
    todo = [_ENTRY, *(f'mergevq_mm.models.{name}' for name in _MODELS)]
    found: dict[str, str] = {}
    while todo:
        module = todo.pop()
        path = _path(module)
        name = path.relative_to(PACKAGE.parent).as_posix()
        if name in found or module in _LEFT_OUT:
            continue
        found[name] = path.read_text('utf-8')
        todo += _imports(module, path)
    for name in list(found):
        for folder in list(Path(name).parents)[:-1]:
            found.setdefault(f'{folder.as_posix()}/__init__.py', '')
    found['mergevq_mm/models/__init__.py'] = ''.join(
        'from .{} import {}  # noqa: F401\n'.format(*name.split('.'))
        for name in _MODELS
    )
    return found


def _path(module: str) -> Path:
    """File of a module of this package."""
    path = PACKAGE.parent / module.replace('.', '/')
    return path / '__init__.py' if path.is_dir() else path.with_suffix('.py')


def _imports(module: str, path: Path) -> Iterator[str]:
    """Modules of this package that a file imports, also within its functions."""
    above = module.split('.')
    if path.name != '__init__.py':
        above.pop()
    for node in _nodes(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = above[: len(above) - node.level + 1] if node.level else []
            room = '.'.join([*start, *filter(None, [node.module])])
            inner = [f'{room}.{alias.name}' for alias in node.names]
            names = [n if _is_module(n) else room for n in inner]
        else:
            continue
        yield from (n for n in names if n.partition('.')[0] == 'mergevq_mm')


def _is_module(name: str) -> bool:
    """Whether a name is that of a module of this package."""
    return name.partition('.')[0] == 'mergevq_mm' and _path(name).is_file()


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What a file is made of, without what is there for checkers of types alone."""
    children: list[ast.AST] = [*ast.iter_child_nodes(node)]
    if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
        children = [*node.orelse]
    for child in children:
        yield child
        yield from _nodes(child)
