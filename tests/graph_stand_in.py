"""What takes the place of CUDA graphs where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mergevq_mm.models.utils import graphed_methods


class StandIn:
    """Does work again, where a graph would; what it did first is what it does."""

    def __init__(self) -> None:
        self.captures = self.replays = self.waits = 0

    def warm_up(self, work: Callable[[], None]) -> None:
        work()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            with torch.inference_mode(False), torch.no_grad():
                work()

        return replay

    def wait(self) -> None:
        self.waits += 1

    def take_place(self, monkeypatch: pytest.MonkeyPatch) -> StandIn:
        """Be what captures on any device, for a test."""
        monkeypatch.setattr(graphed_methods, 'graphs_of', lambda device: self)
        monkeypatch.setattr(graphed_methods, 'DEVICES', ('cpu', 'cuda'))
        return self
