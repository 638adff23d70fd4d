"""The command line: flags change the config as mmpretrain's tools do, and more."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from mmengine.config import Config
from ready_processes import run_tool

from mergevq_mm.utils import config as config_utils

REPO = Path(__file__).resolve().parents[2]


def load_tool(name: str) -> ModuleType:
    path = REPO / 'tools' / f'{name}.py'
    spec = importlib.util.spec_from_file_location(f'tool_{name}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def keep_environment(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')


def make_cfg(**kwargs) -> Config:
    cfg = dict(
        model=dict(type='Toy'),
        train_dataloader=dict(batch_size=2, num_workers=2),
        val_dataloader=dict(batch_size=2, num_workers=0),
        val_cfg=dict(),
        val_evaluator=dict(type='Accuracy'),
        optim_wrapper=dict(
            constructor='mmagic.MultiOptimWrapperConstructor',
            generator=dict(type='OptimWrapper', optimizer=dict(type='Adam')),
            discriminator=dict(optimizer=dict(type='Adam'), accumulative_counts=2),
        ),
        auto_scale_lr=dict(base_batch_size=256),
    )
    cfg.update(kwargs)
    return Config(cfg)


def merge(cfg: Config, *argv: str, tool: str = 'train') -> Config:
    module = load_tool(tool)
    return module.merge_args(cfg, module.parse_args(['configs/toy.py', *argv]))


def test_work_dir_priority():
    assert merge(make_cfg()).work_dir == os.path.join('work_dirs', 'toy')
    assert merge(make_cfg(work_dir='a')).work_dir == 'a'
    assert merge(make_cfg(work_dir='a'), '--work-dir', 'b').work_dir == 'b'


def test_resume():
    cfg = merge(make_cfg(load_from='x.pth'))
    assert cfg.get('resume') is None and cfg.load_from == 'x.pth'
    cfg = merge(make_cfg(load_from='x.pth'), '--resume')
    assert cfg.resume is True and cfg.load_from is None
    cfg = merge(make_cfg(), '--resume', 'epoch_3.pth')
    assert cfg.resume is True and cfg.load_from == 'epoch_3.pth'


def test_rebuild_schedules():
    cfg = merge(make_cfg(), '--resume', '--rebuild-schedules')
    assert cfg.default_hooks.resumed_schedules.rebuild is True
    assert 'rebuild' not in merge(make_cfg()).default_hooks.resumed_schedules
    with pytest.raises(ValueError, match='--rebuild-schedules .* add --resume'):
        merge(make_cfg(), '--rebuild-schedules')


def test_no_validate():
    cfg = merge(make_cfg(), '--no-validate')
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None


def test_auto_scale_lr():
    assert merge(make_cfg(), '--auto-scale-lr').auto_scale_lr.enable is True
    with pytest.raises(ValueError, match='base_batch_size'):
        merge(make_cfg(auto_scale_lr=None), '--auto-scale-lr')


def test_cfg_options_come_last():
    cfg = merge(
        make_cfg(), '--work-dir', 'a', '--cfg-options', 'work_dir=b', 'model.k=[1,2]'
    )
    assert cfg.work_dir == 'b' and cfg.model.k == [1, 2]


def test_dataloaders():
    cfg = merge(make_cfg())
    assert cfg.train_dataloader.persistent_workers is True
    assert cfg.train_dataloader.collate_fn.type == 'default_collate'
    assert cfg.val_dataloader.persistent_workers is False  # torch refuses it at 0
    cfg = merge(make_cfg(), '--no-persistent-workers', '--no-pin-memory')
    assert cfg.train_dataloader.persistent_workers is False
    assert cfg.train_dataloader.pin_memory is False
    loaders = [dict(batch_size=1, num_workers=1, pin_memory=True)] * 2
    cfg = merge(make_cfg(val_dataloader=loaders))  # mmagic's multi-loops
    assert [loader.pin_memory for loader in cfg.val_dataloader] == [True, True]
    assert cfg.val_dataloader[1].persistent_workers is True


# -------------------------------------------------------------------------- AMP


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cuda')


def test_amp_reaches_each_of_several_optimizers(gpu):
    cfg = merge(make_cfg(), '--amp').optim_wrapper
    for name in ('generator', 'discriminator'):
        assert cfg[name].type == 'AmpOptimWrapper'
        assert cfg[name].loss_scale == 'dynamic'
    assert cfg.discriminator.accumulative_counts == 2
    assert cfg.constructor == 'mmagic.MultiOptimWrapperConstructor'
    assert 'type' not in cfg


def test_amp_with_one_optimizer_keeps_its_choices(gpu):
    wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=8.0)
    wrapper['optimizer'] = dict(type='SGD')
    cfg = merge(make_cfg(optim_wrapper=wrapper), '--amp').optim_wrapper
    assert cfg.dtype == 'bfloat16' and cfg.loss_scale == 8.0


def test_amp_refuses_what_it_cannot_turn(gpu):
    wrapper = dict(type='ApexOptimWrapper', optimizer=dict(type='SGD'))
    with pytest.raises(ValueError, match='optim_wrapper.type="ApexOptimWrapper"'):
        merge(make_cfg(optim_wrapper=wrapper), '--amp')
    with pytest.raises(ValueError, match='no optimizer'):
        merge(make_cfg(optim_wrapper=None), '--amp')


def test_amp_on_a_cpu_is_refused(monkeypatch):
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    with pytest.raises(ValueError, match='--amp needs a GPU'):
        merge(make_cfg(), '--amp')


def test_bf16_reaches_each_of_several_optimizers():
    cfg = merge(make_cfg(), '--bf16').optim_wrapper
    for name in ('generator', 'discriminator'):
        assert cfg[name].type == 'mergevq_mm.Bf16OptimWrapper'
    assert 'loss_scale' not in cfg.generator
    with pytest.raises(ValueError, match='--bf16 found no optimizer'):
        merge(make_cfg(optim_wrapper=None), '--bf16')
    with pytest.raises(SystemExit):  # one precision at a time
        merge(make_cfg(), '--bf16', '--amp')


def test_fast_is_bf16_and_fused_where_an_optimizer_can_be(gpu):
    wrapper = dict(
        constructor='mmagic.MultiOptimWrapperConstructor',
        generator=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
        discriminator=dict(optimizer=dict(type='Adam', foreach=True)),
        other=dict(optimizer=dict(type='LBFGS')),
        last=dict(optimizer=dict(type='SGD', lr=0.1, fused=False)),
    )
    cfg = merge(make_cfg(optim_wrapper=wrapper), '--fast').optim_wrapper
    for name, fused in [
        ('generator', True),
        ('discriminator', None),
        ('other', None),
        ('last', False),
    ]:
        assert cfg[name].type == 'mergevq_mm.Bf16OptimWrapper'
        assert cfg[name].optimizer.get('fused') is fused
    with pytest.raises(ValueError, match='--fast found no optimizer'):
        merge(make_cfg(optim_wrapper=None), '--fast')
    with pytest.raises(SystemExit):
        merge(make_cfg(), '--fast', '--amp')


def test_fast_on_a_cpu_is_refused(monkeypatch):
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    with pytest.raises(ValueError, match='--fast is for GPUs'):
        merge(make_cfg(), '--fast')


def test_compile_and_channels_last_add_the_hook():
    assert 'speed' not in merge(make_cfg()).default_hooks
    hook = merge(make_cfg(), '--compile').default_hooks.speed
    assert hook == dict(type='mergevq_mm.SpeedHook', compile=True, channels_last=False)
    cfg = make_cfg(test_cfg=dict())
    argv = ['configs/toy.py', 'toy.pth', '--channels-last']
    tool = load_tool('test')
    hook = tool.merge_args(cfg, tool.parse_args(argv)).default_hooks.speed
    assert hook.channels_last and not hook.compile


# ----------------------------------------------------------- devices and hooks


def test_distributed_on_cpus(monkeypatch):
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    assert 'model_wrapper_cfg' not in merge(make_cfg())
    cfg = merge(make_cfg(find_unused_parameters=True), '--launcher', 'pytorch')
    assert cfg.model_wrapper_cfg.type == 'MMDistributedDataParallel'
    assert cfg.model_wrapper_cfg.device_ids is None
    assert cfg.model_wrapper_cfg.find_unused_parameters is True
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'
    separate = dict(type='MMSeparateDistributedDataParallel', broadcast_buffers=True)
    cfg = merge(make_cfg(model_wrapper_cfg=separate), '--launcher', 'pytorch')
    assert cfg.model_wrapper_cfg == dict(separate, device_ids=None)


def test_distributed_on_gpus_is_left_alone(gpu):
    cfg = merge(make_cfg(), '--launcher', 'pytorch')
    assert 'model_wrapper_cfg' not in cfg and 'env_cfg' not in cfg


def test_checkpoints_become_safe_in_any_config():
    cfg = merge(
        make_cfg(default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=7)))
    )
    checkpoint = cfg.default_hooks.checkpoint
    assert checkpoint == dict(type='mergevq_mm.SafeCheckpointHook', interval=7)
    assert cfg.custom_hooks == [dict(type='mergevq_mm.RunStateHook')]
    cfg = merge(make_cfg(custom_hooks=[dict(type='mergevq_mm.RunStateHook')]))
    assert len(cfg.custom_hooks) == 1
    cfg = merge(make_cfg(default_hooks=dict(checkpoint=dict(type='my.Hook'))))
    assert cfg.default_hooks.checkpoint.type == 'my.Hook'


# ----------------------------------------------------------------------- test.py


def test_test_flags():
    cfg = make_cfg(test_cfg=dict(), default_hooks=dict(visualization=dict(type='V')))
    argv = ['a.pth', '--show-dir', 'out', '--interval', '3', '--amp']
    cfg = merge(cfg, *argv, tool='test')
    assert cfg.load_from == 'a.pth' and cfg.test_cfg.fp16 is True
    hook = cfg.default_hooks.visualization
    assert (hook.enable, hook.out_dir, hook.interval) == (True, 'out', 3)


def test_pictures_of_each_library():
    def hook(**settings):
        cfg = make_cfg(test_cfg=dict(), **settings)
        return merge(cfg, 'a.pth', '--show-dir', 'out', '--interval', '3', tool='test')

    common = dict(draw=True, show=False, wait_time=2, interval=3)
    det = dict(visualization=dict(type='DetVisualizationHook'))
    assert hook(default_hooks=det).default_hooks.visualization == dict(
        type='DetVisualizationHook', test_out_dir='out', **common
    )
    seg = dict(visualization=dict(type='mmseg.SegVisualizationHook'))
    cfg = hook(default_hooks=seg, visualizer=dict(type='SegLocalVisualizer'))
    assert cfg.default_hooks.visualization == dict(
        type='mmseg.SegVisualizationHook', **common
    )
    assert cfg.visualizer.save_dir == 'out'


def test_test_refuses():
    with pytest.raises(ValueError, match='no test_cfg'):
        merge(make_cfg(), 'a.pth', tool='test')
    with pytest.raises(ValueError, match='visualization'):
        merge(make_cfg(test_cfg=dict()), 'a.pth', '--show', tool='test')
    with pytest.raises(SystemExit):
        load_tool('test').parse_args(['c.py', 'a.pth', '--out-item', 'pred'])


def test_tta():
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    cfg = make_cfg(
        test_cfg=dict(), test_dataloader=dict(dataset=dict(pipeline=pipeline))
    )
    cfg = merge(cfg, 'a.pth', '--tta', tool='test')
    assert cfg.model.type == 'mmpretrain.AverageClsScoreTTA'
    assert cfg.model.module.type == 'Toy'
    tta = cfg.test_dataloader.dataset.pipeline[-1]
    assert tta.type == 'TestTimeAug'
    assert tta.transforms[1] == [dict(type='PackInputs')]


def test_missing_config():
    with pytest.raises(FileNotFoundError, match='"nothing.py" does not exist'):
        config_utils.load_config('nothing.py')


# ---------------------------------------------------------------- in a subprocess

MODULE = """
import atexit
import torch
from torch import distributed
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch.utils.data import Dataset

