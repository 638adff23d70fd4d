"""What the command-line tools do to a config before they build the runner."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def load_config(path: str | os.PathLike) -> Config:
    """Read a config file.

    Args:
        path (str | PathLike): A ``.py``, ``.json`` or ``.yaml`` config.

    Returns:
        Config: Its content, with what it inherits.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'Config "{path}" does not exist: give the path of a config file, such as '
            'configs/mergevq_g+r.py.'
        )
    return Config.fromfile(path)


def set_work_dir(cfg: Config, work_dir: str | None, config_path: str) -> None:
    """Decide where a run writes: argument, then config, then ``work_dirs/<config>``.

    Args:
        cfg (Config): The config; changed in place.
        work_dir (str | None): The command line's choice.
        config_path (str): Path of the config file.
    """
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        name = os.path.splitext(os.path.basename(config_path))[0]
        cfg.work_dir = os.path.join('work_dirs', name)


def iter_optim_wrappers(optim_wrapper: dict[str, Any]) -> Iterator[tuple[str, dict]]:
    """List the optimizer wrappers of a config, be it one or several.

    Args:
        optim_wrapper (dict): The config's ``optim_wrapper``: one wrapper, or a dict
            of them by name beside a ``constructor``.

    Yields:
        tuple[str, dict]: Name ('' for a single one) and config of each wrapper.
    """
    if 'optimizer' in optim_wrapper:
        yield '', optim_wrapper
        return
    for name, value in optim_wrapper.items():
        if isinstance(value, dict) and 'optimizer' in value:
            yield name, value


def enable_amp(cfg: Config) -> None:
    """Turn every optimizer wrapper of a config into an ``AmpOptimWrapper``.

    Args:
        cfg (Config): The config; changed in place.

    Raises:
        ValueError: If there is no GPU, no optimizer, or a wrapper that has no mixed
            precision form.
    """
    from mmengine.device import get_device

    if get_device() == 'cpu':
        raise ValueError(
            "--amp needs a GPU, as mmengine's AmpOptimWrapper refuses the device "
            '"cpu": leave --amp out.'
        )
    for wrapper in _change_wrappers(cfg, '--amp', 'AmpOptimWrapper'):
        wrapper.setdefault('loss_scale', 'dynamic')


def enable_bf16(cfg: Config) -> None:
    """Turn every optimizer wrapper of a config into a ``Bf16OptimWrapper``.

    Args:
        cfg (Config): The config; changed in place.

    Raises:
        ValueError: If there is no optimizer, or a wrapper of another kind.
    """
    _change_wrappers(cfg, '--bf16', 'mergevq_mm.Bf16OptimWrapper')


def enable_fast(cfg: Config) -> None:
    """Train in bfloat16 and with fused optimizers, as is right for a GPU.

    A fused optimizer updates all weights in a few kernels instead of a dozen for each.
    Optimizers that cannot, and those whose config decides it itself, stay as they are.

    Args:
        cfg (Config): The config; changed in place.

    Raises:
        ValueError: If there is no GPU, no optimizer, or a wrapper of another kind.
    """
    from mmengine.device import get_device

    if get_device() == 'cpu':
        raise ValueError(
            '--fast is for GPUs, and there is none: leave --fast out (--bf16 runs on '
            'a CPU too).'
        )
    for wrapper in _change_wrappers(cfg, '--fast', 'mergevq_mm.Bf16OptimWrapper'):
        optimizer = wrapper['optimizer']
        if not {'fused', 'foreach'} & set(optimizer) and _takes_fused(optimizer):
            optimizer['fused'] = True


def _takes_fused(optimizer: dict[str, Any]) -> bool:
    """Whether an optimizer of a config has a fused form."""
    from mmengine.registry import OPTIMIZERS

    found = OPTIMIZERS.get(optimizer.get('type', ''))
    return found is not None and 'fused' in inspect.signature(found).parameters


