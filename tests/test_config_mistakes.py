"""Mistakes in a config: one clear message, before anything is built."""

from __future__ import annotations

import copy
import errno
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config, ConfigDict
from tiny_generator import build as build_generator
from tiny_mergevq import ENCODER, LENGTH, build_model, model_cfg, run_cfg

from mergevq_mm.engine.hooks import TokenizerCheckHook
from mergevq_mm.models.generators.tokenizer import FrozenTokenizer
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.config import check_work_dir
from mergevq_mm.utils.config_check import accepted_keys, check_config

CFG = run_cfg(Path('data'), Path('work_dirs/x'))


def changed(**options: Any) -> Config:
    """The tiny run's config; ``None`` as a key's value stays None."""
    cfg = Config(copy.deepcopy(CFG.to_dict()))
    cfg.merge_from_dict({k.replace('__', '.'): v for k, v in options.items()})
    return cfg


def test_the_config_itself_is_right() -> None:
    check_config(changed())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(model__quantizer__bit=6), 'model.quantizer.bit is not known to LFQ; did'),
        (
            dict(model__quantiser=1),
            'model.quantiser .* MergeVQ; did you mean quantizer',
        ),
        (
            dict(model__backbone__arch=ENCODER, model__backbone__droppath_rate=0.1),
            'model.backbone.droppath_rate .* did you mean drop_path_rate?',
        ),
        (
            dict(model__decoder__type='mergevq_mm.MergeVQDecodr'),
            'decoder.type="mergevq_mm.MergeVQDecodr" does not exist; did you mean '
            '"mergevq_mm.MergeVQDecoder"',
        ),
        (
            dict(optim_wrapper__optimizer__lr=1e-5),
            'optimizer is that of none of the sides; set optim_wrapper.generator.opt',
        ),
        (dict(model__neck__type='Nothing.AtAll'), 'model.neck.type="Nothing.AtAll" do'),
        (
            dict(train_dataloader__batchsize=3),
            'train_dataloader.batchsize is not known to a data loader; .* batch_size',
        ),
        (
            dict(train_dataloader__dataset__pipeline=[dict(type='PackInput')]),
            'train_dataloader.dataset.pipeline.0.type="PackInput" .*"PackInputs"',
        ),
        (
            dict(train_dataloader__dataset__data_rot='x'),
            'train_dataloader.dataset.data_rot .* ImageFolder; did you mean data_root',
        ),
        (
            dict(train_dataloader__sampler__shufle=True),
            'train_dataloader.sampler.shufle .* DefaultSampler; did you mean shuffle',
        ),
        (
            dict(optim_wrapper__generator__optimizer__learning_rate=1e-3),
            'optim_wrapper.generator.optimizer.learning_rate is not known to Adam; ',
        ),
        (
            dict(optim_wrapper__generator__acumulative_counts=2),
            'generator.acumulative_counts .* did you mean accumulative_counts',
        ),
        (
            dict(param_scheduler=[dict(type='MultiStepLR', milestone=[3])]),
            'param_scheduler.0.milestone .* did you mean milestones',
        ),
        (
            dict(train_cfg__max_epoch=3),
            'train_cfg.max_epoch is not known to EpochBasedTrainLoop; .* max_epochs?',
        ),
        (
            dict(train_cfg__by_epoch=False, train_cfg__max_iter=3),
            'train_cfg.max_epochs is not known to IterBasedTrainLoop; ',
        ),
        (dict(val_cfg__fp=True), 'val_cfg.fp is not known to ValLoop; .* fp16?'),
        (dict(randomness__sed=1), 'randomness.sed is not known .* did you mean seed?'),
        (
            dict(custom_hooks=[dict(type='mergevq_mm.NaNGuardHook', max_skip=2)]),
            'custom_hooks.0.max_skip .* NaNGuardHook; did you mean max_skips',
        ),
        (
            dict(default_hooks__checkpoint__intervall=2),
            'default_hooks.checkpoint.intervall .* did you mean interval',
        ),
    ],
)
def test_misspelt_keys_and_types(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_config(changed(**options))


@pytest.mark.slow
def test_the_configs_of_the_repository_are_right() -> None:
    """Those of downstream need packages that are not installed by default."""
    folder = Path(__file__).resolve().parents[1] / 'configs'
    paths = [p for p in sorted(folder.rglob('*.py')) if '_base_' not in p.parts]
    paths = [p for p in paths if 'downstream' not in p.parts]
    assert len(paths) > 20
    for path in paths:
        cfg = Config.fromfile(path)
        try:
            check_config(cfg)
        except ValueError as error:
            pytest.fail(f'{path}: {error}')


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py',
        'resnet/resnet50_8xb32_in1k.py',
        'swin_transformer/swin-tiny_16xb64_in1k.py',
        'simclr/simclr_resnet50_16xb256-coslr-200e_in1k.py',
    ],
)
def test_configs_of_mmpretrain_are_right(name: str) -> None:
    import mmpretrain

    cfg = Path(mmpretrain.__file__).parent / '.mim' / 'configs' / name
    check_config(Config.fromfile(cfg))


def test_misspelt_section() -> None:
    cfg = changed()
    cfg.optim_wraper = cfg.pop('optim_wrapper')
    with pytest.raises(ValueError, match='optim_wraper is not .* mean optim_wrapper?'):
        check_config(cfg)
    check_config(changed(train_dataloaders=3))  # a variable beside the real one


def test_what_takes_any_key_is_left_alone() -> None:
    backbone = dict(type='mmpretrain.TIMMBackbone', model_name='x', feature_cls='y')
    check_config(changed(model__backbone=dict(backbone, _delete_=True)))
    check_config(changed(model__discriminator__init_cfg=dict(type='normal', gain=1)))
    check_config(changed(custom_hooks=[dict(type='EMAHook', priority=49, gamma=3)]))


