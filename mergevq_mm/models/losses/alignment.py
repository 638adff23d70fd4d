"""Losses between the student's and the teacher's class features (spec section 8).

The cosine distance is mmpretrain's ``CosineSimilarityLoss``, see ``AlignmentHead``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mergevq_mm.base.module import BaseModule
from mergevq_mm.base.process import all_reduce
from mergevq_mm.registry import MODELS


def distillation_kl(
    student: Tensor, target: Tensor, temperature: float = 4.0
) -> Tensor:
    """KL(teacher || student) of softmax distributions over the feature dimensions.

    Args:
        student (Tensor): Student features, B×T.
        target (Tensor): Teacher features, B×T.
        temperature (float): Divides the features; the loss is scaled by its square, so
            that gradients keep their size. Defaults to 4.

    Returns:
        Tensor: Scalar, mean over the batch.
    """
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_target = F.log_softmax(target.float() / temperature, dim=1)
    divergence = F.kl_div(
        log_student, log_target, reduction='batchmean', log_target=True
    )
    return divergence * temperature**2


def dino_cross_entropy(
    student: Tensor,
    target: Tensor,
    center: Tensor,
    student_temp: float = 0.1,
    teacher_temp: float = 0.04,
) -> Tensor:
    """Cross-entropy of DINO: the centred and sharpened teacher against the student.

    Args:
        student (Tensor): Student logits, B×P.
        target (Tensor): Teacher logits, B×P.
        center (Tensor): Running mean of the teacher's logits, P.
        student_temp (float): Temperature of the student. Defaults to 0.1.
        teacher_temp (float): Temperature of the teacher. Defaults to 0.04.

    Returns:
        Tensor: Scalar, mean over the batch.
    """
    probability = ((target.float() - center) / teacher_temp).softmax(dim=1)
    log_student = F.log_softmax(student.float() / student_temp, dim=1)
    return -(probability * log_student).sum(dim=1).mean()


@MODELS.register_module()
class DistillationKLLoss(BaseModule):
    """:func:`distillation_kl` as a module, the default of the paper's models.

    Args:
        temperature (float): Defaults to 4.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """KL of student B×T from target B×T, a scalar."""
        return distillation_kl(student, target, self.temperature)


@MODELS.register_module()
class DINOAlignmentLoss(BaseModule):
    """:func:`dino_cross_entropy` with the running centre, which checkpoints keep.

    In training mode the centre moves, after the loss, by the mean over all ranks.

    Args:
        num_prototypes (int): Number P of logits.
        student_temp (float): Temperature of the student. Defaults to 0.1.
        teacher_temp (float): Temperature of the teacher. Defaults to 0.04.
        center_momentum (float): Share of the old centre that stays. Defaults to 0.9.
    """

    center: Tensor

    def __init__(
        self,
        num_prototypes: int,
        student_temp: float = 0.1,
        teacher_temp: float = 0.04,
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.student_temp = student_temp
        self.teacher_temp = teacher_temp
        self.center_momentum = center_momentum
        self.register_buffer('center', torch.zeros(num_prototypes))

    @torch.no_grad()
    def update_center(self, target: Tensor) -> None:
        """Moves the centre towards the mean over ranks of the teacher's logits B×P."""
        mean = target.float().mean(dim=0)
        all_reduce(mean, op='mean')
        self.center.copy_(torch.lerp(mean, self.center, self.center_momentum))

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of student logits B×P with target logits B×P, a scalar."""
        temperatures = self.student_temp, self.teacher_temp
        loss = dino_cross_entropy(student, target, self.center, *temperatures)
        if self.training:
            self.update_center(target)
        return loss
