"""How images are brought to the size of an encoder: as in its config's validation.

Features, codes and reconstructions are what an evaluation would see, only where both
resize and pad in one way. So the inferencers take the transforms from the pipeline of
the config's validation; a published folder carries them along.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..base.config import Config
from ..base.tier import MissingExtra, has_openmmlab
from ..utils.images import MAX_PIXELS, WHITE
from .image_inputs import check_size, fit_pixels
from .plain_transforms import pad as pad_pixels
from .plain_transforms import plain_transform
from .plain_transforms import resize as resize_pixels

MAX_POSITIONS = 8192  # of an image; what attention takes grows with their square

# Transforms that a published folder may name, and with what.
_PUBLISHED = {
    'ResizeEdge': ('scale', 'edge', 'backend', 'interpolation'),
    'Resize': ('scale', 'backend', 'interpolation'),
    'CenterCrop': ('crop_size',),
    'RandomCrop': ('crop_size', 'padding', 'pad_val'),
}
_MOST = 2**14  # pixels, or a grey value, of a published transform


def validation_pipeline(
    config: Mapping[str, Any] | None,
) -> list[dict[str, Any]] | None:
    """The transforms that a config prepares images with in validation.

    Args:
        config (Mapping, optional): Of a tokenizer or a generator; or what a published
            folder holds.

    Returns:
        list[dict] | None: Loading first; None where the config says nothing.

    Raises:
        ValueError: If a published folder names what it must not.
    """
    for name in ('val_dataloader', 'test_dataloader'):
        data = ((config or {}).get(name) or {}).get('dataset') or {}
        while 'pipeline' not in data and isinstance(data.get('dataset'), Mapping):
            data = data['dataset']
        pipeline = data.get('pipeline') or []
        if pipeline and _kind(pipeline[0]).startswith('LoadImage'):
            return list(pipeline)
    metadata = (config or {}).get('metadata')
    published = metadata.get('preparation') if isinstance(metadata, Mapping) else None
    if published:
        _check_published(published)
        return [{'type': 'mergevq_mm.LoadImage'}, *published]
    model = (config or {}).get('model') or {}
    tokenizer = (model.get('tokenizer') or {}).get('model')
    if isinstance(tokenizer, (str, os.PathLike)):
        from .model_config import read_model_config

        return validation_pipeline(read_model_config(tokenizer)[0])
    return None


def published_preparation(
    config: Mapping[str, Any] | None,
) -> list[dict[str, Any]] | None:
    """What a published folder says of the preparation, as plain data.

    Args:
        config (Mapping, optional): Of the model to publish.

    Returns:
        list[dict] | None: Transforms between loading and packing; None where the config
        says nothing, or a transform is none that a folder may name.
    """
    found = []
    for step in (validation_pipeline(config) or [{}])[1:]:
        kind = _kind(step)
        if kind.startswith('Pack'):
            continue
        plain = {key: value for key, value in step.items() if key[0] != '_'}
        found.append({**plain, 'type': f'mmpretrain.{kind}'})
    try:
        _check_published(found)
    except ValueError:
        return None
    return found or None


def _check_published(steps: Any) -> None:
    """Refuse transforms that could do more than resize, pad and crop."""
    for step in steps if isinstance(steps, (list, tuple)) else [steps]:
        if not isinstance(step, Mapping) or not _is_plain(step):
            raise ValueError(
                f'the preparation {step!r} of a published folder is none of '
                f'{", ".join(_PUBLISHED)} with whole numbers up to {_MOST}; nothing '
                'of it was run: use a folder from a source that you trust.'
            )


def _is_plain(step: Mapping[str, Any]) -> bool:
    """Whether a transform is one that a published folder may name."""
    kind = _kind(step)
    if step.get('type') != f'mmpretrain.{kind}' or kind not in _PUBLISHED:
        return False
    values = {key: value for key, value in step.items() if key != 'type'}
    numbers = [
        number
        for value in values.values()
        for number in (value if isinstance(value, (list, tuple)) else [value])
        if not isinstance(number, str)
    ]
    return set(values) <= set(_PUBLISHED[kind]) and all(
        type(number) is int and 0 <= number <= _MOST for number in numbers
    )


class Preparation:
    """Brings images to a size that an encoder takes.

    Args:
        pipeline (Sequence[Mapping], optional): Of :func:`validation_pipeline`. Defaults
            to None: resize by Lanczos, see :func:`fit_pixels`.
        size (int): Pixels of the shorter edge that the encoder is trained at.
        stride (int): Of the encoder.
        scope (str): Where transforms without one are looked for. Defaults to
            'mmpretrain'.

    Attributes:
        background (tuple[int, int, int]): Colour behind transparent pixels.
    """

    def __init__(
        self,
        pipeline: Sequence[Mapping[str, Any]] | None,
        size: int,
        stride: int,
        scope: str = 'mmpretrain',
    ) -> None:
        self.size, self.stride, self.scope = size, stride, scope
        load, *steps = pipeline or [{}]
        self.background = tuple(load.get('background', WHITE))
        self.steps = [dict(s) for s in steps if not _kind(s).startswith('Pack')]
        self._built = functools.lru_cache(maxsize=8)(self._build)

    def __call__(
        self,
        pixels: np.ndarray,
        size: int | None = None,
        fit: str = 'crop',
        max_positions: int = MAX_POSITIONS,
    ) -> np.ndarray:
        """Prepare an image.

        Args:
            pixels (np.ndarray): H×W×3 uint8, RGB.
            size (int, optional): Pixels of the shorter edge in the place of those that
                the encoder is trained at. Defaults to None.
            fit (str): 'crop', exactly as in validation; or 'whole', the same without
                its crops, the longer edge cut to a multiple of the stride. Defaults to
                'crop'.
            max_positions (int): At most so many, see ``MAX_POSITIONS``.

        Returns:
            np.ndarray: H'×W'×3 uint8, RGB, writable.

        Raises:
            ValueError: If the image is too long for that many positions, or an argument
                is out of range.
        """
        wanted = self.size if size is None else size
        check_size(wanted, self.stride, fit)
        self._check_extent(pixels.shape[:2], wanted, fit, max_positions)
        try:
            steps = self._built(wanted, fit)
            made = _run(steps, pixels) if steps else None
        except (MemoryError, MissingExtra):
            raise
        except Exception as error:  # transforms raise nearly every type there is
            raise ValueError(
                f'the validation pipeline {self.steps} fails on an image of shape '
                f'{pixels.shape} ({type(error).__name__}: {error}); correct it.'
            ) from error
        if made is None:
            return fit_pixels(pixels, wanted, self.stride, fit)
        if fit == 'whole':
            rows, columns = (n // self.stride * self.stride for n in made.shape[:2])
            made = _centre(made, rows, columns)
        self._check_made(made, max_positions)
        prepared: np.ndarray = made[..., ::-1].copy()
        return prepared

    def _check_made(self, made: np.ndarray, max_positions: int) -> None:
        """Refuse what no encoder takes, if a pipeline makes such."""
        height, width = made.shape[:2]
        fits = made.size and not (height % self.stride or width % self.stride)
        if made.dtype != np.uint8 or made.shape[2:] != (3,) or not fits:
            raise ValueError(
                f'the validation pipeline makes {made.dtype} of shape {made.shape}; '
                f'the encoder takes images of 8 bits and multiples of its stride '
                f'{self.stride} (normalisation is left to the data preprocessor).'
            )
        if height * width // self.stride**2 > max_positions:
            raise ValueError(
                f'the validation pipeline makes images of {width}×{height} pixels, '
                f'which are more than max_positions={max_positions:,} positions.'
            )

    def _check_extent(
        self, shape: tuple[int, int], size: int, fit: str, max_positions: int
    ) -> None:
        """Refuse what takes more memory than a picture should."""
        short, long = min(shape), max(shape)
        long = max(size, round(size * long / short))
        positions = size * (long if fit == 'whole' else size) // self.stride**2
        # A validation may resize to more than it then crops.
        edges = [s['scale'] for s in self.steps if isinstance(s.get('scale'), int)]
        pixels = round(size * long * (max([self.size, *edges]) / self.size) ** 2)
        if positions <= max_positions and pixels <= MAX_PIXELS:
            return
        made = f'{positions:,} positions, more than max_positions={max_positions:,}'
        if positions <= max_positions:
            made = f'{pixels:,} pixels on the way, more than {MAX_PIXELS:,}'
        raise ValueError(
            f'an image of {shape[1]}×{shape[0]} pixels makes {made}, with size={size} '
            f"and fit='{fit}'; crop it, or give a smaller size or fit='crop'."
        )

    def _build(
        self, size: int, fit: str
    ) -> list[Callable[[dict[str, Any]], dict[str, Any]]]:
        """The transforms for a size; none where the pipeline brings to no size."""
        from mergevq_mm.registry import TRANSFORMS

        from ..base.registry import DefaultScope

        kinds = [_kind(step) for step in self.steps]
        sized = {'ResizeEdge', 'Resize', 'RandomCrop', 'CenterCrop'} & set(kinds)
        if not sized or fit == 'whole' and not sized - {'CenterCrop'}:
            return []
        built: list[Callable[[dict[str, Any]], dict[str, Any]]] = []
        for kind, step in zip(kinds, self.steps, strict=True):
            if kind == 'CenterCrop' and fit == 'whole':
                continue
            step = self._scaled(step, kind, size, fit)
            if kind == 'RandomCrop':
                resized = any(name.startswith('Resize') for name in kinds)
                built.append(functools.partial(_place, step, fit, not resized))
                continue
            if not has_openmmlab():
                built.append(plain_transform(step))
                continue
            with DefaultScope.overwrite_default_scope(self.scope):
                built.append(TRANSFORMS.build(step))
        return built

    def _scaled(
        self, step: dict[str, Any], kind: str, size: int, fit: str
    ) -> dict[str, Any]:
        """A transform with its numbers of pixels for another size."""
        if kind == 'ResizeEdge' and fit == 'whole':
            return {**step, 'scale': size, 'edge': 'short'}
        factor = size / self.size

        def scale(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return tuple(scale(one) for one in value)
            return value if value is None else round(value * factor)

        names = {'ResizeEdge': ('scale',), 'Resize': ('scale',)}
        named = names.get(kind, ('crop_size', 'padding') if 'Crop' in kind else ())
        return {k: scale(v) if k in named else v for k, v in step.items()}


def _run(
    steps: Sequence[Callable[[dict[str, Any]], dict[str, Any]]], pixels: np.ndarray
) -> np.ndarray:
    """Transforms of mmcv on RGB; BGR comes out."""
    results: dict[str, Any] = {'img': np.ascontiguousarray(pixels[..., ::-1])}
    results['img_shape'] = results['ori_shape'] = pixels.shape[:2]
    for step in steps:
        results = step(results)
    image: np.ndarray = results['img']
    return image


def _place(
    step: dict[str, Any], fit: str, resize: bool, results: dict[str, Any]
) -> dict[str, Any]:
    """A validation's RandomCrop, which pads, without its chance.

    Where padding fills the crop exactly there is no chance in it. An image of another
    size is first resized to what fits between the padding, unless it is as large as the
    crop already; then the centre is taken.
    """
    image, size = results['img'], step['crop_size']
    size = (size, size) if isinstance(size, int) else tuple(size)
    left, top, right, bottom = _borders(step.get('padding'))
    room = size[0] - top - bottom, size[1] - left - right
    if min(room) < 1:
        raise ValueError('padding leaves nothing of an image')
    if resize and _covers(size, image) != 1:
        scale = _covers(room, image)
        rows, columns = (
            max(n, round(m * scale)) for n, m in zip(room, image.shape[:2], strict=True)
        )
        image = resize_pixels(image, (columns, rows), 'lanczos')
    if _covers(size, image) > 1:
        grey = step.get('pad_val', 0)
        grey = tuple(grey) if isinstance(grey, list) else grey  # as JSON has it
        image = pad_pixels(image, (left, top, right, bottom), grey)
    if fit == 'crop':
        image = _centre(image, *map(min, size, image.shape[:2]))
    return {**results, 'img': image, 'img_shape': image.shape[:2]}


def _covers(size: tuple[int, int], image: np.ndarray) -> float:
    """How much larger an image must be to cover a size."""
    shape: tuple[int, int] = image.shape[:2]
    return max(n / m for n, m in zip(size, shape, strict=True))


def _borders(padding: Any) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a RandomCrop's padding."""
    if padding is None:
        return 0, 0, 0, 0
    if isinstance(padding, int):
        return padding, padding, padding, padding
    return tuple(padding) if len(padding) == 4 else tuple(padding) * 2


def _centre(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The middle of an image."""
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    return image[top : top + rows, left : left + columns]


def _kind(step: Mapping[str, Any]) -> str:
    """Name of a transform without its scope."""
    kind = step.get('type', '')
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def batch_room(
    batch_size: int, positions: int, max_positions: int = MAX_POSITIONS
) -> int:
    """Images that go together: no more than take the memory of the largest one.

    Args:
        batch_size (int): At most so many.
        positions (int): Of each image.
        max_positions (int): Of the largest one. Defaults to ``MAX_POSITIONS``.

    Returns:
        int: 1 at least.
    """
    return max(1, min(batch_size, (max_positions // positions) ** 2))


def preparation_of(config: Config | None, size: int, stride: int) -> Preparation:
    """The preparation of a config's validation.

    Args:
        config (Config, optional): Of the model.
        size (int): Pixels of the shorter edge that its encoder is trained at.
        stride (int): Of its encoder.

    Returns:
        Preparation: Of the config, or without one by Lanczos.
    """
    scope = None if config is None else config.get('default_scope')
    return Preparation(validation_pipeline(config), size, stride, scope or 'mmpretrain')
