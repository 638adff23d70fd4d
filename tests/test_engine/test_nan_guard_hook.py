"""NaN losses: skipped a few times, then the run ends; weights stay good."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.registry import HOOKS
from tiny_gan import Numbers, TinyGAN, make_runner, optimizers
from torch import nn

from mergevq_mm.engine.hooks import NaNGuardHook
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
