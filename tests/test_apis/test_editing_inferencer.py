"""Edits of images as users have them: against the model, and bad masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_mergevq as tiny
import torch
from mmengine.config import Config
from PIL import Image

from mergevq_mm.apis import EditingInferencer
from mergevq_mm.apis.editing_inferencer import prepare_edit
from mergevq_mm.apis.preparation import Preparation
from mergevq_mm.models import RandAR
from mergevq_mm.models.generators.generation_request import seeds_of
from mergevq_mm.registry import MODELS
from mergevq_mm.visualization import shade_region

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
MASK = np.zeros((8, 8), dtype=bool)
MASK[2:7, 3:6] = True  # tokens of rows 1 to 3 and columns 1 and 2
TOKENS = np.zeros((4, 4), dtype=bool)
TOKENS[1:4, 1:3] = True


@pytest.fixture(scope='module')
def model() -> RandAR:
    torch.manual_seed(0)
    tokenizer = dict(
        type='mergevq_mm.FrozenTokenizer', model=tiny.model_cfg(), random_init=True
    )
    arch = dict(embed_dims=32, num_layers=1, num_heads=2, ffn_multiple=16)
    generator = MODELS.build(
        dict(
            type='mergevq_mm.RandAR',
            tokenizer=tokenizer,
            arch=arch,
            num_classes=3,
            keep=dict(target=16, candidates=[9, 16]),
        )
    )
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return generator.eval()


@pytest.fixture(scope='module')
def edit(model: RandAR) -> EditingInferencer:
    return EditingInferencer(model, device='cpu', show_progress=False)


def test_edits_are_those_of_the_model(
    model: RandAR, edit: EditingInferencer, tmp_path: Path
) -> None:
    results = edit(PIXELS, mask=MASK, label=2, num=3, batch_size=2, out_dir=tmp_path)
    image = torch.from_numpy(PIXELS).permute(2, 0, 1)[None] / 127.5 - 1
    images, drawn = model.generate(
        [2, 2, 2], seeds=seeds_of(0, range(3)), known=image, region=torch.tensor(MASK)
    )
    index, group, _ = model.tokenizer.encode(image, 16)
    before = index.gather(1, group)[0].numpy()
    for i, result in enumerate(results):
        assert result['index'].tolist() == drawn.index[i].tolist()
        kept = ~TOKENS.flatten()
        assert np.array_equal(result['index'][kept], before[kept])
        grey = ((images[i] / 2 + 0.5) * 255).permute(1, 2, 0).numpy()
        assert np.abs(result['image'] - grey).max() < 1.01
        assert np.array_equal(result['original'], PIXELS)
        assert np.array_equal(result['region'], TOKENS.repeat(2, 0).repeat(2, 1))
        assert (result['place'], result['label'], result['keep']) == (i, 2, 16)
        path = tmp_path / f'image00000_edit{i}.png'
        assert np.array_equal(Image.open(path), result['image'])
    alone = edit(PIXELS, mask=MASK, label=2)[0]
    assert alone['index'].tolist() == results[0]['index'].tolist()
    other = edit(PIXELS, mask=MASK, label=2, seed=1)[0]
    assert other['index'].tolist() != alone['index'].tolist()
    free = edit(PIXELS, mask=MASK)[0]  # without a class
    right = model.generate(None, seeds=seeds_of(0, [0]), known=image, region=MASK)[1]
    assert free['label'] is None and free['index'].tolist() == right.index[0].tolist()


@pytest.mark.parametrize(
    'mask',
    [
        MASK.astype(np.uint8),
        MASK.astype(np.uint8) * 255,
        MASK.astype(float),
        torch.from_numpy(MASK),
        torch.from_numpy(MASK)[None],
        Image.fromarray(MASK),
        Image.fromarray(MASK.astype(np.uint8) * 255).convert('RGB'),
    ],
    ids=['0 1', '0 255', 'floats', 'tensor', '1xHxW', '1 bit', 'colours'],
)
def test_masks_of_every_kind(edit: EditingInferencer, mask: Any) -> None:
    assert np.array_equal(edit.read_mask(mask), MASK)


def test_a_transparent_mask_marks_nothing(
    edit: EditingInferencer, tmp_path: Path
) -> None:
    layer = np.zeros((8, 8, 4), dtype=np.uint8)
    layer[MASK] = 255
    Image.fromarray(layer).save(tmp_path / 'layer.png')
    assert np.array_equal(edit.read_mask(str(tmp_path / 'layer.png')), MASK)


def test_several_images_and_a_broken_one(
    edit: EditingInferencer, tmp_path: Path
) -> None:
    for name in ('a', 'c'):
        Image.fromarray(PIXELS[::-1] if name == 'c' else PIXELS).save(
            tmp_path / f'{name}.png'
        )
    (tmp_path / 'b.png').write_text('nothing')
    results = edit(str(tmp_path), mask=MASK, label=0, num=2, batch_size=3)
    assert [(r['name'], r['place']) for r in results] == [
        *(('a', 0), ('a', 1), ('c', 0), ('c', 1))
    ]
    assert len(edit.failed) == 1 and 'b.png' in edit.failed[0]


def test_masks_go_where_their_image_goes() -> None:
    """Resized, padded and cropped as in the digits' validation."""
    cfg = Config.fromfile('configs/quickstart/mergevq_g+r_mnist5k.py')
    prepare = Preparation(cfg.val_dataloader.dataset.pipeline, 32, 4)
    pixels, region = np.zeros((28, 28, 3), np.uint8), np.zeros((28, 28), bool)
    region[14:] = True
    image, marked = prepare_edit(prepare, pixels, region)
    assert image.shape == (32, 32, 3) and marked.shape == (32, 32)
    assert marked[16:30, 2:30].all() and marked.sum() == 14 * 28
    # A border of any colour is not in the region.
    pipeline = [dict(step) for step in cfg.val_dataloader.dataset.pipeline]
    pipeline[1]['pad_val'] = (255, 255, 255)
    again = prepare_edit(Preparation(pipeline, 32, 4), pixels, region)
    assert np.array_equal(again[1], marked) and again[0][0, 0, 0] == 255
    # Twice as large: the same half.
    large = prepare_edit(
        Preparation(None, 32, 4),
        *(x.repeat(2, 0).repeat(2, 1) for x in (pixels, region)),
    )
    assert large[1][16:].all() and not large[1][:16].any()


