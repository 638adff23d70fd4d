"""The parts that docs/extend.md shows train, and its config names them rightly."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import tiny_mergevq as tiny
import torch
from doc_commands import REPO, blocks

from mergevq_mm.models.utils.merge_schedule import SCHEDULES, merge_schedule
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.config import load_config

*PARTS, CONFIG = blocks(REPO / 'docs' / 'extend.md', 'python')
NAMES = ('BSQ', 'JoinedTeachers')


@pytest.fixture
def my_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page's parts as a module that Python finds; forgotten afterwards."""
    (tmp_path / 'my_parts.py').write_text('\n\n'.join(PARTS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'my_parts', raising=False)
    import my_parts

    yield my_parts
    for name in NAMES:
        MODELS.module_dict.pop(name)
    SCHEDULES.pop('last_half')
    sys.modules.pop('my_parts')


def test_each_part_has_twenty_lines() -> None:
    assert len(PARTS) == 3
    for part in PARTS:
        code = [line for line in part.splitlines() if line.strip()]
        assert len(code) <= 20


def test_parts_train(my_parts: ModuleType) -> None:
    cfg = tiny.model_cfg()
    cfg['backbone']['schedule'] = 'last_half'
    cfg['quantizer']['type'] = 'mergevq_mm.BSQ'
    cfg['target_generator'] = dict(
        type='mergevq_mm.JoinedTeachers', teachers=[tiny.TEACHER, tiny.TEACHER]
    )
    cfg['head']['alignment'].update(out_channels=2 * tiny.DIMS, loss='cosine')
    model = MODELS.build(cfg)
    model.init_weights()
    model.train()
    assert isinstance(model.quantizer, my_parts.BSQ)
    before = tiny.clone_state(model)
    logs = model.train_step(tiny.batch(), tiny.optimizers(model))
    assert all(torch.isfinite(value).all() for value in logs.values())
    for part in ('backbone', 'quantizer', 'decoder', 'head.alignment'):
        changed = [
            not torch.equal(value, before[name])
            for name, value in model.state_dict().items()
            if name.startswith(part)
        ]
        assert any(changed), part


def test_quantizer_puts_vectors_on_the_sphere(my_parts: ModuleType) -> None:
    quantizer = MODELS.build(dict(type='mergevq_mm.BSQ', bits=6, split=(2, 4)))
    z = torch.randn(3, 5, 6) * 7
    lengths = quantizer.projection(z).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 6**0.5))
    assert torch.equal(quantizer(z).codes, z.sign())


def test_teacher_joins_targets_of_length_one(my_parts: ModuleType) -> None:
    cfg = dict(type='mergevq_mm.JoinedTeachers', teachers=[tiny.TEACHER] * 3)
    teacher = MODELS.build(cfg)
    teacher.init_weights()
    target = teacher(torch.randn(2, 3, tiny.SIZE, tiny.SIZE))
    assert target.shape == (2, 3 * tiny.DIMS)
    lengths = target.unflatten(1, (3, -1)).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_schedule(my_parts: ModuleType) -> None:
    assert merge_schedule(64, 40, 4, 'last_half') == [0, 0, 12, 12]
    assert merge_schedule(64, 17, 5, 'last_half') == [0, 0, 15, 15, 17]
    assert merge_schedule(64, 4, 4, 'last_half') == [32, 16, 8, 4]


def test_config_builds(
    my_parts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = (REPO / 'configs' / 'mergevq_g+r.py').as_posix()
    file = tmp_path / 'my_config.py'
    file.write_text(CONFIG.replace("'mergevq_g+r.py'", repr(base)))
    cfg = load_config(str(file))
    assert cfg.custom_imports['imports'] == ['mergevq_mm', 'my_parts']
    with torch.device('meta'):
        backbone = MODELS.build(cfg.model.backbone)
        quantizer = MODELS.build(cfg.model.quantizer)
    assert backbone.schedule == 'last_half'
    assert isinstance(quantizer, my_parts.BSQ)
    (teacher,) = MODELS.build(cfg.model.target_generator).teachers
    assert type(teacher).__name__ == 'FrozenTeacher'
