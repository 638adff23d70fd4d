"""MergeAR's raster decoding, token by token, for those who watch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from mergevq_mm.models.generators import MergeAR
    from mergevq_mm.models.generators.raster_decoding import RasterDecoding


class Moment(NamedTuple):
    """A sample in the making.

    Attributes:
        drawn (int): Tokens that are there.
        index (np.ndarray): Codes of the raster, L int64; -1 where there is none yet.
        slots (np.ndarray): For each slot of the cache the place in the sequence of the
            token in it, prefix tokens first; -1 where it is empty.
        kept (np.ndarray): Whether the slot is kept for good, bool.
        prefix (int): Prefix tokens.
        slot_bytes (int): Of keys and values of a slot.
    """

    drawn: int
    index: np.ndarray
    slots: np.ndarray
    kept: np.ndarray
    prefix: int
    slot_bytes: int


def check_raster(model: Any) -> None:
    """Refuse what has no raster to watch.

    Args:
        model (Any): A generator.

    Raises:
        ValueError: If it is no MergeAR, or draws the distinct codes alone.
    """
    if getattr(model, 'sequence', None) != 'raster' or not hasattr(model, 'make_cache'):
        raise ValueError(
            f'{type(model).__name__} does not fill a raster; give a MergeAR with '
            "sequence='raster', such as that of configs/mergear_l_g+r.py."
        )


def stream_codes(
    model: MergeAR, label: int, keep: int, seed: int, cache: str, **options: Any
) -> Iterator[Moment]:
    """Draw one sample as ``sample_codes`` does, and stop after each token.

    Args:
        model (MergeAR): In evaluation mode.
        label (int): The class.
        keep (int): K.
        seed (int): Of the sample.
        cache (str): 'compressed' or 'full'.
        **options (Any): ``guidance``, ``temperature``, ….

    Yields:
        Moment: L in all.

    Raises:
        ValueError: If a class or an option is out of range.
    """
    from mergevq_mm.models.generators.raster_decoding import decode_step

    labels = model.check_labels(torch.tensor([label], device=model.device))
    # A generator gives control away within a `with`, which must not switch gradients
    # off for whoever runs in between.
    with torch.inference_mode():
        decoding = model.start_decoding(labels, keep, [seed], cache, **options)
        prefix = model.embed_prefix(model.guided_labels(labels, decoding.rule), keep)
        token = torch.zeros_like(decoding.index[:, :1])
        code = decoding.draw(decoding.start(prefix), token)
        decoding.index[:, :1] = code
    yield look(decoding, 1)
    memory = decoding.cache
    for position in range(decoding.index.shape[1] - 1):
        with torch.inference_mode():
            read = memory.reserve(latest=memory.prefix + position)
            code = decode_step(decoding, code, token, read)
        yield look(decoding, position + 2)


def look(decoding: RasterDecoding, drawn: int) -> Moment:
    """What there is to see after so many tokens, of the first sample.

    Args:
        decoding (RasterDecoding): The samples.
        drawn (int): Tokens that are drawn.

    Returns:
        Moment: On the host.
    """
    from mergevq_mm.models.generators.token_cache import NOBODY

    memory = decoding.cache
    index = decoding.index[0].cpu().numpy().copy()
    index[drawn:] = -1
    place = memory.step[0].cpu().numpy()
    slots = np.where(place == NOBODY, -1, place)
    store = memory.store
    bytes_of_slot = store.nbytes // (store.slots * memory.step.shape[0])
    kept = memory.kept[0].cpu().numpy().copy()  # the cache goes on
    return Moment(drawn, index, slots, kept, memory.prefix, bytes_of_slot)
