"""A MergeVQ run that was stopped, or killed, goes on as if nothing had happened."""

from __future__ import annotations

import copy
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from ready_processes import run_tool
from tiny_mergevq import run_cfg, write_images

REPO = Path(__file__).resolve().parents[2]
TESTS = Path(__file__).resolve().parents[1]
_COUNT = itertools.count()
EPOCHS, EPOCH_LENGTH = 4, 4
# What a clock or the file system decides.
TIMES = {'train/time', 'train/data_time', 'val/time', 'val/data_time', 'train/memory'}


class Stop(KeyboardInterrupt):
    """What the user does."""


class StopHook(Hook):
    """Ends a run before an epoch begins, the others being validated and saved."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch == self.epoch:
            raise Stop


def config(
    root: Path, work_dir: Path, epochs: int = EPOCHS, **overrides: Any
) -> Config:
    return run_cfg(root, work_dir, train_cfg__max_epochs=epochs, **overrides)


def train(cfg: Config, stop_before: int | None = None) -> dict:
    """Run; the content of the last checkpoint."""
    # mmengine keeps loggers and message hubs by this name.
    cfg.experiment_name = f'resume-{next(_COUNT)}'
    runner = Runner.from_cfg(cfg)
    epochs = cfg.train_cfg.max_epochs
    if stop_before is None:
        runner.train()
    else:
        epochs = stop_before
        runner.register_hook(StopHook(stop_before))
        with pytest.raises(Stop):
            runner.train()
    return torch.load(Path(cfg.work_dir, f'epoch_{epochs}.pth'), weights_only=True)


def differences(a: Any, b: Any, name: str = '') -> list[str]:
    """Where two nested values are not equal to the last bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        found = [f'{name}.{key} on one side' for key in a.keys() ^ b.keys()]
        for key in a.keys() & b.keys() - TIMES:
            found += differences(a[key], b[key], f'{name}.{key}')
        return found
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return [f'{name}: {len(a)} and {len(b)} items']
        found = []
        for i, (x, y) in enumerate(zip(a, b)):
            found += differences(x, y, f'{name}[{i}]')
        return found
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and torch.equal(a, b)
    else:
        same = a == b or (a != a and b != b)
    return [] if same else [name]


def history(content: dict, name: str) -> list[float]:
    """All values of a logged scalar."""
    (packed,) = content['message_hub']['log_scalars'][name].values()
    return next(iter(packed[0].values())).tolist()


def assert_same(whole: dict, resumed: dict, lost: int | None = None) -> None:
    """Weights, average, optimizers, schedules, random states and logs are equal.

    Checkpoints are written before the validation of their epoch: a resumed run does
    not know the validation number ``lost``.
    """
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert whole[key]
        assert differences(whole[key], resumed[key], key) == []
    logs = [content['message_hub']['log_scalars'] for content in (whole, resumed)]
    assert {'train/loss', 'train/keep', 'val/recon/K9/psnr'} <= logs[0].keys()
    for name in logs[0].keys() - TIMES:
        expected = history(whole, name)
        if lost is not None and name.startswith('val/'):
            expected.pop(lost)
        found = history(resumed, name) if name in logs[1] else []
        assert found == expected, name
    assert differences(whole['rng_states'], resumed['rng_states'], 'rng_states') == []
    for key in ('epoch', 'iter', 'seed'):
        assert whole['meta'][key] == resumed['meta'][key]


# ---------------------------------------------------------------------------- runs


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('images')
    write_images(root, per_class=EPOCH_LENGTH)  # batches of two
    return write_images(root, per_class=1, split='val')


