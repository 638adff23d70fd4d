"""What a model has learnt from, and whether what it is given is of that kind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inferencers import ReconstructionInferencer

# Below, at the model's own K or more, an image is of another kind than those that the
# model has learnt from.
POOR_PSNR = 15.0  # dB


def known_images(infer: ReconstructionInferencer) -> str | None:
    """What a published folder says that its model was trained on.

    Args:
        infer (ReconstructionInferencer): Of any model.

    Returns:
        str | None: Without marks that Markdown or a terminal knows, as anybody may have
        written it; None where nothing is said.
    """
    metadata = (infer.cfg or {}).get('metadata') or {}
    known = metadata.get('images') if isinstance(metadata, Mapping) else None
    if not isinstance(known, str):
        return None
    return re.sub(r'[^\w\s,.;()%-]|_', ' ', known)[:200].strip() or None


def own_psnrs(
    infer: ReconstructionInferencer, result: Mapping[str, Any]
) -> list[float]:
    """PSNR of a result at the model's own K and above, in dB.

    Args:
        infer (ReconstructionInferencer): Which made it.
        result (Mapping): Of one image.

    Returns:
        list[float]: Empty where it was made at smaller K alone.
    """
    least = infer.read_keep(None, result['grid'])
    made = result['reconstructions']
    return [one['psnr'] for keep, one in made.items() if keep >= least]


def is_foreign(psnrs: Sequence[float]) -> bool:
    """Whether little comes back of images, by their :func:`own_psnrs`."""
    return len(psnrs) > 0 and sum(psnrs) / len(psnrs) < POOR_PSNR
