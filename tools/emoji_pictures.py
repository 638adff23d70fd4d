"""Pictures of the emoji's command: what tokens say, what is drawn, what it copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import one_command as shared

import mergevq_mm  # noqa: F401  first: makes the installed stack usable

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from mergevq_mm.models import MergeVQ
    from mergevq_mm.models.generators.code_generator import CodeGenerator

ZOOM = 2  # of pictures
SHOWN = 2  # drawn images of each group beside their neighbours
SHARES = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)  # of an interpolation


def image_tensor(config: dict, indices: Sequence[int] | None = None) -> Tensor:
    """Images of a data set as it is tested, N×3×64×64 in [0, 1], RGB."""
    import torch

    from mergevq_mm.registry import DATASETS

    dataset = DATASETS.build(config)
    chosen = range(len(dataset)) if indices is None else indices
    items = (dataset[i]['inputs'] for i in chosen)
    return torch.stack([item.flip(0) for item in items]).float() / 255


def group_members(dataset: Dataset, groups: int) -> list[np.ndarray]:
    """Places of the images of each group."""
    import numpy as np

    labels = [dataset.get_data_info(i)['gt_label'] for i in range(len(dataset))]
    return [np.flatnonzero(np.equal(labels, group)) for group in range(groups)]


def token_page(model: nn.Module, config: dict, names: list[str]) -> np.ndarray:
    """What the tokens of a held-out emoji of each group say, a column each."""
    import torch
    from mmengine.dataset import default_collate

    from mergevq_mm.registry import DATASETS
    from mergevq_mm.visualization import reconstruction_columns

    dataset = DATASETS.build(config)
    members = group_members(dataset, len(names))
    items = [dataset[int(found[len(found) // 2])] for found in members]
    with torch.no_grad():
        samples = model.test_step(default_collate(items))
    titles = [name.replace('_', ' ') for name in names]
    return reconstruction_columns([s.to_dict() for s in samples], titles, ZOOM)


def interpolation_page(model: MergeVQ, config: dict, groups: int) -> np.ndarray:
    """From one held-out emoji of a group to another, a row a group.

    Left and right of a row are the two emoji, between them what their tokens give.
    """
    import torch

    from mergevq_mm.models import interpolate
    from mergevq_mm.registry import DATASETS
    from mergevq_mm.visualization import sample_grid
    from mergevq_mm.visualization.grids import to_uint8

    members = group_members(DATASETS.build(config), groups)
    ends = [
        image_tensor(config, [int(found[len(found) * part // 3]) for found in members])
        for part in (1, 2)
    ]
    device = model.data_preprocessor.device
    between = interpolate(model, *((end * 2 - 1).to(device) for end in ends), SHARES)
    between = between.cpu() / 2 + 0.5
    page = torch.cat([ends[0][None], between, ends[1][None]])  # columns first
    images = [to_uint8(image) for image in page.transpose(0, 1).flatten(0, 1)]
    return sample_grid(images, len(page), ZOOM)


def group_page(model: CodeGenerator, names: list[str], rows: int = 8) -> np.ndarray:
    """Drawn emoji, a column a group."""
    import one_command_generator as stage2

    from mergevq_mm.visualization import sample_grid

    drawn = stage2.draw(model, rows)
    titles = [name.replace('_', ' ') for name in names]
    return sample_grid(drawn, len(names), ZOOM, titles)


def neighbours(
    model: CodeGenerator, cfg: Config, names: list[str], path: Path
) -> dict[str, float]:
    """Write drawn emoji beside their nearest training emoji, and tell how near.

    Returns:
        dict[str, float]: Median PSNR of the nearest training image, of drawn and of
        held-out emoji, in dB.
    """
    import one_command_generator as stage2
    import torch

    from mergevq_mm.visualization import nearest_images, neighbour_sheet, save_png

    seen, held_out = map(image_tensor, shared.seen_and_held_out(cfg))
    images = stage2.draw(model, SHOWN, seed=2)
    drawn = torch.stack([torch.from_numpy(i).permute(2, 0, 1) for i in images]) / 255
    near = nearest_images(drawn, seen)
    titles = [name.replace('_', ' ') for name in names] * SHOWN
    save_png(path, neighbour_sheet(drawn, seen, near, titles, pairs=3))
    apart = nearest_images(held_out, seen, 1)
    return {
        'drawn': round(median(near.psnr[:, 0].tolist()), 2),
        'held_out': round(median(apart.psnr[:, 0].tolist()), 2),
    }
