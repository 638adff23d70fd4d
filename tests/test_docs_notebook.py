"""The tutorial runs from top to bottom, with fewer steps of training."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
NOTEBOOK = REPO / 'docs' / 'tutorial.ipynb'


@pytest.mark.slow
def test_tutorial(monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip('nbformat', reason='needs nbformat')
    nbclient = pytest.importorskip('nbclient', reason='needs nbclient')
    pytest.importorskip('ipykernel', reason='needs ipykernel')
    monkeypatch.setenv('TUTORIAL_STEPS', '30')
    path = os.pathsep.join([str(REPO), os.environ.get('PYTHONPATH', '')])
    monkeypatch.setenv('PYTHONPATH', path)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get('outputs') for cell in notebook.cells)  # stored without
    client = nbclient.NotebookClient(
        notebook, timeout=240, resources={'metadata': {'path': str(REPO)}}
    )
    client.execute()
    outputs = [out for cell in notebook.cells for out in cell.get('outputs', ())]
    text = ''.join(out.get('text', '') for out in outputs)
    first, last = map(float, re.search(r'error ([\d.]+) -> ([\d.]+)', text).groups())
    assert last < first
    assert len(re.findall(r'K = \d+: [\d.]+ dB', text)) == 4
    rate = float(re.search(r'bytes a file, ([\d.]+) bits', text).group(1))
    # 16 codes of 18 bits, and at most 64 positions of log2(16) bits, on 32x32 pixels.
    assert 16 * 18 / 1024 < rate <= (16 * 18 + 64 * 4 + 8) / 1024
    assert float(re.search(r'([\d.]+) % have', text).group(1)) > 10
    pictures = [out for out in outputs if 'image/png' in out.get('data', {})]
    assert len(pictures) == 2