def _change_wrappers(cfg: Config, flag: str, kind: str) -> list[ConfigDict]:
    """Give the plain optimizer wrappers of a config another type, and return them."""
    wrappers = list(iter_optim_wrappers(cfg.get('optim_wrapper') or {}))
    if not wrappers:
        raise ValueError(
            f'{flag} found no optimizer in the config: set optim_wrapper.optimizer.'
        )
    for name, wrapper in wrappers:
        found = wrapper.get('type', 'OptimWrapper').split('.')[-1]
        if found not in ('OptimWrapper', kind.split('.')[-1]):
            where = f'optim_wrapper.{name}' if name else 'optim_wrapper'
            raise ValueError(
                f'{flag} cannot turn {where}.type="{wrapper["type"]}" into '
                f'{kind}: use type="OptimWrapper" or leave {flag} out.'
            )
        wrapper['type'] = kind
    return [wrapper for _, wrapper in wrappers]


def enable_speed(cfg: Config, compile: bool, channels_last: bool) -> None:
    """Add a :class:`~mergevq_mm.engine.SpeedHook` to a config.

    Args:
        cfg (Config): The config; changed in place.
        compile (bool): Whether to compile the networks.
        channels_last (bool): Whether to keep convolutions in channels-last order.
    """
    cfg.setdefault('default_hooks', ConfigDict())
    cfg.default_hooks['speed'] = ConfigDict(
        type='mergevq_mm.SpeedHook', compile=compile, channels_last=channels_last
    )


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by the real over the intended batch size.

    Args:
        cfg (Config): The config; changed in place.

    Raises:
        ValueError: If the config does not say for which batch it is written.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ValueError(
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the '
            'config: add it or leave the flag out.'
        )
    cfg.auto_scale_lr.enable = True


def set_resume(cfg: Config, resume: str | None) -> None:
    """Set what ``--resume`` asks for.

    Args:
        cfg (Config): The config; changed in place.
        resume (str | None): 'auto' for the newest whole checkpoint of ``work_dir``,
            a path, or None to leave the config as it is.
    """
    if resume is not None:
        cfg.resume = True
        cfg.load_from = None if resume == 'auto' else resume


def rebuild_schedules(cfg: Config) -> None:
    """Let a resumed run follow the schedules of its config, not the checkpoint's.

    Args:
        cfg (Config): The config, after :func:`set_resume`; changed in place.

    Raises:
        ValueError: If the run does not resume.
    """
    if not cfg.get('resume'):
        raise ValueError(
            '--rebuild-schedules is for runs that go on: add --resume, or leave it out.'
        )
    cfg.setdefault('default_hooks', ConfigDict())
    cfg.default_hooks['resumed_schedules'] = ConfigDict(
        type='mergevq_mm.ResumedSchedulesHook', rebuild=True
    )


def disable_validation(cfg: Config) -> None:
    """Take the validation during training out of a config.

    Args:
        cfg (Config): The config; changed in place.
    """
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None


def complete_dataloaders(
    cfg: Config, pin_memory: bool | None = None, persistent_workers: bool = True
) -> None:
    """Fill in what mmpretrain's tools add to each dataloader.

    Lists of loaders (mmagic's multi-loops) are completed one by one. Where there are
    no workers, ``persistent_workers`` is off, as torch refuses it. Images of mmdet and
    mmseg differ in size: there mmengine's own way of making batches, lists, stays.

    Args:
        cfg (Config): The config; changed in place.
        pin_memory (bool, optional): Default for pinned memory; False forces it off.
            Defaults to None, which means on where there is CUDA.
        persistent_workers (bool): Default; False forces it off. Defaults to True.
    """
    lists = cfg.get('default_scope') in ('mmdet', 'mmseg')
    collate = 'pseudo_collate' if lists else 'default_collate'
    for field in _LOADERS:
        value = cfg.get(field)
        if not value:
            continue
        for loader in value if isinstance(value, (list, tuple)) else [value]:
            loader.setdefault('collate_fn', ConfigDict(type=collate))
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('persistent_workers', True)
            if pin_memory is False:
                loader['pin_memory'] = False
            if not persistent_workers or not loader.get('num_workers', 0):
                loader['persistent_workers'] = False


