"""What users rely on stands in a list; a test says what a change does to it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / 'tools' / 'public_interface.py'


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location('public_interface', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_has_changed(tool: ModuleType) -> None:
    changes = tool.difference(tool.FILE.read_text('utf-8'), tool.interface())
    assert not changes, (
        f'{changes}\nIf users are to see this: python tools/public_interface.py '
        '--update, and say so in the commit.'
    )


def test_names_that_everybody_knows(tool: ModuleType) -> None:
    """The list is not empty where a reader of the source may have gone blind."""
    lines = tool.interface().splitlines()
    start = lines.index('mergevq reconstruct')
    assert "    --keep nargs='+' type=K" in lines[start : start + 20]
    start = lines.index('tools/train.py')
    assert "    --amp action='store_true'" in lines[start : start + 20]
    for line in (
        'HOOKS RunStateHook',
        'MODELS MergeVQ(backbone, quantizer, neck, decoder, head, discriminator=None',
        'MODELS RandAR(',
        'DATASETS MergeVQCodes(root, keep=None, ',
        'VISBACKENDS RunWandbBackend',
        '  list_models(pattern=None',
        '    .__call__(inputs, return_datasamples=False, batch_size=8, **kwargs)',
        '  LFQ(bits=18, ',
    ):
        assert any(found.startswith(line) for found in lines), line


def test_a_rename_is_seen(tool: ModuleType) -> None:
    def listed(source: str) -> str:
        return tool.signature(ast.parse(source).body[0])

    before = listed("def f(a: int, /, b=2, *c, d: str = 'x', e, **f) -> int: ...")
    assert before == "(a, b=2, *c, d='x', e, **f)"
    assert listed('def f(a, *, b=-1): ...') == '(a, *, b=-1)'
    after = listed("def f(a: int, /, size=2, *c, d: str = 'x', e, **f) -> int: ...")
    assert tool.difference(f'f{before}', f'f{after}').splitlines()[-2:] == [
        f'-f{before}',
        f'+f{after}',
    ]


def test_an_option(tool: ModuleType) -> None:
    call = "p.add_argument('-o', '--out', nargs='?', type=Path, default='x', help='y')"
    found = tool.options(ast.parse(call))
    assert found == ["-o --out default='x' nargs='?' type=Path"]
