"""Source-recovery loss L_src: which of the K tokens stands for each position.

Paper Eq. 9 is written as a binary and described as a plain cross-entropy; here the
cross-entropy over K is the loss and the binary one can be added (spec section 7).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mergevq_mm.base.module import BaseModule
from mergevq_mm.registry import MODELS

from ..utils.group_map import source_accuracy
from ..utils.precision import no_autocast


def source_cross_entropy(logits: Tensor, group: Tensor) -> Tensor:
    """Cross-entropy over the K tokens, mean over positions and batch.

    Args:
        logits (Tensor): Score of each token for each position, B×L×K.
        group (Tensor): The token that stands for each position, B×L int64.

    Returns:
        Tensor: Scalar.
    """
    return F.cross_entropy(logits.float().flatten(0, 1), group.flatten())


def source_binary_cross_entropy(logits: Tensor, group: Tensor) -> Tensor:
    """Paper Eq. 9 as printed: element-wise on the softmax over K, mean over B, L, K.

    Args:
        logits (Tensor): Score of each token for each position, B×L×K.
        group (Tensor): The token that stands for each position, B×L int64.

    Returns:
        Tensor: Scalar.
    """
    source = F.one_hot(group, logits.shape[2]).float()  # B×L×K
    # Autocast forbids binary_cross_entropy, whatever the precision of its input.
    with no_autocast(logits):
        return F.binary_cross_entropy(logits.float().softmax(dim=2), source)


@MODELS.register_module()
class SourceRecoveryLoss(BaseModule):
    """L_src with its two accuracies, of the likeliest token of each position.

    The best possible map, which validation measures, takes K steps: too many for a log.

    Args:
        loss_weight (float): Weight of the term; the paper has 0.5 (G, G+R) and 1.0 (R).
            Defaults to 0.5.
        bce_weight (float): Weight of Eq. 9 as printed relative to the cross-entropy.
            Defaults to 0, not computed.
    """

    def __init__(self, loss_weight: float = 0.5, bce_weight: float = 0.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.bce_weight = bce_weight

    def forward(
        self, logits: Tensor, group: Tensor, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Loss and accuracies.

        Args:
            logits (Tensor): Score of each token for each position, B×L×K.
            group (Tensor): The token that stands for each position, B×L int64.
            index (Tensor, optional): Index of the code of each token, B×K int64.

        Returns:
            dict[str, Tensor]: ``loss_source``, ``source_acc`` and, with ``index``,
            ``source_acc_codes``.
        """
        loss = source_cross_entropy(logits, group)
        if self.bce_weight:
            loss = loss + self.bce_weight * source_binary_cross_entropy(logits, group)
        best = logits.argmax(dim=2)  # B×L
        terms = {
            'loss_source': self.loss_weight * loss,
            'source_acc': source_accuracy(best, group).mean(),
        }
        if index is not None:
            terms['source_acc_codes'] = source_accuracy(best, group, index).mean()
        return terms
