"""A published tokenizer by its parts, for libraries that load weights themselves.

What :mod:`mergevq_mm.huggingface` works on. The files that this one imports are those
that a published folder carries for who has not this package
(:mod:`mergevq_mm.utils.carried`); so there is little here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mergevq_mm.models.selfsup.mergevq import MergeVQ
from mergevq_mm.registry import MODELS

from ..base.registry import DefaultScope
from ..evaluation.features import FEATURES, TokenFeatures
from ..models.utils.pixel_range import to_grey_values
from ..utils.checkpoint_format import check_format
from ..utils.published import check_published
from .image_inputs import list_inputs, read_pixels, to_images
from .preparation import Preparation, validation_pipeline


def build_tokenizer(content: Mapping[str, Any], source: str) -> MergeVQ:
    """Build the tokenizer that a published config describes, without its weights.

    Args:
        content (Mapping): Of a ``config.json``.
        source (str): How to name it in errors.

    Returns:
        MergeVQ: In evaluation mode, on the CPU.

    Raises:
        ValueError: If it is of a later version, names what it must not, or describes no
            tokenizer.
    """
    metadata = content.get('metadata') or {}
    if 'format' in content:  # first: what it holds may be unknown here
        mark = {'format': content['format'], 'version': metadata.get('mergevq_mm')}
        check_format(mark, source)
    model = content.get('model')
    # A generator's own type may be unknown here; its tokenizer is what is asked for.
    if isinstance(model, Mapping) and 'tokenizer' in model:
        raise ValueError(
            f'{source} is of a generator ({model.get("type")}), which transformers '
            "does not load: give subfolder='tokenizer' for its tokenizer, or load it "
            'by mergevq_mm.from_pretrained.'
        )
    check_published(model, source)
    # Some libraries build on a device that holds no values.
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('cpu'):
        made = MODELS.build(dict(model or {}))
    if not isinstance(made, MergeVQ):
        raise ValueError(
            f'{source} is of a {type(made).__name__}, and no tokenizer; give a folder '
            'that save_pretrained wrote of a MergeVQ.'
        )
    return made.eval()


def features(
    model: Any, images: Tensor, keep: int | None = None, names: Sequence[str] = FEATURES
) -> dict[str, Tensor]:
    """Features of images, as ``mergevq features`` writes them.

    Args:
        model (Any): With ``backbone`` and ``quantizer``.
        images (Tensor): B×3×H×W in [-1, 1].
        keep (int, optional): K. Defaults to None, no merging.
        names (Sequence[str]): Which. Defaults to all.

    Returns:
        dict[str, Tensor]: 'cls' (B×D), 'avg' (B×D) and 'codes' (B×d), float32.
    """
    found = TokenFeatures(model.backbone, model.quantizer, names, keep)(images)
    return dict(found)


def prepared_images(
    images: Any,
    preparation: Sequence[Mapping[str, Any]] | None,
    trained_size: int,
    stride: int,
    size: int | None = None,
    fit: str = 'crop',
) -> list[Tensor]:
    """Images as the tokenizer takes them, prepared as in its validation.

    Args:
        images (Any): Paths, addresses, Pillow images, arrays or tensors.
        preparation (Sequence[Mapping], optional): What its folder says of it. None is
            to resize by Lanczos.
        trained_size (int): Pixels of the shorter edge that it was trained at.
        stride (int): Of its encoder.
        size (int, optional): Pixels in their place. Defaults to None.
        fit (str): 'crop', a square; or 'whole', all of the picture. Defaults to 'crop'.

    Returns:
        list[Tensor]: 3×H×W in [-1, 1] each.

    Raises:
        ValueError: If something is no image, or the preparation is none.
    """
    pipeline = validation_pipeline({'metadata': {'preparation': preparation}})
    prepare = Preparation(pipeline, trained_size, stride)
    made = (
        prepare(read_pixels(item, prepare.background), size, fit)
        for _, item in list_inputs(images)
    )
    return [to_images([pixels], torch.device('cpu'))[0] for pixels in made]


def to_pixels(images: Tensor) -> Tensor:
    """Decoded images, B×3×H×W in about [-1, 1], as B×H×W×3 uint8."""
    return to_grey_values(images.detach()).byte().permute(0, 2, 3, 1).cpu()
