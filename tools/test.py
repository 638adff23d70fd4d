"""Test a model: the flags of mmpretrain's tool, for its configs and mmagic's too.

Example:
    python tools/test.py configs/mergevq_g+r.py work_dirs/mergevq_g+r/epoch_1.pth
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from copy import deepcopy

import mmengine
from mmengine.config import Config, ConfigDict, DictAction

import mergevq_mm  # noqa: F401  (before torchvision and mmagic)
from mergevq_mm.utils import config as config_utils
from mergevq_mm.utils.config_options import merge_options


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test (and evaluate) a model')
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--work-dir', help='folder for logs and metrics')
    parser.add_argument('--out', help='file for results (.pkl, or .json for metrics)')
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        help='what --out gets, metrics or predictions. Defaults to predictions',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings to override, as key=value; lists as key="[a,b]" or key=a,b',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument(
        '--dtype',
        choices=['fp32', 'bf16'],
        default='fp32',
        help="of a generator's weights and cache. Defaults to fp32",
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
    parser.add_argument('--show-dir', help='folder for pictures of the results')
    parser.add_argument('--show', action='store_true', help='show results in a window')
    parser.add_argument(
        '--interval', type=int, default=1, help='picture every so many samples'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that a window stays'
    )
    parser.add_argument(
        '--no-pin-memory', action='store_true', help='no pinned memory in dataloaders'
    )
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation (classifiers)'
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run are started',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args(argv)
    if args.out_item is not None and args.out is None:
        parser.error('--out-item needs --out, the file to write')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def enable_pictures(cfg: Config, args: argparse.Namespace) -> None:
    """Switch the visualization hook of a config on.

    Args:
        cfg (Config): The config; changed in place.
        args (Namespace): The value of :func:`parse_args`.

    Raises:
        ValueError: If the config has no such hook.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook:
        raise ValueError(
            '--show and --show-dir need default_hooks.visualization in the config: '
            'set visualization=dict(type="VisualizationHook").'
        )
    hook.update(show=args.show, wait_time=args.wait_time, interval=args.interval)
    # Each library switches its hook on by other names.
    name = hook['type'].rpartition('.')[-1]
    if name == 'DetVisualizationHook':
        hook.update(draw=True, test_out_dir=args.show_dir)
    elif name == 'SegVisualizationHook':
        hook.update(draw=True)
        if args.show_dir is not None:
            cfg.visualizer.save_dir = args.show_dir
    else:
        hook.update(enable=True, out_dir=args.show_dir)


def enable_tta(cfg: Config) -> None:
    """Wrap a classifier for test-time augmentation, by flips unless configured.

    Args:
        cfg (Config): The config; changed in place.
    """
    cfg.setdefault('tta_model', ConfigDict(type='mmpretrain.AverageClsScoreTTA'))
    if 'tta_pipeline' not in cfg:
        pipeline = deepcopy(cfg.test_dataloader.dataset.pipeline)
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
        pipeline[-1] = dict(type='TestTimeAug', transforms=[flips, [pipeline[-1]]])
        cfg.tta_pipeline = pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


def merge_args(cfg: Config, args: argparse.Namespace) -> Config:
    """Apply the command line to a config.

    Args:
        cfg (Config): The config; changed in place.
        args (Namespace): The value of :func:`parse_args`.

    Returns:
        Config: The same config.

    Raises:
        ValueError: If a flag does not fit the config.
    """
    cfg.launcher = args.launcher
    cfg.load_from = args.checkpoint
    cfg.resume = False
    config_utils.set_work_dir(cfg, args.work_dir, args.config)
    if cfg.get('test_cfg') is None:
        raise ValueError(
            f'Config "{args.config}" has no test_cfg: add test_cfg, test_dataloader '
            'and test_evaluator.'
        )
    if args.amp:
        cfg.test_cfg.fp16 = True
    if args.compile or args.channels_last:
        config_utils.enable_speed(cfg, args.compile, args.channels_last)
    if args.show or args.show_dir is not None:
        enable_pictures(cfg, args)
    if args.tta:
        enable_tta(cfg)
    merge_options(cfg, args.cfg_options)
    config_utils.complete_dataloaders(
        cfg, False if args.no_pin_memory else None, persistent_workers=False
    )
    config_utils.adapt_to_device(cfg)
    config_utils.complete_hooks(cfg)
    return cfg


def main() -> None:
    args = parse_args()
    from mergevq_mm.utils.config_check import check_config

    try:
        cfg = merge_args(config_utils.load_config(args.config), args)
        check_config(cfg)
        config_utils.check_work_dir(cfg.work_dir)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')

    from mmengine.evaluator import DumpResults
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from mergevq_mm.engine.first_step import TrainingRefused
    from mergevq_mm.engine.testing import run_test
    from mergevq_mm.models.generators.precision import set_precision
    from mergevq_mm.utils.checkpoint_format import UnusableCheckpoint
    from mergevq_mm.utils.distributed import end_process_group, unwrap

    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if args.dtype != 'fp32':
        try:  # the checkpoint is converted as it is loaded
            set_precision(unwrap(runner.model), args.dtype)
        except ValueError as error:
            sys.exit(f'error: {error}')
    if args.out and args.out_item != 'metrics':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    try:
        metrics = run_test(runner)
    except (TrainingRefused, UnusableCheckpoint) as error:  # the weights do not fit
        sys.exit(f'error: {error}')
    if args.out and args.out_item == 'metrics':
        mmengine.dump(metrics, args.out)
    del runner
    end_process_group()


if __name__ == '__main__':
    main()
