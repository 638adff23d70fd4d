"""NaN losses: skipped a few times, then the run ends; weights stay good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from tiny_gan import Numbers, TinyGAN, make_runner, optimizers
from torch import nn

from mergevq_mm.engine.hooks import NaNGuardHook
from mergevq_mm.engine.replay import read_record
from mergevq_mm.models.generators.data_parallel import guarded_train_step
from mergevq_mm.models.utils.finite import all_finite, copy_buffers, restore_buffers

NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(
    ('losses', 'expected'),
    [
        (dict(loss=torch.tensor(1.0)), True),
        (dict(loss_a=torch.ones(3), loss_b=torch.tensor(NAN)), False),
        (dict(loss_a=torch.tensor([1.0, INF])), False),
        (dict(loss_a=[torch.tensor(1.0), torch.tensor(-INF)]), False),
        (dict(loss_a=torch.tensor(0), accuracy=torch.tensor(NAN)), True),
    ],
)
def test_all_finite(losses: dict, expected: bool) -> None:
    result = all_finite(losses)
    assert result.dtype == torch.bool and result.shape == ()
    assert bool(result) is expected


def test_all_finite_wants_a_loss() -> None:
    with pytest.raises(ValueError, match='losses'):
        all_finite(dict(accuracy=torch.ones(())))


def _reduce(rank: int, store: str, queue: mp.Queue) -> None:
    dist.init_process_group('gloo', init_method=store, rank=rank, world_size=2)
    found = []
    for bad_rank in (None, 0, 1):
        loss = torch.tensor(NAN if rank == bad_rank else 1.0)
        found.append(bool(all_finite(dict(loss=loss))))
    queue.put((rank, found))
    dist.destroy_process_group()


def test_one_bad_rank_makes_all_skip(tmp_path: Path) -> None:
    context = mp.get_context('fork')
    queue = context.Queue()
    store = f'file://{tmp_path / "store"}'
    ranks = [context.Process(target=_reduce, args=(r, store, queue)) for r in (0, 1)]
    for process in ranks:
        process.start()
    results = dict(queue.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join(timeout=60)
    assert results == {0: [True, False, False], 1: [True, False, False]}


def test_buffers_come_back() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    copies = copy_buffers(module)
    module(torch.full((5, 3), NAN))
    assert module[1].running_mean.isnan().all()
    pointer = module[1].running_mean.data_ptr()
    restore_buffers(module, copies)
    assert module[1].running_mean.eq(0).all() and module[1].running_var.eq(1).all()
    assert int(module[1].num_batches_tracked) == 0
    assert module[1].running_mean.data_ptr() == pointer


def test_a_bad_batch_leaves_no_trace(tmp_path: Path) -> None:
    # Batches are (0 1) (2 3) (4 5) (6 7); the second holds a NaN.
    runner = make_runner(tmp_path / 'a', [NaNGuardHook()], bad=(2,), epochs=1)
    model = runner.train()
    for value in model.state_dict().values():
        assert torch.isfinite(value).all()
    assert int(model.backbone[1].num_batches_tracked) == 3
    # By hand: the same three batches without the second.
    by_hand = TinyGAN().train()
    wrappers, data = optimizers(by_hand), Numbers()
    for rows in ([0, 1], [4, 5], [6, 7]):
        by_hand.train_step(dict(inputs=data.values[rows]), wrappers)
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)


def test_only_skips_in_a_row_count(tmp_path: Path) -> None:
    hook = NaNGuardHook(max_skips=1)
    # One bad batch an epoch, four epochs: four skips, never two in a row.
    make_runner(tmp_path, [hook], bad=(3,), epochs=4).train()
    assert hook.skips_in_total == 4 and hook.skips_in_a_row == 0


def test_too_many_skips_in_all(tmp_path: Path) -> None:
    hook = NaNGuardHook(max_skips=1, max_total=3)
    runner = make_runner(tmp_path, [hook], bad=(3,), epochs=9)
    with pytest.raises(FloatingPointError, match='4 steps in all, .*max_total=3'):
        runner.train()
    assert runner.epoch == 3


def test_too_many_skips_keep_the_checkpoint(tmp_path: Path) -> None:
    hook = NaNGuardHook(max_skips=2)
    runner = make_runner(tmp_path, [hook], epochs=1)
    runner.train()
    saved = tmp_path / 'epoch_1.pth'
    before = saved.read_bytes()
    again = make_runner(
        tmp_path,
        [NaNGuardHook(max_skips=2)],
        bad=(2, 4, 6),
        epochs=9,
        model=runner.model,
    )
    with pytest.raises(FloatingPointError) as caught:
        again.train()
    message = str(caught.value)
    assert 'iteration 4' in message and 'max_skips=2' in message
    assert f'{saved} is intact' in message
    assert '  images/6.png\n  images/7.png' in message
    assert saved.read_bytes() == before and not (tmp_path / 'epoch_2.pth').exists()


def test_first_skip_ends_the_run_when_none_is_allowed(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [NaNGuardHook(max_skips=0)], bad=(0,))
    with pytest.raises(FloatingPointError, match='no checkpoint was written yet'):
        runner.train()


class Unguarded(TinyGAN):
    """A model that does not know the contract."""

    def train_step(self, data: dict, optim_wrapper: object) -> dict:
        return dict(loss=self(data['inputs']).mean())


def test_a_model_without_the_contract_stops_at_once(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [NaNGuardHook()], model=Unguarded(), bad=(5,))
    with pytest.raises(FloatingPointError, match='^loss is NaN .* iteration 3'):
        runner.train()


# ------------------------------------------------------------------ steps of a scaler


class Scaled(OptimWrapper):
    """What mmengine's AmpOptimWrapper does with its scaler, on a CPU."""

    def __init__(self, scale: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale or 2.0**16)
        self.constant = scale

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self.constant)


