"""One flag an item, shared by a process and the workers that it starts."""

from __future__ import annotations

import torch


class SharedMarks:
    """Flags in shared memory that can be set, never cleared.

    One byte an item: writing the same 1 twice is harmless, so that processes need
    no lock. A deep copy has flags of its own, in shared memory again.

    Args:
        size (int): The number of items.
    """

    def __init__(self, size: int) -> None:
        self._flags = torch.zeros(size, dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        """Count the items."""
        return self._flags.numel()

    def __deepcopy__(self, memo: dict) -> SharedMarks:
        """Copy the flags into shared memory."""
        other = type(self)(len(self))
        other._flags.copy_(self._flags)
        return other

    def set(self, index: int) -> bool:
        """Mark an item.

        Args:
            index (int): Which one.

        Returns:
            bool: Whether it was not marked before.
        """
        fresh = not bool(self._flags[index])
        self._flags[index] = 1
        return fresh

    def count(self) -> int:
        """Count the marked items.

        Returns:
            int: Their number, those that other processes marked included.
        """
        return int(self._flags.sum())

    def indices(self) -> list[int]:
        """List the marked items.

        Returns:
            list[int]: Their indices, ascending.
        """
        return self._flags.nonzero().flatten().tolist()
