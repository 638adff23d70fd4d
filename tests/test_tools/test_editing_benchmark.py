"""The measurement of edits: what it counts, and a run of it on tiny models."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_mergevq as tiny
import torch
from mmengine.config import Config
from PIL import Image
from torch import nn

from mergevq_mm.registry import MODELS

FOLDER = Path(__file__).parents[2] / 'tools' / 'benchmarks'


@pytest.fixture(scope='module')
def bench() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    import editing

    yield editing
    sys.path.remove(str(FOLDER))
    for name in ('common', 'editing', 'generate'):  # names of nobody but here
        sys.modules.pop(name, None)


def generator_cfg(**overrides: Any) -> dict:
    tokenizer = dict(
        type='mergevq_mm.FrozenTokenizer', model=tiny.model_cfg(), random_init=True
    )
    return {
        **dict(
            type='mergevq_mm.RandAR',
            tokenizer=tokenizer,
            arch=dict(embed_dims=32, num_layers=1, num_heads=2, ffn_multiple=16),
            num_classes=3,
            keep=dict(target=16, candidates=[6, 16]),
        ),
        **overrides,
    }


class Judge:
    """Sees the class of everything whose lower half is not black."""

    def measure(self, samples: list[dict]) -> list[tuple[int, int]]:
        return [
            (s['gt_label'], s['gt_label'] if (s['fake_img'][:, 4:] > 0).any() else -1)
            for s in samples
        ]


def test_what_is_counted(bench: ModuleType) -> None:
    model = MODELS.build(generator_cfg()).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    data = [(torch.rand(4, 3, 8, 8) * 2 - 1, torch.tensor([0, 1, 2, 0]))] * 2
    for by_class in (True, False):
        row, shown = bench.edit_all(model, Judge(), data, 'lower', 16, by_class, 0)
        assert row == dict(edited=8, drawn=8, kept=100, right=100, blank=0, whole=100)
        assert torch.equal(shown[0], data[0][0]) and shown[1].sum() == 32
        assert shown[2].shape == (4, 3, 8, 8)
    # Merged, only groups that lie in the part are drawn, and some images have none.
    flat = [(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))]
    row, _ = bench.edit_all(model, Judge(), [*data, *flat], 'centre', 6, True, 0)
    assert row['edited'] < 12 and 0 < row['drawn'] < 4 and row['kept'] == 100


def test_a_run(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tiny.write_images(tmp_path / 'data', per_class=4, split='val', size=8)
    data = dict(
        type='mergevq_mm.ImageFolder',
        data_root=str(tmp_path / 'data'),
        split='val',
        num_classes=2,
        test_mode=True,
        pipeline=[
            dict(type='mergevq_mm.LoadImage'),
            dict(type='mmpretrain.PackInputs'),
        ],
    )
    classifier = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='mmpretrain.LeNet5', num_classes=10),
        head=dict(type='mmpretrain.ClsHead'),
    )
    judge = dict(
        type='mergevq_mm.ClassConsistency',
        classifier=classifier,
        fake_nums=8,
        grey=True,
        input_size=32,
        random_init=True,
    )
    model = generator_cfg(num_classes=2)
    files = [str(tmp_path / name) for name in ('g.py', 'g.pth', 'edits.png', 'e.json')]
    cfg = dict(
        model=model,
        default_scope='mmagic',
        val_dataloader=dict(dataset=data),
        test_evaluator=dict(metrics=[judge]),
    )
    Config(cfg).dump(files[0])
    torch.save({'state_dict': MODELS.build(model).state_dict()}, files[1])
    words = [*files[:2], '--device', 'cpu', '--number', '4', '--batch-size', '3']
    words += ['--png', files[2], '--json', files[3], '--parts', 'right', 'centre']
    assert bench.main(words) == 0
    rows = json.loads(Path(files[3]).read_text())['rows']
    assert [row['name'] for row in rows] == [
        *('right, by class', 'right, without', 'centre, by class', 'centre, without')
    ]
    assert all(row['edited'] == 4 and row['kept'] == 100 for row in rows)
    assert [row['drawn'] for row in rows] == [8, 8, 4, 4]
    # Two parts of four rows: image, part, by class, without; of the first batch's two.
    assert Image.open(files[2]).size == (2 * 22 + 6, 8 * 22 + 6)
    assert 'edits at K = 16 of 16' in capsys.readouterr().out
    for more, message in (
        (['--keep', '7'], 'keep=7 is not known to this generator'),
        (
            ['--cfg-options', 'test_evaluator.metrics=[]'],
            'no ClassConsistency in',
        ),
    ):
        with pytest.raises(ValueError, match=message):
            bench.main([*words, *more])
    with pytest.raises(SystemExit):
        bench.main([*words, '--number', '0'])
    assert '0 is not a whole number above 0' in capsys.readouterr().err
