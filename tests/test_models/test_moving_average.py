"""The average in one go against mmengine's, weight by weight."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn

from mergevq_mm.models.utils.moving_average import MovingAverage
from mergevq_mm.utils.operator_count import count_operators


def network() -> nn.Module:
    """Weights of three types, buffers that are floats and a counter."""
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).double(), nn.PReLU().half()
    )


@torch.no_grad()
def drift(model: nn.Module) -> None:
    """What a training does to a model."""
    for value in model.state_dict().values():
        value.add_(torch.randn(value.shape).to(value.dtype))


@pytest.mark.parametrize(
    'arguments', [{}, {'interval': 2}, {'update_buffers': True}, {'momentum': 0.7}]
)
def test_the_numbers_are_those_of_mmengine(arguments: dict) -> None:
    model = network()
    arguments = {'momentum': 0.1, **arguments}
    ours = MovingAverage(model, **arguments)
    theirs = ExponentialMovingAverage(model, **arguments)
    for update in range(5):
        drift(model)
        for average in (ours, theirs):
            average.update_parameters(model)
        if update == 2:  # a run that is saved and resumed
            resumed = MovingAverage(network(), **arguments)
            resumed.load_state_dict(ours.state_dict())
            ours = resumed
    found, expected = ours.state_dict(), theirs.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_loaded_average_is_not_copied_over() -> None:
    model = network()
    average = MovingAverage(model, 0.1)
    average.update_parameters(model)
    other = copy.deepcopy(average)
    drift(model)
    other.load_state_dict({**average.state_dict(), 'steps': torch.tensor(0)})
    other.update_parameters(model)  # the first one again: a copy
    assert torch.equal(other.module[0].weight, model[0].weight)
    average.update_parameters(model)
    assert not torch.equal(average.module[0].weight, model[0].weight)


def test_an_update_reads_nothing_back_and_starts_few_operators() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(50)))
    average = MovingAverage(model, 0.1)
    average.update_parameters(model)
    with count_operators() as found:
        average.update_parameters(model)
    # Reading a number back would be a `_local_scalar_dense`. Beside: the counter.
    names = {name.split('::')[1].split('.')[0]: n for name, n in found.items()}
    assert names == {'_foreach_lerp_': 1, 'add_': 1}
