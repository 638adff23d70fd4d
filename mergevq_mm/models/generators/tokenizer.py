"""The tokenizer that a generator's codes come from, and go back to images with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from mergevq_mm.registry import MODELS
from mergevq_mm.utils.checkpoint import load_pretrained
from mergevq_mm.utils.data_config import is_data, read_data
from mergevq_mm.utils.older_neck import ORDER
from mergevq_mm.utils.published import data_model

from ..backbones.mergevq_encoder import MergeVQEncoder
from ..decoders.mergevq_decoder import MergeVQDecoder
from ..necks.source_recovery import GroupMapRecovery, SourceRecovery
from ..quantizers.lfq import LFQ
from ..utils.budget import Budget, is_list, plain_numbers
from ..utils.budget_signals import encode_ragged
from ..utils.frozen import FrozenModel
from ..utils.merge_schedule import least_keep
from ..utils.precision import no_autocast
from ..utils.ragged import Ragged
from ..utils.structures import MergedTokens

if TYPE_CHECKING:
    from ..selfsup.mergevq import MergeVQ

PARTS = ('backbone', 'quantizer', 'neck', 'decoder')


class EncodedImages(NamedTuple):
    """Codes of images.

    Attributes:
        index (Tensor): Codes of the K groups, B×K int64, ordered by the first raster
            position of each group.
        group (Tensor): Group of each raster position, B×L int64.
        grid (tuple[int, int]): Rows and columns of the raster, rows * columns = L.
    """

    index: Tensor  # type: ignore[assignment]  # no tuple.index is missed
    group: Tensor
    grid: tuple[int, int]


class TokenizerParts(nn.Module):
    """The parts of a MergeVQ that make codes and images, under their names there.

    Args:
        model (Mapping): Config of a MergeVQ; of what else it has, nothing is built.
    """

    backbone: MergeVQEncoder
    quantizer: LFQ
    neck: SourceRecovery | GroupMapRecovery
    decoder: MergeVQDecoder

    def __init__(self, model: Mapping[str, Any]) -> None:
        super().__init__()
        for name in PARTS:
            self.add_module(name, MODELS.build(dict(model[name])))


@MODELS.register_module()
class FrozenTokenizer(FrozenModel):
    """A trained MergeVQ that turns images into codes and codes into images.

    Like every :class:`FrozenModel` it has no parameters and no checkpoint entries, and
    loads its weights at the first use; what it says of itself (``grid``, ``bits``, …)
    needs no weights. It computes in float32 even under autocast: a code is a sign, and
    a code that changes with the precision is another token.

    Args:
        model (dict | str): Config of a ``mergevq_mm.MergeVQ``, or the path of a config
            file with one as its ``model``. Backbone, quantizer, neck and decoder are
            built; head, discriminator and teacher are not.
        checkpoint (str, optional): Path or URL of a checkpoint of it; all weights of
            the four parts must be there. (Checkpoints of our runs hold the averaged
            ones.) Defaults to None.
        random_init (bool): Accept a tokenizer without checkpoint: it is initialised
            under a fixed seed. Defaults to False.

    Attributes:
        grid (tuple[int, int]): Rows and columns of the raster.
        bits (int): Width of a code; there are 2^bits.
        split (tuple[int, ...]): Bits of the parts of a code, the lowest first.
        stride (int): Pixels of an image to a side of a raster cell.
        image_size (tuple[int, int]): Height and width of the images.
        learned_recovery (bool): Whether the source map can be predicted.
        num_classes (int): Classes that its prediction can be told of; 0 is none.

    Raises:
        ValueError: If there is no checkpoint, or ``model`` is not a MergeVQ's.
        FileNotFoundError: If there is no such config file; later, no such checkpoint.
    """

    def __init__(
        self,
        model: dict[str, Any] | str | os.PathLike[str],
        checkpoint: str | os.PathLike[str] | None = None,
        random_init: bool = False,
    ) -> None:
        model = read_parts(model)
        if checkpoint is None and not random_init:
            raise ValueError(
                'checkpoint=None leaves the tokenizer without weights; give the path '
                'of a MergeVQ checkpoint, or set random_init=True for a test.'
            )
        # Contiguous like a MergeVQ, so that both find the very same codes.
        super().__init__(partial(_load_parts, model, checkpoint), channels_last=False)
        with torch.random.fork_rng(devices=[]), torch.device('meta'):
            parts = TokenizerParts(model)  # takes neither memory nor time
        self.grid: tuple[int, int] = parts.backbone.grid
        self.stride: int = parts.backbone.stride
        self.image_size: tuple[int, int] = parts.backbone.img_size
        self.bits: int = parts.quantizer.bits
        self.split: tuple[int, ...] = parts.quantizer.split
        self.learned_recovery: bool = parts.neck.learned
        self.num_classes: int = parts.neck.num_classes

    @property
    def length(self) -> int:
        """int: Positions of the raster, L."""
        return self.grid[0] * self.grid[1]

    @overload
    def encode(self, images: Tensor, keep: int | None = None) -> EncodedImages: ...
    @overload
    def encode(
        self, images: Tensor, keep: Budget | Sequence[int], views: int = 1
    ) -> Ragged: ...
    def encode(
        self,
        images: Tensor,
        keep: int | Budget | Sequence[int] | None = None,
        views: int = 1,
    ) -> EncodedImages | Ragged:
        """Codes and source map of images.

        Args:
            images (Tensor): B×3×H×W in [-1, 1], of ``image_size``.
            keep (int | Budget | Sequence[int], optional): K, or what to spend on the
                batch, or K of each image, also a tensor. Defaults to None, L.
            views (int): Of each image, to which a budget gives the same K, see
                :func:`encode_ragged`. Defaults to 1.

        Returns:
            EncodedImages | Ragged: Codes B×K, groups B×L and the grid; ragged where the
            images have a K each.

        Raises:
            ValueError: If the images have another size, or K cannot be reached.
        """
        keep = plain_numbers(keep)
        if not (isinstance(keep, Budget) or is_list(keep)):
            return self.encode_each(images, [keep])[0]
        parts = self._checked(images)
        with no_autocast(images):
            images = self.normalize(images)
            merged = encode_ragged(parts, images, keep, views=views)
            return merged.map(partial(_encoded, parts))

    def candidates(self, budget: Budget) -> list[int]:
        """The K that a budget chooses from, see :meth:`Budget.candidates`."""
        layers = self._ready().backbone.num_layers
        return budget.candidates(self.length, least_keep(self.length, layers))

    def encode_each(
        self, images: Tensor, keeps: Sequence[int | None]
    ) -> list[EncodedImages]:
        """Codes and source maps at several K; the stem, equal for all, runs once.

        Args:
            images (Tensor): B×3×H×W in [-1, 1], of ``image_size``.
            keeps (Sequence[int | None]): Each as of :meth:`encode`.

        Returns:
            list[EncodedImages]: For each of ``keeps`` what :meth:`encode` returns.

        Raises:
            ValueError: As of :meth:`encode`.
        """
        parts = self._checked(images)
        with no_autocast(images):
            embedded = parts.backbone.embed(self.normalize(images))
            return [
                _encoded(parts, parts.backbone.encode_embedded(embedded, keep))
                for keep in keeps
            ]

    def _ready(self) -> TokenizerParts:
        parts = super()._ready()
        assert isinstance(parts, TokenizerParts)  # as `_load_parts` makes them
        return parts

    def _checked(self, images: Tensor) -> TokenizerParts:
        """The parts, for images that have their size."""
        if tuple(images.shape[-2:]) != self.image_size:
            raise ValueError(
                f'images of {images.shape[-2]}x{images.shape[-1]} pixels do not fit a '
                f'tokenizer of {self.image_size[0]}x{self.image_size[1]}; resize and '
                'crop them to that.'
            )
        return self._ready()

    def decode(
        self,
        index: Tensor | Ragged,
        grid: tuple[int, int] | None = None,
        complete: bool = True,
        labels: Tensor | Ragged | None = None,
        first: Tensor | Ragged | None = None,
    ) -> Tensor:
        """Images of codes.

        Args:
            index (Tensor | Ragged): int64; B×L, a code for each raster position, where
                ``complete``; else B×K, and the learned recovery finds their places.
                Ragged where the images have a K each, and ``first`` with it.
            grid (tuple[int, int], optional): Rows and columns of the raster. Defaults
                to None, the tokenizer's.
            complete (bool): Defaults to True.
            labels (Tensor, optional): Classes, B int64, for a recovery that can be told
                of ``num_classes``. Defaults to None.
            first (Tensor, optional): Where each code's group begins, B×K int64, where
                that is known. Defaults to None, predicted.

        Returns:
            Tensor: B×3×H×W, nominally in [-1, 1], not clipped.

        Raises:
            ValueError: If a complete raster lacks codes, an incomplete one has more
                than positions or meets a tokenizer that cannot predict the source map,
                a code is out of range, or the first places contradict each other.
        """
        rows, columns = grid = self.grid if grid is None else (grid[0], grid[1])
        if isinstance(index, Ragged):
            return index.map(self.decode, grid, complete, labels, first).join()
        if index.ndim != 2 or not 1 <= index.shape[1] <= rows * columns:
            raise ValueError(
                f'index of shape {tuple(index.shape)} is not the codes of images; give '
                f'BxK, with K from 1 to the {rows * columns} positions of the grid.'
            )
        if complete and index.shape[1] != rows * columns:
            raise ValueError(
                f'index of {index.shape[1]} codes does not fill a grid of '
                f'{rows}x{columns}; give {rows * columns} codes, or complete=False to '
                'have their places predicted.'
            )
        if not (complete or self.learned_recovery):
            raise ValueError(
                'complete=False needs a tokenizer that predicts the source map; use '
                "one with neck=dict(type='mergevq_mm.SourceRecovery')."
            )
        parts = self._ready()
        with no_autocast(index):
            codes = parts.quantizer.index_to_codes(index).to(self._scale.dtype)
            if not complete:
                codes = parts.neck(codes, None, grid, labels, first).tokens
            images: Tensor = parts.decoder(codes, grid)
        return images

    def source_scores(
        self,
        index: Tensor,
        labels: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """How well each place would belong to each group, by the learned recovery.

        Args:
            index (Tensor): Codes of the K groups, B×K int64.
            labels (Tensor, optional): Classes, see :meth:`decode`. Defaults to None.
            first (Tensor, optional): First places, too. Defaults to None.

        Returns:
            Tensor: B×L×K float32.

        Raises:
            ValueError: If the images have a K each.
        """
        if isinstance(index, Ragged):
            raise ValueError(
                f'index of {index} has a K for each image; map this over it: '
                'index.map(tokenizer.source_scores).'
            )
        parts = self._ready()
        neck = parts.neck
        assert not isinstance(neck, GroupMapRecovery)  # for who has `learned_recovery`
        with no_autocast(index):
            codes = parts.quantizer.index_to_codes(index).to(self._scale.dtype)
            return neck.scores(codes, self.grid, labels, first)

    def fingerprint(self) -> str:
        """SHA-256 of everything that gives codes their meaning.

        See :func:`fingerprint_of`.

        Returns:
            str: 64 hexadecimal digits.
        """
        return fingerprint_of(self._ready())


def fingerprint_of(parts: TokenizerParts | MergeVQ) -> str:
    """SHA-256 of everything that gives a tokenizer's codes their meaning.

    That is the weights of all parts (names, types, shapes, bytes), the bits and their
    split, the raster and the merge schedule; neither the device nor the name of a file
    counts. A neck of before the order of the codes was known keeps the fingerprint of
    then.

    Args:
        parts (TokenizerParts | MergeVQ): With all weights.

    Returns:
        str: 64 hexadecimal digits.
    """
    quantizer, backbone = parts.quantizer, parts.backbone
    meaning = (quantizer.bits, quantizer.split, backbone.grid, backbone.schedule)
    digest = hashlib.sha256(repr(meaning).encode())
    weights = nn.ModuleDict({name: getattr(parts, name) for name in PARTS}).state_dict()
    for name, value in sorted(weights.items()):
        if name == f'neck.{ORDER}' and not value.any():
            continue
        digest.update(repr((name, value.dtype, tuple(value.shape))).encode())
        flat = value.detach().cpu().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def _encoded(parts: TokenizerParts, merged: MergedTokens) -> EncodedImages:
    """What merged tokens are as codes."""
    index = parts.quantizer(merged.tokens).index
    return EncodedImages(index, merged.group, merged.grid)


def read_parts(model: dict[str, Any] | str | os.PathLike[str]) -> dict[str, Any]:
    """Configs of the parts of a tokenizer.

    Args:
        model (dict | str | PathLike): Config of a MergeVQ, or a file with one.

    Returns:
        dict[str, Any]: By the names of :data:`PARTS`.

    Raises:
        ValueError: If a part is missing, or a file of data names what it must not.
        FileNotFoundError: If there is no such file.
    """
    source = 'model'
    if not isinstance(model, Mapping):
        source = f'model="{model}"'
        if is_data(model):  # held to what a published folder may say
            model = data_model(read_data(model), model)
        else:
            from mergevq_mm.utils.config import load_config

            model = load_config(model).get('model') or {}
    missing = [name for name in PARTS if not model.get(name)]
    if missing:
        raise ValueError(
            f'{source} of a tokenizer lacks {", ".join(missing)}; give the config of a '
            'mergevq_mm.MergeVQ.'
        )
    return {name: model[name] for name in PARTS}


def _load_parts(
    model: Mapping[str, Any], checkpoint: str | os.PathLike[str] | None
) -> TokenizerParts:
    """Build the parts and fill all of them; without a file they stay random."""
    parts = TokenizerParts(model)
    if checkpoint is not None:
        load_pretrained(parts, checkpoint, min_matched=1.0)
    return parts
