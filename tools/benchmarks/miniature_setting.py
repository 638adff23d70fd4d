"""Methods, data and configs of the miniature: what a cell is made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs' / 'miniature'

# Name in the table -> config. None: no network.
METHODS = {
    'G': 'mergevq_g',
    'G+R': 'mergevq_g+r',
    'R': 'mergevq_r',
    'VQ': 'vq',
    'MAE': 'mae',
    'random': 'mergevq_g+r',
    'pixels': None,
    'colour': None,
}
ABLATIONS = {
    'G+R, no teacher': 'mergevq_g+r_no_teacher',
    'VQ, teacher': 'vq_teacher',
    'G+R, K=9': 'mergevq_g+r_k9',
    'G+R, K=16': 'mergevq_g+r_k16',
    'G+R, K=64': 'mergevq_g+r_k64',
    'G+R, small weights': 'mergevq_g+r_small_weights',
    'R, random': 'mergevq_r',
    'R, channel norm': 'mergevq_r_channel_norm',
    'R, small weights': 'mergevq_r_small_weights',
    'R, sine positions': 'mergevq_r_sincos',
    'R, convolutions': 'mergevq_r_convolutions',
    'MAE, random': 'mae',
    'MAE, 4x': 'mae_long',
}
# The same with four times as many steps: do orderings appear with training?
LONGER = 4
LONG = {
    f'{name}, {LONGER}x': {**METHODS, **ABLATIONS}[name]
    for name in ('G', 'G+R', 'R', 'VQ', 'G+R, K=9', 'G+R, K=16', 'G+R, K=64')
}
# Methods whose network is measured as its training would start.
UNTRAINED = frozenset({'random', 'R, random', 'MAE, random'})
CONFIG_OF = {**METHODS, **ABLATIONS, **LONG}
DATA = ('digits', 'photographs', 'emoji')
NEIGHBOURS = (10, 20, 100, 200)


@dataclass(frozen=True)
class Cell:
    """What to run.

    Attributes:
        data (str): One of ``DATA``.
        method (str): A key of ``CONFIG_OF``.
        seed (int): Of weights and order; for photographs also which are held out.
    """

    data: str
    method: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Where the cell writes."""
        name = self.method.replace(', ', '_').replace(' ', '-').replace('=', '')
        return out / self.data / name / f'seed{self.seed}'


@dataclass(frozen=True)
class Setting:
    """Where the data lie, and how much of them a run takes.

    Attributes:
        out (Path): Folder of the results.
        digits (Path): Data root of the digits.
        photographs (Path): Folder above the folds.
        targets (dict): Data root to the teacher's stored targets.
        epochs (int, optional): Instead of the config's. None for that.
        every (int): Take each so-manieth image.
        neighbours (tuple[int, ...]): The k of k-NN.
        emoji (Path): Data root of the emoji.
        version (str): Of the emoji, which have several.
    """

    out: Path
    digits: Path
    photographs: Path
    targets: dict[str, Path] = field(default_factory=dict)
    epochs: int | None = None
    every: int = 1
    neighbours: tuple[int, ...] = NEIGHBOURS
    emoji: Path = Path('data/emoji')
    version: str = ''

    def data_root(self, cell: Cell) -> Path:
        """Data root of a cell; three folds of photographs go round."""
        if cell.data != 'photographs':
            return {'digits': self.digits, 'emoji': self.emoji}[cell.data]
        return self.photographs / f'fold{cell.seed % 3}'

    def version_of(self, cell: Cell) -> str:
        """Version of a cell's data."""
        return self.version if cell.data == 'emoji' else ''

    def has(self, cell: Cell) -> bool:
        """Whether the results of a cell are there, on these data."""
        file = cell.folder(self.out) / 'result.json'
        if not file.is_file():
            return False
        found = json.loads(file.read_text())
        return found.get('version', '') == self.version_of(cell)


# --------------------------------------------------------------------- preparation


