"""Small numbers of the device that the host reads later, without waiting for it."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class HostCopy:
    """A small tensor on its way to the host.

    Args:
        value (Tensor): What to copy; nobody may change it afterwards.
    """

    def __init__(self, value: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if value.is_cuda:
            self._host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self._host.copy_(value, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(value.device))
        else:
            self._host = value.cpu()

    @property
    def ready(self) -> bool:
        """bool: Whether reading would not wait."""
        return self._event is None or bool(self._event.query())

    def read(self) -> list[int]:
        """The numbers, flat; waits until they are there."""
        if self._event is not None:
            self._event.synchronize()
        found: list[int] = self._host.numpy().ravel().tolist()  # no operator of torch
        return found


class LaggedMaximum:
    """An upper bound of a counter on the device that the host knows without waiting.

    The counter's maximum is copied to the host every ``lag`` additions, and used as
    soon as it has arrived. Meanwhile the bound is the last known maximum plus all that
    may have been added since. Only where that is more than enough does the host wait,
    for a copy of at least ``lag`` additions ago, which the device has passed; then the
    bound is at most 2 lag - 1 too much. Where nobody is behind, it is lag - 1.

    Args:
        counter (Tensor): Counts that grow by at most what :meth:`advance` is told.
        lag (int): Defaults to 8.
    """

    def __init__(self, counter: Tensor, lag: int = 8) -> None:
        self.counter, self.lag = counter, lag
        self._added = self._asked = 0
        self._known, self._known_at = 0, 0
        self._copies: deque[tuple[int, HostCopy]] = deque()

    def bound(self, enough: int = 0) -> int:
        """No count is larger.

        Args:
            enough (int): A bound of at most this is not to be made closer by waiting.
                Defaults to 0: it always is.

        Returns:
            int: Upper bound.
        """
        if self._added - self._asked >= self.lag:
            self._copies.append((self._added, HostCopy(self.counter.max())))
            self._asked = self._added
        while self._copies:
            added, copy = self._copies[0]
            old = self._added - added >= self.lag
            if not (copy.ready or (old and self._bound() > enough)):
                break
            (self._known,), self._known_at = copy.read(), added
            self._copies.popleft()
        return self._bound()

    def advance(self, number: int) -> None:
        """Each count grows by at most ``number``."""
        self._added += number

    def _bound(self) -> int:
        return self._known + self._added - self._known_at
