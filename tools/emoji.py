"""Colour in one command: a MergeVQ (G+R) of emoji, then generators on its codes.

Everything runs on two CPU cores without a network: 4,087 labelled emoji of 64 px, and
an EfficientNet-Lite2 with real ImageNet weights as teacher, perceptual network, judge
and Fréchet features. Writes ``summary.json`` and PNG pictures into the work directory.
The data lie in data/emoji, or in the folder that MERGEVQ_EMOJI names.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import one_command as shared
from emoji_measurements import LITES, probe, vendors_distance
from emoji_pictures import group_page, interpolation_page, neighbours, token_page
from one_command import ROOT, Plan, run_tool
from one_command_clock import Clock
from one_command_data import are_targets_fresh, is_whole, version_of
from one_command_folder import keep_reconstructions

import mergevq_mm  # noqa: F401  first: makes the installed stack usable
from mergevq_mm.utils.fileio import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmengine.config import Config

    from mergevq_mm.models.generators.code_generator import CodeGenerator

PLAN = Plan(
    name='emoji',
    images='emoji',
    tokenizer='configs/emoji/mergevq_g+r_emoji.py',
    generators={
        'raster': 'configs/emoji/mergear_emoji.py',
        'distinct': 'configs/emoji/mergear_emoji_distinct.py',
        'random': 'configs/emoji/randar_emoji.py',
    },
    classifier='configs/emoji/judge_emoji.py',
    judge=71.6,  # a linear probe of EfficientNet-Lite2 (`probe`)
    pictures=(
        'tokens.png',
        'interpolation.png',
        'reconstructions.png',
        'neighbours.png',
        'drawn_*.png',
    ),
    few={'train': 23, 'val': 6},
    few_everywhere=True,
    flip=True,
    minutes={
        'data': 1,
        'training': 72,
        'evaluation': 1,
        'probe': 8,
        'classifier': 11,
        'codes': 1,
        'generator training (raster)': 17,
        'generation (raster)': 2,
        'generator training (distinct)': 11,
        'generation (distinct)': 1,
        'generator training (random)': 14,
        'generation (random)': 1,
    },
)
TOKENIZER_PHASES = ('data', 'training', 'evaluation', 'probe')
WORK_DIR = 'work_dirs/emoji'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--work-dir',
        help=f'Defaults to {WORK_DIR}, with --short to {WORK_DIR}_short, and with '
        '--tokenizer to a folder of its name; what an earlier run left there is '
        'replaced',
    )
    parser.add_argument(
        '--short',
        action='store_true',
        help='two short epochs on a part of the emoji, to see that everything runs',
    )
    parser.add_argument(
        '--resume', action='store_true', help='go on with a run that was stopped'
    )
    parser.add_argument(
        '--tokenizer-only',
        action='store_true',
        help='end after the probe, which takes half the time; the same with --resume '
        'in its place goes on with the generators',
    )
    parser.add_argument(
        '--tokenizer',
        metavar='CONFIG',
        default=PLAN.tokenizer,
        help='train and measure that of another config, such as '
        'configs/emoji/mergevq_r_emoji.py; ends as --tokenizer-only',
    )
    parser.add_argument(
        '--seed',
        type=shared.seed,
        default=0,
        help='of tokenizer and generators. Default: 0',
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='exit with 1 if a number misses what it is to reach',
    )
    args = parser.parse_args(argv)
    name = WORK_DIR
    args.tokenizer = os.path.relpath(ROOT / args.tokenizer, ROOT)
    if args.tokenizer != PLAN.tokenizer:
        if not (ROOT / args.tokenizer).is_file():
            parser.error(
                f'--tokenizer={args.tokenizer} is no file; give a config such as '
                f'{PLAN.tokenizer}'
            )
        if args.check:
            parser.error(
                f'--check knows what {PLAN.tokenizer} is to reach, not '
                f'--tokenizer={args.tokenizer}; leave one of the two away'
            )
        args.tokenizer_only = True
        name = f'{WORK_DIR}_{Path(args.tokenizer).stem}'
    if args.work_dir is None:
        args.work_dir = f'{name}{"_short" if args.short else ""}'
    return args


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan of a command line: its tokenizer, and the minutes that are known."""
    phases = TOKENIZER_PHASES if args.tokenizer_only else tuple(PLAN.minutes)
    minutes = {phase: PLAN.minutes[phase] for phase in phases}
    if args.short or args.tokenizer != PLAN.tokenizer:
        minutes = {}
    return replace(PLAN, tokenizer=args.tokenizer, minutes=minutes)