class Guarded(TinyGAN):
    """One loss, by the guarded step; its gradient is spoilt while ``bad`` says so."""

    def __init__(self, bad: Callable[[int, float], bool], guarded: bool = True) -> None:
        super().__init__()
        self.bad, self.guarded, self.calls = bad, guarded, 0

    def forward(self, inputs: torch.Tensor, mode: str = 'loss') -> Any:
        return dict(loss=self.decoder(self.backbone(inputs)).square().mean())

    def train_step(self, data: dict, optim_wrapper: Scaled) -> dict:
        data = dict(inputs=data['inputs'])
        scale = optim_wrapper.loss_scaler.get_scale()
        spoilt, self.calls = self.bad(self.calls, scale), self.calls + 1
        factor = INF if spoilt else 1.0
        handle = self.decoder.weight.register_hook(lambda grad: grad * factor)
        try:
            if self.guarded:
                return guarded_train_step(self, self, data, optim_wrapper)
            return BaseModel.train_step(self, data, optim_wrapper)
        finally:
            handle.remove()


def scaled_runner(folder: Path, model: Guarded, **kwargs: Any) -> Runner:
    # Fused: the scaler leaves it to the optimizer to drop the step.
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    wrapper = Scaled(optimizer=optimizer, **kwargs)
    return make_runner(folder, [NaNGuardHook()], model, epochs=20, wrappers=wrapper)


@pytest.mark.parametrize('clip', [None, dict(max_norm=1.0)])
@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('scale', [None, 8.0])
def test_a_gradient_that_is_never_finite(
    scale: float | None, accumulate: int, clip: dict | None, tmp_path: Path
) -> None:
    runner = scaled_runner(
        tmp_path,
        Guarded(lambda call, scale: True),
        scale=scale,
        accumulative_counts=accumulate,
        clip_grad=clip,
    )
    message = 'has dropped 21 steps in a row, .* more than max_drops=20: .* --bf16'
    with pytest.raises(FloatingPointError, match=message):
        runner.train()
    assert runner.iter + 1 == 21 * accumulate
    # Of all the dropped steps the last one is written, with all of its batches.
    (path,) = tmp_path.glob('bad_step_*.pt')
    assert path.name == f'bad_step_{21 * accumulate}.pt'
    record = read_record(path)
    assert [one['iter'] for one in record['batches']] == list(
        range(20 * accumulate, 21 * accumulate)
    )
    assert record['optimizers']['']['scale'] == (scale or 2.0 ** (16 - 20))


def test_without_a_scaler_accumulation_hides_nothing(tmp_path: Path) -> None:
    """Batches between two steps do not end a row of bad steps."""
    model = Guarded(lambda call, scale: True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer, accumulative_counts=2)
    model.train_step = lambda data, optim_wrapper: spoilt_step(model, data, wrapper)
    runner = make_runner(tmp_path, [NaNGuardHook()], model, 20, wrappers=wrapper)
    with pytest.raises(FloatingPointError, match='in 4 steps in a row'):
        runner.train()
    assert runner.iter == 7


def spoilt_step(model: Guarded, data: dict, wrapper: OptimWrapper) -> dict:
    model.decoder.weight.register_hook(lambda grad: grad * NAN)
    return guarded_train_step(model, model, dict(inputs=data['inputs']), wrapper)


def test_an_unguarded_model_whose_scale_only_falls(tmp_path: Path) -> None:
    runner = scaled_runner(tmp_path, Guarded(lambda call, scale: True, guarded=False))
    with pytest.raises(FloatingPointError, match='has dropped 21 steps in a row'):
        runner.train()


def test_steps_that_a_scaler_takes_do_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its scale lies on the device: of a model that tells of drops it is not read."""
    wrapper = Scaled(optimizer=torch.optim.SGD([torch.zeros(1)], lr=0.1))
    waited = lambda: pytest.fail('has waited')  # noqa: E731
    monkeypatch.setattr(wrapper.loss_scaler, 'get_scale', waited)
    told = dict(nonfinite=torch.zeros(()), dropped=torch.zeros(()))
    runner = SimpleNamespace(optim_wrapper=wrapper, iter=0)
    NaNGuardHook().after_train_iter(runner, 0, {}, told)


@pytest.mark.parametrize('guarded', [True, False])
def test_the_work_of_a_scaler_is_reported_and_ends_nothing(
    guarded: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Guarded(lambda call, scale: scale > 2.0**12, guarded)
    before = model.decoder.weight.detach().clone()
    scaled_runner(tmp_path, model).train()
    assert not torch.equal(before, model.decoder.weight)
    assert not list(tmp_path.glob('bad_step_*'))
    lines = [r.getMessage() for r in caplog.records if 'loss scaler' in r.getMessage()]
    if lines:  # mmengine's loggers need not propagate
        assert len(lines) == 4


def test_bad_weights_are_not_saved(tmp_path: Path) -> None:
    model = TinyGAN()
    runner = make_runner(tmp_path, [NaNGuardHook()], model=model)
    with torch.no_grad():
        model.discriminator.weight[0, 0] = INF  # not in the loss
    with pytest.raises(FloatingPointError, match='discriminator.weight'):
        runner.train()
    assert not list(tmp_path.glob('*.pth'))


def test_arguments_and_name() -> None:
    with pytest.raises(ValueError, match='max_skips=-1'):
        NaNGuardHook(max_skips=-1)
    hook = HOOKS.build(dict(type='mergevq_mm.NaNGuardHook', max_skips=5))
    assert hook.max_skips == 5
