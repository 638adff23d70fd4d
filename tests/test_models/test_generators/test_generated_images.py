"""Generators with a real, tiny tokenizer: images to losses, seeds to images."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny_mergevq
import torch
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from tiny_mergear import ARCH
from tiny_mergevq import LENGTH, SIZE

import mergevq_mm.models.generators.tokenizer  # noqa: F401
from mergevq_mm.models.generators.code_generator import CodeGenerator
from mergevq_mm.registry import MODELS

KINDS = {
    'raster': dict(type='mergevq_mm.MergeAR'),
    'distinct': dict(type='mergevq_mm.MergeAR', sequence='distinct'),
    'random': dict(type='mergevq_mm.RandAR'),
    'random places': dict(type='mergevq_mm.RandAR', positions='raster'),
}


def build(kind: str, neck: dict | None = None, **overrides: Any) -> CodeGenerator:
    """A generator with a random tokenizer of 4×4 positions and 6 bits."""
    tokenizer = tiny_mergevq.model_cfg()
    tokenizer['neck'] = neck or tokenizer['neck']
    cfg = dict(
        tokenizer=dict(
            type='mergevq_mm.FrozenTokenizer', model=tokenizer, random_init=True
        ),
        arch=ARCH,
        num_classes=2,
        keep=dict(target=9, candidates=[6, 9, 16]),
        dropout=0.0,
    )
    return MODELS.build({**cfg, **KINDS[kind], **overrides})


def image_batch() -> dict:
    images = torch.randint(256, (4, 3, SIZE, SIZE)).float()
    samples = [DataSample().set_gt_label(i % 2) for i in range(4)]
    return dict(inputs=images, data_samples=samples)


@pytest.mark.parametrize('kind', KINDS)
def test_it_learns_the_codes_of_a_batch(kind: str) -> None:
    model = build(kind, keep=9).train()
    model.init_weights()
    wrapper = OptimWrapper(torch.optim.Adam(model.parameters(), 3e-3))
    batch = image_batch()
    logs = [model.train_step(batch, wrapper) for _ in range(40)]
    assert logs[0]['loss'].item() == pytest.approx(6 * math.log(2), rel=1e-3)
    assert all(log['keep'] == 9 and log['nonfinite'] == 0 for log in logs)
    # Four images of two classes: what is left is which of the two it is.
    assert logs[-1]['loss'] < 0.6 * logs[0]['loss']
    assert logs[-1]['code_acc'] > logs[0]['code_acc'] + 0.2


@pytest.mark.parametrize('kind', KINDS)
def test_images_of_the_codes(kind: str) -> None:
    model = build(kind).eval()
    images, drawn = model.generate([0, 1, 1], keep=6, seed=3, guidance=1.5)
    assert images.shape == (3, 3, SIZE, SIZE) and images.abs().max() <= 1
    assert drawn.index.shape == (3, LENGTH if kind == 'raster' else 6)
    assert drawn.complete == (kind == 'raster')
    assert 0 <= drawn.index.min() and drawn.index.max() < 2**6
    with torch.no_grad():
        decoded = model.tokenizer.decode(drawn.index, (4, 4), drawn.complete)
    assert torch.equal(images, decoded.clamp(-1, 1))
    assert not torch.equal(images[1], images[2])
    again, _ = model.generate([0, 1, 1], keep=6, seed=3, guidance=1.5)
    assert torch.equal(images, again)


@pytest.mark.parametrize(('classes', 'told'), [(2, True), (3, False)])
def test_the_recovery_is_told_of_the_classes_that_it_knows(
    classes: int, told: bool
) -> None:
    neck = {**tiny_mergevq.model_cfg()['neck'], 'num_classes': classes}
    model = build('distinct', neck=neck).eval()
    recovery, seen = model.tokenizer.network.neck, []
    recovery.register_forward_pre_hook(lambda module, args: seen.append(args[3]))
    model.generate([1, 0, 1], keep=6)
    (labels,) = seen
    assert labels.tolist() == [1, 0, 1] if told else labels is None


def test_the_tokenizer_is_no_part_of_the_generator() -> None:
    model = build('random')
    assert not [name for name in model.state_dict() if 'tokenizer' in name]
    assert model.GENERATOR_PARTS == (
        'class_embedding',
        'keep_embedding',
        'embedding',
        'transformer',
        'head',
        'instruction',
    )


@pytest.mark.parametrize('kind', ['distinct', 'random'])
def test_source_recovery_is_needed(kind: str) -> None:
    neck = dict(type='mergevq_mm.GroupMapRecovery')
    with pytest.raises(ValueError, match='SourceRecovery'):
        build(kind, neck=neck)
    assert build('raster', neck=neck).eval().generate([0])[1].complete
