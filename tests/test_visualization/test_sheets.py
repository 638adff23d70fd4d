"""A contact sheet: its cells, in any sizes, and what stands around them."""

from __future__ import annotations

import numpy as np
import pytest

from mergevq_mm.visualization import SheetRow, contact_sheet


def _flat(height: int, width: int, grey: int) -> np.ndarray:
    return np.full((height, width, 3), grey, np.uint8)


def test_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def remember(images, titles, notes, columns) -> np.ndarray:
        seen.update(images=images, titles=titles, notes=notes, columns=columns)
        return images[0]

    monkeypatch.setattr('mergevq_mm.visualization.sheets.strip', remember)
    rows = [
        SheetRow(
            'a name that is far too long',
            _flat(40, 80, 10),
            {9: (_flat(40, 80, 20), 12.34), 16: (_flat(40, 80, 30), 23.45)},
        ),
        SheetRow('b', _flat(8, 8, 40), {16: (_flat(8, 8, 50), 34.56)}),
    ]
    contact_sheet(rows, cell=32)
    assert seen['columns'] == 3
    assert seen['titles'] == [
        'a name that is far …', 'K = 16', 'K = 9', 'b', 'K = 16', '',
    ]  # fmt: skip
    notes = [note[0] if note else '' for note in seen['notes']]
    dB = ['PSNR 23.4 dB', 'PSNR 12.3 dB', 'PSNR 34.6 dB']
    assert notes == ['original', *dB[:2], 'original', dB[2], '']
    wide, small = seen['images'][0], seen['images'][3]
    assert wide.shape == (32, 32, 3) and (wide[8:24] == 10).all()  # 16×32, centred
    assert (wide[:8] == 255).all() and (wide[24:] == 255).all()
    assert (small == 40).all() and (seen['images'][5] == 255).all()
    assert [int(image[16, 16, 0]) for image in seen['images'][1:3]] == [30, 20]
    with pytest.raises(ValueError, match='rows is empty'):
        contact_sheet([])
