"""All losses of the generator side on what one training step produced."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mergevq_mm.base.module import BaseModule
from mergevq_mm.registry import MODELS

from ..losses import SourceRecoveryLoss, nonsaturating_generator_loss
from ..utils.labels import class_labels
from .alignment_head import AlignmentHead

PIXEL_LOSSES = {'l1': F.l1_loss, 'l2': F.mse_loss}


@MODELS.register_module()
class MergeVQHead(BaseModule):
    """Pixel, perceptual, adversarial, source-recovery and alignment terms.

    Differences: the defaults are the weights of the authors' code (L1 1, perceptual 1,
    adversarial 0.1). The paper's Table A1 (L2 1, perceptual 0.7, adversarial 0.8) is
    ``configs/mergevq_g+r_a1.py``.

    Args:
        pixel (dict, optional): Weights of 'l1' and 'l2'. Defaults to None, l1=1.
        perceptual (dict, optional): Config of a loss that takes (recon, image), such as
            ``mergevq_mm.LPIPSLoss``. Defaults to None, no such term.
        source (dict, optional): Arguments of :class:`SourceRecoveryLoss`. Defaults to
            None, no such term.
        alignment (dict, optional): Config of :class:`AlignmentHead`; its type may be
            left out. Defaults to None, no such term.
        gan_weight (float): Weight of the adversarial term. Defaults to 0.1.

    Raises:
        ValueError: If ``pixel`` names an unknown term.
    """

    def __init__(
        self,
        pixel: dict[str, float] | None = None,
        perceptual: dict[str, Any] | None = None,
        source: dict[str, Any] | None = None,
        alignment: dict[str, Any] | None = None,
        gan_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.pixel = {'l1': 1.0} if pixel is None else dict(pixel)
        for name in self.pixel:
            if name not in PIXEL_LOSSES:
                raise ValueError(
                    f'pixel={self.pixel} of MergeVQHead names the unknown term '
                    f'{name!r}; give weights of {", ".join(PIXEL_LOSSES)}.'
                )
        self.gan_weight = gan_weight
        self.perceptual = None if perceptual is None else MODELS.build(perceptual)
        self.source: SourceRecoveryLoss | None = None
        if source is not None:
            arguments = {k: v for k, v in source.items() if k != 'type'}
            self.source = SourceRecoveryLoss(**arguments)
        self.alignment: AlignmentHead | None = None
        if alignment is not None:
            default = {'type': 'mergevq_mm.AlignmentHead'}
            self.alignment = MODELS.build({**default, **alignment})

    def forward(
        self,
        recon: Tensor,
        image: Tensor,
        cls: Tensor | None = None,
        target: Tensor | None = None,
        source_logits: Tensor | None = None,
        group: Tensor | None = None,
        index: Tensor | None = None,
        fake_logits: Tensor | None = None,
        data_samples: Sequence[Any] | None = None,
    ) -> dict[str, Tensor]:
        """Weighted terms; one that is not configured or lacks its input is left out.

        ``MergeVQ`` checks before training that each configured term will get its input;
        class labels are checked here, with each batch.

        Args:
            recon (Tensor): Reconstruction, B×3×H×W.
            image (Tensor): Image, B×3×H×W in [-1, 1].
            cls (Tensor, optional): Class token of the student's view, B×D.
            target (Tensor, optional): Target of the teacher, B×T.
            source_logits (Tensor, optional): Scores of the learned recovery, B×L×K.
            group (Tensor, optional): Token of each raster position, B×L int64.
            index (Tensor, optional): Index of the code of each token, B×K int64.
            fake_logits (Tensor, optional): Logits of the discriminator on ``recon``.
            data_samples (Sequence[DataSample], optional): For class labels.

        Returns:
            dict[str, Tensor]: ``loss_pixel``, ``loss_perceptual``, ``loss_gan``,
            ``loss_source``, ``loss_align`` and diagnostics.

        Raises:
            ValueError: If the shapes of ``recon`` and ``image`` differ, or the
                alignment is on labels and the samples have none.
        """
        if recon.shape != image.shape:
            raise ValueError(
                f'recon of shape {tuple(recon.shape)} does not match image '
                f"{tuple(image.shape)}; choose a decoder with the encoder's stride."
            )
        recon, image = recon.float(), image.float()
        terms = {}
        if any(self.pixel.values()):
            terms['loss_pixel'] = self.pixel_loss(recon, image)
        if self.perceptual is not None:
            terms['loss_perceptual'] = self.perceptual(recon, image)
        if fake_logits is not None and self.gan_weight:
            adversarial = nonsaturating_generator_loss(fake_logits)
            terms['loss_gan'] = self.gan_weight * adversarial
        if self.source is not None and source_logits is not None:
            terms.update(self.source(source_logits, group, index))
        if self.alignment is not None and cls is not None:
            labels = self._labels(data_samples, cls.device)
            terms.update(self.alignment(cls, target, labels))
        return terms

    def pixel_loss(self, recon: Tensor, image: Tensor) -> Tensor:
        """Weighted sum of L1 and L2 between B×3×H×W images, a scalar."""
        terms = [
            weight * PIXEL_LOSSES[name](recon, image)
            for name, weight in self.pixel.items()
            if weight
        ]
        return reduce(torch.add, terms)

    def _labels(
        self, data_samples: Sequence[Any] | None, device: torch.device
    ) -> Tensor | None:
        """Class labels B of the samples, where the alignment is on labels."""
        if self.alignment is None or not self.alignment.from_labels:
            return None
        return class_labels(data_samples, "the alignment's loss='label'", device)