@pytest.fixture(scope='module')
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The uninterrupted run."""
    return train(config(images, tmp_path_factory.mktemp('whole')))


def test_the_run_is_worth_comparing(whole: dict) -> None:
    """Both optimizers stepped, K varied, averages differ, logs are complete."""
    assert set(whole['optimizer']) == {'generator', 'discriminator'}
    for state in whole['optimizer'].values():
        steps = {int(s['step']) for s in state['state'].values()}
        assert steps == {EPOCHS * EPOCH_LENGTH // 2}
        assert state['param_groups'][0]['lr'] == pytest.approx(1e-4)
    losses = history(whole, 'train/loss_pixel')
    assert len(set(losses)) == len(losses) == EPOCHS * EPOCH_LENGTH
    assert len(set(history(whole, 'train/keep'))) > 1
    assert set(history(whole, 'train/nonfinite')) == {0.0}
    for term in ('gan', 'perceptual', 'align', 'source', 'entropy', 'd_hinge'):
        assert f'train/loss_{term}' in whole['message_hub']['log_scalars']
    for counts in whole['accumulation'].values():
        assert counts == dict(every=2, count=EPOCHS * EPOCH_LENGTH, gradients=[])
    raw, average = whole['ema_state_dict'], whole['state_dict']
    name = 'decoder.conv_out.weight'
    assert not torch.equal(raw[f'module.{name}'], average[name])
    assert int(raw['steps']) == EPOCHS * EPOCH_LENGTH // 2


def test_the_same_run_again_is_the_same(
    whole: dict, images: Path, tmp_path: Path
) -> None:
    assert_same(whole, train(config(images, tmp_path)))


def test_stopped_and_resumed(whole: dict, images: Path, tmp_path: Path) -> None:
    train(config(images, tmp_path), stop_before=2)
    resumed = train(config(images, tmp_path, resume=True))
    assert_same(whole, resumed, lost=1)


def test_resumed_within_an_accumulation(images: Path, tmp_path: Path) -> None:
    """Epochs of four batches end while gradients of both sides wait for more."""
    overrides = dict(
        epochs=2,
        model__discriminator_start=1,
        optim_wrapper__generator__accumulative_counts=3,
    )
    expected = train(config(images, tmp_path / 'whole', **overrides))
    part = train(config(images, tmp_path / 'parts', **overrides), stop_before=1)
    counts = [(s['every'], s['count']) for s in part['accumulation'].values()]
    assert counts == [(3, 4), (2, 3)]
    assert all(s['gradients'] for s in part['accumulation'].values())
    found = train(config(images, tmp_path / 'parts', resume=True, **overrides))
    assert_same(expected, found, lost=0)


def test_a_neck_of_before_its_codes_had_an_order(images: Path, tmp_path: Path) -> None:
    """Its weights begin a new run; its optimizer knows a parameter less."""
    content = train(config(images, tmp_path / 'run', epochs=1))
    for key in ('state_dict', 'ema_state_dict'):
        for name in [name for name in content[key] if name.endswith('order.weight')]:
            del content[key][name]
    older = tmp_path / 'epoch_1.pth'
    torch.save(content, older)
    cfg = config(images, tmp_path / 'resumed', epochs=2, resume=True)
    cfg.load_from = str(older)
    with pytest.raises(ValueError, match='has no "neck.order.weight", .*load_from and'):
        train(cfg)
    cfg = config(images, tmp_path / 'new', epochs=1, load_from=str(older))
    after = train(cfg)['ema_state_dict']['module.neck.order.weight']
    assert after.any()  # it began with zeros, and learns


@OPTIM_WRAPPERS.register_module(force=True)
class BFloat16Wrapper(OptimWrapper):
    """Mixed precision on a CPU, which mmengine's ``AmpOptimWrapper`` refuses."""

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


class SignalHook(Hook):
    """Asks the run to stop while an iteration is done."""

    def __init__(self, at: int) -> None:
        self.at = at

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def train_in_parts(cfg: Config, at: int | None) -> Runner:
    """Run to the end, or to a signal."""
    cfg.experiment_name = f'resume-{next(_COUNT)}'
    cfg.custom_hooks.append(dict(type='mergevq_mm.PreemptionHook'))
    runner = Runner.from_cfg(cfg)
    if at is None:
        runner.train()
    else:
        runner.register_hook(SignalHook(at))
        with pytest.raises(SystemExit, match='143'):
            runner.train()
    return runner


@pytest.mark.parametrize('by_epoch', [True, False])
def test_stopped_within_an_epoch_in_mixed_precision(
    images: Path, tmp_path: Path, by_epoch: bool
) -> None:
    """All that a run can have, stopped in an epoch and in an accumulation."""
    settings: dict[str, Any] = dict(
        optim_wrapper__generator__type='BFloat16Wrapper',
        optim_wrapper__discriminator__type='BFloat16Wrapper',
        optim_wrapper__generator__accumulative_counts=3,
        train_cfg__max_epochs=2,
    )
    if not by_epoch:
        del settings['train_cfg__max_epochs']
        settings.update(
            train_cfg=dict(_delete_=True, by_epoch=False, max_iters=8, val_interval=4),
            default_hooks__checkpoint__by_epoch=False,
            default_hooks__checkpoint__interval=4,
        )

    def part(name: str, at: int | None, **more: Any) -> None:
        options = copy.deepcopy(settings)  # merging takes the `_delete_` out
        train_in_parts(run_cfg(images, tmp_path / name, **options, **more), at)

    part('whole', None)
    part('parts', 5)
    assert (tmp_path / 'parts' / 'iter_5.pth').is_file()
    part('parts', None, resume=True)
    name = 'epoch_2.pth' if by_epoch else 'iter_8.pth'
    whole, resumed = (
        torch.load(tmp_path / run / name, weights_only=True)
        for run in ('whole', 'parts')
    )
    losses = history(whole, 'train/loss_pixel')
    assert len(set(losses)) == len(losses) == 8
    assert_same(whole, resumed)


KILLER = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class KillHook(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == int(os.environ.get('KILL_AFTER', -1)):
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_killed_and_resumed_by_the_tool(
    whole: dict, images: Path, tmp_path: Path
) -> None:
    work_dir = tmp_path / 'run'
    (tmp_path / 'killer.py').write_text(KILLER)
    cfg = config(images, work_dir)
    cfg.custom_imports.imports = ['mergevq_mm', 'killer']
    cfg.custom_hooks.append(dict(type='KillHook'))
    cfg.dump(tmp_path / 'config.py')
    path = os.pathsep.join(map(str, (REPO, TESTS, tmp_path)))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path}

    def tool(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
        command = (REPO / 'tools/train.py', 'config.py', *arguments)
        return run_tool(*command, cwd=tmp_path, env={**environment, **variables})

    # In the middle of the third epoch, in the middle of an accumulation.
    killed = tool(KILL_AFTER=str(2 * EPOCH_LENGTH + 3))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(p.name for p in work_dir.glob('*.pth*')) == [
        'epoch_1.pth',
        'epoch_2.pth',
    ]
    resumed = tool('--resume')
    assert resumed.returncode == 0, resumed.stderr
    found = torch.load(work_dir / f'epoch_{EPOCHS}.pth', weights_only=True)
    assert_same(whole, found, lost=1)