def adapt_to_device(cfg: Config) -> None:
    """Make a distributed config run on CPUs; does nothing where there is a GPU.

    DDP refuses device indices for CPU modules, and mmengine gives them unless
    ``model_wrapper_cfg`` says otherwise.

    Args:
        cfg (Config): The config, with ``launcher`` set; changed in place.
    """
    from mmengine.device import get_device

    if get_device() != 'cpu' or cfg.get('launcher', 'none') == 'none':
        return
    wrapper = cfg.get('model_wrapper_cfg')
    if wrapper is None:
        unused = cfg.get('find_unused_parameters', False)
        wrapper = ConfigDict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=unused,
        )
    wrapper['device_ids'] = None
    cfg.model_wrapper_cfg = wrapper
    cfg.setdefault('env_cfg', ConfigDict())
    cfg.env_cfg.setdefault('dist_cfg', ConfigDict())
    cfg.env_cfg.dist_cfg.backend = 'gloo'


# Hooks that every training gets, by their names in `default_hooks`.
_SAFETY_HOOKS = dict(
    preemption='PreemptionHook',
    work_dir_lock='WorkDirLockHook',
    damaged_files='DamagedFilesHook',
    class_check='ClassCheckHook',
    resumed_schedules='ResumedSchedulesHook',
)


def complete_hooks(cfg: Config) -> None:
    """Make checkpoints whole, safe and plain in any OpenMMLab config.

    mmengine's ``CheckpointHook`` becomes :class:`~mergevq_mm.engine.SafeCheckpointHook`
    with the same arguments, and :class:`~mergevq_mm.engine.RunStateHook` is added
    unless it is there: without them a checkpoint cannot be resumed on torch 2.6 and
    later. Configs with a checkpoint hook of another type keep it.
    :class:`~mergevq_mm.engine.PreemptionHook`,
    :class:`~mergevq_mm.engine.WorkDirLockHook`,
    :class:`~mergevq_mm.engine.DamagedFilesHook`,
    :class:`~mergevq_mm.engine.ClassCheckHook` and
    :class:`~mergevq_mm.engine.ResumedSchedulesHook` are added too;
    ``default_hooks=dict(preemption=None)`` leaves one out.

    Args:
        cfg (Config): The config; changed in place.
    """
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    if 'checkpoint' not in hooks:
        hooks['checkpoint'] = ConfigDict(type='CheckpointHook', interval=1)
    checkpoint = hooks['checkpoint']
    if checkpoint and checkpoint.get('type') in (
        'CheckpointHook',
        'mmengine.CheckpointHook',
    ):
        checkpoint['type'] = 'mergevq_mm.SafeCheckpointHook'
    custom = list(cfg.get('custom_hooks') or [])
    present = [*hooks.values(), *custom]
    names = [str(hook.get('type')).split('.')[-1] for hook in present if hook]
    if 'RunStateHook' not in names:
        custom.append(ConfigDict(type='mergevq_mm.RunStateHook'))
        cfg.custom_hooks = custom
    for key, kind in _SAFETY_HOOKS.items():
        if key not in hooks and kind not in names:
            hooks[key] = ConfigDict(type=f'mergevq_mm.{kind}')


def check_work_dir(work_dir: str) -> None:
    """Refuse a work_dir that cannot be written or is full, before anything is built.

    Args:
        work_dir (str): The folder; it is made if it is missing.

    Raises:
        ValueError: If it cannot be made or written into.
    """
    if '://' in work_dir:
        return
    new = not os.path.exists(work_dir)
    try:
        os.makedirs(work_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir) as file:
            file.write(bytes(2**20))  # config and log of a run take no less
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if new:
            with contextlib.suppress(OSError):
                os.rmdir(work_dir)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = 'free space there' if full else 'make the folder writable'
        raise ValueError(
            f'work_dir="{work_dir}" cannot be written ({error.strerror}): choose '
            f'another --work-dir, or {remedy}.'
        ) from error
