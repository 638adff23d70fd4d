"""Adversarial terms of stage 1 (spec section 9): hinge, non-saturating, LeCAM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mergevq_mm.base.module import BaseModule
from mergevq_mm.base.process import all_reduce
from mergevq_mm.registry import MODELS


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge loss of the discriminator, half for the real and half for the fake images.

    Args:
        real_logits (Tensor): Logits of real images, any shape (patches: B×1×h×w).
        fake_logits (Tensor): Logits of reconstructions, any shape.

    Returns:
        Tensor: Scalar, 0.5 * (mean(relu(1 - real)) + mean(relu(1 + fake))).
    """
    real = F.relu(1.0 - real_logits.float()).mean()
    fake = F.relu(1.0 + fake_logits.float()).mean()
    return 0.5 * (real + fake)


def nonsaturating_generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of the generator on the mean logit of each image.

    Args:
        fake_logits (Tensor): Logits of reconstructions, B×... (patches: B×1×h×w).

    Returns:
        Tensor: Scalar, mean over images of softplus(-mean logit of the image).
    """
    return F.softplus(-fake_logits.float().flatten(1).mean(dim=1)).mean()


def lecam_regularizer(
    real_logits: Tensor, fake_logits: Tensor, real_mean: Tensor, fake_mean: Tensor
) -> Tensor:
    """LeCAM regulariser (arXiv 2104.03310) against running means of the logits.

    Args:
        real_logits (Tensor): Logits of real images, any shape.
        fake_logits (Tensor): Logits of reconstructions, any shape.
        real_mean (Tensor): Running mean of the real logits, scalar.
        fake_mean (Tensor): Running mean of the fake logits, scalar.

    Returns:
        Tensor: Scalar, mean(relu(real - fake_mean)^2) + mean(relu(real_mean - fake)^2).
    """
    real = F.relu(real_logits.float() - fake_mean).square().mean()
    fake = F.relu(real_mean - fake_logits.float()).square().mean()
    return real + fake


@MODELS.register_module()
class LeCAM(BaseModule):
    """LeCAM regulariser with its running means, which checkpoints keep.

    In training mode each call first moves the running means by the means over all ranks
    and then returns the weighted regulariser; in evaluation mode they stay.

    Differences: the authors keep the means as Python numbers, per rank, starting at 0
    and lost on resume; here they are buffers, averaged across ranks, and start at the
    first batch's means.

    Args:
        decay (float): Decay of the running means. Defaults to 0.999.
        weight (float): Weight of the term. Defaults to 0.01.

    Raises:
        ValueError: If ``decay`` lies outside [0, 1).
    """

    real_mean: Tensor
    fake_mean: Tensor
    initialized: Tensor

    def __init__(self, decay: float = 0.999, weight: float = 0.01) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f'decay={decay} of LeCAM lies outside [0, 1); try 0.999.')
        self.decay = decay
        self.weight = weight
        self.register_buffer('real_mean', torch.zeros(()))
        self.register_buffer('fake_mean', torch.zeros(()))
        self.register_buffer('initialized', torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def update(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        """Moves the running means towards the means of these logits on all ranks."""
        means = torch.stack([real_logits.float().mean(), fake_logits.float().mean()])
        all_reduce(means, op='mean')
        for buffer, mean in zip((self.real_mean, self.fake_mean), means):
            moved = torch.lerp(mean, buffer, self.decay)
            # torch.where instead of a branch: no synchronisation with the host.
            buffer.copy_(torch.where(self.initialized, moved, mean))
        self.initialized.fill_(True)

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Weighted regulariser.

        Args:
            real_logits (Tensor): Logits of real images, any shape.
            fake_logits (Tensor): Logits of reconstructions, any shape.

        Returns:
            Tensor: Scalar.
        """
        if self.training:
            self.update(real_logits, fake_logits)
        means = self.real_mean, self.fake_mean
        return self.weight * lecam_regularizer(real_logits, fake_logits, *means)
