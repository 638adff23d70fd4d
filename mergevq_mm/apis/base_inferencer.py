"""What all inferencers share: the model, batches, progress, results one by one."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..base.config import Config
from ..base.inferencer import BaseInferencer
from .call_signature import check_arguments, with_signature
from .hub import list_models
from .image_inputs import (
    LOGGER,
    FolderFile,
    HasPixels,
    NamedImage,
    check_size,
    list_inputs,
    read_pixels,
    to_images,
)
from .loading import load_for_inference
from .outputs import real_paths, write_outputs
from .preparation import MAX_POSITIONS, batch_room, preparation_of
from .progress import track

if TYPE_CHECKING:
    from mergevq_mm.models.generators.tokenizer import TokenizerParts
    from mergevq_mm.models.selfsup.mergevq import MergeVQ
    from mergevq_mm.models.utils.budget import Budget


class MergeVQInferencer(BaseInferencer):
    """Base of the inferencers of this package, on mmengine's.

    Differences: results come one by one (:meth:`stream`), so that a folder of any size
    needs the memory of a batch; progress is told without a terminal, too.

    Args:
        model (nn.Module | str | PathLike | Config): See :func:`load_for_inference`.
        pretrained (bool | str | PathLike, optional): Likewise. Defaults to None.
        device (str | torch.device, optional): Defaults to None, a GPU where there is
            one.
        show_progress (bool): Whether work of more than ten seconds (on a terminal, of
            half a second) tells how far it is. Defaults to True.
        **kwargs: Override arguments of the model's config.
    """

    task = 'inference'

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str] | Config,
        pretrained: bool | str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        show_progress: bool = True,
        **kwargs: Any,
    ) -> None:
        # mmengine's own constructor knows neither folders nor safe checkpoints.
        self.model = load_for_inference(model, pretrained, device, **kwargs)
        self.cfg = getattr(self.model, '_config', None)
        self.pipeline = self._init_pipeline(self.cfg)
        self.show_progress = show_progress
        self.check_model()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let ``help`` show what the calls of a class take."""
        super().__init_subclass__(**kwargs)
        for name in {'__call__', 'stream'} - set(cls.__dict__):
            inherited = getattr(cls, name)
            plain = getattr(inherited, 'plain', inherited)
            setattr(cls, name, with_signature(cls, plain))

    @property
    def device(self) -> torch.device:
        """torch.device: Where the model computes."""
        return next(self.model.parameters()).device

    def __call__(
        self,
        inputs: Any,
        return_datasamples: bool = False,
        batch_size: int = 8,
        **kwargs: Any,
    ) -> list[Any]:
        """All results in a list.

        Args:
            inputs (Any): What to work on, see the class.
            return_datasamples (bool): Whether results are mmpretrain's ``DataSample``
                instead of dicts. Defaults to False.
            batch_size (int): Inputs at a time. Defaults to 8.
            **kwargs: Of ``preprocess``, ``forward``, ``visualize`` and ``postprocess``
                of the class.

        Returns:
            list[dict | DataSample]: One for each input; see the class.

        Raises:
            ValueError: If an argument or an input is not what it should be.
        """
        return list(self.stream(inputs, return_datasamples, batch_size, **kwargs))

    def stream(
        self,
        inputs: Any,
        return_datasamples: bool = False,
        batch_size: int = 8,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Results one after the other, for as many as one likes.

        Args:
            inputs (Any): What to work on, see the class.
            return_datasamples (bool): Whether results are mmpretrain's ``DataSample``
                instead of dicts. Defaults to False.
            batch_size (int): Inputs at a time. Defaults to 8.
            **kwargs: Of ``preprocess``, ``forward``, ``visualize`` and ``postprocess``
                of the class.

        Yields:
            dict | DataSample: One for each input.

        Raises:
            ValueError: If an argument or an input is not what it should be.
        """
        if batch_size < 1:
            raise ValueError(f'batch_size={batch_size} is no batch; give at least 1.')
        check_arguments(type(self), kwargs)
        before, during, seen, after = self._dispatch_kwargs(**kwargs)
        out_dir, made = after.get('out_dir'), 0
        self.failed: list[str] = []
        listed = self._inputs_to_list(inputs, out_dir)
        self.number = len(listed)
        self.sources = set() if out_dir is None else real_paths(listed)
        batches = self.preprocess(listed, batch_size, **before)
        steps = ((len(batch), batch) for batch in batches)
        if self.show_progress:
            total = self.count(listed, **before)
            batches = track(steps, total, self.task)
        else:
            batches = (batch for _, batch in steps)
        for batch in batches:
            with torch.inference_mode():
                preds = self.forward(batch, **during)
            pictures = self.visualize(batch, preds, **seen)
            results = self.postprocess(preds, pictures, return_datasamples, **after)
            made += len(results)
            yield from results
        if self.failed and not made:
            raise ValueError(f'nothing could be read; the first: {self.failed[0]}')

    def count(self, listed: Sequence[Any], *args: Any, **kwargs: Any) -> int:
        """Results that so many inputs make."""
        return len(listed)

    def check_model(self) -> None:
        """Refuse a model of another kind."""

    def pass_over(self, item: Any, error: Exception) -> None:
        """Tell of a file of a folder that cannot be read, and note it in ``failed``.

        Args:
            item (Any): The input.
            error (Exception): What is wrong with it.

        Raises:
            Exception: ``error`` with its path, if somebody named the input itself.
        """
        if isinstance(item, str) and item not in str(error):
            error = ValueError(f'"{item}": {error}')
        if not isinstance(item, FolderFile):
            raise error
        self.failed.append(str(error))
        LOGGER.warning(str(error))

    def _inputs_to_list(
        self, inputs: Any, out_dir: str | os.PathLike[str] | None = None
    ) -> list[Any]:
        return list_inputs(inputs, leave_out=out_dir)

    def _init_pipeline(self, cfg: Config | None) -> Callable[..., Any]:
        return read_pixels

    @abstractmethod
    def forward(
        self, inputs: Sequence[Any], *args: Any, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """Results of a batch."""

    def visualize(
        self, inputs: Sequence[Any], preds: Sequence[dict[str, Any]], show: bool = False
    ) -> list[dict[str, Any]]:
        """Pictures of each result of a batch, by name; here there are none."""
        return [{} for _ in preds]

    def postprocess(
        self,
        preds: Sequence[dict[str, Any]],
        visualization: Sequence[dict[str, Any]],
        return_datasamples: bool = False,
        out_dir: str | os.PathLike[str] | None = None,
    ) -> list[Any]:
        """Pack results, and write them where a folder is given.

        Args:
            preds (Sequence[dict]): Of :meth:`forward`.
            visualization (Sequence[dict]): Of :meth:`visualize`.
            return_datasamples (bool): See :meth:`stream`. Defaults to False.
            out_dir (str | PathLike, optional): Folder to write. Defaults to None.

        Returns:
            list: One result each; with ``files`` where they were written.
        """
        packed = []
        for pred, pictures in zip(preds, visualization, strict=True):
            result = {**pred, 'pictures': pictures} if pictures else dict(pred)
            if out_dir is not None:
                made = self.outputs(result)
                result['files'] = write_outputs(out_dir, made, self.task, self.sources)
            packed.append(_as_sample(result) if return_datasamples else result)
        return packed

    def outputs(self, result: dict[str, Any]) -> Mapping[str, np.ndarray | bytes]:
        """Files of a result: names to pictures H×W×3 uint8, or to contents."""
        return {}

    @staticmethod
    def list_models(pattern: str | None = None) -> list[str]:
        """See :func:`mergevq_mm.list_models`."""
        return list_models(pattern)


class ImageInferencer(MergeVQInferencer):
    """Base of the inferencers that take images to a tokenizer.

    A generator is accepted, too: then its tokenizer works.

    Inputs are a path, an http(s) address, a folder (with its subfolders), a Pillow
    image, an array H×W×3 (uint8, or floats in [0, 1]), a tensor 3×H×W, a batch of them,
    or a sequence of all that.
    """

    preprocess_kwargs = {'size', 'fit', 'max_positions'}
    fit = 'whole'

    def check_model(self) -> None:
        """See :class:`MergeVQInferencer`."""
        tokenizer = getattr(self.model, 'tokenizer', None)
        if tokenizer is not None:
            tokenizer.init_weights()  # an early error where its file is not
        from mergevq_mm.models.utils.graphed_methods import use_graphs

        backbone = use_graphs(self.parts).backbone
        self.preparation = preparation_of(
            self.cfg, min(backbone.img_size), backbone.stride
        )

    @property
    def parts(self) -> TokenizerParts | MergeVQ:
        """TokenizerParts | MergeVQ: With backbone, quantizer, neck and decoder."""
        model: Any = self.model
        if hasattr(model, 'tokenizer'):
            model = getattr(model.tokenizer, 'network', model.tokenizer)
        if not all(hasattr(model, name) for name in ('backbone', 'quantizer', 'neck')):
            raise ValueError(
                f'{type(self.model).__name__} is no tokenizer; give a MergeVQ, such as '
                'that of configs/mergevq_g+r.py.'
            )
        parts: TokenizerParts | MergeVQ = model
        return parts

    @property
    def device(self) -> torch.device:
        """torch.device: Where the tokenizer computes."""
        return next(self.parts.parameters()).device

    def images(self, inputs: Iterable[HasPixels]) -> torch.Tensor:
        """A batch for the tokenizer, B×3×H×W in [-1, 1], in its precision."""
        dtype = next(self.parts.parameters()).dtype
        return to_images([image.pixels for image in inputs], self.device, dtype)

    def default_keep(self) -> float:
        """The model's K as a share of its positions."""
        grid = self.parts.backbone.grid
        own = getattr(self.model, 'test_keep', None)
        if own is None:
            sampler = getattr(self.model, 'keep_sampler', None)
            own = [sampler.target] if sampler is not None else [grid[0] * grid[1]]
        first: float = own[0]
        return first / (grid[0] * grid[1])

    def read_keep(
        self, keep: int | float | Budget | None, grid: tuple[int, int]
    ) -> int | Budget:
        """K of a raster.

        Args:
            keep (int | float | Budget, optional): K, or a share of the positions. None
                is the model's share, or as little as it can reach. A budget stays one.
            grid (tuple[int, int]): Rows and columns.

        Returns:
            int | Budget: K.

        Raises:
            ValueError: If it is no number, or a share is out of range.
        """
        from mergevq_mm.models.utils.budget import Budget
        from mergevq_mm.models.utils.merge_schedule import least_keep, resolve_keep

        if isinstance(keep, Budget):
            return keep
        length = grid[0] * grid[1]
        numbers = (int, float, np.integer, np.floating)
        if keep is not None and not isinstance(keep, numbers):
            raise ValueError(
                f'keep={keep!r} is no number of tokens; give K, or a share such as '
                '0.25.'
            )
        if keep is None:
            share = max(1, round(self.default_keep() * length))
            return max(share, least_keep(length, self.parts.backbone.num_layers))
        return resolve_keep(keep, length)

    def preprocess(
        self,
        inputs: Sequence[tuple[str, Any]],
        batch_size: int = 8,
        size: int | None = None,
        fit: str | None = None,
        max_positions: int = MAX_POSITIONS,
    ) -> Iterator[list[NamedImage]]:
        """Read images and put those of one size that follow each other together.

        Args:
            inputs (Sequence[tuple[str, Any]]): Names and images.
            batch_size (int): At most so many at a time, and fewer of large images.
                Defaults to 8.
            size (int, optional): Pixels of the shorter edge. Defaults to None, the
                model's.
            fit (str, optional): 'whole' or 'crop', see :class:`Preparation`. Defaults
                to None, the class's.
            max_positions (int): At most so many of an image; their attention takes
                memory by their square. Defaults to ``MAX_POSITIONS``.

        Yields:
            list[NamedImage]: A batch.

        Raises:
            ValueError: If an argument or an image is not what it should be. Files of a
                folder are then passed over, see :meth:`pass_over`.
        """
        prepare, stride = self.preparation, self.parts.backbone.stride
        fit = self.fit if fit is None else fit
        check_size(prepare.size if size is None else size, stride, fit)
        batch: list[NamedImage] = []
        for name, item in inputs:
            try:
                pixels = self.pipeline(item, prepare.background)
                pixels = prepare(pixels, size, fit, max_positions)
            except ValueError as error:
                self.pass_over(item, error)
                continue
            length = pixels.shape[0] * pixels.shape[1] // stride**2
            full = len(batch) >= batch_room(batch_size, length, max_positions)
            if batch and (full or batch[0].pixels.shape != pixels.shape):
                yield batch
                batch = []
            source = str(item) if isinstance(item, str) else name
            batch.append(NamedImage(name, source, pixels))
        if batch:
            yield batch


def _as_sample(result: dict[str, Any]) -> Any:
    """A result as mmpretrain's sample."""
    from mmpretrain.structures import DataSample

    sample = DataSample()
    for name, value in result.items():
        sample.set_field(value, name)
    return sample
