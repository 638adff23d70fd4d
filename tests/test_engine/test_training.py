"""Before a training: it has a step, and schedules that follow its length."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn
from toy_run import NoisyData, make_runner

from mergevq_mm.engine import first_step
from mergevq_mm.engine.schedules import Length, fit_schedules
from mergevq_mm.engine.training import prepare_training
from mergevq_mm.utils.schedule_length import training_length

CONFIGS = Path(__file__).parents[2] / 'configs'
PATHS = [
    path
    for path in sorted(CONFIGS.rglob('*.py'))
    if not {'_base_', 'downstream', 'knn'} & set(path.relative_to(CONFIGS).parts)
]


def loader(sampler: str = 'DefaultSampler', **settings: Any) -> dict[str, Any]:
    loader = dict(dataset=NoisyData(), batch_size=16, drop_last=True, num_workers=0)
    loader['collate_fn'] = dict(type='default_collate')
    return {**loader, 'sampler': dict(type=sampler, shuffle=True), **settings}


# ------------------------------------------------------------------------ a first step


@pytest.mark.parametrize('by_epoch', [True, False])
def test_fewer_images_than_a_batch(by_epoch: bool, tmp_path: Path) -> None:
    message = (
        'train_dataloader makes no batch: its 8 images are fewer than batch_size=16 '
        'each, .* set train_dataloader.batch_size to at most 8 or '
        'train_dataloader.drop_last=False.'
    )
    for prepare in (True, False):  # the tool, and any other runner with our hooks
        runner = make_runner(
            tmp_path, 1, by_epoch, train_dataloader=loader(), param_scheduler=None
        )
        with pytest.raises(ValueError, match=message):
            prepare_training(runner) if prepare else runner.train()
    assert not list(tmp_path.glob('*.pth'))


def test_images_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.utils.data.TensorDataset(torch.zeros(5))
    share = torch.utils.data.DataLoader(data, batch_size=8, drop_last=True)
    monkeypatch.setattr(first_step, 'get_world_size', lambda: 4)
    with pytest.raises(ValueError, match='its 5 images on 4 processes .* at most 1 or'):
        first_step.check_steps(share, 1, 0)


def test_no_epoch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='for 0 epochs and 0 iterations: no step is'):
        prepare_training(make_runner(tmp_path / 'a', 0))
    with pytest.raises(ValueError, match='for 1 epochs and 0 iterations'):
        prepare_training(make_runner(tmp_path / 'b', 0, by_epoch=False))


def test_the_images_of_the_validation_are_looked_at_too(tmp_path: Path) -> None:
    data = dict(type='mergevq_mm.ImageFolder', data_root=str(tmp_path), split='val')
    val = dict(loader(), dataset=data)
    runner = make_runner(tmp_path / 'work', 1, val_dataloader=val)
    with pytest.raises(FileNotFoundError, match='val'):
        prepare_training(runner)


def test_an_endless_sampler_fills_its_batches(tmp_path: Path) -> None:
    few = loader('InfiniteSampler')
    runner = make_runner(tmp_path, 2, by_epoch=False, train_dataloader=few)
    prepare_training(runner)
    runner.train()
    assert runner.iter == 2


# ------------------------------------------------------------------------- schedules


def rates(schedulers: Any, length: Length) -> list[float]:
    """The rate of each iteration, by mmengine's own schedules."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    wrapper = OptimWrapper(optimizer)
    built = []
    for cfg in schedulers:
        cfg = dict(cfg, optimizer=wrapper, epoch_length=length.epoch)
        by_epoch = cfg.get('by_epoch', True)
        cfg.setdefault('end', length.epochs if by_epoch else length.iterations)
        built.append(PARAM_SCHEDULERS.build(cfg))
    found = []
    for step in range(1, length.iterations + 1):
        found.append(optimizer.param_groups[0]['lr'])
        for scheduler in built:
            if not scheduler.by_epoch or step % length.epoch == 0:
                scheduler.step()
    return found


@pytest.mark.parametrize(
    'path', PATHS, ids=[path.relative_to(CONFIGS).as_posix() for path in PATHS]
)
def test_each_config_keeps_its_schedules_at_its_own_length(path: Path) -> None:
    cfg = Config.fromfile(path)
    name, number = training_length(cfg)
    epochs = number if name == 'max_epochs' else 1
    epoch = 125 if name == 'max_epochs' else number
    fitted, notes = fit_schedules(
        cfg.param_scheduler, Length(epochs * epoch, epochs, epoch)
    )
    expected = cfg.param_scheduler
    assert fitted == (expected if isinstance(expected, list) else [expected])
    assert notes == []


