"""The picture of a model card: images, and what comes back of them."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from ..utils.model_card import PREVIEW

MOST = 8  # images of a picture


def add_preview(folder: str | os.PathLike[str], images: Any) -> list[dict[str, Any]]:
    """Reconstruct images with a folder's tokenizer, and put the picture into it.

    Args:
        folder (str | PathLike): Of a tokenizer or a generator, written.
        images (Any): As an inferencer takes them; the first eight are shown.

    Returns:
        list[dict[str, Any]]: ``image``, ``keep``, ``psnr`` in dB and
        ``bits_per_pixel``, of each image at each K.

    Raises:
        FileNotFoundError: If there is no such image.
        ValueError: If something is no image, or the folder has no tokenizer.
    """
    from ..visualization import SheetRow, contact_sheet
    from ..visualization.grids import save_png
    from .inferencers import ReconstructionInferencer

    infer = ReconstructionInferencer(Path(folder), device='cpu', show_progress=False)
    rows, measured = [], []
    found = infer.stream(images, keep=_shares(infer), batch_size=1)
    for result in itertools.islice(found, MOST):
        made = result['reconstructions']
        shown = {keep: (one['image'], one['psnr']) for keep, one in made.items()}
        rows.append(SheetRow(result['name'], result['original'], shown))
        measured += [
            {
                'image': result['name'],
                'keep': keep,
                'psnr': one['psnr'],
                'bits_per_pixel': one['bpp'],
            }
            for keep, one in sorted(made.items(), reverse=True)
        ]
    largest = max(max(row.original.shape[:2]) for row in rows)
    sheet = contact_sheet(rows, cell=min(256, max(64, largest)))
    save_png(Path(folder) / PREVIEW, sheet)
    return measured


def _shares(infer: Any) -> list[float]:
    """All tokens, and what the model is evaluated at; a quarter where that is all."""
    grid = infer.parts.backbone.grid
    own = getattr(infer.model, 'test_keep', None)
    shares = {1.0, *(keep / (grid[0] * grid[1]) for keep in own or ())}
    if not own or len(shares) == 1:
        shares.add(infer.default_keep())
    return sorted(shares if len(shares) > 1 else {1.0, 0.25}, reverse=True)
