"""Images of which a region is drawn anew by a trained generator."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .base_inferencer import ImageInferencer
from .generation_inferencer import GenerationInferencer, mode_options
from .image_inputs import list_inputs
from .outputs import check_apart
from .preparation import Preparation

if TYPE_CHECKING:
    from mergevq_mm.models.generators.token_generator import TokenGenerator

BLACK = (0, 0, 0)
# Rows and columns from and to which a region reaches, as shares of the image.
REGIONS = {
    'lower half': (0.5, 1, 0, 1),
    'right half': (0, 1, 0.5, 1),
    'centre': (0.25, 0.75, 0.25, 0.75),
}


class Edit(NamedTuple):
    """An image to draw anew in part.

    Attributes:
        name (str): What its results are called.
        source (str): Path or address; where it has none, its name.
        pixels (np.ndarray): H×W×3 uint8, of the tokenizer's size.
        region (np.ndarray): H×W bool, what is to be drawn anew.
        place (int): Number of the variant.
    """

    name: str
    source: str
    pixels: np.ndarray
    region: np.ndarray
    place: int


class EditingInferencer(ImageInferencer):
    """Images of which a region is drawn anew, by class or without.

    Images are prepared as in validation, their mask with them. The codes of all tokens
    outside of the region stay equal to the bit; what they decode to may change a little
    near it. RandAR draws any region, MergeAR one that ends the raster (such as the
    lower half); at K < L only tokens that lie wholly in the region are drawn.

    Results are dicts with ``name``, ``source``, ``place``, ``label`` (None without),
    ``original`` (H×W×3 uint8), ``region`` (H×W bool, the tokens that were drawn anew),
    ``image`` (H×W×3 uint8), ``index`` (L codes), ``keep`` and ``stats``. The n-th
    variant depends on the seed and on n alone.

    Args:
        *args: Of :class:`MergeVQInferencer`.
        dtype (str): See :class:`GenerationInferencer`. Defaults to 'fp32'.
        **kwargs: Of :class:`MergeVQInferencer`.

    Examples:
        >>> from mergevq_mm.apis import EditingInferencer
        >>> edit = EditingInferencer('folder-of-a-generator')
        >>> variants = edit('digit.png', mask='lower_half.png', label=3, num=4)
    """

    preprocess_kwargs = {'mask', 'num'}
    forward_kwargs = GenerationInferencer.forward_kwargs | {'label'}
    postprocess_kwargs = {'out_dir'}
    task = 'edit'
    model: TokenGenerator

    def __init__(self, *args: Any, dtype: str = 'fp32', **kwargs: Any) -> None:
        from mergevq_mm.models.generators.precision import set_precision

        super().__init__(*args, **kwargs)
        set_precision(self.model, dtype)

    def check_model(self) -> None:
        """See :class:`MergeVQInferencer`."""
        if not hasattr(self.model, 'sample_codes'):
            raise ValueError(
                f'{type(self.model).__name__} is no generator; give a RandAR or a '
                'MergeAR, such as that of configs/randar_l_g+r.py.'
            )
        super().check_model()

    def count(self, listed: Sequence[Any], mask: Any = None, num: int = 1) -> int:
        """See :class:`MergeVQInferencer`."""
        return len(listed) * num

    def _inputs_to_list(
        self, inputs: Any, out_dir: str | os.PathLike[str] | None = None
    ) -> list[tuple[str, Any]]:
        check_apart(inputs, out_dir)
        return list_inputs(inputs, None, out_dir)

    def preprocess(  # type: ignore[override]  # `stream` hands on what a class takes
        self,
        inputs: Sequence[tuple[str, Any]],
        batch_size: int = 8,
        mask: Any = None,
        num: int = 1,
    ) -> Iterator[list[Edit]]:
        """Read images and list their variants, image by image.

        Args:
            inputs (Sequence[tuple[str, Any]]): Names and images.
            batch_size (int): Variants at a time. Defaults to 8.
            mask (Any): An image in black and white, or an array H×W of bool, or of
                uint8 (0 and 1, or 0 and 255), of the size of each image as it is seen,
                upright: white is drawn anew.
            num (int): Variants of each image. Defaults to 1.

        Yields:
            list[Edit]: A batch.

        Raises:
            ValueError: If an image or the mask is not what it should be.
        """
        from mergevq_mm.models.generators.sampling import check_count

        check_count('num', num, 1, 'that many variants are drawn of each image')
        region = self.read_mask(mask)
        batch: list[Edit] = []
        for name, item in inputs:
            try:
                pixels = self.pipeline(item, self.preparation.background)
                prepared = prepare_edit(self.preparation, pixels, region)
            except ValueError as error:
                self.pass_over(item, error)
                continue
            source = str(item) if isinstance(item, str) else name
            for place in range(num):
                batch.append(Edit(name, source, *prepared, place))
                if len(batch) == batch_size:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def read_mask(self, mask: Any) -> np.ndarray:
        """What a mask marks.

        Args:
            mask (Any): See :meth:`preprocess`.

        Returns:
            np.ndarray: H×W bool.

        Raises:
            ValueError: If it is none, several, or not black and white.
        """
        if mask is None:
            raise ValueError(
                'mask=None does not say what to draw anew; give an image of black and '
                'white, white where to.'
            )
        if isinstance(mask, np.ndarray) and mask.dtype == bool:
            mask = mask.astype(np.uint8)
        if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool:
            mask = mask.byte()
        try:
            (_, item), *others = list_inputs(mask)
            if others:
                raise ValueError(f'it holds {1 + len(others)} images; give one.')
            pixels = self.pipeline(item, BLACK)  # what is transparent is not marked
        except ValueError as error:
            raise ValueError(f'mask: {error}') from None
        values = np.unique(pixels)
        if not (set(values.tolist()) <= {0, 255} or set(values.tolist()) <= {0, 1}):
            raise ValueError(
                f'mask holds {len(values)} values from {values[0]} to {values[-1]}; '
                'give black (0) where to keep and white (255) where to draw anew, as '
                'PNG, for JPEG blurs it.'
            )
        marked: np.ndarray = (pixels > 0).any(axis=2)
        return marked

    def forward(
        self,
        inputs: Sequence[Edit],
        label: int | None = None,
        keep: int | None = None,
        seed: int | None = None,
        mode: str | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Draw the regions of a batch.

        Args:
            inputs (Sequence[Edit]): The images.
            label (int, optional): Class of what is drawn. Defaults to None, without.
            keep (int, optional): K. Defaults to None, the model's.
            seed (int, optional): Defaults to None, the model's, or 0.
            mode (str, optional): Of MergeAR, see :class:`GenerationInferencer`.
                Defaults to None, the model's.
            **options: ``guidance``, ``temperature``, … of ``sample_codes``.

        Returns:
            list[dict]: A result each.

        Raises:
            ValueError: If an option is out of range, or the region does not fit.
        """
        from mergevq_mm.models.generators.editing import read_region
        from mergevq_mm.models.generators.generation_request import seeds_of
        from mergevq_mm.visualization import to_uint8
        from mergevq_mm.visualization.merge_map import pixel_groups

        given = {name: value for name, value in options.items() if value is not None}
        seed = self.model.sample_cfg.get('seed', 0) if seed is None else seed
        height, width, _ = inputs[0].pixels.shape
        size, grid = (height, width), self.model.grid
        region = torch.from_numpy(np.stack([one.region for one in inputs]))
        images, drawn = self.model.generate(
            None if label is None else [label] * len(inputs),
            keep=keep,
            seeds=seeds_of(seed, [one.place for one in inputs]),
            known=self.images(inputs),
            region=region,
            **(given | mode_options(mode)),
        )
        free = read_region(region, len(inputs), size, grid).long().numpy()
        stats = {name: values.float().tolist() for name, values in drawn.stats.items()}
        return [
            {
                'name': one.name,
                'source': one.source,
                'place': one.place,
                'label': label,
                'original': one.pixels,
                'region': pixel_groups(free[i], grid, size) > 0,
                'image': to_uint8(images[i].float() * 0.5 + 0.5),
                'index': drawn.index[i].cpu().numpy(),
                'keep': drawn.keep,
                'stats': {name: values[i] for name, values in stats.items()},
            }
            for i, one in enumerate(inputs)
        ]

    def outputs(self, result: dict[str, Any]) -> dict[str, np.ndarray]:
        """The image as PNG."""
        return {f'{result["name"]}_edit{result["place"]}.png': result['image']}


