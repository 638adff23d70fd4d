"""Settings of the command line: those that nothing reads are refused."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from ready_processes import run_tool

from mergevq_mm.utils.config_options import RUNNER_KEYS, merge_options

ROOT = Path(__file__).parents[2]
TEXT = """
data_root = 'data/digits/'
weights = '{{$SOME_WEIGHTS:https://example.org/a.pth}}'
optimizer = dict(type='Adam', lr=1e-3, betas=(0.5, 0.9))
crop = dict(type='Crop', size=32)
pipeline = [dict(type='Load'), dict(type='Views', transforms=[[crop]])]
width, batch_size = 16, 8
model = dict(
    type='Net',
    width=width,
    init_cfg=dict(type='Pretrained', checkpoint=weights),
    head=dict(out_channels=2 * width),
)
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(data_root=data_root, split='train', pipeline=pipeline),
)
val_dataloader = dict(batch_size=16, dataset=dict(data_root=data_root, split='val'))
train_cfg = dict(by_epoch=True, max_epochs=9)
optim_wrapper = dict(
    generator=dict(optimizer=optimizer),
    discriminator=dict(optimizer=dict(optimizer, lr=1e-4)),
)
custom_imports = dict(imports=['mergevq_mm'])
"""


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    (tmp_path / 'c.py').write_text(TEXT)
    return Config.fromfile(tmp_path / 'c.py')


@pytest.mark.parametrize(
    ('key', 'remedy'),
    [
        (
            'data_root',
            'set train_dataloader.dataset.data_root, val_dataloader.dataset.data_root.',
        ),
        ('weights', 'set model.init_cfg.checkpoint.'),
        ('optimizer.lr', 'set optim_wrapper.generator.optimizer.lr.'),
        ('crop.size', 'set train_dataloader.dataset.pipeline.1.transforms.0.0.size.'),
        (
            'pipeline.1.transforms.0.0.size',
            'set train_dataloader.dataset.pipeline.1.transforms.0.0.size.',
        ),
        ('pipeline', 'set train_dataloader.dataset.pipeline.'),
        ('batch_size', 'set train_dataloader.batch_size.'),
        ('width', 'set model.width.'),
        ('custom_imports.imports', 'change it in the file'),
        ('epochs', 'set train_cfg.max_epochs.'),
        ('max_epochs', 'set train_cfg.max_epochs.'),
        ('lr', 'set optim_wrapper.generator.optimizer.lr, optim_wrapper.discriminator'),
        ('traincfg.max_epochs', 'set train_cfg.max_epochs.'),
        ('nothing_like_it', 'choose a setting that begins with '),
    ],
)
def test_without_effect(cfg: Config, key: str, remedy: str) -> None:
    before = cfg.pretty_text
    with pytest.raises(ValueError, match=f'--cfg-options {key}: ') as error:
        merge_options(cfg, {'train_cfg.max_epochs': 3, key: 1})
    assert remedy in str(error.value) and '\n' not in str(error.value)
    assert cfg.pretty_text == before


def test_with_effect(cfg: Config) -> None:
    options = {
        'train_dataloader.batch_size': 4,
        'model.new': 1,
        'work_dir': 'b',
        'sync_bn': 'torch',
        'train_dataloader.dataset.pipeline.0.type': 'Other',
    }
    merge_options(cfg, options)
    merge_options(cfg, None)
    assert cfg.train_dataloader.batch_size == 4 and cfg.work_dir == 'b'
    assert cfg.train_dataloader.dataset.pipeline[0].type == 'Other'


def test_what_cannot_be_merged(cfg: Config) -> None:
    with pytest.raises(ValueError, match='--cfg-options cannot be merged: Index 7'):
        merge_options(cfg, {'train_dataloader.dataset.pipeline.7.type': 'A'})


def test_what_a_tool_does_not_read(cfg: Config) -> None:
    reads = ('model', 'train_dataloader.dataset')
    merge_options(cfg, {'train_dataloader.dataset.split': 'b'}, reads)
    merge_options(cfg, {'train_dataloader': dict(dataset=dict(split='a'))}, reads)
    for key in ('train_dataloader.batch_size', 'train_cfg.max_epochs'):
        with pytest.raises(ValueError, match='this tool does not read train_'):
            merge_options(cfg, {key: 3}, reads)


QUICKSTART = 'configs/quickstart/mergevq_g+r_mnist5k.py'


@pytest.mark.parametrize(
    'argv',
    [
        ['train.py', QUICKSTART],
        ['test.py', QUICKSTART, 'a.pth'],
        ['extract_codes.py', QUICKSTART, 'a.pth', 'OUT'],
        ['extract_features.py', QUICKSTART, 'a.pth', 'OUT/a.npz'],
        ['extract_targets.py', QUICKSTART, 'data', 'OUT/a.npz'],
        ['generate.py', QUICKSTART, 'a.pth', '--out', 'OUT'],
        ['benchmarks/train_step.py', '--config', QUICKSTART],
    ],
    ids=lambda argv: argv[0],
)
@pytest.mark.slow
def test_every_tool_refuses(argv: list[str], tmp_path: Path) -> None:
    tool, *rest = [str(arg).replace('OUT', str(tmp_path / 'out')) for arg in argv]
    options = ('--cfg-options', 'data_root=/mine')
    result = run_tool(ROOT / 'tools' / tool, *rest, *options, cwd=ROOT)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith('error: --cfg-options data_root: only the config file')
    assert 'Traceback' not in result.stderr
    assert not (tmp_path / 'out').exists()


def test_the_runner_reads_what_is_taken_for_read() -> None:
    """The list holds what mmengine's runner asks a config for."""
    runner = importlib.import_module('mmengine.runner.runner')
    asked = set(re.findall(r"\bcfg\.get\(\s*'(\w+)'", inspect.getsource(runner)))
    asked -= {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'}
    asked -= {'num_workers', 'type', 'seed'}
    assert asked <= set(RUNNER_KEYS), asked - set(RUNNER_KEYS)
