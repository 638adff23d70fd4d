"""Bad input where a user meets it: one sentence with argument, value and remedy."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.models import SelfSupDataPreprocessor
from tiny_mergevq import ENCODER, run_cfg, write_images
from torch import Tensor

from mergevq_mm.datasets import UnreadableImageError
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.config import load_config

REPO = Path(__file__).resolve().parents[1]
_COUNT = itertools.count()


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images to train on, two to validate on."""
    root = tmp_path_factory.mktemp('images')
    write_images(root)
    return write_images(root, per_class=1, split='val')


def load_tool(name: str) -> ModuleType:
    path = REPO / 'tools' / f'{name}.py'
    spec = importlib.util.spec_from_file_location(f'tool_{name}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_runner(cfg: Config, *options: str) -> Runner:
    """What ``tools/train.py CONFIG --cfg-options OPTIONS`` builds."""
    tool = load_tool('train')
    path = Path(cfg.work_dir, 'config.py')
    path.parent.mkdir(parents=True, exist_ok=True)
    cfg.dump(path)
    arguments = [str(path), '--work-dir', cfg.work_dir]
    if options:
        arguments += ['--cfg-options', *options]
    cfg = tool.merge_args(load_config(path), tool.parse_args(arguments))
    cfg.experiment_name = f'bad-input-{next(_COUNT)}'
    return Runner.from_cfg(cfg)


def classifier(root: Path, work_dir: Path, **backbone: Any) -> Config:
    """A config of mmpretrain that fine-tunes the encoder."""
    cfg = run_cfg(root, work_dir)
    cfg.model = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='mergevq_mm.MergeVQEncoder', arch=ENCODER, img_size=8),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=2, in_channels=16),
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'),
    )
    cfg.model.backbone.update(backbone)
    pipeline = cfg.val_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset.pipeline = pipeline
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.custom_hooks = []
    return cfg


