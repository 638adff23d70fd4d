"""What an evaluation sees of a MergeVQ: its reconstructions at several K."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from mergevq_mm.utils.distributed import unwrap

from ..utils.group_map import recover_tokens
from ..utils.pixel_range import to_unit_range
from ..utils.possible_maps import best_possible_map
from ..utils.structures import EmbeddedImage

if TYPE_CHECKING:
    from mmpretrain.structures import DataSample

    from .mergevq import MergeVQ


def predict_samples(
    model: MergeVQ, images: Tensor, data_samples: list[DataSample] | None
) -> list[DataSample]:
    """See :meth:`.mergevq.MergeVQ.predict`."""
    from mmpretrain.structures import DataSample

    samples = data_samples or [DataSample() for _ in images]
    embedded = unwrap(model.backbone).embed(images)  # once, whatever K
    by_keep = {keep: _reconstruct(model, embedded, keep) for keep in model.test_keep}
    for i, sample in enumerate(samples):
        made = {
            keep: {name: value[i] for name, value in values.items()}
            for keep, values in by_keep.items()
        }
        sample.set_field(to_unit_range(images[i]), 'original')
        sample.set_field(embedded.grid, 'grid')
        sample.set_field(unwrap(model.quantizer).bits, 'bits')
        sample.set_field(made, 'reconstructions')
    return samples


def _reconstruct(
    model: MergeVQ, embedded: EmbeddedImage, keep: int
) -> dict[str, Tensor]:
    merged = unwrap(model.backbone).encode_embedded(embedded, keep)
    quantized = model.quantizer(merged.tokens)
    recovered = model.neck(quantized.codes, merged.group, merged.grid)
    made = {
        'image': to_unit_range(model.decoder(recovered.tokens, merged.grid)),
        'index': quantized.index,
        'group': merged.group,
    }
    if model.predict_source:
        group = best_possible_map(recovered.logits)
        image = model.decoder(recover_tokens(quantized.codes, group), merged.grid)
        made['predicted_image'] = to_unit_range(image)
        made['predicted_group'] = group
    return made