def fitted(name: str, length: Length, ratio: float) -> tuple[list, list[str]]:
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    return fit_schedules(cfg.param_scheduler, length, ratio)


def test_a_shorter_training_has_the_same_curve() -> None:
    whole = Length(18 * 125, 18, 125)
    name = 'quickstart/mergevq_g+r_mnist5k'
    expected = rates(fitted(name, whole, 1.0)[0], whole)
    for length in (Length(9 * 125, 9, 125), Length(125, 1, 125)):
        short, notes = fitted(name, length, length.epochs / 18)
        found, step = rates(short, length), 18 // length.epochs
        # The warm-up of 125 steps is one of 7 in a single epoch.
        for share in (0.25, 0.5, 0.75, 0.99):
            place = int(share * length.iterations)
            assert found[place] == pytest.approx(expected[place * step], abs=0.01)
        assert found[0] == pytest.approx(0.02) and max(found) == pytest.approx(1.0)
        assert found[-1] < 0.012
        assert len(notes) == 2


def test_drops_follow() -> None:
    length = Length(27 * 10, 27, 10)
    schedulers, notes = fitted('mergevq_g+r', length, 0.1)
    found = rates(schedulers, length)
    drops = [i for i in range(1, 270) if found[i] < 0.5 * found[i - 1]]
    assert drops == [230, 257] and found[-1] == pytest.approx(0.01)
    assert notes == [
        'MultiStepLR follows the length of the training: milestones=[230, 257] becomes '
        '[23 epochs, 25.7 epochs].'
    ]
    length = Length(40, 1, 40)  # max_epochs=1
    found = rates(fitted('mergevq_g+r', length, 1 / 270)[0], length)
    assert found.count(1.0) == 34 and found[-1] == pytest.approx(0.01)


@pytest.mark.parametrize('iterations', [1, 2, 3, 8])
@pytest.mark.parametrize(
    ('name', 'epochs'),
    [('quickstart/mergear_mnist5k', 17), ('mergear_l_g+r', 300), ('randar_l_g', 300)],
)
def test_a_training_of_few_steps(name: str, epochs: int, iterations: int) -> None:
    length = Length(iterations, 1, iterations)
    schedulers, _ = fitted(name, length, 1 / epochs)
    assert len(rates(schedulers, length)) == iterations


def test_what_never_acts_is_said() -> None:
    written = [
        dict(type='LinearLR', end=1, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=1, convert_to_iter_based=True),
        dict(type='MultiStepLR', milestones=[230, 257]),
        dict(type='PolyLR', by_epoch=False, begin=1500, end=160000),
    ]
    found, notes = fit_schedules(written, Length(60, 1, 60))
    assert found == [written[0], written[2]]
    assert notes == [
        'CosineAnnealingLR never acts and is left out: it begins after 1 epochs, and '
        'the training has 1 epochs; set param_scheduler for it.',
        'MultiStepLR never reaches its milestones [230, 257]: the training has 1 '
        'epochs; set param_scheduler for it.',
        'PolyLR never acts and is left out: it begins after 1500 iterations, and the '
        'training has 60 iterations; set param_scheduler for it.',
    ]
    by_side, notes = fit_schedules(
        dict(generator=written[0], other=written[1:]), Length(60, 1, 60)
    )
    assert by_side == dict(generator=[written[0]], other=[written[2]])
    assert notes[0].startswith('other: CosineAnnealingLR never acts')


def test_the_run_of_a_single_epoch(tmp_path: Path) -> None:
    written = [
        dict(type='LinearLR', start_factor=0.5, end=1, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=1, convert_to_iter_based=True),
    ]
    runner = make_runner(tmp_path, 1, param_scheduler=written)
    prepare_training(runner, 1 / 2)
    runner.train()
    rates = runner.message_hub.get_scalar('train/lr').data[0].tolist()
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])


def test_workers_of_a_loop_that_counts_iterations(tmp_path: Path) -> None:
    """They start with the loop, before any hook; a Ctrl-C must not reach them."""
    workers = loader('InfiniteSampler', num_workers=1, batch_size=2)
    runner = make_runner(
        tmp_path,
        1,
        by_epoch=False,
        train_dataloader=workers,
        default_hooks=dict(preemption=dict(type='mergevq_mm.PreemptionHook')),
    )
    prepare_training(runner)
    iterator = runner.train_loop.dataloader_iterator
    next(iterator)
    pid = iterator._iterator._workers[0].pid
    assert os.getpgid(pid) == pid
    runner.train()
