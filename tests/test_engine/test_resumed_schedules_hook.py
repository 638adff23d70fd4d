"""A run that is resumed for longer: its schedules are said, or built anew."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from mmengine.runner import Runner
from tiny_gan import TinyGAN, optimizers
from tiny_gan import make_runner as make_gan_runner
from toy_run import make_runner

from mergevq_mm.engine.first_step import TrainingRefused
from mergevq_mm.engine.hooks import ResumedSchedulesHook

COSINE = dict(type='CosineAnnealingLR', eta_min_ratio=0.01, convert_to_iter_based=True)
STEPS = dict(type='MultiStepLR', milestones=[4], gamma=0.5)
WARM_UP = dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True)
POLY = dict(type='PolyLR', power=2.0, begin=1)


def run(folder: Path, epochs: int, schedule: Any, **hook: Any) -> Runner:
    runner = make_runner(
        folder,
        epochs,
        param_scheduler=schedule,
        default_hooks=dict(
            checkpoint=dict(type='mergevq_mm.SafeCheckpointHook', interval=1),
            schedules=dict(type='mergevq_mm.ResumedSchedulesHook', **hook),
        ),
        resume=folder.joinpath('last_checkpoint').exists(),
    )
    runner.train()
    return runner


def rates(runner: Runner) -> list[float]:
    return runner.message_hub.get_scalar('train/lr').data[0].tolist()


def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(
        'mergevq_mm.engine.hooks.resumed_schedules_hook.print_log',
        lambda text, **kwargs: found.append(text),
    )
    return found


@pytest.mark.parametrize(
    'schedule', [[COSINE], [WARM_UP, POLY, STEPS], [dict(COSINE, by_epoch=True)]]
)
def test_rebuilt_schedules_are_those_of_one_run(
    schedule: list[dict], tmp_path: Path
) -> None:
    whole = rates(run(tmp_path / 'whole', 6, schedule))
    for epochs in (3, 6):
        resumed = run(tmp_path / 'resumed', epochs, schedule, rebuild=True)
    assert rates(resumed)[12:] == whole[12:]
    assert rates(resumed)[:12] != whole[:12]


def test_a_loop_that_counts_iterations(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path / 'part',
        3,
        by_epoch=False,
        param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=False)],
    )
    runner.train()
    again = make_runner(
        tmp_path / 'part',
        9,
        by_epoch=False,
        param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=False)],
        custom_hooks=[
            dict(type='mergevq_mm.RunStateHook'),
            dict(type='mergevq_mm.ResumedSchedulesHook', rebuild=True),
        ],
        resume=True,
    )
    again.train()
    expected = [1e-3 * (1 + math.cos(math.pi * i / 9)) / 2 for i in range(9)]
    assert rates(again)[3:] == pytest.approx(expected[3:])


def test_what_follows_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = messages(monkeypatch)
    run(tmp_path, 2, [COSINE, STEPS])
    assert not found
    run(tmp_path, 3, [COSINE, STEPS])
    assert len(found) == 1
    assert (
        'CosineAnnealingLR (0) goes on with T_max=8 (the config: 12), end=8 (the '
        'config: 12): after iteration 8 of 12 lr stays as it is then'
    ) in found[0]
    assert (
        'MultiStepLR (1) goes on with end=2 (the config: 3): after epoch 2 of 3 lr '
        'stays as it is then'
    ) in found[0]
    assert '--resume --rebuild-schedules' in found[0]


def test_the_same_schedules_need_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = messages(monkeypatch)
    whole = dict(type='MultiStepLR', milestones=[2], end=9)
    run(tmp_path, 2, [whole])
    run(tmp_path, 3, [whole])
    assert not found
    run(tmp_path, 4, [dict(whole, gamma=0.5)])
    assert 'gamma=0.1 (the config: 0.5): it sets lr to the end of' in found[0]


def test_schedules_of_another_kind(tmp_path: Path) -> None:
    run(tmp_path, 2, [COSINE])
    for other in ([COSINE, STEPS], [STEPS]):
        with pytest.raises(
            TrainingRefused, match='another number or kind .*--rebuild-sch'
        ):
            run(tmp_path, 3, other)
    runner = run(tmp_path, 6, [STEPS], rebuild=True)
    assert rates(runner)[8:] == [1e-3] * 8 + [5e-4] * 8


def test_several_optimizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = messages(monkeypatch)

    def train(epochs: int, **hook: Any) -> Runner:
        model = TinyGAN()
        schedules = dict(generator=[COSINE], discriminator=[STEPS])
        runner = make_gan_runner(
            tmp_path,
            [ResumedSchedulesHook(**hook)],
            model,
            epochs,
            wrappers=optimizers(model),
            param_scheduler=schedules,
            resume=epochs > 2,
        )
        runner.train()
        return runner

    train(2)
    train(4)
    assert 'CosineAnnealingLR (generator.0) goes on' in found[0]
    assert 'MultiStepLR (discriminator.0) goes on' in found[0]
    runner = train(6, rebuild=True)
    last = {
        name: w.optimizer.param_groups[0]['lr']
        for name, w in runner.optim_wrapper.items()
    }
    cosine = 0.001 + 0.099 * (1 + math.cos(math.pi * 23 / 24)) / 2
    assert last['generator'] == pytest.approx(cosine)
    assert last['discriminator'] == pytest.approx(0.05)


def test_nothing_to_rebuild_without_schedules(tmp_path: Path) -> None:
    run(tmp_path, 1, None, rebuild=True)
    run(tmp_path, 2, None, rebuild=True)
