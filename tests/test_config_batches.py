"""``--auto-scale-lr``: at its own batch and GPUs no config's rate is changed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mmengine.config import Config

CONFIGS = Path(__file__).parents[1] / 'configs'
# Those of downstream need packages that are not installed by default.
PATHS = [
    path
    for path in sorted(CONFIGS.rglob('*.py'))
    if not {'_base_', 'downstream'} & set(path.relative_to(CONFIGS).parts)
]


def processes(path: Path) -> int:
    """GPUs of the header, or of that of the config that it builds on; 1 for CPUs."""
    header = re.search(r'^# Hardware +(.*)$', path.read_text(), re.MULTILINE)
    if header is not None:
        gpus = re.match(r'(\d+) GPUs?\b', header[1])
        assert gpus or 'CPU core' in header[1], header[1]
        return int(gpus[1]) if gpus else 1
    bases = Config._get_base_files(str(path))
    return processes(path.parent / bases[0])


@pytest.mark.parametrize(
    'path', PATHS, ids=[path.relative_to(CONFIGS).as_posix() for path in PATHS]
)
def test_base_batch_size_is_the_configs_own(path: Path) -> None:
    cfg = Config.fromfile(path)
    if cfg.train_dataloader is None:
        return
    batch = processes(path) * cfg.train_dataloader.batch_size
    assert cfg.auto_scale_lr.base_batch_size == batch
    named = re.search(r'(\d+)xb(\d+)', path.name)
    if named is not None:
        assert int(named[1]) * int(named[2]) == batch
