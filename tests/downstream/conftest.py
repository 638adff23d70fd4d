"""For all tests with mmdet and mmseg: the packages, and photographs with marks."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from tiny_downstream import write_photographs

for package in ('mmdet', 'mmseg'):
    if importlib.util.find_spec(package) is None:
        raise pytest.UsageError(
            f'{package} is not installed: run these tests by '
            'bash tools/run_tests.sh --downstream'
        )


@pytest.fixture(scope='session')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photographs with boxes, masks and segmentation maps."""
    return write_photographs(tmp_path_factory.mktemp('photographs'))
