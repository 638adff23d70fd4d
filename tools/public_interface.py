"""List what users rely on: command lines, names in registries, public signatures.

The list is read from the source, without importing the stack, so that it is the same
with every Python and every version of the packages. It stands in
``tests/public_interface.txt``; a test compares, and a rename is seen in review. The
list of a version that is released, or of a patch, stays as it is (CONTRIBUTING.md).

Examples:
    python tools/public_interface.py             say what differs from the file
    python tools/public_interface.py --update    write the file anew
"""

from __future__ import annotations

import argparse
import ast
import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'mergevq_mm'
FILE = ROOT / 'tests' / 'public_interface.txt'
CHANGELOG = ROOT / 'CHANGELOG.md'
HEADING = re.compile(r'^## (\d+\.\d+\.\d+) \((.+)\)$', re.MULTILINE)
HEADER = """\
# What users rely on: command lines, names in registries, public signatures.
# Renew with `python tools/public_interface.py --update`; say in the commit what changes
# for a user.
"""
# Of an option, what decides which words it takes and what comes of them.
KEPT = ('action', 'choices', 'const', 'default', 'nargs', 'required', 'type')


@cache
def tree(path: Path) -> ast.Module:
    """The source of a file, parsed once."""
    return ast.parse(path.read_text(encoding='utf-8'))


# ------------------------------------------------------------------------ command lines


def option(call: ast.Call) -> str:
    """One call of ``add_argument``: names, and what the option takes."""
    names = [
        node.value if isinstance(node, ast.Constant) else ast.unparse(node)
        for node in call.args
    ]
    kept = sorted((k.arg, ast.unparse(k.value)) for k in call.keywords if k.arg in KEPT)
    return ' '.join([*names, *(f'{name}={value}' for name, value in kept)])


def options(node: ast.AST) -> list[str]:
    """The options that a piece of source adds to its parser."""
    calls = (n for n in ast.walk(node) if isinstance(n, ast.Call))
    return sorted(
        option(call)
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == 'add_argument'
    )


def command_lines() -> Iterator[str]:
    """Commands of ``mergevq``, then the scripts of ``tools/``, with their options."""
    yield from commands()
    for path in sorted((ROOT / 'tools').rglob('*.*')):
        if path.suffix in ('.py', '.sh'):
            yield path.relative_to(ROOT).as_posix()
            found = options(tree(path)) if path.suffix == '.py' else []
            yield from (f'    {o}' for o in found)


def commands() -> Iterator[str]:
    """Commands of ``mergevq``: of its parser, for they share many options."""
    from mergevq_mm.cli.arguments import add_commands

    yield 'mergevq'
    yield from (f'    {o}' for o in options(tree(PACKAGE / 'cli' / 'main.py')))
    made = argparse.ArgumentParser().add_subparsers()
    add_commands(made)
    for name, parser in made.choices.items():
        yield f'mergevq {name}'
        known = [a for a in parser._actions if a.dest != 'help']
        yield from sorted(f'    {_action(action)}' for action in known)


def _action(action: argparse.Action) -> str:
    """As :func:`option`, of an option that a parser has."""
    words = list(action.option_strings) or [action.dest]
    if action.choices:
        words.append(f'choices={list(action.choices)}')
    if action.default not in (None, False, argparse.SUPPRESS):
        default = action.default
        words.append(
            f'default={default if isinstance(default, list) else str(default)!r}'
        )
    words += [f'nargs={action.nargs!r}'] if action.nargs not in (None, 0) else []
    words += ['required=True'] if action.required and action.option_strings else []
    words += [f'type={action.type.__name__}'] if action.type is not None else []
    return ' '.join(words)


# --------------------------------------------------------------------------- signatures


def signature(function: ast.FunctionDef, method: bool = False) -> str:
    """Names and defaults of the arguments, without their types."""
    args = function.args
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + args.defaults
    words = [_argument(a, d) for a, d in zip(plain, defaults)]
    kinds = {getattr(d, 'id', '') for d in function.decorator_list}
    if method and 'staticmethod' not in kinds:
        words = words[1:]  # self
    if args.vararg is not None:
        words.append(f'*{args.vararg.arg}')
    elif args.kwonlyargs:
        words.append('*')
    words += [_argument(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults)]
    words += [f'**{args.kwarg.arg}'] if args.kwarg is not None else []
    return f'({", ".join(words)})'


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return argument.arg + ('' if default is None else f'={ast.unparse(default)}')


@cache
def classes() -> dict[str, ast.ClassDef]:
    """All classes of the package by name."""
    return {
        node.name: node
        for path in sorted(PACKAGE.rglob('*.py'))
        if PACKAGE / 'base' not in path.parents  # as unknown as OpenMMLab's
        for node in tree(path).body
        if isinstance(node, ast.ClassDef)
    }


def lineage(node: ast.ClassDef) -> Iterator[ast.ClassDef]:
    """A class and those of the package that it comes from, depth first."""
    yield node
    for base in map(ast.unparse, node.bases):
        if base in classes():
            yield from lineage(classes()[base])


