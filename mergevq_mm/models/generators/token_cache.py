"""What MergeAR remembers of a sequence: everything, or what it may still look at.

Both caches answer the same two questions for the next tokens: into which slots go
their keys and values, and which slots may each of them see. Places of a sequence are
counted from the first prefix token.

The compressed cache holds the prefix, the first occurrence of each distinct code, and
of the last w tokens those that repeat one. A repetition stands in a ring of w slots and
its slot is free again as soon as it has left the window: it is gone, not masked. All
decisions are made on the device. The host reads so much of the cache as the longest
sequence may occupy by the last count that has arrived; only when a sample may run out
of slots does it wait for one, of some steps ago.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .host_copy import LaggedMaximum
from .kv_store import KVStore, SlotMemory
from .visibility import visible

NOBODY = 2**40  # a place that no query has reached: an empty slot


class Placement(NamedTuple):
    """Where the next tokens go and what they see.

    Attributes:
        memory (SlotMemory): For the transformer.
        mask (Tensor): B×1×n×slots bool.
        first (Tensor): Whether each token is the first of its code, B×n bool.
    """

    memory: SlotMemory
    mask: Tensor
    first: Tensor


class TokenCache:
    """The full cache: one slot a place.

    Args:
        make_store (Callable): Makes the :class:`KVStore` of a number of slots.
        prefix (int): Prefix tokens, P.
        length (int): Tokens, L.
        window (int, optional): w; None: all that is past is seen.
        keep (int): Distinct codes that are expected of a sequence, K.
        drafts (int): Tokens that are placed beyond one at a time. Defaults to 0.
        spare (int): Slots for more distinct codes than K; 0 where a sample is
            restricted to K. Defaults to 16.
        block (int): Slots come and are read in multiples of this. Defaults to 16.
    """

    def __init__(
        self,
        make_store: Callable[[int], KVStore],
        prefix: int,
        length: int,
        window: int | None,
        keep: int,
        drafts: int = 0,
        spare: int = 16,
        block: int = 16,
    ) -> None:
        self.prefix, self.length, self.window = prefix, length, window
        self.block = block
        self.ring = (window or 0) + drafts
        slots = self.slots_needed(prefix, length, window, keep, drafts, spare)
        self.store = make_store(slots)
        device = self.store.rows.device
        size = (len(self.store.rows), self.store.slots)
        self.step = torch.full(size, NOBODY, device=device)
        self.code = torch.full(size, -1, device=device)
        self.kept = torch.zeros(size, dtype=torch.bool, device=device)

    @classmethod
    def slots_needed(
        cls,
        prefix: int,
        length: int,
        window: int | None,
        keep: int,
        drafts: int = 0,
        spare: int = 16,
    ) -> int:
        """Slots of a new cache: P + L + drafts, for drafts may lie beyond the end."""
        return prefix + length + drafts

    def reset(self) -> None:
        """Be as new, with the slots that are there."""
        self.step.fill_(NOBODY)
        self.code.fill_(-1)
        self.kept.zero_()
        self.store.clear()

    def place_prefix(self) -> Placement:
        """Places of the prefix tokens, which see each other causally."""
        number = self.prefix
        step = torch.arange(number, device=self.step.device)
        step = step.expand(self.step.shape[0], -1)
        self.step[:, :number] = step
        self.kept[:, :number] = True
        mask = visible(step[:, None, :, None], step[:, None, None, :], True, None)
        memory = SlotMemory(self.store, 0, read=number)
        return Placement(memory, mask, self.kept[:, :number])

    def reserve(self, latest: int, new: int = 1) -> int:
        """Make room on the host's side before tokens are placed.

        Args:
            latest (int): The largest place that they will have.
            new (int): How many of them may bring a new code. Defaults to 1.

        Returns:
            int: Slots that may hold something afterwards, in whole blocks.
        """
        return self._rounded(latest + 1)

    def place(self, code: Tensor, step: Tensor, read: int) -> Placement:
        """Places of the next tokens; nothing here waits for the device.

        Args:
            code (Tensor): Their codes, B×n int64.
            step (Tensor): Their places in the sequence, B×n int64, increasing.
            read (int): Of :meth:`reserve`.

        Returns:
            Placement: Slots and mask.
        """
        known = self._is_known(code)
        first = ~known
        slots = self._slots(step, first)
        self.step.scatter_(1, slots, step)
        self.kept.scatter_(1, slots, first)
        self.code.scatter_(1, slots, code.masked_fill(known, -1))
        mask = visible(
            step[:, None, :, None],
            self.step[:, None, None, :read],
            self.kept[:, None, None, :read],
            self.window,
        )
        self._evict_unseen(mask[:, 0, :1], step)
        return Placement(SlotMemory(self.store, slots, read), mask, first)

    def _is_known(self, code: Tensor) -> Tensor:
        """Whether a code is there already, B×n bool."""
        same = code.unsqueeze(-1) == self.code.unsqueeze(1)  # B×n×slots
        known = same.any(dim=-1)
        if code.shape[1] > 1:  # or an earlier token of the same call has it
            earlier = (code.unsqueeze(-1) == code.unsqueeze(1)).tril(-1)
            known = known | earlier.any(dim=-1)
        return known

    def _slots(self, step: Tensor, first: Tensor) -> Tensor:
        return step

    def evict(self, query: Tensor) -> None:
        """Give up what no query at this place (B×1) or later sees; here nothing."""

    def _evict_unseen(self, seen: Tensor, step: Tensor) -> None:
        """The same after a call, of which B×1×read is what its first token sees."""

    def _rounded(self, slots: int) -> int:
        return min(-(-slots // self.block) * self.block, self.store.slots)

    def forget(self, step: Tensor) -> None:
        """Take back tokens of the last call, those at ``step`` (B×1) or later.

        The next call may not begin before the last one did: what could not be seen from
        there is gone already.
        """
        gone = (self.step >= step) & (self.step != NOBODY)
        self.step.masked_fill_(gone, NOBODY)
        self.code.masked_fill_(gone, -1)
        self.kept &= ~gone

    @property
    def distinct(self) -> Tensor:
        """Tensor: Distinct codes of each sequence so far, B."""
        return self.kept.sum(dim=1) - self.prefix

    @property
    def occupied(self) -> Tensor:
        """Tensor: Slots of each sequence that hold something, B."""
        return (self.step != NOBODY).sum(dim=1)


class CompressedCache(TokenCache):
    """Prefix, a ring of the window, and a slot for each distinct code.

    The slots for codes grow by whole blocks where a sample needs more than there are.

    Args:
        *args: Of :class:`TokenCache`; the window is needed.
        restrict (bool): Whether no sequence ever has more than K distinct codes: then
            there are exactly P + w + drafts + K slots, and the host never waits.
            Defaults to False.
        spare (int): Of :class:`TokenCache`. Defaults to 16.
        **kwargs: Of :class:`TokenCache`.

    Raises:
        ValueError: If there is no window: then nothing may be evicted.
    """

    def __init__(
        self, *args: Any, restrict: bool = False, spare: int = 16, **kwargs: Any
    ) -> None:
        kwargs['spare'] = 0 if restrict else spare
        super().__init__(*args, **kwargs)
        if self.window is None:
            raise ValueError(
                'window=None lets every token see all earlier ones, so that nothing '
                "can be evicted; give a window or use cache='full'."
            )
        self.count = torch.zeros_like(self.step[:, 0])  # distinct codes, B
        self.most = self.capacity if restrict else self.length
        self._lagged = LaggedMaximum(self.count)

    @classmethod
    def slots_needed(
        cls,
        prefix: int,
        length: int,
        window: int | None,
        keep: int,
        drafts: int = 0,
        spare: int = 16,
    ) -> int:
        """Slots of a new cache: P + w + drafts + min(K + spare, L)."""
        return prefix + (window or 0) + drafts + min(keep + spare, length)

    @property
    def capacity(self) -> int:
        """int: Distinct codes for which there are slots."""
        return self.store.slots - self.prefix - self.ring

    def reset(self) -> None:
        """See :meth:`TokenCache.reset`."""
        super().reset()
        self.count.zero_()
        self._lagged = LaggedMaximum(self.count)

    def reserve(self, latest: int, new: int = 1) -> int:
        """See :meth:`TokenCache.reserve`; grows where codes may lack slots."""
        tokens = latest + 1 - self.prefix
        most = min(self.most, tokens)  # no sequence has more distinct codes
        enough = self.capacity - new if most > self.capacity else self.length
        most = min(most, self._lagged.bound(enough) + new)
        while most > self.capacity:
            self._grow()
        self._lagged.advance(new)
        return self._rounded(self.prefix + self.ring + most)

    def _slots(self, step: Tensor, first: Tensor) -> Tensor:
        if step.shape[1] > 1:
            number = self.count.unsqueeze(1) + first.cumsum(dim=1)  # B×n, from 1
            self.count.copy_(number[:, -1])
        else:
            self.count += first[:, 0]
            number = self.count.unsqueeze(1)
        last = self.prefix + self.ring - 1
        return torch.where(first, number + last, step % self.ring + self.prefix)

    def evict(self, query: Tensor) -> None:
        """See :meth:`TokenCache.evict`."""
        assert self.window is not None
        gone = ~self.kept & (self.step <= query - self.window)
        self.step.masked_fill_(gone, NOBODY)

    def _evict_unseen(self, seen: Tensor, step: Tensor) -> None:
        held = self.step[:, : seen.shape[2]]
        gone = ~seen[:, 0]
        if step.shape[1] > 1:  # the first token does not see the later ones either
            gone = gone & (held <= step[:, :1])
        held.masked_fill_(gone, NOBODY)

    def forget(self, step: Tensor) -> None:
        """See :meth:`TokenCache.forget`."""
        super().forget(step)
        self.count.copy_(self.distinct)

    def _grow(self) -> None:
        more = min(self.block, self.length - self.capacity)
        self.store.grow(more)
        batch = self.step.shape[0]
        self.step = torch.cat([self.step, self.step.new_full((batch, more), NOBODY)], 1)
        self.code = torch.cat([self.code, self.code.new_full((batch, more), -1)], 1)
        self.kept = torch.cat([self.kept, self.kept.new_zeros(batch, more)], 1)
