"""The house as its imports draw it: arrows run one way, and there is no circle."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'mergevq_mm'
# From below; a room imports those of lines above it alone. docs/architecture.md has it.
FLOORS = [
    {'base', 'version'},
    {'registry'},
    {'utils'},
    {'models/utils'},
    {
        'models/backbones',
        'models/decoders',
        'models/losses',
        'models/necks',
        'models/quantizers',
        'models/target_generators',
    },
    {'models/heads'},
    {'models/selfsup'},
    {'models/generators'},
    {'models'},
    {'datasets', 'official', 'shipped'},
    {'evaluation'},
    {'visualization'},
    {'apis', 'engine'},
    {'huggingface', 'web'},
    {'cli'},
    {'__main__', ''},  # the package itself
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def module_of(path: Path) -> str:
    """Name below the package."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(part for part in parts if part != '__init__')


def room_of(module: str) -> str:
    """The folder that it stands in; the rooms of models count by themselves."""
    first, *others = module.split('.')
    if first == 'models' and f'models/{others[:1] and others[0]}' in FLOOR:
        return f'models/{others[0]}'
    return first if first in FLOOR else ''


def imported(path: Path) -> Iterator[tuple[str, str, int]]:
    """What a file imports of the package: names, 'now', 'later' or 'types', and lines.

    'later' is what a function imports, 'types' what only a type checker sees.
    """
    here = ('mergevq_mm', *path.relative_to(PACKAGE).parts[:-1])

    def look(node: ast.AST, when: str) -> Iterator[tuple[str, str, int]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, when, node.lineno
        elif isinstance(node, ast.ImportFrom):
            start = here[: len(here) + 1 - node.level] if node.level else ()
            source = '.'.join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f'{source}.{alias.name}', when, node.lineno
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith(
            'TYPE_CHECKING'
        ):
            for child in node.body:
                yield from look(child, 'types')
            for child in node.orelse:
                yield from look(child, when)
        else:
            inner = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for child in ast.iter_child_nodes(node):
                yield from look(child, 'later' if inner else when)

    for name, when, line in look(ast.parse(path.read_text('utf-8')), 'now'):
        first, _, rest = name.partition('.')
        if first == 'mergevq_mm' and rest:
            yield rest, when, line


@cache
def arrows() -> list[tuple[str, str, str, str]]:
    """Importing and imported module, when, and the place of the import."""
    files = {module_of(path): path for path in PACKAGE.rglob('*.py')}
    found = []
    for module, path in sorted(files.items()):
        if path.is_relative_to(PACKAGE / '.mim'):  # configs and tools
            continue
        for name, when, line in imported(path):
            owner = name if name in files else name.rpartition('.')[0]
            place = f'{path.relative_to(PACKAGE.parent)}:{line}'
            found.append((module, owner, when, place))
    return found


def test_each_room_has_its_floor() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    rooms |= {f'models/{p.parent.name}' for p in PACKAGE.glob('models/*/__init__.py')}
    rooms |= {path.stem for path in PACKAGE.glob('*.py')} - {'__init__'}
    assert rooms <= set(FLOOR)


def test_rooms_import_those_below_them_alone() -> None:
    wrong = [
        f'{place}: {room_of(module) or "the package"} imports {room_of(owner)} ({when})'
        for module, owner, when, place in arrows()
        if room_of(owner)
        and room_of(module) != room_of(owner)
        and FLOOR[room_of(module)] <= FLOOR[room_of(owner)]
    ]
    assert wrong == []


@pytest.mark.parametrize('kinds', [{'now'}, {'now', 'later'}])
def test_no_files_import_each_other_in_a_circle(kinds: set[str]) -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for module, owner, when, _ in arrows():
        # A file imports its own package by being imported.
        if when in kinds and owner and not module.startswith(f'{owner}.'):
            graph[module].add(owner)
    list(TopologicalSorter(graph).static_order())  # a CycleError names the circle


def test_what_is_read_of_an_import() -> None:
    path = PACKAGE / 'models' / 'generators' / 'tokenizer.py'
    found = {(name, when) for name, when, _ in imported(path)}
    assert ('registry.MODELS', 'now') in found
    assert ('models.utils.budget.Budget', 'now') in found
    assert ('models.selfsup.mergevq.MergeVQ', 'types') in found
    assert ('utils.config.load_config', 'later') in found
