"""Draws how groups grow, and what the class token attends to, at each validation."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from torch import Tensor

from mergevq_mm.registry import HOOKS
from mergevq_mm.utils.distributed import unwrap
from mergevq_mm.visualization import attention_strip, growth_strip, to_uint8

from .pictures import DrawingHook, write_picture


@HOOKS.register_module()
class MergeGrowthVisualizationHook(DrawingHook):
    """Shows one validation image: its groups after each layer and [CLS]'s attention.

    The image goes through the encoder twice more, with the weights of the validation.
    Written are ``work_dir/vis_data/growth_<step>.png`` and ``attention_<step>.png``;
    the runner's visualizer gets both.

    Args:
        image (int): Position of the image in the first batch. Defaults to 0.
        keep (int, optional): Tokens to keep, K. Defaults to None, the first K that the
            model is tested at.
        layer (int): Block whose attention is drawn. Defaults to -1, the last.
        interval (int): Draw at every so manyth validation, beginning with the first.
            Defaults to 1.

    Raises:
        ValueError: If ``interval`` is less than 1 or ``image`` less than 0.
    """

    def __init__(
        self,
        image: int = 0,
        keep: int | None = None,
        layer: int = -1,
        interval: int = 1,
    ) -> None:
        super().__init__(interval)
        if image < 0:
            raise ValueError(f'image={image} is no position; give one from 0.')
        self.image, self.keep, self.layer = image, keep, layer
        self._drawn = False

    def _start(self, runner: Runner, testing: bool) -> None:
        self._drawn = False

    @torch.no_grad()
    def _collect(
        self, runner: Runner, data_batch: Any, outputs: Any, testing: bool
    ) -> None:
        """Draw with the first batch, while the averaged weights are in the model."""
        if self._drawn or not is_main_process():
            return
        self._drawn = True
        model = unwrap(runner.model)
        inputs = model.data_preprocessor(data_batch, False)['inputs']
        inputs = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        image = inputs[min(self.image, len(inputs) - 1)][None]
        growth, attention = draw_encoder(model, image, self.keep, self.layer)
        write_picture(runner, 'growth', growth, testing)
        write_picture(runner, 'attention', attention, testing)


def draw_encoder(model: Any, image: Tensor, keep: int | None, layer: int) -> tuple:
    """Pictures of one image.

    Args:
        model (MergeVQ): A tokenizer.
        image (Tensor): 1×3×H×W in [-1, 1].
        keep (int, optional): K; None is the first that the model is tested at.
        layer (int): Block whose attention is drawn.

    Returns:
        tuple[np.ndarray, np.ndarray]: Growth and attention.
    """
    from mergevq_mm.models.backbones.layer_views import class_attention, merged_layers

    backbone = model.backbone
    encoder = unwrap(backbone)
    keep = model.test_keep[0] if keep is None else keep
    pixels = to_uint8(image[0] * 0.5 + 0.5)
    layers = list(merged_layers(encoder, image, keep))
    groups = [merged.group[0].cpu().numpy() for merged in layers]
    grid = layers[0].grid
    attention = class_attention(encoder, image, keep, layer)[0].cpu()
    return (
        growth_strip(pixels, groups, grid),
        attention_strip(pixels, attention, grid),
    )
