"""Targets computed once and read from a file while training."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mergevq_mm.base.module import BaseModule
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.array_file import ENDINGS, read_arrays, text_array
from mergevq_mm.utils.fileio import write_atomically


class StoredTargets(NamedTuple):
    """Content of a file of targets.

    Attributes:
        keys (list[str]): Path of each image below the data root, with '/'.
        targets (Tensor): Target of each image, N×T.
        mean (Tensor): Mean of each feature, T float32.
        std (Tensor): Deviation of each feature, T float32, at least 1e-6.
    """

    keys: list[str]
    targets: Tensor
    mean: Tensor
    std: Tensor


def write_targets(
    file: str | os.PathLike[str],
    keys: Sequence[str],
    targets: Tensor,
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes targets with the mean and deviation of their features.

    Args:
        file (str | PathLike): A ``.safetensors`` or ``.npz`` file.
        keys (Sequence[str]): Path of each image below the data root, with '/'.
        targets (Tensor): Target of each image, N×T.
        metadata (dict[str, str], optional): What else to keep, such as the teacher's
            config. ``.npz`` files drop it. Defaults to None.

    Raises:
        ValueError: If the numbers of keys and targets differ, or the file has another
            ending.
    """
    path = Path(file)
    if len(keys) != len(targets):
        raise ValueError(
            f'keys has {len(keys)} entries and targets {len(targets)}; give one each.'
        )
    wide = targets.double()
    tensors = {
        'targets': targets.contiguous(),
        'mean': wide.mean(dim=0).float(),
        'std': wide.std(dim=0, correction=0).clamp(min=1e-6).float(),
    }
    if path.suffix == '.safetensors':
        from safetensors.torch import save

        content = save(tensors, {**(metadata or {}), 'keys': json.dumps(list(keys))})
    elif path.suffix == '.npz':
        arrays: dict[str, Any]
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        stream = io.BytesIO()
        np.savez(stream, keys=np.array(list(keys)), **arrays)
        content = stream.getvalue()
    else:
        raise ValueError(_wrong_ending(path))
    write_atomically(content, path)  # a killed run leaves no half file


def read_targets(file: str | os.PathLike[str]) -> StoredTargets:
    """Reads a file of :func:`write_targets`, without unpickling anything.

    Args:
        file (str | PathLike): A ``.safetensors`` or ``.npz`` file.

    Returns:
        StoredTargets: Its content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a file of targets.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(
            f'file="{path}" of the stored targets does not exist; write it with '
            'tools/extract_targets.py.'
        )
    if path.suffix not in ENDINGS:
        raise ValueError(_wrong_ending(path))
    try:
        arrays, metadata = read_arrays(path)
        if path.suffix == '.npz':
            keys = arrays['keys'].tolist()
        else:
            keys = json.loads(metadata['keys'])
        tensors = {name: torch.from_numpy(arrays[name]) for name in _TENSORS}
        text_array(keys, path)
        number, *width = tensors['targets'].shape
        shapes = [list(tensors[name].shape) for name in ('mean', 'std')]
        if number != len(keys) or shapes != [width, width]:
            raise ValueError(
                f'{len(keys)} keys, targets of shape {[number, *width]}, mean and std '
                f'of {shapes}'
            )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f'file="{path}" is no file of targets ({error}); write it with '
            'tools/extract_targets.py.'
        ) from error
    return StoredTargets(keys, **tensors)


_TENSORS = ('targets', 'mean', 'std')


def _wrong_ending(path: Path) -> str:
    return f'file="{path}" must end in .safetensors or .npz; rename it.'


@MODELS.register_module()
class StoredTeacher(BaseModule):
    """Looks targets up by the image's path: the teacher costs nothing while training.

    The targets belong to the image as it was extracted, whatever view the student sees.
    They stay in host memory, outside checkpoints, and are read when training starts.

    Args:
        file (str): A file written by ``tools/extract_targets.py``, whose keys are paths
            below the data root, such as 'train/3/00012.png'.
        standardize (bool): Whether to bring each feature to mean 0 and deviation 1 by
            the file's own numbers. Defaults to False.
    """

    _device: Tensor

    def __init__(self, file: str, standardize: bool = False) -> None:
        super().__init__()
        self.file = file
        self.standardize = standardize
        self._targets: Tensor | None = None
        self._rows: dict[str, int] = {}
        self._depths: list[int] = []
        # Tells the device that the targets are wanted on.
        self.register_buffer('_device', torch.empty(0), persistent=False)

    def init_weights(self) -> None:
        """Reads the file, if not done yet.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a file of targets.
        """
        if self._targets is not None:
            return
        stored = read_targets(self.file)
        self._targets = stored.targets
        if self.standardize:
            self._targets = (stored.targets.float() - stored.mean) / stored.std
        self._rows = {key: row for row, key in enumerate(stored.keys)}
        depths = {key.count('/') + 1 for key in stored.keys}
        self._depths = sorted(depths, reverse=True)

    def row(self, img_path: str) -> int:
        """Row of an image in the file, by the longest end of its path that is a key.

        Args:
            img_path (str): Path of the image.

        Returns:
            int: The row.

        Raises:
            ValueError: If no end of the path is a key of the file.
        """
        parts = str(img_path).replace(os.sep, '/').split('/')
        for depth in self._depths:
            row = self._rows.get('/'.join(parts[-depth:]))
            if row is not None:
                return row
        raise ValueError(
            f'img_path="{img_path}" has no target in file="{self.file}" '
            f'({len(self._rows)} targets, such as {next(iter(self._rows), None)!r}); '
            'run tools/extract_targets.py on this data root again.'
        )

    @torch.no_grad()
    def forward(
        self, view: Tensor | None = None, data_samples: Sequence[Any] | None = None
    ) -> Tensor:
        """Targets of the images that the samples name.

        Args:
            view (Tensor, optional): Not used.
            data_samples (Sequence[DataSample]): Samples with ``img_path``.

        Returns:
            Tensor: B×T float32.

        Raises:
            ValueError: If the samples name no path, or an image is not in the file.
        """
        paths = [sample.get('img_path') for sample in data_samples or ()]
        if not paths or None in paths:
            raise ValueError(
                'data_samples without img_path, but StoredTeacher looks targets up by '
                "it; keep img_path in PackInputs' meta_keys."
            )
        self.init_weights()
        assert self._targets is not None  # read by now
        rows = torch.tensor([self.row(path) for path in paths])
        return self._targets[rows].float().to(self._device.device)
