"""Updates that drop gradients with NaN or infinity, with and without a loss scaler."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from tiny_mergevq import batch, build_model, clone_state, moved, optimizers
from torch import Tensor, nn

from mergevq_mm.engine.hooks import GeneratorEMAHook
from mergevq_mm.models import MergeVQ
from mergevq_mm.models.generators.data_parallel import guarded_train_step
from mergevq_mm.models.utils.finite import Update, guarded_update

_COUNT = itertools.count()
BAD = [float('nan'), float('inf'), -float('inf')]


@pytest.fixture(autouse=True)
def hub() -> MessageHub:
    """A message hub of its own for each test, at iteration 0."""
    hub = MessageHub.get_instance(f'test_finite_{next(_COUNT)}')
    hub.update_info('iter', 0)
    return hub


@contextmanager
def bad_gradient(parameter: Tensor, value: float = float('inf')) -> Iterator[None]:
    """One element of a parameter's gradient is ``value``; no loss tells."""

    def spoil(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient.view(-1)[0] = value
        return gradient

    handle = parameter.register_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


# -------------------------------------------------------------------- one optimizer


def toy(**kwargs: Any) -> tuple[nn.Linear, OptimWrapper]:
    """A layer and Adam, whose state a bad gradient would spoil as well."""
    kwargs = copy.deepcopy(kwargs)  # the wrapper takes its dicts apart
    module = nn.Linear(3, 2)
    return module, OptimWrapper(torch.optim.Adam(module.parameters(), 0.1), **kwargs)


def loss_of(module: nn.Linear, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return module(torch.randn(4, 3, generator=generator)).square().mean()


@pytest.mark.parametrize(
    'clip', [None, dict(max_norm=0.1), dict(type='value', clip_value=0.1)]
)
@pytest.mark.parametrize('value', BAD)
def test_a_bad_gradient_is_dropped(value: float, clip: dict | None) -> None:
    module, wrapper = toy(clip_grad=clip)
    twin, other = toy(clip_grad=clip)
    twin.load_state_dict(module.state_dict())
    with bad_gradient(module.weight, value):
        assert guarded_update(wrapper, loss_of(module, 0)) == Update(False, False)
    assert all(p.grad is None for p in module.parameters())
    # What follows is what would have come without the bad batch, Adam's state too.
    for seed in (1, 2):
        assert guarded_update(wrapper, loss_of(module, seed)) == Update(True, True)
        other.update_params(loss_of(twin, seed))
    assert all(
        torch.equal(a, b) for a, b in zip(module.parameters(), twin.parameters())
    )


def test_gradients_are_looked_at_where_they_step() -> None:
    module, wrapper = toy(accumulative_counts=2)
    twin, other = toy(accumulative_counts=2)
    twin.load_state_dict(module.state_dict())
    with bad_gradient(module.weight):
        assert guarded_update(wrapper, loss_of(module, 0)) == Update(True, False)
    assert guarded_update(wrapper, loss_of(module, 1)) == Update(False, False)
    for seed in (2, 3):
        step = guarded_update(wrapper, loss_of(module, seed))
        assert step == Update(True, seed == 3)
        other.update_params(loss_of(twin, seed))
    assert all(
        torch.equal(a, b) for a, b in zip(module.parameters(), twin.parameters())
    )


def test_norms_without_torch_2_6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(nn.utils, 'get_total_norm')
    test_a_bad_gradient_is_dropped(float('inf'), None)


class Line(BaseModel):
    """A model of one loss, as the generators are."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, inputs: Tensor, mode: str = 'tensor') -> dict[str, Tensor]:
        return {'loss': self.line(inputs).square().mean()}


def test_the_training_step_of_one_loss() -> None:
    model = Line()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1))
    data = {'inputs': torch.randn(4, 3)}
    before = clone_state(model)
    with bad_gradient(model.line.bias):
        log = guarded_train_step(model, model, data, wrapper)
    assert log['nonfinite'] == 1 and log['loss'].isfinite()
    assert not moved(before, model)
    assert guarded_train_step(model, model, data, wrapper)['nonfinite'] == 0
    assert moved(before, model)


# ---------------------------------------------------------------- generator and critic


@pytest.mark.parametrize('clip', [None, 0.05])
@pytest.mark.parametrize('value', BAD[:2])
def test_each_side_drops_its_own(value: float, clip: float | None) -> None:
    kwargs = dict(clip_grad=dict(max_norm=clip)) if clip else {}
    model = build_model()
    wrappers = optimizers(model, **kwargs)
    calls: list = []
    model.after_generator_step = lambda: calls.append(1)
    sides = {
        'generator': (model.decoder.conv_out.weight, {'discriminator', 'lecam'}),
        'discriminator': (model.discriminator[0].weight, set(model.generator_parts())),
    }
    for side, (parameter, stepped) in sides.items():
        before = {k: p.detach().clone() for k, p in model.named_parameters()}
        calls.clear()
        with bad_gradient(parameter, value):
            log = model.train_step(batch(), wrappers)
        assert log['nonfinite'] == 1
        assert all(v.isfinite() for k, v in log.items() if 'loss' in k)
        assert moved(before, model) == stepped - {'lecam'}
        assert len(calls) == (side == 'discriminator')
        assert all(p.isfinite().all() for p in model.parameters())
        assert all(p.grad is None for p in model.parameters())
    assert model.train_step(batch(1), wrappers)['nonfinite'] == 0


# ------------------------------------------------------------------- fp16 with a scaler


@pytest.fixture
def fp16_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """mmengine's ``AmpOptimWrapper`` on a CPU, which torch's parts of it serve too."""
    wrapper = 'mmengine.optim.optimizer.amp_optimizer_wrapper.'

    def autocast(dtype: torch.dtype | None = None) -> AbstractContextManager:
        return torch.autocast('cpu', dtype or torch.float16)

    monkeypatch.setattr(wrapper + 'is_cuda_available', lambda: True)
    scaler = functools.partial(torch.amp.GradScaler, 'cpu')
    monkeypatch.setattr(wrapper + 'GradScaler', scaler)
    monkeypatch.setattr('mmengine.runner.amp.autocast', autocast)


class _Run:
    """What the EMA hook sees of a run."""

    def __init__(self, model: MergeVQ, optim_wrapper: OptimWrapperDict) -> None:
        self.model, self.optim_wrapper = model, optim_wrapper
        self.iter = self.epoch = 0
        self.max_iters = self.max_epochs = 100


def half_precision(model: MergeVQ, scale: float, **kwargs: Any) -> OptimWrapperDict:
    scaler = dict(init_scale=scale, growth_interval=1000)
    return optimizers(model, AmpOptimWrapper, lr=1e-2, loss_scale=scaler, **kwargs)


def test_float16_with_a_scaler(hub: MessageHub, fp16_on_cpu: None) -> None:
    """Accumulation of two, clipping, and steps near those in float32."""
    settings = dict(accumulative_counts=2, clip_grad=dict(max_norm=0.05))
    model = build_model()
    twin = copy.deepcopy(model)
    wrappers = half_precision(model, 2.0**10, **copy.deepcopy(settings))
    exact = optimizers(twin, lr=1e-2, **settings)
    seen: list = []
    model.decoder.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    for i in range(2):
        hub.update_info('iter', i)
        log = model.train_step(batch(i), wrappers)
        twin.train_step(batch(i), exact)
        assert log['nonfinite'] == 0
        assert bool(moved(before, model)) == (i == 1)
    assert set(seen) == {torch.float16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    steps = [
        torch.cat([(p.detach() - before[k]).flatten() for k, p in m.named_parameters()])
        for m in (model, twin)
    ]
    assert torch.cosine_similarity(*steps, dim=0) > 0.98
    squares = {'generator': 0.0, 'discriminator': 0.0}  # clipped after unscaling
    for name, parameter in model.named_parameters():
        side = 'discriminator' if 'discriminator' in name else 'generator'
        squares[side] += (parameter.detach() - before[name]).square().sum().item()
    for square in squares.values():
        assert square**0.5 == pytest.approx(1e-2 * 0.05, rel=1e-3)
    assert all(w.loss_scaler.get_scale() == 2.0**10 for w in wrappers.values())


def test_what_the_scaler_drops_moves_nothing(
    hub: MessageHub, fp16_on_cpu: None
) -> None:
    """Neither weights nor averages; the scale falls and the run goes on."""
    teacher = dict(type='mergevq_mm.EMATeacher', momentum=0.25)
    model = build_model(target_generator=teacher)
    model.init_weights()
    wrappers = half_precision(model, 2.0**40, accumulative_counts=2)
    run = _Run(model, wrappers)
    hook = GeneratorEMAHook(momentum=0.1)
    hook.before_run(run)
    hook.before_train(run)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    average = clone_state(model.target_generator.average)
    for i in range(2):
        hub.update_info('iter', i)
        run.iter = i
        log = model.train_step(batch(i), wrappers)
        hook.after_train_iter(run, i)
        assert log['nonfinite'] == 0, 'the scaler handles its own infinities'
    assert not moved(before, model)
    assert int(hook.ema_model.steps) == 0
    after = model.target_generator.average.state_dict()
    assert all(torch.equal(average[name], after[name]) for name in average)
    assert all(w.loss_scaler.get_scale() == 2.0**39 for w in wrappers.values())
    for wrapper in wrappers.values():
        wrapper.loss_scaler.update(2.0**8)
    for i in range(2):
        run.iter = 2 + i
        model.train_step(batch(i), wrappers)
        hook.after_train_iter(run, i)
    assert moved(before, model) >= {*model.generator_parts(), 'discriminator'}
    assert int(hook.ema_model.steps) == 1
