"""A MergeVQ tokenizer as a model of transformers.

::

    from transformers import AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
    prepare = AutoImageProcessor.from_pretrained(FOLDER, trust_remote_code=True)
    pixels = prepare(image, return_tensors='pt').pixel_values  # B×3×H×W in [-1, 1]
    merged, codes = model.encode(pixels, keep=144)
    picture = prepare.postprocess(model.decode(merged, codes)[0])[0]

A copy of this file lies in every published folder of a tokenizer. It computes nothing
itself: that is done by ``mergevq_mm`` where it is installed, and otherwise by the files
of it that lie beside this one, in ``mergevq_sources.py``. It takes transformers 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import einops  # noqa: F401  transformers says what is missing of what a file imports
import timm  # noqa: F401
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils.generic import ModelOutput

try:  # transformers asks for no package that is imported in here
    from mergevq_mm.apis import published_tokenizer as parts
except ModuleNotFoundError as error:
    if error.name not in ('mergevq_mm', 'mergevq_mm.apis'):
        raise ImportError(
            f'this folder was saved by a later mergevq_mm than the installed one, '
            f'which has no {error.name}: pip install --upgrade mergevq_mm.'
        ) from error
    from .mergevq_sources import provide

    provide()
    parts = import_module('mergevq_mm.apis.published_tokenizer')


class MergeVQConfig(PretrainedConfig):
    """What a published ``config.json`` says.

    Args:
        model (Mapping, optional): Config of the tokenizer, in OpenMMLab's words.
            Defaults to None.
        **kwargs: What else stands there, and what transformers knows.
    """

    model_type = 'mergevq'

    def __init__(self, model: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.model = model
        super().__init__(**kwargs)


@dataclass
class MergeVQOutput(ModelOutput):
    """What the encoder and the quantizer say of images.

    Attributes:
        last_hidden_state (Tensor): The K tokens, B×K×D.
        pooler_output (Tensor): The class token, B×D.
        index (Tensor): Code of each token, B×K int64.
        group (Tensor): Token of each raster position, B×L int64.
        size (Tensor): Raster positions that each token stands for, B×K.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    index: Tensor | None = None
    group: Tensor | None = None
    size: Tensor | None = None


