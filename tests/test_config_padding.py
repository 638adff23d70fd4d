"""What configs pad images with: one number but 0 colours the first channel alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope
from test_config_batches import CONFIGS, PATHS

EMOJI = sorted((CONFIGS / 'emoji').glob('*.py'))


def paddings(part: Any) -> Iterator[Any]:
    """Each ``pad_val`` in a config, however deep."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name == 'pad_val':
                yield value
            yield from paddings(value)
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from paddings(value)


@pytest.mark.parametrize(
    'path', PATHS, ids=[path.relative_to(CONFIGS).as_posix() for path in PATHS]
)
def test_padding_names_each_channel(path: Path) -> None:
    values = list(paddings(Config.fromfile(path).to_dict()))
    assert all(value == 0 or np.size(value) == 3 for value in values), values


def between(pipeline: list[dict]) -> Iterator[dict]:
    """The transforms of images, without reading and packing."""
    for step in pipeline:
        kind = step['type'].split('.')[-1]
        if kind == 'MultiView':
            yield from step['transforms'][0]
        elif kind not in ('LoadImage', 'PackInputs'):
            yield step


@pytest.mark.parametrize('name', ['train_pipeline', 'codes_pipeline'])
@pytest.mark.parametrize('path', EMOJI, ids=lambda path: path.stem)
def test_white_emoji_stay_white(path: Path, name: str) -> None:
    init_default_scope('mmpretrain')
    transform = Compose(list(between(Config.fromfile(path)[name])))
    np.random.seed(0)
    white = np.full((64, 64, 3), 255, np.uint8)
    for _ in range(20):
        assert transform({'img': white.copy()})['img'].min() == 255
