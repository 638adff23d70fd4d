"""What tests spare their runs changes nothing that a test sees."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from quick_runs import CONFIGS, plain

FOLDER = CONFIGS / 'pictures' / 'mergevq_folder.py'


def test_a_remembered_config_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MERGEVQ_FOLDER', 'one')
    first, second = Config.fromfile(FOLDER), Config.fromfile(FOLDER)
    assert first.to_dict() == second.to_dict()
    first.model.backbone.clear()
    assert Config.fromfile(FOLDER).to_dict() == second.to_dict()
    monkeypatch.setenv('MERGEVQ_FOLDER', 'two')
    other = Config.fromfile(FOLDER).train_dataloader.dataset.data_prefix
    assert (second.train_dataloader.dataset.data_prefix, other) == ('one', 'two')


def test_a_config_that_is_no_python_is_an_error() -> None:
    assert Config(dict(lr=[0.1])).pretty_text == 'lr=[\n    0.1,\n    ]'
    with pytest.raises(SyntaxError):
        plain('model = <object at 0x1>')
    with pytest.raises(SyntaxError, match='Failed to format the config'):
        _ = Config(dict(model=object())).pretty_text
