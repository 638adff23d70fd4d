"""Batches of one K, where images have a K each."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

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

    Without ``shuffle`` the rare K come last, and always the same ones are left over.

    Args:
        sampler (DefaultSampler | InfiniteSampler): Of a data set that is ``ragged`` and
            has ``keep_of(idx)``, such as ``MergeVQCodes``.
        batch_size (int): Images of a batch.
        drop_last (bool): Whether as many batches are made as are full without a K.
            Defaults to False.

    Raises:
        ValueError: If the data set does not know a K of its samples.
    """

    same_keep = True

    def __init__(
        self, sampler: Sampler, batch_size: int, drop_last: bool = False
    ) -> None:
        if not getattr(sampler.dataset, 'ragged', False):
            raise ValueError(
                'batch_sampler=SameKeepBatchSampler needs images that have a K each; '
                'give it mergevq_mm.MergeVQCodes of tools/extract_codes.py with a '
                'budget, or leave it out.'
            )
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        """Iterate over batches of one K."""
        waiting: dict[int, list[int]] = {}  # by K, in the order of their first image
        for idx in self.sampler:
            keep = self.sampler.dataset.keep_of(idx)
            batch = waiting.setdefault(keep, [])
            batch.append(idx)
            if len(batch) >= self.batch_size:
                yield waiting.pop(keep)
        left = sum(map(len, waiting.values()))
        number = (
            left // self.batch_size if self.drop_last else -(-left // self.batch_size)
        )
        yield from list(waiting.values())[:number]

    def __len__(self) -> int:
        """Count the batches of a pass."""
        images = len(self.sampler)
        if self.drop_last:
            return images // self.batch_size
        return -(-images // self.batch_size)
