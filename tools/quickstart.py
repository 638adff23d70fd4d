"""The quickstart: a small MergeVQ (G+R) tokenizer, then generators on its codes.

Everything runs on two CPU cores without a network: 5,000 real MNIST digits, and an
EfficientNet-Lite0 with real ImageNet weights as teacher, perceptual network and Fréchet
features. Writes ``summary.json`` and PNG grids into the work directory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import one_command as shared
from one_command import ROOT, Plan, run_tool
from one_command_clock import Clock
from one_command_data import are_targets_fresh, is_whole
from one_command_folder import keep_reconstructions

import mergevq_mm  # noqa: F401  first: makes the installed stack usable
from mergevq_mm.utils.fileio import write_atomically

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config
    from torch import nn

    from mergevq_mm.models.generators.code_generator import CodeGenerator

WEIGHTS = 'data/weights/efficientnet_lite0.safetensors'
TARGETS = 'data/mnist5k/efficientnet_lite0_stride16.safetensors'
PLAN = Plan(
    name='quickstart',
    images='digits',
    tokenizer='configs/quickstart/mergevq_g+r_mnist5k.py',
    # The whole raster; its K codes, with the places where their groups begin, in order;
    # or in random order, several at a time.
    generators={
        'raster': 'configs/quickstart/mergear_mnist5k.py',
        'distinct': 'configs/quickstart/mergear_mnist5k_distinct.py',
        'random': 'configs/quickstart/randar_mnist5k.py',
    },
    classifier='configs/quickstart/lenet5_mnist5k.py',
    judge=97.0,
    pictures=('reconstructions.png', 'samples.png', 'ways.png'),
    few={'train': 10, 'val': 10},
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--work-dir',
        help='Defaults to work_dirs/quickstart, with --short to '
        'work_dirs/quickstart_short; what an earlier quickstart left there is replaced',
    )
    parser.add_argument(
        '--short',
        action='store_true',
        help='two short epochs on a part of the digits, to see that everything runs',
    )
    parser.add_argument(
        '--resume', action='store_true', help='go on with a run that was stopped'
    )
    parser.add_argument(
        '--raster-only',
        action='store_true',
        help='leave out the two generators that draw in few passes',
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
        help='exit with 1 if a number misses what the quickstart is to reach',
    )
    args = parser.parse_args(argv)
    if args.work_dir is None:
        args.work_dir = f'work_dirs/quickstart{"_short" if args.short else ""}'
    return args


def prepare_data() -> None:
    """Write the digits, the teacher's weights and its targets, each once."""
    if not (ROOT / 'data/mnist5k/val').is_dir():
        run_tool('tools/dataset_converters/mnist5k.py')
    if not is_whole(ROOT / WEIGHTS):
        run_tool('tools/model_converters/efficientnet_lite0_to_timm.py', WEIGHTS)
    if not are_targets_fresh(ROOT / TARGETS, ROOT / PLAN.tokenizer):
        run_tool('tools/extract_targets.py', PLAN.tokenizer, 'data/mnist5k', TARGETS)


def probe(cfg: Config, model: nn.Module) -> dict[str, float]:
    """Linear probes on the digits: this encoder, a random one, and the pixels.

    Returns:
        dict[str, float]: Accuracy on the held-out digits, in per cent.
    """
    untrained = shared.random_encoder(cfg, model.data_preprocessor.device)
    encoders = {
        'encoder': partial(shared.token_features, model.backbone.eval()),
        'encoder_cls': lambda x: model.backbone.encode(x).cls,
        'random_encoder': partial(shared.token_features, untrained),
        'pixels': lambda x: x[:, :1].flatten(1),
    }
    datasets = shared.seen_and_held_out(cfg)
    return shared.probe(shared.extract(encoders, datasets, model.data_preprocessor))