def check_tokenizer(path: str) -> None:
    """Refuse a config that this command cannot train and measure.

    Raises:
        ValueError: If it is not of a tokenizer on the emoji.
    """
    from mergevq_mm.utils.config import load_config

    cfg = load_config(str(ROOT / path))
    model = cfg.get('model') or {}
    wanted = load_config(str(ROOT / PLAN.tokenizer))
    if model.get('type') != wanted.model.type or 'features' not in cfg:
        raise ValueError(
            f'--tokenizer={path} is no tokenizer of the emoji; give a config that '
            f'inherits from {PLAN.tokenizer}.'
        )


def data_root() -> Path:
    """Where the emoji lie.

    Raises:
        ValueError: If the variable is set to nothing.
    """
    folder = os.environ.get('MERGEVQ_EMOJI', 'data/emoji')
    if not folder:
        raise ValueError(
            "MERGEVQ_EMOJI='' names no folder; unset it for data/emoji, or name one."
        )
    return Path(folder)


def prepare_data(root: Path) -> str:
    """Write emoji, the weights of two networks and the teacher's targets, each once.

    The targets are of the training images: held-out ones do not shape their scale.

    Args:
        root (Path): Where to.

    Returns:
        str: Which version of the emoji it is.
    """
    run_tool('tools/dataset_converters/emoji.py', '--out-dir', root)
    for name in LITES:
        file = root / f'efficientnet_{name}.safetensors'
        if not is_whole(file):
            tool = 'tools/model_converters/efficientnet_lite0_to_timm.py'
            run_tool(tool, file, '--variant', name)
    targets = root / 'teacher.safetensors'
    if not are_targets_fresh(targets, ROOT / PLAN.tokenizer):
        run_tool('tools/extract_targets.py', PLAN.tokenizer, root / 'train', targets)
    return version_of(root)


# ----------------------------------------------------------------------------- the end


def shortfalls(summary: dict[str, Any]) -> list[str]:
    """What the command is to reach on two cores and has not.

    Args:
        summary (dict): The content of ``summary.json``.

    Returns:
        list[str]: A sentence for each number that misses its bar.
    """
    made, groups = summary['reconstruction'], summary['probe']['groups']
    others = ('pixels', 'random_encoder', 'efficientnet_lite0')
    above = max(groups[name] for name in others)
    bars = [
        ('PSNR at K=36 (dB)', made['K36']['psnr'], 22.5),
        ('PSNR at K=64 (dB)', made['K64']['psnr'], 24.0),
        (
            "probe above pixels, a random encoder and Lite0's features (%)",
            groups['encoder'],
            above,
        ),
    ]
    if drawn := summary.get('generation'):
        ways = [way for way in ('compressed', *PLAN.generators) if way in drawn]
        right = min(drawn[way]['consistency'] for way in ways)
        judge = ("the judge's accuracy on real emoji (%)", drawn['classifier'])
        bars += [
            (*judge, groups['efficientnet_lite2']),
            ('class consistency of drawn emoji (%)', right, 80.0),
        ]
    left = 3.0 - summary['seconds']['total'] / 3600
    return shared.below([*bars, ('what is left of 3 hours', left, 0.0)])