def test_a_mask_of_which_nothing_is_left_is_no_empty_one() -> None:
    pixels, region = np.zeros((80, 120, 3), np.uint8), np.zeros((80, 120), bool)
    region[40, 60] = region[:, 3] = True  # too thin, and cropped away
    with pytest.raises(ValueError, match='marks 81 pixels, of which .* to 8×8 leaves'):
        prepare_edit(Preparation(None, 8, 2), pixels, region)


def test_a_photograph_that_lies_on_its_side(
    edit: EditingInferencer, tmp_path: Path
) -> None:
    """Its mask is as it is seen, or lies on the same side."""
    seen, mask = np.zeros((8, 12, 3), np.uint8), np.zeros((8, 12), np.uint8)
    seen[:, :3], mask[4:] = 255, 255
    exif = Image.Exif()
    exif[0x0112] = 6
    names = {'seen': seen, 'mask': mask}
    for name, pixels in names.items():
        side = Image.fromarray(pixels).rotate(90, expand=True)
        side.save(tmp_path / f'{name}.png', exif=exif)
        side.save(tmp_path / f'{name}_plain.png')
    photo = str(tmp_path / 'seen.png')
    whole = edit(seen, mask=mask, label=1)[0]
    assert whole['region'][:, 0].tolist() == [False] * 4 + [True] * 4
    for given in (mask, str(tmp_path / 'mask.png')):
        result = edit(photo, mask=given, label=1)[0]
        assert np.array_equal(result['original'], whole['original'])
        assert np.array_equal(result['region'], whole['region'])
        assert result['index'].tolist() == whole['index'].tolist()
    with pytest.raises(ValueError, match=r'of 12×8; give .* as it is shown, upright'):
        edit(photo, mask=str(tmp_path / 'mask_plain.png'), label=1)


def test_a_region_in_colour() -> None:
    shaded = shade_region(PIXELS, MASK)
    assert np.array_equal(shaded[~MASK], PIXELS[~MASK])
    assert (
        np.abs(shaded[MASK] - (0.25 * PIXELS[MASK] + [74.25, 76.5, 180.75])).max() < 1
    )


def test_bad_edits(edit: EditingInferencer, model: RandAR) -> None:
    grey = MASK.astype(np.uint8) * 100
    for kwargs, text in (
        (dict(mask=None), 'mask=None does not say what to draw anew'),
        (dict(mask=MASK[:4]), 'mask of 8×4 pixels does not fit an image of 8×8; give'),
        (dict(mask=grey), r'mask holds 2 values from 0 to 100; give black \(0\) where'),
        (dict(mask=MASK & False), 'region of image 0 is empty, so that nothing'),
        (dict(mask=MASK | True), 'region of image 0 covers all 16 tokens'),
        (dict(mask=[MASK * 255, MASK * 255]), 'mask: it holds 2 images; give one'),
        (dict(mask='nothing.png'), '"nothing.png" does not exist'),
        (dict(label=3), 'labels hold the class 3; give classes from 0 to 2'),
        (dict(num=0), 'num=0 is no whole number of at least 1; that many variants'),
        (dict(num=1.5), 'num=1.5 is no whole number'),
        (dict(mask=MASK.astype(int)), 'mask: an array of int64 is no image; give uint'),
        (dict(mode='fast'), "mode='fast' is not known"),
        (dict(cache='full'), 'cache'),
        (dict(inputs=PIXELS.astype(int)), 'an array of int64 is no image'),
    ):
        given = dict(inputs=PIXELS, mask=MASK, label=1)
        with pytest.raises((ValueError, FileNotFoundError), match=text):
            edit(**{**given, **kwargs})
    with pytest.raises(ValueError, match='MergeVQ is no generator; give a RandAR or'):
        EditingInferencer(tiny.build_model(), device='cpu')
