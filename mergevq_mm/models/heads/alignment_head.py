"""Alignment of the class token with a teacher, L_[CLS] (spec section 8)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mergevq_mm.base.module import BaseModule
from mergevq_mm.registry import MODELS

LOSSES = {
    'kl': 'mergevq_mm.DistillationKLLoss',
    'cosine': 'mmpretrain.CosineSimilarityLoss',
    'dino': 'mergevq_mm.DINOAlignmentLoss',
    'label': 'mmpretrain.LabelSmoothLoss',
}


class Prototypes(nn.Module):
    """Last layer of DINO's head: cosine of the feature with each of P prototypes.

    Equal to DINO's weight-normalised linear layer with its norms held at 1.

    Args:
        in_channels (int): Width of the feature.
        num_prototypes (int): Number P of prototypes.
    """

    def __init__(self, in_channels: int, num_prototypes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_prototypes, in_channels))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Feature B×D to logits B×P in [-1, 1]."""
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


def build_projector(
    in_channels: int, out_channels: int, layers: int = 3, ratio: int = 4
) -> nn.Sequential:
    """The authors' two kinds of MLP from the class token to the teacher's width.

    Args:
        in_channels (int): Width D of the class token.
        out_channels (int): Width T of the teacher's features.
        layers (int): 2: linear, GELU, LayerNorm, linear (G). 3: linear, GELU, linear,
            GELU, linear (G+R, R). Defaults to 3.
        ratio (int): Hidden width as a multiple of D. Defaults to 4.

    Returns:
        nn.Sequential: Its keys are the authors' ``dist_head.<i>``.

    Raises:
        ValueError: If ``layers`` is neither 2 nor 3.
    """
    hidden = ratio * in_channels
    if layers == 2:
        middle: list[nn.Module] = [nn.LayerNorm(hidden)]
    elif layers == 3:
        middle = [nn.Linear(hidden, hidden), nn.GELU()]
    else:
        raise ValueError(
            f'layers={layers} of AlignmentHead is not known; 2 is the head of G, 3 '
            'that of G+R and R.'
        )
    first, last = nn.Linear(in_channels, hidden), nn.Linear(hidden, out_channels)
    return nn.Sequential(first, nn.GELU(), *middle, last)


@MODELS.register_module()
class AlignmentHead(BaseModule):
    """Projects the class token and compares it with the teacher's target.

    Differences: the authors' ``mse`` is a cosine averaged over the T dimensions as
    well, which makes it T times smaller than 'cosine' here.

    Args:
        in_channels (int): Width D of the class token.
        out_channels (int): Width T of the target; for 'label' the number of classes;
            with ``num_prototypes`` the bottleneck before them. Defaults to 768,
            DINOv2-B.
        layers (int): 2 (G) or 3 (G+R, R) linear layers. Defaults to 3.
        ratio (int): Hidden width as a multiple of D. Defaults to 4.
        num_prototypes (int, optional): Append DINO's prototypes, for an EMA teacher
            with loss 'dino'. Defaults to None.
        loss (str | dict): 'kl' (T=4, as in the paper's models), 'cosine', 'dino',
            'label' (smoothed cross-entropy on the class labels), or a dict with one of
            these as ``type`` and arguments of its module. Defaults to 'kl'.
        loss_weight (float): 0.1 (G), 1.0 (G+R, R). Defaults to 1.

    Raises:
        ValueError: If ``layers`` or ``loss`` is not known, or the target has another
            width than the projection.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 768,
        layers: int = 3,
        ratio: int = 4,
        num_prototypes: int | None = None,
        loss: str | dict[str, Any] = 'kl',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.projector = build_projector(in_channels, out_channels, layers, ratio)
        if num_prototypes is not None:
            self.projector.append(Prototypes(out_channels, num_prototypes))
        loss = {'type': loss} if isinstance(loss, str) else dict(loss)
        kind = loss.pop('type', None)
        if kind not in LOSSES:
            raise ValueError(
                f'loss={kind!r} of AlignmentHead is not known; choose one of '
                f'{", ".join(LOSSES)}.'
            )
        if kind == 'dino':
            loss.setdefault('num_prototypes', num_prototypes or out_channels)
        if kind == 'cosine':
            loss.setdefault('shift_factor', 1.0)  # 1 - cos, as the KL at best 0
        if kind == 'label':
            loss = {'label_smooth_val': 0.1, 'num_classes': out_channels, **loss}
        self.from_labels = kind == 'label'
        self.loss_module = MODELS.build({'type': LOSSES[kind], **loss})
        self.loss_weight = loss_weight

    def forward(
        self, cls: Tensor, target: Tensor | None = None, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Loss and agreement; empty if what this head compares with is not given.

        Args:
            cls (Tensor): Class token, B×D.
            target (Tensor, optional): Target of the teacher, B×T.
            labels (Tensor, optional): Class labels, B int64, for the loss 'label'.

        Returns:
            dict[str, Tensor]: ``loss_align`` and ``align_cos`` (mean cosine with the
            target) or ``align_acc`` (accuracy on the labels).
        """
        wanted = labels if self.from_labels else target
        if wanted is None:
            return {}
        projected = self.projector(cls)  # B×D -> B×T
        if self.from_labels:
            hits = (projected.argmax(dim=1) == labels).float().mean()
            terms = {'align_acc': hits.detach()}
        else:
            if projected.shape != wanted.shape:
                raise ValueError(
                    f'target of shape {tuple(wanted.shape)} does not fit the projection'
                    f' {tuple(projected.shape)}; set out_channels={wanted.shape[-1]} of'
                    " AlignmentHead (or num_prototypes), the teacher's width."
                )
            cosine = F.cosine_similarity(projected.detach().float(), wanted.float())
            terms = {'align_cos': cosine.mean()}
        loss = self.loss_module(projected.float(), wanted)
        return {'loss_align': self.loss_weight * loss, **terms}