def cell_config(cell: Cell, setting: Setting) -> Config:
    """The config of a cell's method on its data, with its seed.

    Args:
        cell (Cell): What to run. Methods without a network take that of G+R.
        setting (Setting): Where the data lie.

    Returns:
        Config: For a runner.
    """
    name = CONFIG_OF[cell.method] or CONFIG_OF['G+R']
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    root = setting.data_root(cell)
    dataset = cfg.train_dataloader.dataset
    dataset.data_root = str(root)
    if cell.data != 'digits':
        dataset.num_classes = None
        dataset.pipeline = without_crops(dataset.pipeline, INSTEAD[cell.data])
    if setting.every > 1:
        dataset.indices = list(range(0, count_images(root, 'train'), setting.every))
    if cfg.model.get('target_generator'):
        cfg.model.target_generator.file = str(setting.targets[str(root)])
    if 'keep' in cfg.model:
        cfg.model.keep.seed = cell.seed
    passes = LONGER if cell.method in LONG else 1
    epochs = setting.epochs or passes * cfg.train_cfg.max_epochs
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs + 1)
    cfg.default_hooks.checkpoint.update(interval=epochs, save_optimizer=False)
    cfg.randomness = dict(seed=cell.seed)
    cfg.work_dir = str(cell.folder(setting.out))
    cfg.experiment_name = '_'.join(cell.folder(Path('miniature')).parts)
    for part in ('val', 'test'):
        for what in ('cfg', 'dataloader', 'evaluator'):
            cfg[f'{part}_{what}'] = None
    return cfg


# What images of 32 pixels are made by, where the digits are padded and cropped.
INSTEAD = {
    'photographs': (),
    'emoji': (
        dict(
            type='mmpretrain.Resize',
            scale=32,
            backend='pillow',
            interpolation='lanczos',
        ),
    ),
}


def without_crops(pipeline: list[dict], instead: Sequence[dict] = ()) -> list[dict]:
    """A pipeline of the digits for other images: other steps instead of the crop."""
    kept = []
    for step in pipeline:
        step = dict(step)
        if 'transforms' in step:
            views = step['transforms']
            step['transforms'] = [without_crops(view, instead) for view in views]
        if str(step['type']).endswith('RandomCrop'):
            kept += map(dict, instead)
        else:
            kept.append(step)
    return kept


def count_images(root: Path, split: str) -> int:
    """How many images a split has."""
    return sum(1 for _ in (root / split).rglob('*.png'))


def image_set(cell: Cell, setting: Setting, split: str) -> torch.utils.data.Dataset:
    """The images of a split as a test sees them, one by one.

    Args:
        cell (Cell): For its data.
        setting (Setting): Where they lie.
        split (str): 'train', 'probe' or 'val'.

    Returns:
        Dataset: Of mmpretrain.
    """
    from mergevq_mm.registry import DATASETS

    pipeline = Config.fromfile(CONFIGS / 'vq.py').test_pipeline
    root, scenes = setting.data_root(cell), None
    if cell.data != 'digits':
        pipeline = without_crops(pipeline, INSTEAD[cell.data])
    if cell.data == 'photographs':
        # Held-out scenes are none of the training's: each split has its own.
        names = (path.name for path in (root / split).iterdir() if path.is_dir())
        scenes = {'classes': sorted(names)}
    indices = None
    if setting.every > 1:
        indices = list(range(0, count_images(root, split), setting.every))
    return DATASETS.build(
        dict(
            type='mergevq_mm.ImageFolder',
            data_root=str(root),
            data_prefix=split,
            metainfo=scenes,
            test_mode=True,
            pipeline=pipeline,
            indices=indices,
        )
    )


def subgroup_labels(root: Path, images: torch.utils.data.Dataset) -> np.ndarray:
    """Sub-group of each image of a split of the emoji, by its path.

    Args:
        root (Path): Data root of the emoji.
        images (Dataset): Of the class folders.

    Returns:
        np.ndarray: N int64.
    """
    from mergevq_mm.datasets.image_lists import labels_by_list

    paths = [images.get_data_info(i)['img_path'] for i in range(len(images))]
    folder = Path(images.img_prefix)
    file = root / 'meta' / f'{folder.name}_subgroups.txt'
    return np.array(labels_by_list(paths, str(folder), str(file)))
