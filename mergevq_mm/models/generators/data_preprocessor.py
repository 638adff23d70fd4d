"""What a generator of codes gets from the loaders and from mmagic's evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mergevq_mm.base.module import BaseDataPreprocessor
from mergevq_mm.registry import MODELS


@MODELS.register_module()
class GeneratorDataPreprocessor(BaseDataPreprocessor):
    """Moves a batch to the device and brings images to the range that is expected.

    ========================== ======================= ================================
    ``inputs``                 in training             otherwise
    ========================== ======================= ================================
    images, grey values        B×3×H×W in [-1, 1], RGB ``data_samples.gt_img``: B×3×H×W
                                                       in 0..255, BGR
    cached codes (a dict)      as they are             as they are
    a request of mmagic's loop                         as it is
    ========================== ======================= ================================

    The last column of images is what mmagic's metrics ask for when they compute the
    features of the real images.

    Args:
        to_rgb (bool): Whether images come as BGR, as :class:`LoadImage` reads them.
            Defaults to True.
        non_blocking (bool): Whether to copy to the device asynchronously. Defaults to
            False.
    """

    def __init__(self, to_rgb: bool = True, non_blocking: bool = False) -> None:
        super().__init__(non_blocking)
        self.to_rgb = to_rgb

    def forward(
        self, data: Mapping[str, Any], training: bool = False
    ) -> dict[str, Any]:
        """Prepare a batch.

        Args:
            data (Mapping): With ``inputs`` (images B×3×H×W, a list of 3×H×W, or a dict)
                and, where there are any, ``data_samples``.
            training (bool): Whether images are to be encoded. Defaults to False.

        Returns:
            dict: ``inputs`` and ``data_samples``.
        """
        data = self.cast_data(dict(data))
        inputs, samples = data['inputs'], data.get('data_samples')
        if isinstance(inputs, Mapping):
            return {'inputs': inputs, 'data_samples': samples}
        images = self._stack(inputs).float()
        if training:
            images = images.flip(1) if self.to_rgb else images
            return {'inputs': images / 127.5 - 1, 'data_samples': samples}
        from mmengine.structures import BaseDataElement

        real = BaseDataElement()
        real.set_data({'gt_img': images if self.to_rgb else images.flip(1)})
        return {'inputs': images, 'data_samples': real}

    @staticmethod
    def _stack(images: Tensor | Sequence[Tensor]) -> Tensor:
        """Images of a collated batch or of a list, B×3×H×W."""
        if isinstance(images, Tensor):
            return images
        sizes = sorted({tuple(image.shape) for image in images})
        if len(sizes) != 1:
            raise ValueError(
                f'inputs hold images of the sizes {sizes}; resize and crop them to one '
                'size in the pipeline.'
            )
        return torch.stack(list(images))
