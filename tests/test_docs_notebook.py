"""The tutorial lies in the repository as it ran, and runs again to the same numbers."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[1]
NOTEBOOK = REPO / 'docs' / 'tutorial.ipynb'
NUMBER = re.compile(r'\d+(?:\.\d+)?')


@pytest.fixture
def notebook() -> Any:
    nbformat = pytest.importorskip('nbformat', reason='needs nbformat')
    read = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(read)
    return read


def printed(notebook: Any) -> list[str]:
    """What each cell of code printed; warnings of other packages do not count."""
    return [
        ''.join(o.text for o in cell.outputs if o.get('name') == 'stdout')
        for cell in notebook.cells
        if cell.cell_type == 'code'
    ]


def pictures(notebook: Any) -> list[int]:
    """How many pictures each cell of code showed."""
    return [
        sum('image/png' in out.get('data', {}) for out in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == 'code'
    ]


def test_tutorial_is_stored_with_its_pictures(notebook: Any) -> None:
    """From one run from top to bottom, of a size that a repository can bear."""
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [out for cell in cells for out in cell.outputs]
    assert {out.output_type for out in outputs} <= {'stream', 'display_data'}
    assert {out.name for out in outputs if 'name' in out} == {'stdout'}
    assert sum(pictures(notebook)) == 3
    assert '/home' not in ''.join(printed(notebook))
    assert NOTEBOOK.stat().st_size < 1_000_000


@pytest.mark.slow
def test_tutorial(notebook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip('nbclient', reason='needs nbclient')
    pytest.importorskip('ipykernel', reason='needs ipykernel')
    pytest.importorskip('mlxtend', reason='needs mlxtend, the extra quickstart')
    path = os.pathsep.join([str(REPO), os.environ.get('PYTHONPATH', '')])
    monkeypatch.setenv('PYTHONPATH', path)
    stored = copy.deepcopy(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=240, resources={'metadata': {'path': str(REPO)}}
    )
    client.execute()
    assert pictures(notebook) == pictures(stored)
    for made, before in zip(printed(notebook), printed(stored), strict=True):
        assert NUMBER.sub('#', made) == NUMBER.sub('#', before)  # the same words
        found, expected = (map(float, NUMBER.findall(t)) for t in (made, before))
        # Codes near a threshold may differ on another machine.
        assert list(found) == pytest.approx(list(expected), rel=0.05), made