def prepare_edit(
    prepare: Preparation, pixels: np.ndarray, region: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bring an image and its mask to the size of a tokenizer.

    Args:
        prepare (Preparation): Of the tokenizer's validation.
        pixels (np.ndarray): H×W×3 uint8.
        region (np.ndarray): H×W bool.

    Returns:
        tuple[np.ndarray, np.ndarray]: H'×W'×3 uint8, and H'×W' bool: pixels of which
        more than half is in the region.

    Raises:
        ValueError: If the mask has another size than the image, or nothing of what it
            marks is left.
    """
    if region.shape != pixels.shape[:2]:
        (height, width), (rows, columns) = pixels.shape[:2], region.shape
        raise ValueError(
            f'mask of {columns}×{rows} pixels does not fit an image of '
            f'{width}×{height}; give one of the same size (a photograph counts as it '
            'is shown, upright).'
        )
    grey = np.repeat(region[..., None].astype(np.uint8) * 255, 3, axis=2)
    # Against a mask of nothing, so that borders of any colour are not in the region.
    marked, blank = prepare(grey), prepare(np.zeros_like(grey))
    kept = (marked.astype(int) - blank > 127).any(axis=2)
    if region.any() and not kept.any():
        raise ValueError(
            f'mask marks {region.sum()} pixels, of which the preparation of the image '
            f'to {kept.shape[1]}×{kept.shape[0]} leaves none; mark more, near the '
            'centre.'
        )
    return prepare(pixels), kept


def named_region(name: str, size: tuple[int, int]) -> np.ndarray:
    """The mask of a ready-made region.

    Args:
        name (str): Of :data:`REGIONS`.
        size (tuple[int, int]): Height and width of the image.

    Returns:
        np.ndarray: H×W bool.
    """
    top, bottom, left, right = REGIONS[name]
    mask = np.zeros(size, dtype=bool)
    rows = slice(round(size[0] * top), round(size[0] * bottom))
    mask[rows, round(size[1] * left) : round(size[1] * right)] = True
    return mask
