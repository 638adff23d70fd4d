"""Train a model: the flags of mmpretrain's tool, for its configs and mmagic's too.

Examples:
    python tools/train.py configs/mergevq_g+r.py --fast --work-dir work_dirs/gr
    python tools/train.py configs/mergevq_g+r.py --resume
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Sequence

from mmengine.config import Config, DictAction

import mergevq_mm  # noqa: F401  (before torchvision and mmagic)
from mergevq_mm.utils import config as config_utils
from mergevq_mm.utils.config_options import merge_options
from mergevq_mm.utils.last_line import follow, last_words
from mergevq_mm.utils.schedule_length import schedule_ratio, stretch_start


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model')
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from a checkpoint; without a path from the newest whole one in '
        'the work dir',
    )
    parser.add_argument(
        '--rebuild-schedules',
        action='store_true',
        help="with --resume: follow the config's schedules (a new length, a new rate), "
        "not the checkpoint's",
    )
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision (needs a GPU); applies to each of several optimizers',
    )
    precision.add_argument(
        '--bf16', action='store_true', help='bfloat16 autocast, on CPUs too'
    )
    precision.add_argument(
        '--fast',
        action='store_true',
        help='what is right for a GPU: bfloat16 and fused optimizers',
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help='compile the networks (see docs/speed.md)',
    )
    parser.add_argument(
        '--channels-last',
        action='store_true',
        help='keep convolutions in channels-last order',
    )
    parser.add_argument(
        '--no-validate', action='store_true', help='no validation during training'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the real over the intended batch size',
    )
    parser.add_argument(
        '--no-pin-memory', action='store_true', help='no pinned memory in dataloaders'
    )
    parser.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='start the workers of dataloaders anew in each epoch',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings to override, as key=value; lists as key="[a,b]" or key=a,b',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run are started',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def merge_args(cfg: Config, args: argparse.Namespace) -> Config:
    """Apply the command line to a config.

    Args:
        cfg (Config): The config; changed in place.
        args (Namespace): The value of :func:`parse_args`.

    Returns:
        Config: The same config.

    Raises:
        ValueError: If a flag does not fit the config or the machine.
    """
    cfg.launcher = args.launcher
    config_utils.set_work_dir(cfg, args.work_dir, args.config)
    if args.no_validate:
        config_utils.disable_validation(cfg)
    if args.amp:
        config_utils.enable_amp(cfg)
    if args.bf16:
        config_utils.enable_bf16(cfg)
    if args.fast:
        config_utils.enable_fast(cfg)
    if args.compile or args.channels_last:
        config_utils.enable_speed(cfg, args.compile, args.channels_last)
    if args.auto_scale_lr:
        config_utils.enable_auto_scale_lr(cfg)
    config_utils.set_resume(cfg, args.resume)
    if args.rebuild_schedules:
        config_utils.rebuild_schedules(cfg)
    merge_options(cfg, args.cfg_options)
    config_utils.complete_dataloaders(
        cfg,
        pin_memory=False if args.no_pin_memory else None,
        persistent_workers=not args.no_persistent_workers,
    )
    config_utils.adapt_to_device(cfg)
    config_utils.complete_hooks(cfg)
    return cfg


def check(cfg: Config) -> None:
    """Find what would stop the run later: before anything is built or written.

    Args:
        cfg (Config): The value of :func:`merge_args`.

    Raises:
        ValueError: If a key, a type or the work_dir is wrong or in use.
    """
    from mmengine.logging import MMLogger

    from mergevq_mm.engine.quiet_runner import hush
    from mergevq_mm.engine.work_dir_lock import check_free
    from mergevq_mm.utils.config_check import check_config

    hush(MMLogger.get_current_instance())
    check_config(cfg)
    if int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))) == 0:
        config_utils.check_work_dir(cfg.work_dir)
        check_free(cfg.work_dir)


def main() -> None:
    args = parse_args()
    try:
        own = config_utils.load_config(args.config)
        cfg = merge_args(copy.deepcopy(own), args)
        check(cfg)
        ratio = schedule_ratio(args.config, own, cfg, args.cfg_options)
        stretch_start(cfg, ratio, args.cfg_options)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')

    from mmengine.registry import RUNNERS

    from mergevq_mm.engine.first_step import TrainingRefused
    from mergevq_mm.engine.quiet_runner import QuietRunner, say_goodbye
    from mergevq_mm.engine.training import prepare_training
    from mergevq_mm.utils.checkpoint_format import UnusableCheckpoint
    from mergevq_mm.utils.distributed import end_process_group

    custom = 'runner_type' in cfg
    runner = RUNNERS.build(cfg) if custom else QuietRunner.from_cfg(cfg)
    follow(runner.logger)
    try:
        prepare_training(runner, ratio)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')
    code = None
    try:
        runner.train()
    except SystemExit as stop:  # all ranks were asked to stop, and have saved
        code = stop.code
    except (TrainingRefused, UnusableCheckpoint) as error:  # before the first step
        sys.exit(f'error: {error}')
    if code is None:
        say_goodbye(runner)
    del runner
    end_process_group()
    sys.exit(code)


if __name__ == '__main__':
    with last_words():
        main()
