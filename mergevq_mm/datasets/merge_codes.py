"""Codes of a frozen tokenizer as a data set, for the training of generators."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import Dataset

from mergevq_mm.registry import DATASETS, MODELS

from .codes import check_shard, open_array, read_header


@DATASETS.register_module()
class MergeVQCodes(Dataset):
    """Codes and source maps that ``tools/extract_codes.py`` has written.

    Nothing but the labels is read at the start; codes are mapped into memory when they
    are first asked for, in each worker process on its own.

    Where the codes are of a budget, images have a K each. A batch of them has to be of
    one K: :class:`SameKeepBatchSampler` makes such.

    Args:
        root (str): The folder.
        keep (int | Sequence[int], optional): Numbers of groups K to read. Defaults to
            None, all that there are; codes of a budget have no others.
        flip_prob (float): Probability of the mirror image. Defaults to 0.5.
        fingerprint (str, optional): Of the tokenizer that the codes must be of.
            Defaults to None, of any.
        tokenizer (dict | nn.Module, optional): Instead, the tokenizer itself: a
            ``FrozenTokenizer`` or its config. Defaults to None.
        indices (int | Sequence[int], optional): Samples to use: the first so many (the
            last, if negative) or these. Defaults to None, all.

    Attributes:
        header (CodesHeader): What the codes are.
        metainfo (dict): ``classes``, and what the header says of the codes.

    Raises:
        ValueError: If the folder holds no codes, half of them, none of this K or
            flip, or those of another tokenizer; if an index is out of range; or (when
            a sample is read) if a code is.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        keep: int | Sequence[int] | None = None,
        flip_prob: float = 0.5,
        fingerprint: str | None = None,
        tokenizer: Mapping[str, Any] | torch.nn.Module | None = None,
        indices: int | Sequence[int] | None = None,
    ) -> None:
        self.root = os.fspath(root)
        self.header = header = read_header(root)
        if tokenizer is not None:
            if isinstance(tokenizer, Mapping):
                tokenizer = MODELS.build(dict(tokenizer))
            self._check_tokenizer(tokenizer.fingerprint())
        if fingerprint is not None:
            self._check_tokenizer(fingerprint)
        self.keeps = self._read_keeps(keep)
        self.flip_prob = self._read_flip_prob(flip_prob)
        for shard in header.shards:
            check_shard(root, shard)
        self._ends = np.cumsum([shard['samples'] for shard in header.shards])
        self._order = self._read_indices(indices)
        self._arrays: dict[tuple[int, str], np.ndarray] = {}
        self._labels = self._read_labels()
        self._own_keeps = self._read_own_keeps()
        self.metainfo = {
            'classes': header.classes,
            'fingerprint': header.fingerprint,
            'bits': header.bits,
            'split': header.split,
            'grid': header.grid,
            'keeps': self.keeps,
            'ragged': self.ragged,
        }

    def __len__(self) -> int:
        """Count the samples."""
        return len(self._order)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """Read a sample.

        Args:
            idx (int): Which one.

        Returns:
            dict: ``inputs``, for each K ``index_K<K>`` (K int64) and ``group_K<K>`` (L
            int64) of the image or its mirror image, or of its own K alone ``index`` and
            ``group``; and ``data_samples`` with ``gt_label``, ``sample_idx`` and
            ``flip``.
        """
        number = int(self._order[idx])
        flip = self.flip_prob > 0 and bool(torch.rand(()) < self.flip_prob)
        if self.ragged:
            keep = int(self._own_keeps[number])
            inputs = {
                kind: self._read(number, flip, kind, keep)
                for kind in ('index', 'group')
            }
        else:
            inputs = {
                f'{kind}_K{keep}': self._read(number, flip, f'{kind}_K{keep}', keep)
                for keep in self.keeps
                for kind in ('index', 'group')
            }
        sample = DataSample(metainfo={'sample_idx': number, 'flip': flip})
        sample.set_gt_label(int(self._labels[number]))
        return {'inputs': inputs, 'data_samples': sample}

    def get_cat_ids(self, idx: int) -> list[int]:
        """Class of a sample, in a list.

        Args:
            idx (int): Which sample.

        Returns:
            list[int]: The one class.
        """
        return [int(self._labels[self._order[idx]])]

    @property
    def ragged(self) -> bool:
        """bool: Whether each image has one K of its own, within a budget."""
        return self._own_keeps is not None

    def keep_of(self, idx: int) -> int:
        """K of a sample of a ragged data set.

        Args:
            idx (int): Which sample.

        Returns:
            int: K.
        """
        return int(self._own_keeps[self._order[idx]])

    def full_init(self) -> None:
        """Nothing is left to read; mmengine's wrappers of data sets ask for it."""

    def present_classes(self) -> list[int]:
        """Classes that have a sample; others are only named.

        Returns:
            list[int]: Sorted.
        """
        return np.unique(self._labels[self._order]).tolist()

    def _read(self, number: int, flip: int, name: str, keep: int) -> Tensor:
        shard = int(np.searchsorted(self._ends, number, side='right'))
        if (shard, name) not in self._arrays:
            array = open_array(self.root, self.header, shard, name)
            self._arrays[shard, name] = array
        array = self._arrays[shard, name]
        row = array[number - self._ends[shard] + len(array), int(flip)]
        codes = name.startswith('index')
        row = (row[:keep] if codes else row).astype(np.int64)
        limit = 2**self.header.bits if codes else keep
        if row.min() < 0 or row.max() >= limit:
            raise ValueError(
                f'root="{self.root}": {name} of sample {number} holds values from '
                f'{row.min()} to {row.max()}, outside of [0, {limit}); extract the '
                'codes anew.'
            )
        return torch.from_numpy(row)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped files out: each process maps its own."""
        return {**self.__dict__, '_arrays': {}}

    # ------------------------------------------------------------------ arguments

    def _check_tokenizer(self, fingerprint: str) -> None:
        if fingerprint != self.header.fingerprint:
            raise ValueError(
                f'root="{self.root}" holds codes of the tokenizer '
                f'{self.header.fingerprint[:12]}…, not of {fingerprint[:12]}…; extract '
                'them with this tokenizer, or use the checkpoint they were made with.'
            )

    def _read_keeps(self, keep: int | Sequence[int] | None) -> tuple[int, ...]:
        known = self.header.keeps
        if keep is None:
            return known
        if self.header.budget:
            raise ValueError(
                f'keep={keep} cannot be read from root="{self.root}", where each image '
                f'has a K of its own within {self.header.budget}; leave it out.'
            )
        keeps = (keep,) if isinstance(keep, int) else tuple(keep)
        if not keeps or set(keeps) - set(known):
            raise ValueError(
                f'keep={list(keeps)} is not among the K of root="{self.root}", '
                f'{list(known)}; choose of these, or extract it too.'
            )
        return keeps

    def _read_flip_prob(self, flip_prob: float) -> float:
        if not 0 <= flip_prob <= 1:
            raise ValueError(
                f'flip_prob={flip_prob} lies outside [0, 1]; give a share.'
            )
        if flip_prob > 0 and self.header.flips == 1:
            raise ValueError(
                f'flip_prob={flip_prob} needs mirror images, which root="{self.root}" '
                'lacks; set flip_prob=0, or extract with --flip.'
            )
        return flip_prob

    def _read_indices(self, indices: int | Sequence[int] | None) -> np.ndarray:
        every = np.arange(self.header.samples)
        if indices is None:
            return every
        if isinstance(indices, int):
            return every[:indices] if indices >= 0 else every[indices:]
        try:
            return every[np.asarray(indices, dtype=np.int64)]
        except IndexError as error:
            raise ValueError(
                f'indices hold a sample that root="{self.root}" lacks ({error}); give '
                f'numbers from 0 to {self.header.samples - 1}.'
            ) from error

    def _read_labels(self) -> np.ndarray:
        labels = self._read_numbers('labels')
        if labels.min() < 0 or labels.max() >= len(self.header.classes):
            raise ValueError(
                f'root="{self.root}" holds labels from {labels.min()} to '
                f'{labels.max()} for {len(self.header.classes)} classes; extract the '
                'codes anew.'
            )
        return labels

    def _read_own_keeps(self) -> np.ndarray | None:
        """K of each image within a budget."""
        if not self.header.budget:
            return None
        own = self._read_numbers('keep')
        foreign = np.setdiff1d(own, self.header.keeps)
        if len(foreign):
            raise ValueError(
                f'root="{self.root}" holds images of K={foreign[0]}, which is none of '
                f'{list(self.header.keeps)}; extract the codes anew.'
            )
        return own

    def _read_numbers(self, name: str) -> np.ndarray:
        """An array of one number for each sample."""
        shards = range(len(self.header.shards))
        parts = [open_array(self.root, self.header, i, name) for i in shards]
        return np.concatenate(parts)
