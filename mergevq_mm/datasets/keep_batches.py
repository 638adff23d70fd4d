"""Batches of one K, where images have a K each."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.dataset import RepeatDataset
from torch.utils.data import ConcatDataset, Dataset, Sampler

from mergevq_mm.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class SameKeepBatchSampler(Sampler):
    """Puts images that have the same K together, so that a batch is dense.

    As mmdetection's ``AspectRatioBatchSampler`` does with shapes: images come in the
    order of the sampler, and a batch is ready when so many of one K have come. At the
    end of a pass the K that are not full make smaller batches, those first whose first
    image came first, until there are as many batches as without a K. What is then left
    over, less than a batch of each K, has another chance in the next pass, as a K with
    more images is likelier to come first. So each rank makes as many batches.

    Differences: torch's ``drop_last`` leaves full batches alone. Here their number
    depends on which images a rank gets, and ranks that make unlike numbers of steps
    wait for each other for ever; where a rank has few images of each K none is full. So
    ``drop_last`` fixes the number of batches, and the last ones may be smaller.

    Without ``shuffle`` the rare K come last, and always the same ones are left over.

    Args:
        sampler (DefaultSampler | InfiniteSampler): Of a data set that is ``ragged`` and
            has ``keep_of(idx)``, such as ``MergeVQCodes``, or of mmengine's
            ``ConcatDataset`` or ``RepeatDataset`` of such.
        batch_size (int): Images of a batch.
        drop_last (bool): Whether as many batches are made as are full without a K.
            Defaults to False: one more, if images are left over without a K.

    Raises:
        ValueError: If the data set does not know a K of its samples, or a batch has no
            images.
    """

    same_keep = True

    def __init__(
        self, sampler: Sampler, batch_size: int, drop_last: bool = False
    ) -> None:
        if batch_size < 1:
            raise ValueError(f'batch_size={batch_size} makes no batch; give 1 or more.')
        # torch's own samplers call it so.
        dataset = getattr(sampler, 'dataset', getattr(sampler, 'data_source', None))
        self.keeps = keeps_of(dataset)
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        """Iterate over batches of one K."""
        waiting: dict[int, list[int]] = {}  # by K, in the order of their first image
        for idx in self.sampler:
            keep = self.keeps[idx]
            batch = waiting.setdefault(keep, [])
            batch.append(idx)
            if len(batch) >= self.batch_size:
                yield waiting.pop(keep)
        left = sum(map(len, waiting.values()))
        yield from list(waiting.values())[: self._batches(left)]

    def __len__(self) -> int:
        """Count the batches of a pass."""
        return self._batches(len(self.sampler))

    def _batches(self, images: int) -> int:
        """How many batches images make without a K."""
        more = 0 if self.drop_last else self.batch_size - 1
        return (images + more) // self.batch_size


def keeps_of(dataset: Dataset) -> list[int]:
    """K of each sample of a data set, also through mmengine's wrappers.

    Args:
        dataset (Dataset): See :class:`SameKeepBatchSampler`.

    Returns:
        list[int]: A number for each sample.

    Raises:
        ValueError: If it does not know them.
    """
    if isinstance(dataset, ConcatDataset):  # mmengine's is one, too
        return [keep for one in dataset.datasets for keep in keeps_of(one)]
    if isinstance(dataset, RepeatDataset):
        return keeps_of(dataset.dataset) * dataset.times
    if not getattr(dataset, 'ragged', False):
        raise ValueError(
            'batch_sampler=SameKeepBatchSampler needs images that have a K each; give '
            'it mergevq_mm.MergeVQCodes of tools/extract_codes.py with a budget, also '
            f'in a ConcatDataset or RepeatDataset, not {type(dataset).__name__}; or '
            'leave it out.'
        )
    return [dataset.keep_of(idx) for idx in range(len(dataset))]
