"""Recovery and decoder trained on, for maps that are predicted (after stage 2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mergevq_mm.registry import MODELS
from mergevq_mm.utils.distributed import unwrap

from ..necks.source_recovery import SourceRecovery
from ..utils.group_map import first_occurrence, recover_tokens
from ..utils.possible_maps import best_possible_map
from .mergevq import MergeVQ


@MODELS.register_module()
class MergeVQRefinement(MergeVQ):
    """A trained tokenizer whose neck and decoder go on learning; its codes stay.

    Which places a generator's codes stand at is predicted, where stage 1 has decoded
    with true maps alone. So some of the images are decoded with the map that the neck
    predicts for them; the image stays what is to be rebuilt.

    Encoder and quantizer are frozen: codes that were extracted, and generators that
    were trained on them, remain valid.

    Differences: the paper fine-tunes the recovery for five epochs after stage 2 and
    does not say on what; the decoder is trained along here.

    Args:
        *args: Of :class:`MergeVQ`.
        predicted (float): Share of the images decoded with the predicted map, in
            [0, 1]; told of the first places, if the neck takes them. Defaults to 0.5.
        **kwargs: Of :class:`MergeVQ`; ``init_cfg`` of type 'Pretrained' names the
            trained tokenizer.

    Raises:
        ValueError: If ``predicted`` is no share, the neck predicts nothing, or there is
            an alignment that nothing would learn from; before training, without
            ``init_cfg``.
    """

    GENERATOR_PARTS = ('neck', 'decoder', 'head')
    neck: SourceRecovery  # or what learns, too

    def __init__(self, *args: Any, predicted: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= predicted <= 1:
            raise ValueError(f'predicted={predicted} is no share; give one in [0, 1].')
        if not self.neck.learned:
            raise ValueError(
                f'MergeVQRefinement trains a neck that predicts the source map, '
                f'{type(self.neck).__name__} does not; use '
                "neck=dict(type='mergevq_mm.SourceRecovery')."
            )
        if self.head.alignment is not None:
            raise ValueError(
                'head.alignment trains the encoder, which MergeVQRefinement freezes; '
                'give head=dict(alignment=None) and target_generator=None.'
            )
        self.predicted = predicted
        self.backbone.requires_grad_(False)
        self.quantizer.requires_grad_(False)

    def train(self, mode: bool = True) -> MergeVQRefinement:
        """Encoder and quantizer stay in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        self.quantizer.eval()
        return self

    def init_weights(self) -> None:
        """Load the trained tokenizer.

        Raises:
            ValueError: If ``init_cfg`` names none.
        """
        if not self.init_cfg:
            raise ValueError(
                'MergeVQRefinement goes on from a trained tokenizer; give '
                "model.init_cfg=dict(type='Pretrained', checkpoint=...)."
            )
        super().init_weights()

    def generator_losses(
        self, inputs: Tensor | list[Tensor], data_samples: list[Any] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of recovery and decoder; see :meth:`MergeVQ.generator_losses`."""
        image = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        keep = self.keep_sampler(self.iteration)
        with torch.no_grad():
            merged, quantized = self._encode(image, keep)
        told = self._told(data_samples, image.device)
        logits = self.neck(quantized.codes, merged.group, merged.grid, **told).logits
        first = None
        if unwrap(self.neck).first is not None:
            first = first_occurrence(merged.group, keep)
        predicted = torch.rand(len(image), 1, device=image.device) < self.predicted
        group = torch.where(predicted, best_possible_map(logits, first), merged.group)
        recon = self.decoder(recover_tokens(quantized.codes, group), merged.grid)
        losses, compared = self._compare(
            recon,
            image,
            source_logits=logits,
            group=merged.group,
            index=quantized.index,
        )
        losses['keep'] = torch.tensor(float(keep))
        return losses, compared