class MergeVQModel(PreTrainedModel):
    """A trained tokenizer: images to K codes with their source map, and back.

    Its parts are those of ``mergevq_mm.MergeVQ``, under the same names.

    Args:
        config (MergeVQConfig): What its folder says.

    Raises:
        ValueError: If the config is of a generator, or of no model of ours.
    """

    config_class = MergeVQConfig
    main_input_name = 'pixel_values'
    _tokenizer: Any

    def __init__(self, config: MergeVQConfig) -> None:
        super().__init__(config)
        content = {
            name: getattr(config, name)
            for name in ('format', 'model', 'metadata')
            if hasattr(config, name)
        }
        tokenizer = parts.build_tokenizer(content, f'"{config.name_or_path}"')
        for name, part in tokenizer.named_children():
            if part.state_dict():  # else it is for training, such as the preprocessor
                self.add_module(name, part)
        # It shares its parts with this model, which is the one that has them.
        self.__dict__['_tokenizer'] = tokenizer
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a folder, see transformers.

        Args:
            *args: The folder or 'owner/name', and what transformers knows.
            **kwargs: Of transformers.

        Returns:
            MergeVQModel: In evaluation mode. With ``output_loading_info``, a tuple.

        Raises:
            ValueError: If the weights are not exactly those of the config; transformers
                would go on from random ones.
        """
        kept = {**kwargs, 'output_loading_info': True}
        loaded: Any = super().from_pretrained(*args, **kept)
        model, told = loaded
        names = sorted({*told['missing_keys'], *told['unexpected_keys']})
        if names:
            raise ValueError(
                f'"{model.config.name_or_path}" has other weights than its config says '
                f'({len(names)} tensors, such as {names[0]}): save it again, or get '
                'transformers 5, as earlier ones rename tensors.'
            )
        return (model, told) if kwargs.get('output_loading_info') else model

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: the parts have drawn what no file gives them."""

    def forward(
        self,
        pixel_values: Tensor,
        keep: int | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> MergeVQOutput | tuple[Tensor, ...]:
        """Tokens, class token and codes of images.

        Args:
            pixel_values (Tensor): B×3×H×W in [-1, 1].
            keep (int, optional): K. Defaults to None, no merging.
            return_dict (bool, optional): False gives a tuple. Defaults to None.

        Returns:
            MergeVQOutput | tuple[Tensor, ...]: See there.
        """
        merged, quantized = self.encode(pixel_values, keep)
        if not isinstance(merged, tuple):
            raise ValueError(
                f'keep={keep} gives each image a K of its own, which do not fit into '
                'one tensor; call encode, or give one number.'
            )
        made = MergeVQOutput(
            last_hidden_state=merged.tokens,
            pooler_output=merged.cls,
            index=quantized.index,
            group=merged.group,
            size=merged.size,
        )
        return made.to_tuple() if return_dict is False else made

    def encode(self, pixel_values: Tensor, keep: Any = None) -> tuple[Any, Any]:
        """Images to merged tokens and their codes, see ``mergevq_mm.MergeVQ.encode``.

        Args:
            pixel_values (Tensor): B×3×H×W in [-1, 1].
            keep (int | Sequence[int], optional): K, or one for each image. Defaults to
                None, no merging.

        Returns:
            tuple[MergedTokens, QuantizedTokens]: For :meth:`decode`. ``group`` of the
            first is the source map, ``index`` of the second the codes.
        """
        return self._tokenizer.encode(pixel_values, keep)

    def decode(
        self, codes: Any, group: Any = None, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Any]:
        """Codes to images, see ``mergevq_mm.MergeVQ.decode``.

        Args:
            codes (Any): What :meth:`encode` returns first; or codes in {-1, 1}, B×K×d,
                or their indices, B×K.
            group (Any, optional): What it returns second; or the source map, B×L.
                Defaults to None, predicted.
            grid (tuple[int, int], optional): Rows and columns, of codes. Defaults to
                None.

        Returns:
            tuple[Tensor, RecoveredTokens]: Images B×3×H×W in about [-1, 1], and the
            codes of all positions.
        """
        return self._tokenizer.decode(codes, group, grid)

    @torch.no_grad()
    def reconstruct(self, pixel_values: Tensor, keep: Any = None) -> Tensor:
        """Images from their tokens, B×3×H×W; see :meth:`encode`."""
        return self._tokenizer.reconstruct(pixel_values, keep)

    @torch.no_grad()
    def features(
        self, pixel_values: Tensor, keep: int | None = None
    ) -> dict[str, Tensor]:
        """Class token, mean token and mean code: 'cls', 'avg', 'codes'; see there."""
        return parts.features(self, pixel_values, keep)


class MergeVQImageProcessor(BaseImageProcessor):
    """Prepares images as the validation of the tokenizer does.

    Args:
        preparation (Sequence[Mapping], optional): Its transforms. Defaults to None,
            resizing by Lanczos.
        shortest_edge (int): Pixels that it was trained at. Defaults to 256.
        stride (int): Of its encoder. Defaults to 16.
        **kwargs: Of transformers.
    """

    model_input_names = ['pixel_values']

    def __init__(
        self,
        preparation: Sequence[Mapping[str, Any]] | None = None,
        shortest_edge: int = 256,
        stride: int = 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.preparation = preparation
        self.shortest_edge = shortest_edge
        self.stride = stride

    def preprocess(
        self,
        images: Any,
        size: int | None = None,
        fit: str = 'crop',
        return_tensors: str | None = None,
        **_: Any,
    ) -> BatchFeature:
        """Prepare images.

        Args:
            images (Any): Paths, Pillow images, arrays, tensors, or a list of them.
            size (int, optional): Pixels of the shorter edge. Defaults to None, those
                that the tokenizer was trained at.
            fit (str): 'crop', a square; or 'whole', all of the picture. Defaults to
                'crop'.
            return_tensors (str, optional): 'pt' stacks the images. Defaults to None, a
                list.

        Returns:
            BatchFeature: ``pixel_values``, B×3×H×W in [-1, 1].
        """
        made = parts.prepared_images(
            images, self.preparation, self.shortest_edge, self.stride, size, fit
        )
        arrays = [image.numpy() for image in made]
        return BatchFeature({'pixel_values': arrays}, tensor_type=return_tensors)

    def postprocess(self, images: Tensor) -> list[Image.Image]:
        """Decoded images, B×3×H×W, as pictures."""
        return [Image.fromarray(one) for one in parts.to_pixels(images).numpy()]
