"""The table of smaller weights: its numbers by hand."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / 'tools' / 'benchmarks'


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, 'onnx_weights', raising=False)
    return importlib.import_module('onnx_weights')


class Graphs:
    """Position l has code 5 - l; images come back one grey value brighter."""

    def encode(self, images: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
        ones = np.ones((len(images), 1), np.int64)
        return ones * np.array([[5, 4]]), ones * np.array([[0, 1, 1, 0]])

    def decode(self, index: np.ndarray, group: np.ndarray) -> np.ndarray:
        return np.full((len(index), 2, 2, 3), 8, np.uint8)


def test_numbers_by_hand(tool: ModuleType, tmp_path: Path) -> None:
    batches = [np.full((n, 2, 2, 3), 7, np.uint8) for n in (2, 1)]
    made = tool.code(Graphs(), 2, batches)
    assert made.codes.tolist() == [[5, 4, 4, 5]] * 3
    assert made.psnr == pytest.approx(20 * np.log10(255))
    (tmp_path / 'encoder_k2.onnx').write_bytes(bytes(25_000))
    (tmp_path / 'decoder.onnx').write_bytes(bytes(11_000))
    base = tool.Coded(np.array([[5, 4, 4, 6]] * 3), made.psnr + 0.25)
    assert tool.row('m', 2, 'int8', tmp_path, made, base) == (
        '| m | 2 | int8 | 0.03 MB | 0.01 MB | 48.13 dB | 0.250 dB | 75.00 % |'
    ).replace('0.03', f'{0.025:.2f}')
