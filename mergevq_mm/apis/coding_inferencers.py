"""Images to small files and back, by a trained tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .base_inferencer import ImageInferencer
from .image_inputs import NamedBytes, NamedImage, list_inputs
from .preparation import MAX_POSITIONS
from .token_file import (
    ENDING,
    FINGERPRINT_BYTES,
    TokenFile,
    pack,
    read_token_file,
    unpack,
)

if TYPE_CHECKING:
    from mergevq_mm.models.generators.tokenizer import TokenizerParts
    from mergevq_mm.models.selfsup.mergevq import MergeVQ
    from mergevq_mm.models.utils.budget import Budget
    from mergevq_mm.models.utils.structures import MergedTokens


def tokenizer_fingerprint(parts: TokenizerParts | MergeVQ) -> str:
    """The fingerprint of a tokenizer, as ``FrozenTokenizer`` computes it.

    Args:
        parts (TokenizerParts | MergeVQ): With all weights.

    Returns:
        str: 64 hexadecimal digits.
    """
    from mergevq_mm.models.generators.tokenizer import fingerprint_of

    return fingerprint_of(parts)


class EncodingInferencer(ImageInferencer):
    """Images to token files, see :mod:`.token_file`.

    Results are dicts with ``name``, ``source``, ``grid``, ``index``, ``group`` (None
    where it is left out), ``content``, the bytes of the file, ``code_bits``,
    ``map_bits``, ``file_bits`` (with the header), ``bpp``, those of codes and map a
    pixel, and ``file_bpp``.
    """

    forward_kwargs = {'keep', 'with_map'}
    postprocess_kwargs = {'out_dir'}
    task = 'encode'

    def check_model(self) -> None:
        """See :class:`ImageInferencer`."""
        super().check_model()
        self.fingerprint = tokenizer_fingerprint(self.parts)

    def forward(
        self,
        inputs: Sequence[NamedImage],
        keep: int | float | Budget | None = None,
        with_map: bool = True,
    ) -> list[dict[str, Any]]:
        """Encode a batch.

        Args:
            inputs (Sequence[NamedImage]): Images of one size.
            keep (int | float | Budget, optional): K or a share, or what to spend on the
                batch. Defaults to None, the model's.
            with_map (bool): Whether the file holds the source map. Without it the
                tokenizer predicts the map. Defaults to True.

        Returns:
            list[dict]: A result each.

        Raises:
            ValueError: If K cannot be reached, or no map can be predicted.
        """
        from mergevq_mm.models.utils.budget_signals import encode_ragged

        parts = self.parts
        if not with_map and not parts.neck.learned:
            raise ValueError(
                'with_map=False, but this tokenizer has not learned to predict the '
                'source map; keep the map in the file.'
            )
        images = self.images(inputs)
        embedded = parts.backbone.embed(images)
        keep = self.read_keep(keep, embedded.grid)
        merged = encode_ragged(parts, images, keep, embedded)
        index = merged.map(lambda part: parts.quantizer(part.tokens).index)
        return [
            self._pack(image, alone, codes[0], with_map)
            for image, alone, codes in zip(inputs, merged, index, strict=True)
        ]

    def _pack(
        self,
        image: NamedImage,
        merged: MergedTokens,
        index: torch.Tensor,
        with_map: bool,
    ) -> dict[str, Any]:
        """The result of an image, from its tokens, a batch of one, and its codes."""
        group = merged.group[0].cpu().numpy() if with_map else None
        tokens = TokenFile(
            index.cpu().numpy(),
            group,
            merged.grid,
            self.parts.quantizer.bits,
            self.fingerprint,
        )
        content = pack(tokens)
        pixels = image.pixels.shape[0] * image.pixels.shape[1]
        return {
            'name': image.name,
            'source': image.source,
            'grid': tokens.grid,
            'index': tokens.index,
            'group': group,
            'content': content,
            'code_bits': tokens.code_bits,
            'map_bits': tokens.map_bits,
            'file_bits': 8 * len(content),
            'bpp': (tokens.code_bits + tokens.map_bits) / pixels,
            'file_bpp': 8 * len(content) / pixels,
        }

    def outputs(self, result: dict[str, Any]) -> dict[str, bytes]:
        """The token file."""
        return {f'{result["name"]}{ENDING}': result['content']}


class DecodingInferencer(ImageInferencer):
    """Token files back to images.

    Inputs are paths, folders, the bytes of a file, results of an
    :class:`EncodingInferencer`, or a sequence of these. Results are dicts with
    ``name``, ``source``, ``image`` (H×W×3 uint8), ``grid``, ``index`` and ``group``. A
    file of another tokenizer is refused.
    """

    preprocess_kwargs: set[str] = set()
    postprocess_kwargs = {'out_dir'}
    task = 'decode'

    def check_model(self) -> None:
        """See :class:`ImageInferencer`."""
        super().check_model()
        self.fingerprint = tokenizer_fingerprint(self.parts)

    def _inputs_to_list(
        self, inputs: Any, out_dir: str | os.PathLike[str] | None = None
    ) -> list[tuple[str, Any]]:
        listed = list_inputs(_contents(inputs), (ENDING,), out_dir)
        for _, item in listed:
            if not isinstance(item, (str, bytes)):
                raise ValueError(
                    f'inputs hold a {type(item).__name__}, which is no token file; '
                    'give paths, folders, the bytes of files, or what an '
                    'EncodingInferencer returns.'
                )
        return listed

    def preprocess(  # type: ignore[override]  # `stream` hands on what a class takes
        self, inputs: Sequence[tuple[str, Any]], batch_size: int = 8
    ) -> Iterator[list[tuple[str, str, TokenFile]]]:
        """Read files and put those of one shape that follow each other together.

        Args:
            inputs (Sequence[tuple[str, str | bytes]]): Names, and paths or contents.
            batch_size (int): At most so many at a time, and no more positions than
                the largest file may have: a file of 42 bytes can be a large image.
                Defaults to 8.

        Yields:
            list[tuple[str, str, TokenFile]]: Names, sources and tokens.

        Raises:
            ValueError: If a file is damaged, or of another tokenizer.
        """
        batch: list[tuple[str, str, TokenFile]] = []
        for name, item in inputs:
            source = name if isinstance(item, bytes) else str(item)
            try:
                if isinstance(item, bytes):
                    tokens = unpack(item, f'"{source}"')
                else:
                    tokens = read_token_file(item)
                self._check_tokens(tokens, source)
            except ValueError as error:
                self.pass_over(item, error)
                continue
            rows, columns = tokens.grid
            room = min(batch_size, MAX_POSITIONS // (rows * columns))
            if batch and (len(batch) >= room or _shape(batch[0][2]) != _shape(tokens)):
                yield batch
                batch = []
            batch.append((name, source, tokens))
        if batch:
            yield batch

    def _check_tokens(self, tokens: TokenFile, source: str) -> None:
        own = self.fingerprint[: 2 * FINGERPRINT_BYTES]
        if tokens.fingerprint[: 2 * FINGERPRINT_BYTES] != own:
            raise ValueError(
                f'"{source}" was encoded by the tokenizer {tokens.fingerprint[:12]}…, '
                f'not by {own[:12]}…; decode it with the weights that encoded it.'
            )
        bits = self.parts.quantizer.bits
        if tokens.bits != bits:
            raise ValueError(
                f'"{source}" has codes of {tokens.bits} bits, where those of this '
                f'tokenizer have {bits}; encode the image again.'
            )
        if tokens.grid == (1, 1):  # which not every norm of a decoder takes
            raise ValueError(
                f'"{source}" has a single position; encode a larger image.'
            )
        if tokens.group is None and not self.parts.neck.learned:
            raise ValueError(
                f'"{source}" has no source map, which this tokenizer cannot predict; '
                'encode the image again with its map.'
            )

    def forward(
        self, inputs: Sequence[tuple[str, str, TokenFile]]
    ) -> list[dict[str, Any]]:
        """Decode a batch.

        Args:
            inputs (Sequence[tuple[str, str, TokenFile]]): Of one shape.

        Returns:
            list[dict]: A result each.
        """
        from mergevq_mm.models.utils.pixel_range import to_unit_range
        from mergevq_mm.models.utils.ragged import Ragged, rows_by_keep
        from mergevq_mm.visualization import to_uint8

        keeps = rows_by_keep([len(tokens.index) for _, _, tokens in inputs])
        images = Ragged(
            {
                keep: (rows, self._decode([inputs[row][2] for row in rows]))
                for keep, rows in keeps.items()
            }
        ).join()
        return [
            {
                'name': name,
                'source': source,
                'image': to_uint8(to_unit_range(image)),
                'grid': tokens.grid,
                'index': tokens.index,
                'group': tokens.group,
            }
            for (name, source, tokens), image in zip(inputs, images, strict=True)
        ]

    def _decode(self, files: Sequence[TokenFile]) -> torch.Tensor:
        """Images of files of one shape and K, B×3×H×W in [-1, 1]."""
        parts, grid = self.parts, files[0].grid
        index = np.stack([tokens.index for tokens in files])
        codes = parts.quantizer.index_to_codes(torch.from_numpy(index).to(self.device))
        codes = codes.to(next(parts.parameters()).dtype)
        group = None
        if files[0].group is not None:
            maps = np.stack([one.group for one in files if one.group is not None])
            group = torch.from_numpy(maps).to(self.device)
        images: torch.Tensor = parts.decoder(
            parts.neck(codes, group, grid).tokens, grid
        )
        return images

    def outputs(self, result: dict[str, Any]) -> dict[str, np.ndarray]:
        """The image as PNG."""
        return {f'{result["name"]}.png': result['image']}


def _shape(tokens: TokenFile) -> tuple[Any, ...]:
    """What files of one batch have in common; K may differ."""
    return tokens.grid, tokens.group is None


def _contents(inputs: Any) -> Any:
    """Inputs with the files in the place of an encoder's results."""
    if isinstance(inputs, (list, tuple)):
        return [_contents(item) for item in inputs]
    fields = inputs if isinstance(inputs, Mapping) else getattr(inputs, '__dict__', {})
    if isinstance(fields.get('content'), bytes):
        return NamedBytes(fields['content'], fields.get('name', ''))
    return inputs
