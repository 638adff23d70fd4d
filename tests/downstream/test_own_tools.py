"""mmdet's and mmseg's own ``train.py`` and ``test.py`` run the configs, too."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import test_detection
import test_segmentation
from mmengine.config import Config
from tiny_downstream import has_ops, save_encoder

DETECTOR = next(x for x in test_detection.RETINANET if 'mergevq-r' in x.name)
SEGMENTER = next(x for x in test_segmentation.PATHS if 'mergevq-r' in x.name)


def start(package: str, tool: str, folder: Path, *arguments: object) -> str:
    """Run a tool that came with a package; what it printed."""
    path = Path(importlib.util.find_spec(package).origin).parent / '.mim/tools' / tool
    command = [sys.executable, path, folder / 'config.py', *arguments]
    command += ['--work-dir', folder / 'run']
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def write(cfg: Config, folder: Path, **loop: int) -> None:
    """A config that reads a saved encoder and trains for as long as ``loop`` says."""
    save_encoder(cfg, folder / 'mergevq.pth')
    cfg.train_cfg.update(loop)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.update(test_dataloader=cfg.val_dataloader, test_evaluator=cfg.val_evaluator)
    cfg.dump(folder / 'config.py')


def test_mmdet(data: Path, tmp_path: Path) -> None:
    cfg = test_detection.shrink(DETECTOR, data)
    write(cfg, tmp_path, max_epochs=1, val_interval=1)
    assert 'Epoch(val) [1][5/5]' in start('mmdet', 'train.py', tmp_path)
    if has_ops():  # mmdet's test.py itself imports them
        checkpoint = tmp_path / 'run' / 'epoch_1.pth'
        assert 'Epoch(test) [5/5]' in start('mmdet', 'test.py', tmp_path, checkpoint)


def test_mmseg(data: Path, tmp_path: Path) -> None:
    cfg = test_segmentation.shrink(SEGMENTER, data)
    write(cfg, tmp_path, max_iters=2, val_interval=2)
    assert 'Iter(val) [5/5]' in start('mmseg', 'train.py', tmp_path)
    checkpoint = tmp_path / 'run' / 'iter_2.pth'
    assert 'Iter(test) [5/5]' in start('mmseg', 'test.py', tmp_path, checkpoint)
