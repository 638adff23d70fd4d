"""Images are prepared for the inferencers as the validation of the config does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_mergevq as tiny
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from PIL import Image

from mergevq_mm import apis
from mergevq_mm.apis import preparation
from mergevq_mm.apis.preparation import (
    Preparation,
    preparation_of,
    published_preparation,
    validation_pipeline,
)
from mergevq_mm.datasets import ImageFolder
from mergevq_mm.evaluation.features import TokenFeatures
from mergevq_mm.utils.config import load_config

REPO = Path(__file__).resolve().parents[2]
LOAD, PACK = dict(type='mergevq_mm.LoadImage'), dict(type='mmpretrain.PackInputs')
EDGE = dict(
    type='mmpretrain.ResizeEdge',
    scale=12,
    edge='short',
    backend='pillow',
    interpolation='bilinear',
)
CROP = dict(type='mmpretrain.CenterCrop', crop_size=8)
PAD = dict(type='mmpretrain.RandomCrop', crop_size=8, padding=2, pad_val=(7, 7, 7))


def _pixels(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _right(pipeline: list[dict], pixels: np.ndarray, folder: Path) -> np.ndarray:
    """What the pipeline itself makes of an image file."""
    Image.fromarray(pixels).save(folder / 'a.png')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        made = Compose(pipeline)({'img_path': str(folder / 'a.png')})['inputs']
    return made.flip(0).permute(1, 2, 0).numpy()  # BGR -> RGB


@pytest.mark.parametrize('shape', [(30, 50), (50, 33), (8, 8), (9, 40)])
@pytest.mark.parametrize(
    'steps',
    [
        [EDGE, CROP],
        [{**EDGE, 'interpolation': 'bicubic', 'backend': 'cv2', 'scale': 8}, CROP],
        [dict(type='mmpretrain.Resize', scale=(8, 8))],
        [dict(type='ResizeEdge', scale=9), dict(type='CenterCrop', crop_size=8)],
        [
            EDGE,
            CROP,
            dict(type='mmpretrain.RandomGrayscale', prob=1.0, keep_channels=True),
        ],
    ],
)
def test_a_crop_is_that_of_the_pipeline(
    tmp_path: Path, steps: list, shape: tuple[int, int]
) -> None:
    pipeline, pixels = [LOAD, *steps, PACK], _pixels(*shape)
    made = Preparation(pipeline, 8, 4)(pixels)
    assert np.array_equal(made, _right(pipeline, pixels, tmp_path))
    assert made.flags.writeable


def test_padding_is_that_of_the_pipeline(tmp_path: Path) -> None:
    prepare, pixels = Preparation([LOAD, PAD, PACK], 8, 4), _pixels(4, 4)
    made = prepare(pixels)
    assert np.array_equal(made, _right([LOAD, PAD, PACK], pixels, tmp_path))
    assert np.array_equal(made[2:-2, 2:-2], pixels) and (made[:2] == 7).all()
    assert np.array_equal(prepare(pixels, fit='whole'), made)
    read = json.loads(json.dumps([LOAD, PAD]))  # as a published folder has it
    assert np.array_equal(Preparation(read, 8, 4)(pixels), made)
    # There a larger image has no place of its own: it is resized, and the centre taken.
    large = np.kron(pixels, np.ones((5, 5, 1), np.uint8))
    right = Image.fromarray(large).resize((4, 4), Image.Resampling.LANCZOS)
    assert np.array_equal(prepare(large)[2:-2, 2:-2], right)
    assert prepare(_pixels(20, 43)).shape == (8, 8, 3)
    assert prepare(_pixels(20, 43), fit='whole').shape == (8, 12, 3)
    assert prepare(pixels, size=16).shape == (16, 16, 3)
    assert (prepare(pixels, size=16)[:4] == 7).all()
    # What is as large as the crop has been padded before.
    assert np.array_equal(prepare(made), made)
    with pytest.raises(
        ValueError, match='pipeline .* fails on .*leaves nothing of an im'
    ):
        Preparation([LOAD, {**PAD, 'padding': 4}], 8, 4)(pixels)


def test_whole_pictures_leave_the_crop_out() -> None:
    prepare, pixels = Preparation([LOAD, EDGE, CROP, PACK], 8, 4), _pixels(30, 50)
    right = Image.fromarray(pixels).resize((13, 8), Image.Resampling.BILINEAR)
    assert np.array_equal(prepare(pixels, fit='whole'), np.asarray(right)[:, :12])
    assert prepare(pixels, 16, 'whole').shape == (16, 24, 3)
    right = Image.fromarray(pixels).resize((40, 24), Image.Resampling.BILINEAR)
    assert np.array_equal(prepare(pixels, 16), np.asarray(right)[4:20, 12:28])


def test_without_a_pipeline_images_are_resized() -> None:
    pixels = _pixels(30, 50)
    right = Image.fromarray(pixels).resize((13, 8), Image.Resampling.LANCZOS)
    for pipeline in (None, [LOAD, PACK], [LOAD, dict(type='mmpretrain.RandomFlip')]):
        made = Preparation(pipeline, 8, 4)(pixels, fit='whole')
        assert np.array_equal(made, np.asarray(right)[:, :12])


@pytest.mark.parametrize('steps', [[], [EDGE, CROP], [PAD]])
def test_long_images_and_sizes_have_a_limit(steps: list) -> None:
    prepare = Preparation([LOAD, *steps], 8, 4)
    with pytest.raises(ValueError, match='64000×64 pixels makes 4,000 pos.*s=3,999'):
        prepare(np.zeros((64, 64000, 3), np.uint8), fit='whole', max_positions=3999)
    assert prepare(np.zeros((64, 64000, 3), np.uint8)).shape == (8, 8, 3)
    with pytest.raises(ValueError, match='positions, more than max_positions=8,192'):
        prepare(_pixels(8, 8), size=4000)
    with pytest.raises(ValueError, match='pixels on the way'):
        prepare(np.broadcast_to(np.uint8(0), (1, 10**8, 3)))
    for size in (0, -8, 6, True, 8.0, '8'):
        with pytest.raises(
            ValueError, match=f'size={size!r} is no multiple of the str'
        ):
            prepare(_pixels(8, 8), size=size)
    with pytest.raises(ValueError, match="fit='stretch' is not known"):
        prepare(_pixels(8, 8), fit='stretch')


@pytest.mark.parametrize(
    ('steps', 'text'),
    [
        ([dict(type='mmpretrain.ResizeEdge')], 'TypeError: .*; correct it'),
        (
            [{**EDGE, 'interpolation': 'x'}],
            'fails on an image of shape .30, 50, 3. .Ke',
        ),
        ([CROP, dict(type='mmpretrain.Nothing')], 'KeyError'),
        ([{**CROP, 'crop_size': 7}], r'makes uint8 of shape \(7, 7, 3\); the encoder'),
        ([{**EDGE, 'scale': 2}, CROP], 'multiples of its stride 4'),
        (
            [EDGE, CROP, dict(type='Normalize', mean=[0] * 3, std=[1] * 3)],
            'makes float',
        ),
        (
            [{**EDGE, 'scale': 400}, {**CROP, 'crop_size': 400}],
            'which are more than max',
        ),
    ],
)
def test_bad_pipelines_are_one_sentence(steps: list, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Preparation([LOAD, *steps], 8, 4)(_pixels(30, 50))


def test_pipelines_of_configs() -> None:
    assert validation_pipeline(None) is None
    for name in ('quickstart/mergevq_g+r_mnist5k', 'quickstart/mergear_mnist5k'):
        pipeline = validation_pipeline(load_config(REPO / f'configs/{name}.py'))
        assert pipeline[1]['padding'] == 2
    config = load_config(REPO / 'configs/mergevq_g+r.py')
    right = config.val_dataloader.dataset.pipeline
    assert validation_pipeline(config) == right
    # A generator that has no images of its own has those of its tokenizer.
    path = str(REPO / 'configs/mergevq_g+r.py')
    generator = Config(dict(model=dict(type='A', tokenizer=dict(model=path))))
    assert validation_pipeline(generator) == right
    nested = Config(dict(val_dataloader=dict(dataset=config.val_dataloader)))
    assert validation_pipeline(nested) == right
    grey = Config(dict(val_dataloader=dict(dataset=dict(pipeline=[{**LOAD}, PAD]))))
    grey.val_dataloader.dataset.pipeline[0]['background'] = (1, 2, 3)
    assert preparation_of(grey, 8, 4).background == (1, 2, 3)


def test_a_tokenizer_of_data_runs_and_names_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a JSON config beside a generator no module is imported, no pipeline taken."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'runs_code.py').write_text('raise RuntimeError("has run")')
    content = {
        'model': {'type': 'mergevq_mm.MergeVQ'},
        'custom_imports': {'imports': ['runs_code'], 'allow_failed_imports': False},
        'val_dataloader': {'dataset': {'pipeline': [LOAD, {'type': 'os.getenv'}]}},
    }
    path = tmp_path / 'tokenizer.json'
    generator = Config(dict(model=dict(type='A', tokenizer=dict(model=str(path)))))
    path.write_text(json.dumps(content))
    assert validation_pipeline(generator) is None
    path.write_text(json.dumps({**content, 'metadata': {'preparation': [EDGE]}}))
    assert validation_pipeline(generator) == [LOAD, EDGE]
    path.write_text(json.dumps({**content, '_base_': ['runs_code.py']}))
    with pytest.raises(ValueError, match='inherits from'):
        validation_pipeline(generator)


def test_features_are_those_of_an_evaluation(tmp_path: Path) -> None:
    """The same numbers come through the inferencer and through the data set."""
    torch.manual_seed(0)
    model = tiny.build_model().eval()
    tiny.write_images(tmp_path, split='val', size=30)
    pipeline = [LOAD, EDGE, CROP, PACK]
    data = dict(data_root=str(tmp_path), split='val', pipeline=pipeline)
    model._config = Config(
        dict(
            model=tiny.model_cfg(),
            val_dataloader=dict(dataset=dict(type='mergevq_mm.ImageFolder', **data)),
        )
    )
    folder = apis.save_pretrained(model, tmp_path / 'folder')
    inputs = [s['inputs'] for s in ImageFolder(**data, test_mode=True)]
    extract = TokenFeatures(model.backbone, model.quantizer, ('avg', 'codes'))
    with torch.no_grad():
        right = extract(torch.stack(inputs).flip(1) / 127.5 - 1)
    weights = str(folder / 'model.safetensors')
    for source in ([model], [str(folder)], [str(folder / 'config.json'), weights]):
        infer = apis.FeatureInferencer(*source, device='cpu', show_progress=False)
        found = infer(tmp_path / 'val', features=['avg', 'codes'])
        for name, values in right.items():
            rows = np.stack([result[name] for result in found])
            assert np.allclose(rows, values, atol=1e-5)


# ---------------------------------------------------------------------- published


def test_a_published_preparation() -> None:
    def config(*steps: dict) -> Config:
        return Config(dict(val_dataloader=dict(dataset=dict(pipeline=[LOAD, *steps]))))

    found = published_preparation(config({**EDGE, '_scope_': 'mmpretrain'}, CROP, PACK))
    assert found == [EDGE, CROP]
    read = json.loads(json.dumps(dict(metadata=dict(preparation=found))))
    assert validation_pipeline(read) == [LOAD, EDGE, CROP]
    assert published_preparation(config(PACK)) is None
    assert published_preparation(config(dict(type='mmpretrain.RandomFlip'))) is None
    assert published_preparation(None) is None


@pytest.mark.parametrize(
    'steps',
    [
        'rm',
        [3],
        [dict(type='os.system', command='rm')],
        [dict(type='mmpretrain.LoadImageFromFile', backend_args=dict(backend='http'))],
        [dict(type='evil.ResizeEdge', scale=8)],
        [{**EDGE, 'scale': 10**6}],
        [{**EDGE, 'scale': -1}],
        [{**EDGE, 'scale': 1.5}],
        [{**EDGE, 'scale': dict(type='os.system')}],
        [{**CROP, 'pad_cfg': dict(type='os.system')}],
    ],
)
def test_a_published_preparation_is_data(steps: Any) -> None:
    with pytest.raises(ValueError, match='preparation .* of a published folder is non'):
        validation_pipeline(dict(metadata=dict(preparation=steps)))


def test_limits_are_named() -> None:
    assert preparation.MAX_POSITIONS == 8192