def generate(work_dir: Path, args: argparse.Namespace, clock: Clock) -> dict:
    """Train generators on the tokenizer's codes, draw digits and judge them.

    Returns:
        dict: Of ``one_command_generator.generate``.
    """
    import one_command_generator as stage2

    from mergevq_mm.visualization.grids import save_png

    drawn: dict[str, np.ndarray] = {}

    def show(mode: str, model: CodeGenerator) -> None:
        if mode == 'raster':
            save_png(work_dir / 'samples.png', stage2.draw_classes(model, rows=8))
        drawn[mode] = stage2.draw_classes(model, rows=5)

    modes = ['raster'] if args.raster_only else None
    found = stage2.generate(
        PLAN, work_dir, clock, args.seed, args.short, args.resume, modes, show
    )
    stage2.ways_picture(drawn, work_dir / 'ways.png')
    return found


def summarise(
    metrics: dict[str, float],
    accuracy: dict,
    generation: dict,
    seconds: dict,
) -> dict:
    """Sort the numbers under the names that ``summary.json`` has."""
    keeps = shared.measured_keeps(metrics)
    return {
        'keep': keeps,
        'reconstruction': shared.by_keep(metrics, 'recon', keeps),
        'codebook': shared.by_keep(metrics, 'codebook', keeps),
        'source_recovery': shared.by_keep(metrics, 'source', keeps),
        'probe': accuracy,
        'generation': generation,
        'seconds': {**seconds, 'total': round(sum(seconds.values()), 1)},
    }


def shortfalls(summary: dict) -> list[str]:
    """What the quickstart is to reach on two cores and has not.

    Args:
        summary (dict): The content of ``summary.json``.

    Returns:
        list[str]: A sentence for each number that misses its bar.
    """
    probe, drawn = summary['probe'], summary['generation']
    consistency = [drawn[cache]['consistency'] for cache in ('compressed', 'full')]
    spread = max(consistency) - min(consistency)
    few = [drawn[mode] for mode in ('distinct', 'random') if mode in drawn]
    right = min((way['consistency'] for way in few), default=100.0)
    # As far from the real digits as the raster's, and a quarter more.
    farthest = max((way['frechet'] for way in few), default=0.0)
    beyond = 1.25 * drawn['compressed'].get('frechet', 0.0) - farthest if few else 0.0
    above = max(probe['random_encoder'], probe['pixels'])
    return shared.below(
        [
            ('PSNR at K=16 (dB)', summary['reconstruction']['K16']['psnr'], 22.0),
            ('PSNR at K=64 (dB)', summary['reconstruction']['K64']['psnr'], 25.0),
            (
                "probe above the pixels' and a random encoder's (%)",
                probe['encoder'],
                above,
            ),
            ("the judge's accuracy on real digits (%)", drawn['classifier'], 97.0),
            ('class consistency of drawn digits (%)', min(consistency), 90.0),
            ('what the caches may still differ of 2 points', 2.0 - spread, 0.0),
            ('class consistency of digits drawn in few passes (%)', right, 90.0),
            ("what is left of 1.25 times the raster's Fréchet distance", beyond, 0.0),
            (
                'what is left of 20 minutes',
                20.0 - summary['seconds']['total'] / 60,
                0.0,
            ),
        ]
    )


def run(args: argparse.Namespace) -> dict:
    """Train, measure and draw; what ``summary.json`` has, which is written."""
    work_dir = Path(args.work_dir)
    clock = shared.start(PLAN, args, prepare_data)
    cfg = shared.load_config(PLAN, work_dir, args.seed, args.short, args.resume)
    with clock.phase('training'):
        shared.train(cfg)
    with clock.phase('evaluation'):
        metrics, model = shared.evaluate(cfg, PLAN)
        keep_reconstructions(work_dir)
    with clock.phase('probe'):
        accuracy = probe(cfg, model)
    generation = generate(work_dir, args, clock)
    summary = summarise(metrics, accuracy, generation, clock.seconds)
    content = json.dumps(summary, indent=2) + '\n'
    write_atomically(content.encode(), work_dir / 'summary.json')
    return summary


def main() -> None:
    args = parse_args()
    os.chdir(ROOT)
    with shared.refusals():
        summary = run(args)
    print(json.dumps(summary, indent=2))
    print(
        '[quickstart] wrote summary.json, reconstructions.png, samples.png and '
        f'ways.png into {args.work_dir}'
    )
    missed = shortfalls(summary)
    for sentence in missed:
        print(f'[quickstart] {sentence}')
    if args.check and missed:
        sys.exit(1)


if __name__ == '__main__':
    main()
