"""Resumed is the whole state of a run, or nothing: one sentence names what is amiss."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import make_runner

from mergevq_mm.engine.first_step import TrainingRefused
from mergevq_mm.engine.resume_state import check_resumable
from mergevq_mm.utils.checkpoint_format import FORMAT, MARK


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with epoch_1.pth and the best one, which holds no optimizer."""
    folder = tmp_path_factory.mktemp('run')
    best = dict(save_best='val/score', rule='greater')
    make_runner(folder, 1, checkpoint=best).train()
    return folder


@pytest.fixture
def content(run: Path) -> dict[str, Any]:
    return torch.load(run / 'epoch_1.pth', weights_only=True)


def at(content: Any, name: str) -> tuple[Any, Any]:
    """What holds a name with dots, and its last part."""
    *way, last = (int(p) if p.isdigit() else p for p in name.split('.'))
    for part in way:
        content = content[part]
    return content, last


def test_what_was_saved_is_enough(content: dict[str, Any]) -> None:
    check_resumable(content, schedules=True)
    stock = {'state_dict', 'meta', 'optimizer', 'param_schedulers', 'message_hub'}
    check_resumable({key: content[key] for key in stock}, schedules=True)


def test_each_of_several_optimizers_is_looked_at(content: dict[str, Any]) -> None:
    sides = {side: dict(content['optimizer']) for side in ('a', 'b')}
    counts = dict(a=dict(every=2, count=1, gradients=[None]))
    content.update(optimizer=sides, accumulation=counts)
    check_resumable(content, schedules=True)
    del sides['b']['state']
    with pytest.raises(ValueError, match='lacks "optimizer.b.state"'):
        check_resumable(content, schedules=True)
    del counts['a']['every']
    with pytest.raises(ValueError, match='lacks "accumulation.a.every"'):
        check_resumable(content, schedules=True)


@pytest.mark.parametrize('name', ['optimizer', 'param_schedulers'])
def test_no_optimizer_is_not_resumed_in_silence(
    content: dict[str, Any], name: str
) -> None:
    del content[name]
    with pytest.raises(ValueError, match=rf'no state of .*"{name}".*; resume from'):
        check_resumable(content, schedules=True)
    if name == 'param_schedulers':
        check_resumable(content, schedules=False)


NEEDED = [
    'state_dict',
    'meta.epoch',
    'meta.iter',
    'optimizer.param_groups.0.params',
    'message_hub',
    'rng_states',
    'rng_states.0.torch',
    'accumulation',
    'data_state.batch_size',
    'run_config',
]


@pytest.mark.parametrize('how', ['missing', 'changed'])
@pytest.mark.parametrize('name', NEEDED)
def test_what_is_amiss_is_named(content: dict[str, Any], name: str, how: str) -> None:
    owner, last = at(content, name)
    if how == 'missing':
        del owner[last]
        message = f'resume: the checkpoint lacks "{name}": it was altered'
    else:
        owner[last] = 'something'
        message = f'has a str at "{name}" that does not belong there'
    with pytest.raises(ValueError, match=message) as error:
        check_resumable(content, schedules=True)
    assert '\n' not in str(error.value)


def test_runs_refuse_it(run: Path, tmp_path: Path, content: dict[str, Any]) -> None:
    marker, path = tmp_path / 'ran', tmp_path / 'altered.pth'

    def resume(file: Path) -> None:
        make_runner(tmp_path / 'new', 2, resume=True, load_from=str(file)).train()

    (best,) = run.glob('best_*.pth')
    with pytest.raises(TrainingRefused, match='no state of the optimizers'):
        resume(best)
    later = copy.deepcopy(content)
    later[MARK].update(format=FORMAT + 1, version='9.1.0')
    torch.save(later, path)
    with pytest.raises(ValueError, match=f'format {FORMAT + 1}, written by .* 9.1.0'):
        resume(path)
    assert not list((tmp_path / 'new').glob('*.pth'))
    # mmengine reads this key as the text of a config, which is python.
    content['meta']['config'] = f"import os\nos.mkdir('{marker}')\n"
    torch.save(content, path)
    resume(path)
    assert not marker.exists() and (tmp_path / 'new' / 'epoch_2.pth').exists()
