"""How many slots of MergeAR's caches are occupied while an image is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .plots import BLUE, GREY, ORANGE, new_figure, title

if TYPE_CHECKING:
    from mergevq_mm.models.generators import MergeAR

_COLOURS = {'full': GREY, 'compressed': BLUE}


class CacheTrace(NamedTuple):
    """Occupancy of a cache over the steps of a generation.

    Attributes:
        index (Tensor): The codes that were drawn, B×n.
        occupied (Tensor): Slots that hold something when token t is drawn, n×B int64.
        slot_bytes (int): Bytes of one slot of one sequence.
    """

    index: Tensor
    occupied: Tensor
    slot_bytes: int


@torch.no_grad()
def trace_cache(
    model: MergeAR,
    labels: Tensor,
    keep: int,
    seeds: Sequence[int],
    cache: str = 'compressed',
    **options: Any,
) -> CacheTrace:
    """Draw codes as ``sample_codes`` does, and note the occupancy at each step.

    Args:
        model (MergeAR): In evaluation mode.
        labels (Tensor): Classes, B int64.
        keep (int): K.
        seeds (Sequence[int]): One a sample.
        cache (str): 'full' or 'compressed'. Defaults to 'compressed'.
        **options: Of sampling, without ``speculative``.

    Returns:
        CacheTrace: Codes and occupancy.

    Raises:
        ValueError: If an option is not known or out of range.
    """
    from mergevq_mm.models.generators.raster_decoding import decode_raster, decode_step

    decoding = model.start_decoding(labels, keep, seeds, cache, **options)
    prefix = model.embed_prefix(model.guided_labels(labels, decoding.rule), keep)
    number = len(labels)
    occupied = [torch.full_like(labels, model.prefix)]

    def step(code: Tensor, token: Tensor, read: int) -> Tensor:
        drawn = decode_step(decoding, code, token, read)
        occupied.append(decoding.cache.occupied[:number])
        return drawn

    index = decode_raster(decoding, prefix, step)
    store = decoding.cache.store
    rows = number * decoding.rows
    return CacheTrace(
        index, torch.stack(occupied), store.nbytes // (rows * store.slots)
    )


def cache_figure(traces: Mapping[str, CacheTrace], heading: str = '') -> Figure:
    """Occupied slots over the steps, for each cache.

    Args:
        traces (Mapping[str, CacheTrace]): Name of the cache to what was traced, such as
            'full' and 'compressed'.
        heading (str): Of the plot. Defaults to ''.

    Returns:
        Figure: A line for the mean over the samples, a band from the least to the most.

    Raises:
        ValueError: If there is no trace.
    """
    if not traces:
        raise ValueError('traces is empty; give that of at least one cache.')
    figure, (plot,) = new_figure(1, 1, 8.5, 4.6)
    most, samples, size = 0.0, 0, 0
    for name, trace in traces.items():
        occupied = trace.occupied.cpu().numpy()
        steps = np.arange(1, len(occupied) + 1)
        mean = occupied.mean(axis=1)
        colour = _COLOURS.get(name, ORANGE)
        kib = mean[-1] * trace.slot_bytes / 1024
        plot.plot(
            steps,
            mean,
            color=colour,
            linewidth=2,
            label=f'{name}: {mean[-1]:.1f} slots at the end, {kib:,.1f} KiB',
        )
        plot.fill_between(
            steps,
            occupied.min(axis=1),
            occupied.max(axis=1),
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
        most = max(most, float(occupied.max()))
        samples, size = occupied.shape[1], trace.slot_bytes
    plot.set_xlim(1, len(occupied))
    plot.set_ylim(0, most * 1.05)
    plot.set_xlabel('token that is drawn')
    plot.set_ylabel('occupied slots of a sequence')
    plot.legend(frameon=False, fontsize=10, loc='upper left')
    title(
        plot,
        heading or 'Cache during generation',
        f'{samples} samples; line: mean, band: least to most; a slot is '
        f'{size:,} bytes of keys and values',
    )
    return figure