def test_keys_of_types() -> None:
    class Base:
        def __init__(self, a: int, b: int = 1) -> None:
            """Take two."""

    class Child(Base):
        def __init__(self, c: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    class Elsewhere(Base):
        def __init__(self, c: int, **kwargs: Any) -> None:
            super().__init__(1)
            self.rest = dict(**kwargs)

    assert accepted_keys(Child) == {'a', 'b', 'c'}
    assert accepted_keys(Elsewhere) is None
    assert accepted_keys(lambda x, y=1: x) == {'x', 'y'}


# ---------------------------------------------------------------- property: any config

MISTAKES = st.sampled_from(
    [
        ('model.quantizer.bits', st.integers(-2, 40)),
        ('model.quantizer.split', st.lists(st.integers(-1, 7), max_size=4)),
        ('model.quantizer.entropy_weight', st.floats(-1, 5)),
        ('model.keep', st.integers(-3, LENGTH + 5)),
        ('model.keep.candidates', st.lists(st.integers(-2, 20), max_size=4)),
        ('model.test_cfg.keep', st.lists(st.integers(-1, 20), max_size=3)),
        ('model.backbone.img_size', st.integers(-4, 20)),
        ('model.backbone.schedule', st.sampled_from(['even', 'cubic', ''])),
        ('model.backbone.out_type', st.text(max_size=5)),
        ('model.backbone.layer_scale', st.floats(0, 2)),
        ('model.neck.grid', st.tuples(st.integers(0, 6), st.integers(0, 6))),
        ('model.decoder.bits', st.integers(1, 20)),
        ('model.neck.type', st.sampled_from(['mergevq_mm.Neck', 'LFQ', 'x y'])),
        ('model.colour', st.integers()),
        ('model.quantizer.bitz', st.integers()),
    ]
).flatmap(lambda pair: st.tuples(st.just(pair[0]), pair[1]))


def build(options: list[tuple[str, Any]]) -> None:
    """What the tools do with a config before the first step."""
    cfg = changed()
    for key, value in options:
        part, _, name = key.rpartition('.')
        node: Any = cfg
        for step in part.split('.'):
            node = node.get(step) if isinstance(node, ConfigDict) else node[step]
            if not isinstance(node, ConfigDict):
                return  # an earlier option has replaced it by a number
        node[name] = value
    check_config(cfg)
    MODELS.build(cfg.model)


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(MISTAKES, max_size=2))
def test_any_config_works_or_says_why(options: list[tuple[str, Any]]) -> None:
    try:
        build(options)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        names = {key.rpartition('.')[2] for key, _ in options}
        names |= {'image size'} if 'img_size' in names else set()
        names |= {'keep'} if names & {'candidates', 'img_size'} else set()
        assert options, message
        assert '\n' not in message and len(message) > 20
        assert any(name in message for name in names), message


# ---------------------------------------------------------------------- tokenizers


def test_tokenizer_of_another_shape(tmp_path: Path) -> None:
    """Its checkpoint is read before the first step, also where images are encoded."""
    path = tmp_path / 'tokenizer.pth'
    torch.save(dict(state_dict=build_model().state_dict()), path)

    def check(checkpoint: Path = path, **overrides: Any) -> None:
        tokenizer = FrozenTokenizer(model_cfg(**overrides), str(checkpoint))
        runner = SimpleNamespace(
            model=SimpleNamespace(tokenizer=tokenizer),
            train_dataloader=SimpleNamespace(dataset=[]),
        )
        TokenizerCheckHook().before_train(runner)

    check()
    narrow = dict(model_cfg()['quantizer'], bits=4, split=(2, 2))
    with pytest.raises(ValueError, match='tokenizer.pth" does not fit .*quantizer.*'):
        check(quantizer=narrow)
    with pytest.raises(FileNotFoundError, match='gone.pth" does not exist'):
        check(tmp_path / 'gone.pth')


def test_generator_of_more_tokens_than_its_tokenizer() -> None:
    with pytest.raises(ValueError, match=r'keep=\[4, 9, 16\] holds more tokens than'):
        build_generator(tokenizer=dict(type='mergevq_mm.FakeTokenizer', grid=(2, 2)))


# ------------------------------------------------------------------------ folders


def test_work_dir_that_cannot_be_written(tmp_path: Path) -> None:
    check_work_dir(str(tmp_path / 'new' / 'folder'))
    assert (tmp_path / 'new' / 'folder').is_dir()
    assert not list((tmp_path / 'new' / 'folder').iterdir())
    check_work_dir('s3://bucket/run')  # not on this machine
    (tmp_path / 'file').write_text('')
    with pytest.raises(
        ValueError, match='work_dir=".*file/run" cannot .*; choose|make'
    ):
        check_work_dir(str(tmp_path / 'file' / 'run'))


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    message = 'run" cannot be written .No space left on device.: .* free space there'
    with pytest.raises(ValueError, match=message):
        check_work_dir(str(tmp_path / 'run'))
    assert not list(tmp_path.iterdir())


def test_read_only_work_dir(tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    folder.mkdir()
    top = Path(tempfile.gettempdir())
    for parent in tmp_path, *tmp_path.parents:
        if parent.is_relative_to(top) and parent != top:
            parent.chmod(0o755)
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # nobody; root may write anywhere
    try:
        with pytest.raises(ValueError, match='run" cannot be written .Permission'):
            check_work_dir(str(folder))
    finally:
        os.seteuid(user)
