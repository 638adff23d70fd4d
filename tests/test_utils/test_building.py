"""Building from a config of a file ends where it takes too many steps."""

from __future__ import annotations

import torch
from torch import nn

from mergevq_mm.utils import building


def test_gradients_stay_on_wherever_the_building_stops() -> None:
    """Weights are filled without them, and what switches them on again counts, too."""
    stopped = 0
    for number in range(30):
        try:
            with building._at_most(number):
                weight = nn.Parameter(torch.empty(2, 2))
                with torch.no_grad():
                    weight.uniform_().mul_(2).add_(1)
        except ValueError:
            stopped += 1
        assert torch.is_grad_enabled(), f'stopped at step {number}'
    assert 3 < stopped < 30
