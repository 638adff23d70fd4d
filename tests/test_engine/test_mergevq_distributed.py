"""MergeVQ in a Runner on two gloo processes, stopped and resumed."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import MMSeparateDistributedDataParallel
from mmengine.runner import Runner
from quick_runs import spare
from ready_processes import run_ranks
from test_mergevq_resume import Stop, StopHook, assert_same, history
from tiny_mergevq import run_cfg, write_images
from torch import distributed

from mergevq_mm.models import MergeVQ
from mergevq_mm.utils.distributed import end_process_group

WORLD, EPOCHS, EPOCH_LENGTH = 2, 2, 4


def run(root: str, work_dir: Path, name: str, stop: bool = False, **more: Any) -> None:
    """One run of this rank, to its end or to the beginning of the last epoch."""
    cfg = run_cfg(
        Path(root),
        work_dir,
        train_cfg__max_epochs=EPOCHS,
        launcher='pytorch',
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        model_wrapper_cfg=dict(
            type='mmengine.MMSeparateDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=False,
        ),
        **more,
    )
    cfg.experiment_name = name
    runner = Runner.from_cfg(cfg)
    assert isinstance(runner.model, MMSeparateDistributedDataParallel)
    if stop:
        runner.register_hook(StopHook(EPOCHS - 1))
        with pytest.raises(Stop):
            runner.train()
    else:
        runner.train()
        weights = {k: p.detach() for k, p in runner.model.named_parameters()}
        torch.save(weights, work_dir / f'{name}-{distributed.get_rank()}.pt')
    distributed.barrier()


def worker(rank: int, root: str, folder: str) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    distributed.init_process_group(
        'gloo',
        init_method=f'file://{folder}/store',
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=300),
    )
    with pytest.MonkeyPatch.context() as patch:
        spare(patch)
        run(root, Path(folder, 'whole'), 'whole')
        run(root, Path(folder, 'parts'), 'first', stop=True)
        run(root, Path(folder, 'parts'), 'second', resume=True)
    end_process_group()


@pytest.mark.slow
def test_two_processes_resume_as_if_never_stopped(tmp_path: Path) -> None:
    root = write_images(tmp_path / 'images', per_class=EPOCH_LENGTH * WORLD)
    write_images(root, per_class=2, split='val')
    for name in ('whole', 'parts'):
        (tmp_path / name).mkdir()
    run_ranks(worker, (str(root), str(tmp_path)), nprocs=WORLD)

    last = f'epoch_{EPOCHS}.pth'
    whole, resumed = (
        torch.load(tmp_path / name / last, weights_only=True)
        for name in ('whole', 'parts')
    )
    assert whole['meta']['iter'] == EPOCHS * EPOCH_LENGTH
    losses = history(whole, 'train/loss_pixel')
    assert len(set(losses)) == len(losses) == EPOCHS * EPOCH_LENGTH
    assert len(set(history(whole, 'train/keep'))) > 1
    steps = EPOCHS * EPOCH_LENGTH // 2  # two batches are accumulated
    assert int(whole['ema_state_dict']['steps']) == steps
    assert_same(whole, resumed, lost=0)

    # The ranks hold the same weights in each run, and the files those without wrappers.
    weights = [
        torch.load(tmp_path / run / f'{name}-{rank}.pt', weights_only=True)
        for run, name in (('whole', 'whole'), ('parts', 'second'))
        for rank in range(WORLD)
    ]
    for other in weights[1:]:
        assert weights[0].keys() == other.keys()
        assert all(torch.equal(v, other[k]) for k, v in weights[0].items())
    parts = {name.split('.')[0] for name in whole['state_dict']}
    assert parts >= {*MergeVQ.GENERATOR_PARTS, 'discriminator'}
    assert not any('.module.' in name for name in whole['state_dict'])
