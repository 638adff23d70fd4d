"""A frozen pre-trained network as the teacher of the class token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mergevq_mm.base.module import BaseModule
from mergevq_mm.registry import MODELS

from ..utils.frozen import FrozenModel
from .stored_teacher import read_targets


@MODELS.register_module()
class FrozenTeacher(BaseModule):
    """Features of a frozen network of any registry, DINOv2-B in the paper's models.

    The network is not part of checkpoints, EMA, optimizers or DDP (see
    :class:`FrozenModel`); its weights are loaded when training starts.

    Differences: the authors use the layer-normed class token of DINOv2 from Hugging
    Face; mmpretrain's ``VisionTransformer`` with ``out_type='cls_token'`` gives the
    same vector from OpenMMLab's copy of the weights.

    Args:
        network (dict | nn.Module | Callable): Config of a backbone with ``init_cfg`` of
            type 'Pretrained', or a ready module. A tuple of outputs counts by its last
            one; maps B×C×h×w are averaged over their positions.
        mean (Sequence[float], optional): Channel means that the network expects, in
            0..255. Defaults to None, images in [-1, 1] as they come.
        std (Sequence[float], optional): Channel deviations. Defaults to None.
        input_size (int | tuple[int, int], optional): Size to resize the view to.
            Defaults to None.
        standardize (str, optional): A file of :func:`extract_targets`, whose mean and
            deviation of each feature are applied. Defaults to None.
        pool_size (int): Average maps over so many rows and columns of cells instead of
            one; the target then has C·pool_size² features. Defaults to 1.
        fp32 (bool): Whether to keep out of autocast. Defaults to False: the teacher
            follows the run's precision, targets are float32 in any case.
        random_init (bool): Accept a network without weights. Defaults to False.
        channels_last (bool): Memory format of images and weights. Defaults to True.
    """

    def __init__(
        self,
        network: dict[str, Any] | nn.Module,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        input_size: int | tuple[int, int] | None = None,
        standardize: str | None = None,
        pool_size: int = 1,
        fp32: bool = False,
        random_init: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.model = FrozenModel(
            network,
            mean,
            std,
            input_size,
            fp32=fp32,
            random_init=random_init,
            channels_last=channels_last,
        )
        self.standardize = standardize
        self.pool_size = pool_size
        self._moments: tuple[Tensor, Tensor] | None = None

    def init_weights(self) -> None:
        """Loads the network's weights and the standardisation, if not done yet."""
        self.model.init_weights()
        if self.standardize is not None and self._moments is None:
            stored = read_targets(self.standardize)
            self._moments = stored.mean, stored.std

    @torch.no_grad()
    def forward(
        self, view: Tensor | None, data_samples: Sequence[Any] | None = None
    ) -> Tensor:
        """Targets of the teacher's views.

        Args:
            view (Tensor): B×3×H×W in [-1, 1].
            data_samples (Sequence[DataSample], optional): Not used.

        Returns:
            Tensor: B×T float32, without gradient.

        Raises:
            ValueError: If there is no view, or the network returns neither vectors nor
                maps.
        """
        if view is None:
            raise ValueError(
                'view=None, but FrozenTeacher needs images; add a teacher view to the '
                'pipeline or use StoredTeacher.'
            )
        self.init_weights()
        feature = _pool(self.model(view), self.pool_size).float()
        if self._moments is not None:
            # Kept where they are needed: a copy in each step would wait for the device.
            mean, std = (moment.to(feature.device) for moment in self._moments)
            self._moments = mean, std
            feature = (feature - mean) / std
        return feature


def _pool(output: Any, size: int) -> Tensor:
    """The last output of a backbone as vectors, B×C or B×(C·size²)."""
    if isinstance(output, (tuple, list)):
        output = output[-1]
    if output.ndim == 4:
        return F.adaptive_avg_pool2d(output, size).flatten(1)  # B×C×h×w -> B×C·size²
    if output.ndim != 2:
        raise ValueError(
            f'network of FrozenTeacher returns shape {tuple(output.shape)}; choose an '
            "output of vectors B×C or maps B×C×h×w (out_type='cls_token')."
        )
    vectors: Tensor = output
    return vectors
