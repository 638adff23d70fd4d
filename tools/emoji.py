"""Colour in one command: a MergeVQ (G+R) of emoji, then generators on its codes.

Everything runs on two CPU cores without a network: 4,230 labelled emoji of 64 px, and
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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import one_command as shared
from emoji_pictures import (
    group_page,
    image_tensor,
    interpolation_page,
    neighbours,
    token_page,
)
from one_command import ROOT, Clock, Plan, hours, run_tool

import mergevq_mm  # noqa: F401  first: makes the installed stack usable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from mmengine.config import Config
    from torch import nn

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
    judge=72.2,  # a linear probe of EfficientNet-Lite2 (`probe`)
    pictures=(
        'tokens.png',
        'interpolation.png',
        'reconstructions.png',
        'neighbours.png',
        'drawn_*.png',
    ),
    few={'train': range(0, 3668, 24), 'val': range(0, 562, 6)},
    few_everywhere=True,
    flip=True,
    minutes={
        'data': 1,
        'training': 76,
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
LITES = ('lite0', 'lite2')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--work-dir',
        help=f'Defaults to {WORK_DIR}, with --short to {WORK_DIR}_short; what an '
        'earlier run left there is replaced',
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
        '--seed', type=int, default=0, help='of tokenizer and generators. Default: 0'
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='exit with 1 if a number misses what it is to reach',
    )
    args = parser.parse_args(argv)
    if args.work_dir is None:
        args.work_dir = f'{WORK_DIR}{"_short" if args.short else ""}'
    return args


def data_root() -> Path:
    """Where the emoji lie."""
    return Path(os.environ.get('MERGEVQ_EMOJI', 'data/emoji'))


def prepare_data(root: Path) -> None:
    """Write emoji, the weights of two networks and the teacher's targets, each once.

    Args:
        root (Path): Where to.
    """
    if not (root / 'README.md').is_file():
        run_tool('tools/dataset_converters/emoji.py', '--out-dir', root)
    for name in LITES:
        file = root / f'efficientnet_{name}.safetensors'
        if not file.is_file():
            tool = 'tools/model_converters/efficientnet_lite0_to_timm.py'
            run_tool(tool, file, '--variant', name)
    targets = root / 'teacher.safetensors'
    if not shared.are_targets_fresh(targets, ROOT / PLAN.tokenizer):
        run_tool('tools/extract_targets.py', PLAN.tokenizer, root, targets)


# ------------------------------------------------------------------------ measurements


def frozen_network(name: str, root: Path, size: int) -> nn.Module:
    """An EfficientNet with ImageNet's weights: B×1280 of images brought to a size."""
    from mergevq_mm.models.target_generators import FrozenTeacher

    network = {
        'type': 'mmpretrain.TIMMBackbone',
        'model_name': f'tf_efficientnet_{name}',
        'init_cfg': {
            'type': 'Pretrained',
            'checkpoint': str(root / f'efficientnet_{name}.safetensors'),
        },
    }
    return FrozenTeacher(network, input_size=size).eval()


def subgroup_labels(root: Path, datasets: list[dict]) -> list[np.ndarray]:
    """Sub-group of each image of data sets, by its path."""
    import numpy as np

    from mergevq_mm.datasets.image_lists import labels_by_list
    from mergevq_mm.registry import DATASETS

    found = []
    for config in datasets:
        dataset = DATASETS.build(config)
        paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
        file = root / 'meta' / f'{config["split"]}_subgroups.txt'
        numbers = labels_by_list(paths, dataset.img_prefix, str(file))
        found.append(np.array(numbers))
    return found


