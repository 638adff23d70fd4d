"""Reading what ``MergeVQ.predict`` returns.

A prediction holds ``original`` (3×H×W in [0, 1]), ``grid``, ``bits`` of a code and
``reconstructions``, a dict from K to a dict with ``image``, ``index``, ``group`` and,
where the recovery is learned, ``predicted_group`` and ``predicted_image``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def kept_counts(
    samples: Sequence[Mapping], keeps: Sequence[int] | None = None
) -> list[int]:
    """The numbers of kept tokens that the samples were reconstructed with.

    Args:
        samples (Sequence[Mapping]): Predictions of one batch.
        keeps (Sequence[int], optional): Only these. Defaults to None, all.

    Returns:
        list[int]: In ascending order.

    Raises:
        ValueError: If there are no reconstructions, or not for all of ``keeps``.
    """
    if not samples or 'reconstructions' not in samples[0]:
        raise ValueError(
            'data_samples hold no `reconstructions`; evaluate a model whose '
            "mode='predict' sets them, such as mergevq_mm.MergeVQ."
        )
    counts = sorted(samples[0]['reconstructions'])
    missing = sorted(set(keeps or ()) - set(counts))
    if missing:
        raise ValueError(
            f'keeps={list(keeps or ())} names {missing}, but reconstructions are at '
            f"{counts} only; add them to the model's test_cfg or leave them out."
        )
    return counts if keeps is None else sorted(set(keeps))


def originals(samples: Sequence[Mapping]) -> Tensor:
    """The input images of a batch of predictions, B×3×H×W in [0, 1]."""
    return torch.stack([sample['original'] for sample in samples])


def code_bits(sample: Mapping, bits: int | None = None) -> int:
    """Bits of a code of the model that has made a prediction.

    Args:
        sample (Mapping): The prediction.
        bits (int, optional): What a config says, for predictions that do not. Defaults
            to None.

    Returns:
        int: Their number.

    Raises:
        ValueError: If nobody says it, or config and prediction differ.
    """
    found = sample.get('bits')
    if found is None:
        found = bits
    if found is None:
        raise ValueError(
            "data_samples do not say how many bits a code has; give bits, the model's."
        )
    if bits not in (None, found):
        raise ValueError(
            f'bits={bits}, but the codes of the model have {found}; leave bits out.'
        )
    return int(found)


def stacked(samples: Sequence[Mapping], keep: int, field: str) -> Tensor | None:
    """One field of all samples' reconstructions at one K.

    Args:
        samples (Sequence[Mapping]): Predictions of one batch.
        keep (int): The number of kept tokens.
        field (str): Name of the field, such as ``image`` or ``predicted_group``.

    Returns:
        Tensor | None: B×…, or None where the field is not there.
    """
    results = [sample['reconstructions'][keep] for sample in samples]
    if field not in results[0]:
        return None
    return torch.stack([result[field] for result in results])
