"""A moving average of the student as its own teacher (DINO)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mergevq_mm.base.module import BaseModule
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.distributed import unwrap

from ..utils.moving_average import MovingAverage


class CosineAverage(MovingAverage):
    """A moving average whose momentum follows a cosine over the run.

    Differences: mmpretrain's ``CosineEMA`` counts updates, of which there are fewer
    than iterations where gradients accumulate or steps are skipped, and never comes to
    the end of its cosine; here the iteration itself counts.

    Args:
        model (nn.Module): To average.
        momentum (float): Share of the model in the first update.
        end_momentum (float): In the last one.
    """

    def __init__(self, model: nn.Module, momentum: float, end_momentum: float) -> None:
        super().__init__(model, momentum)
        self.end_momentum = end_momentum

    def share(self) -> float:
        """Share of the model in the next update, by the iteration of the run."""
        from mmengine.logging import MessageHub

        hub = MessageHub.get_current_instance()
        iterations = hub.get_info('iter', -1) + 1
        done = iterations / max(hub.get_info('max_iters', 1), 1)
        fall = (math.cos(math.pi * min(done, 1.0)) + 1) / 2
        return self.end_momentum + (self.momentum - self.end_momentum) * fall


@MODELS.register_module()
class EMATeacher(BaseModule):
    """Moving average of the student's backbone and projector, where no weights exist.

    The algorithm hands its students over three times: :meth:`attach` when it is built,
    :meth:`update` once after ``init_weights`` (the first update copies) and after each
    optimizer step. Nothing else refers to the student. The teacher sees its view
    without merging.

    Unlike frozen teachers, its weights are in checkpoints: they cannot be rebuilt, and
    a resumed run has to go on with them. They are in no optimizer and take no gradient.

    Args:
        momentum (float): Share of the student in each update, mmengine's convention (1
            minus DINO's). Defaults to 0.004.
        end_momentum (float, optional): Where a cosine over the run's iterations leads
            ``momentum``, however many of them an optimizer step takes. Defaults to
            None, constant.
        mode (str): ``mode`` with which the backbone is called, so that it returns
            ``MergedTokens``. Defaults to 'encode'.

    Raises:
        ValueError: If ``momentum`` lies outside (0, 1).
    """

    def __init__(
        self,
        momentum: float = 0.004,
        end_momentum: float | None = None,
        mode: str = 'encode',
    ) -> None:
        super().__init__()
        if not 0.0 < momentum < 1.0:
            raise ValueError(
                f'momentum={momentum} of EMATeacher lies outside (0, 1); it is the '
                'share of the student, 0.004 where DINO writes 0.996.'
            )
        self.momentum = momentum
        self.end_momentum = end_momentum
        self.mode = mode
        self.average: MovingAverage | None = None

    def attach(self, **students: nn.Module) -> None:
        """Makes the averaged copies, from modules that are not wrapped for DDP yet.

        Args:
            **students (nn.Module): ``backbone`` and ``projector``.

        Raises:
            ValueError: If one of the two is missing.
        """
        _check(students)
        modules = nn.ModuleDict(students)
        if self.end_momentum is None:
            self.average = MovingAverage(modules, self.momentum)
        else:
            self.average = CosineAverage(modules, self.momentum, self.end_momentum)
        self.train(self.training)

    @torch.no_grad()
    def update(self, **students: nn.Module) -> None:
        """Moves the teacher towards the student; the first time copies it.

        Args:
            **students (nn.Module): ``backbone`` and ``projector``, wrapped or not.

        Raises:
            ValueError: If one of the two is missing.
            RuntimeError: If :meth:`attach` has not been called.
        """
        _check(students)
        plain = {name: unwrap(module) for name, module in students.items()}
        self._averaged().update_parameters(nn.ModuleDict(plain))

    @torch.no_grad()
    def forward(
        self, view: Tensor, data_samples: Sequence[Any] | None = None
    ) -> Tensor:
        """Targets of the teacher's views.

        Args:
            view (Tensor): B×3×H×W in [-1, 1].
            data_samples (Sequence[DataSample], optional): Not used.

        Returns:
            Tensor: What the averaged projector returns, B×T float32.
        """
        networks = self._averaged().module
        tokens = networks.get_submodule('backbone')(view, mode=self.mode)
        target: Tensor = networks.get_submodule('projector')(tokens.cls)
        return target.float()

    def train(self, mode: bool = True) -> EMATeacher:
        """Sets the training mode of this module; the averaged networks stay in eval."""
        super().train(mode)
        if self.average is not None:
            self.average.eval()
        return self

    def init_weights(self) -> None:
        """Does nothing: the weights come from the student."""

    def _averaged(self) -> MovingAverage:
        if self.average is None:
            raise RuntimeError('EMATeacher has no networks; call attach() first.')
        return self.average


def _check(students: Mapping[str, nn.Module]) -> None:
    if set(students) != {'backbone', 'projector'}:
        raise ValueError(
            f'students={sorted(students)} of EMATeacher must be backbone and '
            'projector; give the model an AlignmentHead.'
        )