@atexit.register
def report():
    if distributed.is_initialized():
        print('process group left open')

@DATASETS.register_module()
class Points(Dataset):
    metainfo = dict()
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return dict(x=torch.rand(4))

@MODELS.register_module()
class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)
    def forward(self, x, mode='loss'):
        y = self.net(x)
        return dict(loss=y.square().mean()) if mode == 'loss' else list(y)

@METRICS.register_module()
class Mean(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [y.item() for y in data_samples]
    def compute_metrics(self, results):
        return dict(mean=sum(results) / len(results))
"""
CONFIG = """
custom_imports = dict(imports=['points_module'])
model = dict(type='Net')
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(type='Points'),
                        sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = test_dataloader = train_dataloader
train_cfg = dict(by_epoch=True, max_epochs=2)
val_cfg = test_cfg = dict()
val_evaluator = test_evaluator = dict(type='Mean')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
"""


def output(folder: Path, *command: str, ready: int = 0) -> str:
    """What a tool prints, in a new Python or in so many ready processes."""
    env = {
        **os.environ,
        'CUDA_VISIBLE_DEVICES': '',
        'OMP_NUM_THREADS': '1',
        'PYTHON': sys.executable,
        'PYTHONPATH': f'{REPO}{os.pathsep}{folder}',
    }
    if ready:
        result = run_tool(*command, cwd=folder, env=env, ranks=ready)
    else:
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=env
        )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_train_resume_and_test_from_another_folder(tmp_path):
    """A config of plain mmengine: trains, resumes and tests with our tools."""
    (tmp_path / 'points_module.py').write_text(MODULE)
    (tmp_path / 'toy.py').write_text(CONFIG)
    # Newer Pythons warn of strings in mmpretrain, each once.
    train = [str(REPO / 'tools' / 'train.py'), 'toy.py']
    out = output(tmp_path, sys.executable, '-W', 'ignore', *train).splitlines()
    folder = tmp_path / 'work_dirs' / 'toy'
    (log,) = folder.glob('*/*.log')
    opening = '8 samples, 8 iterations on cpu; config, environment and hooks: '
    opening += str(log.relative_to(tmp_path))
    assert any(line.endswith(opening) for line in out)
    assert len(out) < 20 and not any('optim_wrapper' in line for line in out)
    assert "optim_wrapper = dict(optimizer=dict(lr=0.1, type='SGD'))" in log.read_text()
    assert out[-2:] == [
        'Weights: work_dirs/toy/epoch_2.pth',
        'Test: python tools/test.py work_dirs/toy/toy.py work_dirs/toy/epoch_2.pth',
    ]
    options = ['--cfg-options', 'train_cfg.max_epochs=3']
    out = output(tmp_path, *train, '--resume', *options, ready=1)
    assert 'resumed epoch: 2, iter: 8' in out
    names = {f'epoch_{epoch}.pth' for epoch in (1, 2, 3)}
    assert names == {path.name for path in folder.glob('*.pth')}
    test = [str(REPO / 'tools' / 'test.py'), 'toy.py']
    argv = [str(folder / 'epoch_3.pth'), '--out', 'm.json', '--out-item', 'metrics']
    output(tmp_path, *test, *argv, ready=1)
    assert '"mean"' in (tmp_path / 'm.json').read_text()


@pytest.mark.slow
def test_two_processes_train_and_resume(tmp_path):
    """On CPUs: gloo, DDP without devices, states of both ranks.

    The faults' tests start ``dist_train.sh`` itself.
    """
    import torch

    (tmp_path / 'points_module.py').write_text(MODULE)
    (tmp_path / 'toy.py').write_text(CONFIG)
    train = [str(REPO / 'tools' / 'train.py'), 'toy.py', '--launcher', 'pytorch']
    # Without this mmengine gives all ranks the same stream.
    seeds = ['--cfg-options', 'randomness.seed=0', 'randomness.diff_rank_seed=1']
    output(tmp_path, *train, '--work-dir', 'w', *seeds, ready=2)
    content = torch.load(tmp_path / 'w' / 'epoch_2.pth', weights_only=True)
    first, second = content['rng_states']
    assert not torch.equal(first['torch'], second['torch'])
    options = ['--resume', *seeds, 'train_cfg.max_epochs=3']
    out = output(tmp_path, *train, '--work-dir', 'w', *options, ready=2)
    assert 'resumed epoch: 2, iter: 4' in out
    assert 'random numbers will differ' not in out
    # Left open, gloo's threads abort the interpreter now and then.
    assert 'process group left open' not in out