# -------------------------------------------------------- numbers in the model's config


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (
            'model.backbone.img_size=9',
            r'image size 9x9 is not divisible by the stride 2; resize or pad',
        ),
        ('model.keep=17', r'keep=17 lies outside \[1, 16\].*; choose K between'),
        ('model.keep=0', r'candidates=\[0\] for keep must be .*; raise the target'),
        ('model.keep=3', 'keep=3 cannot be reached from 16 tokens.*; keep more'),
        ('model.test_cfg.keep=[2]', 'keep=2 cannot be reached .*; keep more'),
        ('model.quantizer.split=[2,3]', r'split=\[2, 3\] does not split 6 bits; give'),
        ('model.quantizer.bits=7', r'split=\[2, 4\] does not split 7 bits; give'),
        ('model.backbone.out_type=cls', "out_type='cls' is not known; choose one of"),
        ('model.backbone.schedule=cubic', "schedule='cubic' is not known; choose"),
        ('model.backbone.arch=vit', "arch='vit' is not known; choose one of g-d32"),
    ],
)
def test_numbers_of_the_model(
    images: Path, tmp_path: Path, option: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_runner(run_cfg(images, tmp_path), option)


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (dict(out_type='map'), "out_type='map' is not known; choose one of cls_token"),
        (dict(frozen_stages=3), r'frozen_stages=3 lies outside \[-1, 2\]; -1 freezes'),
        (dict(out_indices=(2,)), r'out_indices=\[2\] names block 2; there are 2'),
    ],
)
def test_the_encoder_in_a_classifier(
    images: Path, tmp_path: Path, backbone: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_runner(classifier(images, tmp_path, **backbone))


def test_image_size_and_keep_in_a_forward_pass(images: Path, tmp_path: Path) -> None:
    backbone = MODELS.build(classifier(images, tmp_path).model.backbone)
    size = 'image size 8x7 is not divisible by the stride 2; resize or pad'
    with pytest.raises(ValueError, match=size):
        backbone(torch.zeros(1, 3, 8, 7))
    for keep, message in (
        (17, r'keep=17 lies outside \[1, 16\]'),
        (3, 'keep=3 cannot be reached from 16'),
        (1.5, r'keep=1.5 is a share outside \(0, 1\]; give'),
    ):
        with pytest.raises(ValueError, match=message):
            backbone(torch.zeros(1, 3, 8, 8), keep=keep)
    over_half = 'r=9 in layer 0 .* at most half of its 16 tokens; lower r'
    with pytest.raises(ValueError, match=over_half):
        backbone.encode(torch.zeros(1, 3, 8, 8), removed=[9, 0])
    with pytest.raises(ValueError, match='r=5 in layer 1 .* half of its 9 tokens'):
        backbone.encode(torch.zeros(1, 3, 8, 8), removed=[7, 5])


def test_image_size_of_the_data(images: Path, tmp_path: Path) -> None:
    cfg = run_cfg(images, tmp_path, val_dataloader__dataset__pipeline__1__crop_size=7)
    message = 'image size 7x7 is not divisible by the stride 2; resize or pad'
    with pytest.raises(ValueError, match=message):
        make_runner(cfg).val()


# ------------------------------------------------------------------------------- data


def test_data_root_is_missing(images: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / 'nowhere')
    runner = make_runner(
        run_cfg(images, tmp_path), f'train_dataloader.dataset.data_root={nowhere}'
    )
    with pytest.raises(FileNotFoundError) as caught:
        runner.train()
    message = str(caught.value)
    assert f"data_root='{nowhere}'" in message and 'set data_root' in message
    assert f'{nowhere}/\n└── train/\n    ├── <class a>/' in message


def test_class_folder_is_missing(images: Path, tmp_path: Path) -> None:
    runner = make_runner(
        run_cfg(images, tmp_path), 'train_dataloader.dataset.num_classes=3'
    )
    with pytest.raises(ValueError, match='num_classes=3, but .*train.* holds 2 class'):
        runner.train()


def test_class_folder_is_empty(tmp_path: Path) -> None:
    root = write_images(tmp_path / 'data')
    (root / 'train' / 'c').mkdir()
    cfg = run_cfg(root, tmp_path / 'run', train_dataloader__dataset__num_classes=3)
    with pytest.raises(ValueError, match="class folder 'c' .* no image; fill or"):
        make_runner(cfg, 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None')
        make_runner(cfg).train()


def spoil(root: Path, split: str, *names: str) -> list[Path]:
    """Truncate images."""
    paths = [root / split / name for name in names]
    for path in paths:
        path.write_bytes(path.read_bytes()[:60])
    return paths


def test_unreadable_image_stops_a_test_with_its_path(tmp_path: Path) -> None:
    root = write_images(tmp_path / 'data')
    write_images(root, split='val', per_class=2)
    (bad,) = spoil(root, 'val', 'b/1.png')
    runner = make_runner(run_cfg(root, tmp_path / 'run'))
    with pytest.raises(UnreadableImageError, match=str(bad)):
        runner.test()
    with pytest.raises(UnreadableImageError, match=str(bad)):
        runner.val()


def test_unreadable_image_is_skipped_and_counted_in_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_images(tmp_path / 'data')
    write_images(root, split='val', per_class=1)
    first, second = spoil(root, 'train', 'a/2.png', 'b/0.png')
    runner = make_runner(
        run_cfg(root, tmp_path / 'run'), 'train_dataloader.dataset.max_bad=2'
    )
    logged: list[str] = []
    runner.logger.handle = lambda record: logged.append(record.getMessage())
    runner.train()
    data = runner.train_dataloader.dataset
    assert data.num_bad == 2
    assert data.bad_files() == [str(first), str(second)]
    warnings = [text for text in logged if 'takes the next image instead' in text]
    assert len(warnings) == 2
    assert any(str(first) in text for text in warnings)
    assert any('2 unreadable of 8 so far' in text for text in warnings)
    assert runner.iter == 4  # nothing was left out

    runner = make_runner(
        run_cfg(root, tmp_path / 'strict'), 'train_dataloader.dataset.max_bad=1'
    )
    with pytest.raises(ValueError, match='max_bad=1 allows 1 .*; repair') as caught:
        runner.train()
    assert str(first) in str(caught.value) and str(second) in str(caught.value)


# -------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope='module')
def foreign(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of another model."""
    path = tmp_path_factory.mktemp('foreign') / 'resnet.pth'
    state = {'conv1.weight': torch.ones(1), 'layer1.0.bn1.bias': torch.ones(1)}
    torch.save(dict(state_dict=state), path)
    return str(path)


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_pretrained_encoder_that_matches_no_key(
    images: Path, tmp_path: Path, foreign: str, prefix: str
) -> None:
    init_cfg = dict(type='Pretrained', checkpoint=foreign, prefix=prefix)
    runner = make_runner(classifier(images, tmp_path, init_cfg=init_cfg))
    message = f'"{foreign}" fills 0 of the .* keys of MergeVQEncoder .*; give another'
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0
    init_cfg['checkpoint'] = str(tmp_path / 'none.pth')
    runner = make_runner(classifier(images, tmp_path, init_cfg=init_cfg))
    with pytest.raises(FileNotFoundError, match='none.pth" does not exist: give'):
        runner.train()


def test_load_from_that_matches_no_key(
    images: Path, tmp_path: Path, foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = (
        'fills none of the .* keys of {}: expected keys like .*; give a checkpoint'
    )
    runner = make_runner(run_cfg(images, tmp_path / 'a'), f'load_from={foreign}')
    with pytest.raises(ValueError, match=message.format('MergeVQ')):
        runner.train()
    assert runner.iter == 0
    # A config without our hooks gets them from the tool.
    runner = make_runner(classifier(images, tmp_path / 'b'), f'load_from={foreign}')
    with pytest.raises(ValueError, match=message.format('ImageClassifier')):
        runner.train()

    path = tmp_path / 'config.py'
    run_cfg(images, tmp_path / 'c').dump(path)
    arguments = ['test.py', str(path), foreign, '--work-dir', str(tmp_path / 'c')]
    monkeypatch.setattr(sys, 'argv', arguments)
    with pytest.raises(SystemExit, match=f'^error: .*{message.format("MergeVQ")}'):
        load_tool('test').main()
    arguments[2] = str(tmp_path / 'none.pth')
    with pytest.raises(FileNotFoundError, match='none.pth" does not exist: give'):
        load_tool('test').main()


# ------------------------------------------------------------------------------ helpers


def pretrained(path: str) -> dict:
    init_cfg = dict(type='Pretrained', checkpoint=path)
    arch = dict(stem='patch', embed_dims=16, patch_size=4, num_layers=1, num_heads=2)
    return dict(
        type='mergevq_mm.MergeVQEncoder', arch=arch, img_size=8, init_cfg=init_cfg
    )


@pytest.mark.parametrize('helper', ['frozen', 'stored', 'perceptual', 'lpips'])
def test_weights_of_a_helper_are_missing(
    images: Path, tmp_path: Path, helper: str
) -> None:
    path = str(tmp_path / 'missing.npz')
    cfg = run_cfg(images, tmp_path)
    if helper == 'frozen':
        cfg.model.target_generator = dict(
            type='mergevq_mm.FrozenTeacher', network=pretrained(path)
        )
    elif helper == 'stored':
        cfg.model.target_generator = dict(type='mergevq_mm.StoredTeacher', file=path)
    elif helper == 'perceptual':
        cfg.model.head.perceptual = dict(
            type='mergevq_mm.PerceptualLoss', network=pretrained(path)
        )
    else:
        cfg.model.head.perceptual = dict(type='mergevq_mm.LPIPSLoss', checkpoint=path)
    runner = make_runner(cfg)
    steps = []
    runner.model.train_step = lambda *args: steps.append(args)
    with pytest.raises(FileNotFoundError) as caught:
        runner.train()
    message = str(caught.value)
    assert f'"{path}"' in message and 'does not exist' in message
    assert 'give the path' in message or 'write it with' in message
    assert not steps  # told at once, not after the first batch


def test_weights_of_a_teacher_do_not_fit(
    images: Path, tmp_path: Path, foreign: str
) -> None:
    cfg = run_cfg(images, tmp_path)
    network = pretrained(foreign)
    cfg.model.target_generator = dict(type='mergevq_mm.FrozenTeacher', network=network)
    with pytest.raises(ValueError, match=f'"{foreign}" fills 0 of the .*; give'):
        make_runner(cfg).train()
    del cfg.model.target_generator.network['init_cfg']
    with pytest.raises(ValueError, match='has no weights; add init_cfg='):
        make_runner(cfg)


# ---------------------------------------------------------------------------------- NaN


@MODELS.register_module(force=True)
class SpoilingPreprocessor(SelfSupDataPreprocessor):
    """Makes the images of some training batches NaN; counts from 0."""

    def __init__(self, bad: list[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bad = bad
        self.seen = 0

    def forward(self, data: dict, training: bool = False) -> dict:
        data = super().forward(data, training)
        if training:
            if self.seen in self.bad:
                data['inputs'] = [view * float('nan') for view in data['inputs']]
            self.seen += 1
        return data


def spoiled(root: Path, work_dir: Path, bad: list[int]) -> Config:
    cfg = run_cfg(root, work_dir, train_cfg__max_epochs=3)
    cfg.model.data_preprocessor = dict(
        type='mergevq_mm.SpoilingPreprocessor',
        bad=bad,
        mean=[127.5] * 3,
        std=[127.5] * 3,
    )
    return cfg


def finite(state: dict[str, Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in state.values())


def test_a_few_nan_batches_are_survived(images: Path, tmp_path: Path) -> None:
    runner = make_runner(spoiled(images, tmp_path, bad=[1, 2, 4, 9]))
    runner.train()
    assert finite(runner.model.state_dict())
    flags = runner.message_hub.get_scalar('train/nonfinite').data[0]
    assert flags.nonzero()[0].tolist() == [1, 2, 4, 9]
    saved = torch.load(tmp_path / 'epoch_3.pth', weights_only=True)
    assert finite(saved['state_dict']) and finite(saved['ema_state_dict'])


def test_nan_stops_the_run_with_its_checkpoint_intact(
    images: Path, tmp_path: Path
) -> None:
    runner = make_runner(spoiled(images, tmp_path, bad=list(range(5, 12))))
    with pytest.raises(FloatingPointError) as caught:
        runner.train()
    message = str(caught.value)
    saved = tmp_path / 'epoch_1.pth'
    assert 'in 3 steps in a row, the last one at iteration 8' in message
    assert 'more than max_skips=2' in message and f'{saved} is intact' in message
    assert 'Lower the learning rate' in message
    assert len([x for x in message.splitlines() if x.endswith('.png')]) == 2
    assert finite(runner.model.state_dict())
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_1.pth']
    content = torch.load(saved, weights_only=True)
    assert finite(content['state_dict']) and finite(content['ema_state_dict'])
    # And from it the run goes on.
    cfg = run_cfg(images, tmp_path, train_cfg__max_epochs=2)
    runner = make_runner(cfg, 'resume=True')
    runner.train()
    assert runner.iter == 8 and finite(runner.model.state_dict())


# -------------------------------------------------------------------------------- tools


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_missing_config_is_one_line(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [f'{tool}.py', 'nothing.py', 'weights.pth'][:2])
    if tool == 'test':
        sys.argv.append('weights.pth')
    with pytest.raises(SystemExit) as caught:
        load_tool(tool).main()
    # Python prints a string to stderr and exits with 1.
    message = caught.value.code
    assert message.startswith('error: Config "nothing.py" does not exist: give')
    assert '\n' not in message
    assert not list(tmp_path.iterdir())


def test_missing_config_in_a_process(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(REPO / 'tools' / 'train.py'), 'nothing.py'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(REPO)},
    )
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith('error: Config "nothing.py" does not exist: give the path')
    assert result.stdout == ''