def train_tokenizer(
    args: argparse.Namespace, clock: Clock, names: Sequence[str]
) -> tuple[Config, dict[str, Any]]:
    """Train, measure and probe the tokenizer.

    Returns:
        tuple[Config, dict]: Its config, and its part of ``summary.json``.
    """
    from mergevq_mm.visualization import save_png

    plan, work_dir = plan_of(args), Path(args.work_dir)
    cfg = shared.load_config(plan, work_dir, args.seed, args.short, args.resume)
    with clock.phase('training'):
        shared.train(cfg)
    with clock.phase('evaluation'):
        metrics, model = shared.evaluate(cfg, plan)
        keep_reconstructions(work_dir)
        vendors = vendors_distance(cfg)
        held_out = cfg.val_dataloader.dataset
        save_png(work_dir / 'tokens.png', token_page(model, held_out, names))
        between = interpolation_page(model, held_out, len(names))
        save_png(work_dir / 'interpolation.png', between)
    with clock.phase('probe'):
        networks = LITES if args.tokenizer == PLAN.tokenizer else ()
        accuracy = probe(cfg, model, data_root(), args.short, networks)
    keeps = shared.measured_keeps(metrics)
    kinds = {'reconstruction': 'recon', 'codebook': 'codebook'}
    return cfg, {
        'keep': keeps,
        **{k: shared.by_keep(metrics, v, keeps) for k, v in kinds.items()},
        'source_recovery': shared.by_keep(metrics, 'source', keeps),
        'frechet_of_two_vendors': round(vendors, 4),
        'probe': accuracy,
    }


def train_generators(
    args: argparse.Namespace, clock: Clock, cfg: Config, names: Sequence[str]
) -> dict[str, Any]:
    """Train generators on the tokenizer's codes, draw emoji and judge them.

    Returns:
        dict: Their part of ``summary.json``.
    """
    import one_command_generator as stage2

    from mergevq_mm.visualization import save_png

    work_dir = Path(args.work_dir)
    copies: dict[str, float] = {}

    def show(mode: str, generator: CodeGenerator) -> None:
        save_png(work_dir / f'drawn_{mode}.png', group_page(generator, names))
        if mode == 'raster':
            file = work_dir / 'neighbours.png'
            copies.update(neighbours(generator, cfg, names, file))

    drawn = stage2.generate(
        PLAN, work_dir, clock, args.seed, args.short, args.resume, show=show
    )
    return {'generation': drawn, 'nearest_training_image': copies}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train, measure and draw.

    Returns:
        dict: What ``summary.json`` has; the tokenizer's part is written before the
        generators begin.
    """
    work_dir = Path(args.work_dir)
    with shared.refusals(OSError, ValueError, SyntaxError):
        root = data_root()
        check_tokenizer(args.tokenizer)
    clock = shared.start(plan_of(args), args, lambda: prepare_data(root))
    names = (root / 'meta/groups.txt').read_text().split()
    cfg, summary = train_tokenizer(args, clock, names)
    write_summary(work_dir, summary, clock)
    if not args.tokenizer_only:
        summary |= train_generators(args, clock, cfg, names)
        write_summary(work_dir, summary, clock)
    return summary


def write_summary(work_dir: Path, summary: dict[str, Any], clock: Clock) -> None:
    """Write ``summary.json``, with the seconds so far."""
    total = round(sum(clock.seconds.values()), 1)
    summary['seconds'] = {**clock.seconds, 'total': total}
    content = json.dumps(summary, indent=2) + '\n'
    write_atomically(content.encode(), work_dir / 'summary.json')


def main() -> None:
    args = parse_args()
    os.chdir(ROOT)
    with shared.refusals():
        summary = run(args)
    print(json.dumps(summary, indent=2))
    drawn = '' if args.tokenizer_only else ', neighbours.png, drawn_*.png'
    print(
        '[emoji] wrote summary.json, tokens.png, interpolation.png, '
        f'reconstructions.png{drawn} into {args.work_dir}'
    )
    missed = shortfalls(summary) if args.tokenizer == PLAN.tokenizer else []
    for sentence in missed:
        print(f'[emoji] {sentence}')
    if args.check and missed:
        sys.exit(1)


if __name__ == '__main__':
    main()
