"""How mmagic asks for images, and how it wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from mergevq_mm.base.process import get_rank, get_world_size

from .sampling import sample_seeds
from .structures import SampledCodes

if TYPE_CHECKING:
    from mmengine.structures import BaseDataElement

# What loops hand on beside the inputs.
Samples: TypeAlias = 'Sequence[Any] | BaseDataElement | None'
# The sampler of mmagic's generative metrics sends the first three.
KEYS = (
    'num_batches',
    'sample_model',
    'sample_kwargs',
    'labels',
    'keep',
    'seed',
    'first',
)


def labels_of(data_samples: Samples) -> Tensor | None:
    """Classes of mmpretrain's or mmagic's samples, B, where they have any."""
    if not isinstance(data_samples, (list, tuple)):
        return None
    labels = [getattr(sample, 'gt_label', None) for sample in data_samples]
    if not labels or any(label is None for label in labels):
        return None
    # mmagic wraps the tensor once more.
    labels = [getattr(label, 'label', label) for label in labels]
    return torch.cat([torch.as_tensor(label).reshape(-1)[:1] for label in labels])


def read_request(
    inputs: Tensor | Mapping[str, Any], data_samples: Samples
) -> tuple[Tensor | Sequence[int] | None, int, dict[str, Any]]:
    """Take a request for images apart.

    Args:
        inputs (Mapping): The request, see ``TokenGenerator.predict``.
        data_samples (Sequence, optional): With classes.

    Returns:
        tuple: The classes that are asked for, or None; the number of images; options of
        sampling.

    Raises:
        ValueError: If it cannot be understood.
    """
    if not isinstance(inputs, Mapping) or set(inputs) - set(KEYS):
        got = sorted(inputs) if isinstance(inputs, Mapping) else 'images'
        raise ValueError(
            f'inputs={got} is no request for generated images; give a dict with some '
            f"of {', '.join(KEYS)}, as mmagic's MultiValLoop does."
        )
    labels = inputs.get('labels')
    labels = labels_of(data_samples) if labels is None else labels
    count = inputs.get('num_batches') if labels is None else len(labels)
    if not count or count < 1:
        raise ValueError(
            f'num_batches={count} asks for no image; give a number of at least 1.'
        )
    options = dict(inputs.get('sample_kwargs') or {})
    options.update({key: inputs[key] for key in ('keep', 'seed') if key in inputs})
    return labels, int(count), options


class ImageCounter:
    """Numbers of the images of an evaluation, without gaps over the ranks.

    Rank r of R gets r, r + R, r + 2R, …: so many images from each rank are the first
    ones of the run, whatever R is.
    """

    def __init__(self) -> None:
        self._next: dict[Any, int] = {}

    def take(self, count: int, series: Any = None) -> list[int]:
        """The next numbers of this process.

        Args:
            count (int): How many.
            series (Any): What is counted on its own. Defaults to None.

        Returns:
            list[int]: Numbers of images.
        """
        start = self._next.get(series, 0)
        self._next[series] = start + count
        rank, world = get_rank(), get_world_size()
        return [number * world + rank for number in range(start, start + count)]


def seeds_of(seed: int, numbers: Sequence[int]) -> list[int]:
    """Seeds of the images with these numbers."""
    return [sample_seeds(seed, number, 1)[0] for number in numbers]


def pack_samples(
    images: Tensor,
    labels: Tensor | Sequence[int],
    numbers: Sequence[int],
    drawn: SampledCodes,
) -> list[BaseDataElement]:
    """Generated images as mmagic's samples.

    Args:
        images (Tensor): B×3×H×W in [-1, 1], RGB.
        labels (Tensor | Sequence[int]): B classes.
        numbers (Sequence[int]): B numbers of images within the run.
        drawn (SampledCodes): The codes.

    Returns:
        list[DataSample]: With ``fake_img`` 3×H×W in 0..255, BGR, rounded, for mmagic's
        metrics cut decimals off.
    """
    from mmagic.structures import DataSample  # takes seconds to import

    images = images.float().add(1).mul(127.5).round().clamp(0, 255).flip(1)
    stats = {name: value.tolist() for name, value in drawn.stats.items()}
    samples = []
    for i, number in enumerate(numbers):
        sample = DataSample(fake_img=images[i])
        sample.set_gt_label(int(labels[i]))
        sample.set_metainfo(
            {
                'sample_number': number,
                'sample_stats': {name: value[i] for name, value in stats.items()},
            }
        )
        samples.append(sample)
    return samples