def probe(
    cfg: Config, model: nn.Module, root: Path, short: bool
) -> dict[str, dict[str, float]]:
    """Linear probes over groups and sub-groups, of encoders and of pixels.

    Args:
        cfg (Config): Of the tokenizer.
        model (nn.Module): Trained with it.
        root (Path): Of the data.
        short (bool): Whether the probes may stop long before they are good.

    Returns:
        dict[str, dict]: ``groups`` and ``subgroups``: accuracy on the held-out emoji of
        each kind of features, in per cent.
    """
    from torch.nn.functional import avg_pool2d

    encoder, untrained = model.backbone.eval(), shared.random_encoder(cfg)
    encoders = {
        'encoder': partial(shared.token_features, encoder),
        'encoder_cls': lambda x: encoder.encode(x).cls,
        'random_encoder': partial(shared.token_features, untrained),
        'pixels': lambda x: avg_pool2d(x, 4).flatten(1),  # 16×16
        # At the encoder's 64 px, and enlarged to what they rather know.
        **{
            f'efficientnet_{name}{ending}': frozen_network(name, root, size)
            for name in LITES
            for ending, size in (('', 128), ('_64px', 64))
        },
    }
    datasets = shared.seen_and_held_out(cfg)
    features = shared.extract(encoders, datasets, model.data_preprocessor)
    # Wide features need a few hundred iterations, not a thousand.
    limits = {'penalties': (1e-3, 1e-2, 1e-1), 'max_iter': 200}
    if short:
        limits = {'penalties': (1e-2,), 'max_iter': 20}
    return {
        'groups': shared.probe(features, **limits),
        'subgroups': shared.probe(features, subgroup_labels(root, datasets), **limits),
    }


def vendors_distance(cfg: Config) -> float:
    """Fréchet distance of the held-out emoji of one vendor to those of the other.

    What two pictures of the same emoji by two artists are apart, for scale.
    """
    import numpy as np

    from mergevq_mm.evaluation.functional import gaussian_distance, gaussian_moments
    from mergevq_mm.registry import DATASETS, MODELS

    config = cfg.val_dataloader.dataset
    dataset = DATASETS.build(config)
    paths = (dataset.get_data_info(i)['img_path'] for i in range(len(dataset)))
    names = [Path(path).name for path in paths]
    extractor = MODELS.build(cfg.features)
    moments = []
    for vendor in ('google', 'twitter'):
        chosen = [i for i, name in enumerate(names) if name.startswith(vendor)]
        batches = [chosen[i : i + 100] for i in range(0, len(chosen), 100)]
        found = [extractor(image_tensor(config, b)).detach().numpy() for b in batches]
        moments.append(gaussian_moments(np.concatenate(found)))
    return float(gaussian_distance(*moments[0], *moments[1]))


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

    work_dir = Path(args.work_dir)
    cfg = shared.load_config(PLAN, work_dir, args.seed, args.short, args.resume)
    with clock.phase('training'):
        shared.train(cfg)
    with clock.phase('evaluation'):
        metrics, model = shared.evaluate(cfg, PLAN)
        shared.keep_reconstructions(work_dir)
        vendors = vendors_distance(cfg)
        held_out = cfg.val_dataloader.dataset
        save_png(work_dir / 'tokens.png', token_page(model, held_out, names))
        between = interpolation_page(model, held_out, len(names))
        save_png(work_dir / 'interpolation.png', between)
    with clock.phase('probe'):
        accuracy = probe(cfg, model, data_root(), args.short)
    keeps = list(cfg.model.test_cfg.keep)
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


def run(args: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """Train, measure and draw.

    Returns:
        dict: What ``summary.json`` has; the tokenizer's part is written before the
        generators begin.
    """
    work_dir = Path(args.work_dir)
    with clock.phase('data'):
        prepare_data(data_root())
    names = (data_root() / 'meta/groups.txt').read_text().split()
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
    (work_dir / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')


def main() -> None:
    args = parse_args()
    os.chdir(ROOT)
    work_dir = Path(args.work_dir)
    phases = TOKENIZER_PHASES if args.tokenizer_only else tuple(PLAN.minutes)
    minutes = {} if args.short else {phase: PLAN.minutes[phase] for phase in phases}
    clock = Clock(replace(PLAN, minutes=minutes))
    if not args.resume:
        try:
            shared.clear(work_dir, PLAN)
        except ValueError as error:
            sys.exit(f'error: {error}')
    if minutes:
        total = hours(sum(minutes.values()))
        print(f'[emoji] estimated: {total} on two cores; --resume goes on later.')
    summary = run(args, clock)
    print(json.dumps(summary, indent=2))
    drawn = '' if args.tokenizer_only else ', neighbours.png, drawn_*.png'
    print(
        '[emoji] wrote summary.json, tokens.png, interpolation.png, '
        f'reconstructions.png{drawn} into {work_dir}'
    )
    missed = shortfalls(summary)
    for sentence in missed:
        print(f'[emoji] {sentence}')
    if args.check and missed:
        sys.exit(1)


if __name__ == '__main__':
    main()