def constructor(node: ast.ClassDef) -> str:
    """How a class is called: by its ``__init__``, its fields, or as its base is."""
    for kind in lineage(node):
        for part in kind.body:
            if isinstance(part, ast.FunctionDef) and part.name == '__init__':
                return signature(part, method=True)
        marks = ' '.join(map(ast.unparse, [*kind.bases, *kind.decorator_list]))
        if 'NamedTuple' in marks or 'dataclass' in marks:
            fields = [part for part in kind.body if isinstance(part, ast.AnnAssign)]
            return f'({", ".join(map(_field, fields))})'
    return f' as {", ".join(map(ast.unparse, kind.bases)) or "object"}'


def _field(part: ast.AnnAssign) -> str:
    default = '' if part.value is None else f'={ast.unparse(part.value)}'
    return ast.unparse(part.target) + default


def methods(node: ast.ClassDef) -> list[str]:
    """Public methods and properties of a class, those of its bases of ours too."""
    found: dict[str, str] = {}
    for part in (part for kind in lineage(node) for part in kind.body):
        if isinstance(part, ast.FunctionDef) and (
            not part.name.startswith('_') or part.name == '__call__'
        ):
            marks = [ast.unparse(mark) for mark in part.decorator_list]
            if 'overload' in marks:
                continue
            property_ = any('property' in mark for mark in marks)
            how = '' if property_ else signature(part, method=True)
            found.setdefault(part.name, f'    .{part.name}{how}')
    return sorted(found.values())


# ----------------------------------------------------------------- registries and rooms


def registered() -> Iterator[str]:
    """Registry, name and arguments of all that a config can name."""
    found = []
    for path in sorted(PACKAGE.rglob('*.py')):
        for node in tree(path).body:
            for mark in getattr(node, 'decorator_list', ()):
                call = mark.func if isinstance(mark, ast.Call) else mark
                if getattr(call, 'attr', '') == 'register_module':
                    names = [k.value.value for k in mark.keywords if k.arg == 'name']
                    made = isinstance(node, ast.ClassDef)
                    how = constructor(node) if made else signature(node)
                    found.append(f'{call.value.id} {(names or [node.name])[0]}{how}')
    yield from sorted(found)


def public() -> Iterator[str]:
    """What the rooms of the package export, with the methods of the classes.

    The package itself exports what its rooms have, so that its names suffice.
    """
    for path in sorted(PACKAGE.rglob('__init__.py')):
        names = _exported(tree(path))
        if not names or 'compat' in path.parts:
            continue
        yield '.'.join(path.parent.relative_to(ROOT).parts)
        for name in names:
            node = None if path.parent == PACKAGE else _definition(path, name)
            if isinstance(node, ast.ClassDef):
                yield f'  {name}{constructor(node)}'
                yield from methods(node)
            else:
                yield f'  {name}{"" if node is None else signature(node)}'


def _exported(source: ast.Module) -> list[str]:
    """The names of ``__all__``."""
    for node in source.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__':
            # A star stands for the names of another room, which are listed there.
            return sorted(
                n.value for n in node.value.elts if isinstance(n, ast.Constant)
            )
    return []


def _definition(path: Path, name: str) -> ast.ClassDef | ast.FunctionDef | None:
    """Where a name that a file has is defined; None of a module or a constant."""
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            if name in [alias.asname or alias.name for alias in node.names]:
                folder = path.parents[node.level - 1]
                target = folder.joinpath(*node.module.split('.'))
                module = target.with_suffix('.py')
                found = module if module.is_file() else target / '__init__.py'
                return _definition(found, name)
    return None


# ----------------------------------------------------------------------------- the file


def interface() -> str:
    """The whole list."""
    parts = {
        'Command lines': command_lines(),
        'Registries': registered(),
        'Public names': public(),
    }
    text = [HEADER]
    for title, lines in parts.items():
        text.append('\n'.join([f'\n## {title}\n', *lines]) + '\n')
    return ''.join(text)


def difference(expected: str, found: str) -> str:
    """What has changed, as the lines of a diff; empty where nothing has."""
    lines = difflib.unified_diff(
        expected.splitlines(), found.splitlines(), 'the file', 'the code', '', '', 0, ''
    )
    return '\n'.join(lines)


def versions(changelog: str) -> list[tuple[str, str]]:
    """Version and date of each heading, newest first; the date may be "unreleased"."""
    return HEADING.findall(changelog)


def frozen(changelog: str) -> str:
    """Why the list of the newest version cannot change; empty where it can."""
    version, date = versions(changelog)[0]
    if date != 'unreleased':
        return f'{version} was released on {date}'
    return '' if version.endswith('.0') else f'{version} is a patch'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='List what users rely on')
    parser.add_argument('--update', action='store_true', help='write the file anew')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    changes = difference(FILE.read_text(encoding='utf-8'), interface())
    if args.update and changes:
        if why := frozen(CHANGELOG.read_text(encoding='utf-8')):
            sys.exit(
                f'error: {why}, and what users rely on stays as it is in it: raise the '
                'minor version in mergevq_mm/version.py and CITATION.cff, and begin '
                'its heading in CHANGELOG.md.'
            )
        FILE.write_text(interface(), encoding='utf-8')
        print(f'{FILE} is written; say in the commit what changes for a user.')
        return
    print(changes or 'as it was')
    sys.exit(bool(changes))


if __name__ == '__main__':
    main()
