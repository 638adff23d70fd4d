"""TensorBoard and W&B over a run that is killed and resumed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path.append(str(Path(__file__).parents[1] / 'test_engine'))

from toy_run import Toy, make_runner

from mergevq_mm.utils.config import load_config
from mergevq_mm.visualization import RunTensorboardBackend, RunWandbBackend

CONFIGS = Path(__file__).parents[2] / 'configs'


def _visualizer() -> dict[str, Any]:
    """Anew for each start: mmengine writes the name of the first run into it."""
    kinds = ('LocalVisBackend', 'mergevq_mm.RunTensorboardBackend')
    backends = [dict(type=kind) for kind in kinds]
    return dict(visualizer=dict(type='Visualizer', vis_backends=backends))


class Killed(RuntimeError):
    """The machine went away."""


class Mortal(Toy):
    """Dies in its tenth iteration."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if len(self.seen) == 9:
            raise Killed
        return super().forward(*args, **kwargs)


def _steps(folder: Path, tag: str) -> list[int]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


def test_tensorboard_after_a_kill_and_a_resume(tmp_path: Path) -> None:
    """Each iteration once, validations on the same axis, whatever was repeated."""
    cfg = Config(dict(note='hello'))
    runner = make_runner(tmp_path, 4, model=Mortal(), cfg=cfg, **_visualizer())
    with pytest.raises(Killed):  # in epoch 3; the checkpoint is of epoch 2
        runner.train()
    runner.visualizer.close()
    folder = tmp_path / 'tensorboard'
    assert _steps(folder, 'loss')[-1] == 9  # which the second start repeats
    runner = make_runner(tmp_path, 4, resume=True, cfg=cfg, **_visualizer())
    runner.train()
    runner.visualizer.close()
    assert _steps(folder, 'loss') == list(range(1, 17))
    assert _steps(folder, 'val/score') == [4, 8, 12, 16]
    events = EventAccumulator(str(folder))
    events.Reload()
    resumed = [e.value for e in events.Scalars('loss')][8:]
    logged = [
        json.loads(line)['loss']
        for line in Path(runner.log_dir, 'vis_data', 'scalars.json').open()
        if '"loss"' in line
    ]
    # Two starts within a second share the folder of their logs.
    np.testing.assert_allclose(resumed, logged[-8:], rtol=1e-6)
    assert len(list(folder.glob('events*'))) == 2


def test_stock_backend_is_the_reason(tmp_path: Path) -> None:
    """mmengine counts validations in epochs, beside iterations."""
    backends = [dict(type='TensorboardVisBackend')]
    runner = make_runner(
        tmp_path, 2, visualizer=dict(type='Visualizer', vis_backends=backends)
    )
    runner.train()
    runner.visualizer.close()
    folder = Path(runner.log_dir, 'vis_data')
    assert _steps(folder, 'loss')[-1] == 8 and _steps(folder, 'val/score') == [1, 2]


def test_a_new_run_in_the_same_folder_replaces_the_old_one(tmp_path: Path) -> None:
    hub = MessageHub.get_current_instance()
    for last in (9, 5):
        backend = RunTensorboardBackend(str(tmp_path / str(last) / 'vis_data'))
        backend.add_config(Config(dict(a=1)))
        for step in range(1, last + 1):
            hub.update_info('iter', step - 1)
            backend.add_scalars(dict(loss=float(step), name='text'), step=99)
        backend.add_image('picture', np.zeros((4, 4, 3), np.uint8), step=99)
        backend.close()
    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    assert [e.step for e in events.Scalars('loss')] == [1, 2, 3, 4, 5]
    assert [e.step for e in events.Images('picture')] == [5]
    assert events.Tags()['scalars'] == ['loss']
    assert 'config/text_summary' in events.Tags()['tensors']


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What our backend calls, remembered."""
    calls: list[tuple] = []

    def remember(name: str) -> Any:
        return lambda *args, **kwargs: calls.append((name, args, kwargs))

    module = SimpleNamespace(
        **{name: remember(name) for name in ('init', 'define_metric', 'log', 'finish')},
        Image=lambda image: ('image', image.shape),
        calls=calls,
    )
    monkeypatch.setitem(sys.modules, 'wandb', module)
    return module


def test_wandb_goes_on_in_one_run(tmp_path: Path, fake_wandb: SimpleNamespace) -> None:
    hub = MessageHub.get_current_instance()
    for start in ('a', 'b'):
        backend = RunWandbBackend(
            str(tmp_path / start / 'vis_data'), dict(project='p', mode='offline')
        )
        hub.update_info('iter', 41)
        backend.add_scalars(dict(loss=1.5), step=7)
        backend.add_scalar('acc', 0.5)
        backend.add_image('picture', np.zeros((2, 3, 3), np.uint8))
        backend.close()
    starts = [kwargs for name, _, kwargs in fake_wandb.calls if name == 'init']
    assert starts[0] == starts[1]
    saved = json.loads((tmp_path / 'wandb_run.json').read_text())
    assert starts[0]['id'] == saved['id'] and len(saved['id']) == 12
    assert starts[0]['resume'] == 'allow' and starts[0]['mode'] == 'offline'
    assert starts[0]['dir'] == str(tmp_path / 'wandb')
    logged = [args[0] for name, args, _ in fake_wandb.calls if name == 'log'][:3]
    at = {'trainer/iteration': 42}
    assert logged == [
        {'loss': 1.5, **at},
        {'acc': 0.5, **at},
        {'picture': ('image', (2, 3, 3)), **at},
    ]
    metrics = [
        kwargs for name, _, kwargs in fake_wandb.calls if name == 'define_metric'
    ]
    assert metrics[0] == {'name': '*', 'step_metric': 'trainer/iteration'}
    assert sum(name == 'finish' for name, _, _ in fake_wandb.calls) == 2


def test_wandb_offline(tmp_path: Path) -> None:
    pytest.importorskip('wandb', reason='wandb is not installed')
    MessageHub.get_current_instance().update_info('iter', 4)
    backend = RunWandbBackend(str(tmp_path / 'a' / 'vis_data'), dict(mode='offline'))
    backend.add_scalars(dict(loss=1.0))
    backend.close()
    assert list((tmp_path / 'wandb').rglob('*.wandb'))


@pytest.mark.parametrize('name', ['tensorboard', 'wandb'])
def test_configs_join_others(name: str, tmp_path: Path) -> None:
    from mergevq_mm.registry import VISBACKENDS

    path = tmp_path / 'run.py'
    bases = [f'{CONFIGS}/mergevq_g+r.py', f'{CONFIGS}/_base_/{name}.py']
    path.write_text(
        f'_base_ = {bases}\nvisualizer = dict(vis_backends=_base_.{name}_backends)\n'
    )
    cfg = load_config(path)
    assert cfg.visualizer.type == 'UniversalVisualizer'
    local, ours = cfg.visualizer.vis_backends
    assert local.type == 'LocalVisBackend'
    save_dir = str(tmp_path / 't' / 'vis_data')
    backend = VISBACKENDS.build(dict(ours, save_dir=save_dir))
    assert Path(backend._save_dir) == tmp_path / name
