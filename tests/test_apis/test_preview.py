"""The picture of a card, and that it is measured on what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_mergevq as tiny
import torch
from mmengine.config import Config
from PIL import Image

import mergevq_mm


def test_pictures_are_shown_and_measured(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ('a', 'b'):
        picture = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f'{name}.png')
    paths = [str(tmp_path / name) for name in ('a.png', 'b.png')]
    torch.manual_seed(0)
    model = tiny.build_model()
    config = Config(dict(model=tiny.model_cfg(test_cfg=dict(keep=[8]))))
    folder = mergevq_mm.save_pretrained(
        model, tmp_path / 'x', config, {'license': 'mit'}, half=True, pictures=paths
    )
    assert model.training  # as it was
    with Image.open(folder / 'preview.png') as page:
        assert page.width > 3 * 64
    card = (folder / 'README.md').read_text()
    assert 'license: "mit"' in card
    infer = mergevq_mm.ReconstructionInferencer(folder, device='cpu')
    for result in infer(paths, keep=[1.0, 0.5]):
        assert list(result['reconstructions']) == [20, 10]  # of 4x5 places
        for keep, one in result['reconstructions'].items():
            numbers = f'{one["psnr"]:.2f} dB | {one["bpp"]:.4f}'
            assert f'| {result["name"]} | {keep} | {numbers} |' in card
    # Saved again the licence stays, and the picture is not claimed for it.
    again = mergevq_mm.save_pretrained(
        mergevq_mm.from_pretrained(folder), tmp_path / 'y'
    )
    card = (again / 'README.md').read_text()
    assert 'license: "mit"' in card and 'preview' not in card


def test_a_picture_that_is_none_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    config = Config(dict(model=tiny.model_cfg()))
    model, folder = tiny.build_model(), tmp_path / 'x'
    with pytest.raises(FileNotFoundError, match='none.png" does not exist'):
        mergevq_mm.save_pretrained(model, folder, config, pictures='none.png')
    assert not folder.exists()
    with pytest.raises(ValueError, match="metadata.'metrics'. has 'x' at psnr"):
        mergevq_mm.save_pretrained(model, folder, config, {'metrics': {'psnr': 'x'}})
    assert not folder.exists()
