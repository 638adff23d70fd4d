"""JSON and YAML are data: nothing in them runs, imports, or is looked up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from mergevq_mm.utils.data_config import is_data, read_data


@pytest.mark.parametrize('ending', ['json', 'yaml', 'yml'])
def test_what_a_config_writes_is_read(tmp_path: Path, ending: str) -> None:
    model = dict(type='A', split=(2, 4), scale=1e-05, none=None, on=True, text='x: y')
    Config(dict(model=model)).dump(tmp_path / f'a.{ending}')
    read = read_data(tmp_path / f'a.{ending}')['model']
    assert {**read, 'split': tuple(read['split'])} == model


def test_endings_in_any_case(tmp_path: Path) -> None:
    assert is_data('a.JSON') and is_data('b/c.Yml') and not is_data('config.py')
    (tmp_path / 'a.JSON').write_text('{"model": {}}')
    assert read_data(tmp_path / 'a.JSON') == {'model': {}}


def test_nothing_runs_and_nothing_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What mmengine does with the same files."""
    mark, script = tmp_path / 'ran', tmp_path / 'evil.py'
    script.write_text(f'open({str(mark)!r}, "w")')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('SECRET', 'told')
    content = {
        '_base_': str(script),
        'custom_imports': {'imports': ['evil']},
        'model': {'a': '{{$SECRET:none}}', 'b': '{{fileDirname}}'},
    }
    (tmp_path / 'a.json').write_text(json.dumps(content))
    assert read_data(tmp_path / 'a.json') == content
    for tag in (
        f'!!python/object/apply:os.system ["touch {mark}"]',
        f'!!python/object/new:pathlib.Path ["{mark}"]',
        '!!python/name:os.system',
        '!!python/module:evil',
    ):
        for ending in ('yaml', 'yml'):
            (tmp_path / f'a.{ending}').write_text(f'model: {tag}\n')
            with pytest.raises(ValueError, match='is damaged .*could not determine'):
                read_data(tmp_path / f'a.{ending}')
    assert not mark.exists()


@pytest.mark.parametrize(
    ('ending', 'text', 'message'),
    [
        ('json', '{"model": ', 'is damaged'),
        ('json', '[' * 10**5, 'is damaged|recursion'),
        ('json', '[]', 'holds no config of a model'),
        ('json', '{"a":' * 60 + '1' + '}' * 60, 'holds no config of a model'),
        ('json', json.dumps({'a': [0] * 100_001}), 'holds no config of a model'),
        ('json', json.dumps({'a': 'x' * 2**20}), 'has 1,048,.* bytes; no config'),
        ('json', '{"a": ' + '9' * 5000 + '}', 'is damaged'),
        ('yaml', 'a: [b', 'is damaged'),
        ('yaml', 'text', 'holds no config of a model'),
        ('yaml', '', 'holds no config of a model'),
    ],
)
def test_damaged_and_endless(
    tmp_path: Path, ending: str, text: str, message: str
) -> None:
    path = tmp_path / f'a.{ending}'
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_data(path)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)


def test_lists_that_contain_lists_often(tmp_path: Path) -> None:
    """9^20 numbers in 20 lines."""
    lines = ['a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]']
    for i in range(1, 20):
        lines.append(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]')
    (tmp_path / 'a.yaml').write_text('\n'.join(lines))
    with pytest.raises(ValueError, match='holds no config of a model'):
        read_data(tmp_path / 'a.yaml')


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / 'a.json').write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match='is damaged .*utf-8'):
        read_data(tmp_path / 'a.json')
    with pytest.raises(FileNotFoundError, match='does not exist: give the path'):
        read_data(tmp_path / 'b.json')
