"""The quickstart: a small MergeVQ (G+R) tokenizer, then generators on its codes.

Everything runs on two CPU cores without a network: 5,000 real MNIST digits, and an
EfficientNet-Lite0 with real ImageNet weights as teacher, perceptual network and Fréchet
features. Writes ``summary.json`` and PNG grids into the work directory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import mergevq_mm  # noqa: F401  first: makes the installed stack usable

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'quickstart' / 'mergevq_g+r_mnist5k.py'
WEIGHTS = 'data/weights/efficientnet_lite0.safetensors'
TARGETS = 'data/mnist5k/efficientnet_lite0_stride16.safetensors'
MARK = '.quickstart'  # in its work directories


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
        '--seed', type=int, default=0, help='of tokenizer and generators. Default: 0'
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


def clear(work_dir: Path) -> None:
    """Remove what an earlier quickstart left: its parts belong to its tokenizer.

    Args:
        work_dir (Path): Folder of the quickstart.

    Raises:
        ValueError: If the folder holds something that no quickstart has written.
    """
    mark = work_dir / MARK
    if work_dir.is_dir() and any(work_dir.iterdir()) and not mark.is_file():
        raise ValueError(
            f'work-dir="{work_dir}" holds files of something else; give a folder that '
            'is new, empty or of an earlier quickstart.'
        )
    for name in ('classifier', 'codes', 'raster', 'distinct', 'random'):
        shutil.rmtree(work_dir / name, ignore_errors=True)
    for path in (*work_dir.glob('epoch_*.pth'), work_dir / 'last_checkpoint'):
        path.unlink(missing_ok=True)
    work_dir.mkdir(parents=True, exist_ok=True)
    mark.write_text('Files of tools/quickstart.py, which it replaces when run again.\n')


class Clock:
    """Seconds of each phase of the quickstart."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce a phase and time it."""
        print(f'[quickstart] {name} ...', flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)
        print(f'[quickstart] {name}: {self.seconds[name]:.0f} s', flush=True)


def run_tool(*arguments: str) -> None:
    """Run one of the project's own command-line tools."""
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True)


def are_targets_fresh(path: Path) -> bool:
    """Whether the file holds targets of the teacher that the config names."""
    from mmengine.config import Config
    from safetensors import safe_open

    if not path.is_file():
        return False
    with safe_open(str(path), 'pt') as file:
        return file.metadata().get('teacher') == str(Config.fromfile(CONFIG).teacher)


def prepare_data() -> None:
    """Write the digits, the teacher's weights and its targets, each once."""
    if not (ROOT / 'data/mnist5k/val').is_dir():
        run_tool('tools/dataset_converters/mnist5k.py')
    if not (ROOT / WEIGHTS).is_file():
        run_tool('tools/model_converters/efficientnet_lite0_to_timm.py', WEIGHTS)
    if not are_targets_fresh(ROOT / TARGETS):
        run_tool('tools/extract_targets.py', CONFIG, 'data/mnist5k', TARGETS)


def load_config(args: argparse.Namespace) -> Config:
    """The quickstart's config with the command line applied."""
    from train import merge_args
    from train import parse_args as parse_train_args

    from mergevq_mm.utils.config import load_config as read

    flags = [str(CONFIG), '--work-dir', args.work_dir]
    if args.resume:
        flags.append('--resume')
    if args.short:
        flags += ['--cfg-options', 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2']
    train_args = parse_train_args(flags)
    cfg = merge_args(read(train_args.config), train_args)
    cfg.randomness.seed = args.seed
    if args.short:
        # Folders are sorted by class: every tenth digit has all classes.
        cfg.train_dataloader.dataset.indices = list(range(0, 4000, 10))
        for loader in (cfg.val_dataloader, cfg.test_dataloader):
            loader.dataset.indices = list(range(0, 1000, 10))
        cfg.model.discriminator_start = 0
    return cfg


def train(cfg: Config) -> None:
    """Train without the validation at the end: the evaluation takes its place."""
    from mergevq_mm.engine.quiet_runner import QuietRunner

    cfg = cfg.copy()
    cfg.train_cfg.val_begin = cfg.train_cfg.max_epochs + 1
    QuietRunner.from_cfg(cfg).train()


def evaluate(cfg: Config, work_dir: Path) -> tuple[dict[str, float], nn.Module]:
    """Load the last checkpoint as a user would and measure it.

    Returns:
        tuple[dict, nn.Module]: Metrics of the held-out digits, and the model.
    """
    from mmengine.runner import find_latest_checkpoint

    from mergevq_mm.engine.quiet_runner import QuietRunner

    cfg = cfg.copy()
    cfg.resume, cfg.load_from = False, find_latest_checkpoint(str(work_dir))
    # The checkpoint's weights are the averaged ones already.
    cfg.custom_hooks = [h for h in cfg.custom_hooks if 'EMA' not in h['type']]
    cfg.experiment_name = 'quickstart_test'
    runner = QuietRunner.from_cfg(cfg)
    return runner.test(), runner.model


def probe(cfg: Config, model: nn.Module) -> dict[str, float]:
    """Linear probes on the digits: this encoder, a random one, and the pixels.

    Returns:
        dict[str, float]: Accuracy on the held-out digits, in per cent.
    """
    import torch

    from mergevq_mm.evaluation.probe import extract_features, linear_probe
    from mergevq_mm.registry import DATASETS, MODELS

    held_out = cfg.val_dataloader.dataset
    seen = {
        **held_out,
        'split': 'train',
        'indices': cfg.train_dataloader.dataset.get('indices'),
    }
    folders = [DATASETS.build(seen), DATASETS.build(held_out)]
    torch.manual_seed(0)
    random_encoder = MODELS.build(cfg.model.backbone)

    def features(encoder: nn.Module, x: Tensor) -> Tensor:
        """Class token beside the mean of the tokens, merging off."""
        merged = encoder.encode(x)
        return torch.cat([merged.cls, merged.tokens.mean(dim=1)], dim=1)

    encoders = {
        'encoder': partial(features, model.backbone.eval()),
        'encoder_cls': lambda x: model.backbone.encode(x).cls,
        'random_encoder': partial(features, random_encoder.eval()),
        'pixels': lambda x: x[:, :1].flatten(1),
    }
    accuracy = {}
    for name, encoder in encoders.items():
        sets = [extract_features(encoder, d, model.data_preprocessor) for d in folders]
        (train_x, train_y), (test_x, test_y) = sets
        score = linear_probe(train_x, train_y, test_x, test_y, [0.001, 0.01, 0.1, 1.0])
        accuracy[name] = round(100 * score, 2)
    return accuracy


def generate(
    cfg: Config, work_dir: Path, args: argparse.Namespace, clock: Clock
) -> dict:
    """Train generators on the tokenizer's codes, draw digits and judge them.

    Returns:
        dict: The judge's accuracy on real digits, for each cache and each other way to
        draw the numbers of the digits drawn with it, and the speed of the raster.
    """
    import quickstart_generator as stage2
    from mmengine.runner import find_latest_checkpoint

    tokenizer = find_latest_checkpoint(str(work_dir))
    with clock.phase('classifier'):
        judge, accuracy = stage2.train_classifier(work_dir, args.short)
    modes = ['raster'] if args.raster_only else list(stage2.GENERATORS)
    files = (work_dir, tokenizer, judge)
    configs = {
        mode: stage2.load_config(mode, *files, args.short, args.resume)
        for mode in modes
    }
    for gen_cfg in configs.values():
        gen_cfg.randomness.seed = args.seed
    with clock.phase('codes'):
        stage2.extract_codes(tokenizer, work_dir / 'codes', configs.values())
    found, drawn = {}, {}
    for mode, gen_cfg in configs.items():
        with clock.phase(f'generator training ({mode})'):
            checkpoint = stage2.train(gen_cfg)
        with clock.phase(f'generation ({mode})'):
            if mode == 'raster':
                for cache in stage2.CACHES:
                    way = stage2.evaluate(gen_cfg, checkpoint, cache=cache)
                    found[cache], model = way
                number, turns = (20, 1) if args.short else (100, 3)
                found['speed'] = stage2.measure_speed(model, number, turns)
                stage2.picture(model, work_dir / 'samples.png')
            else:
                found[mode], model = stage2.evaluate(gen_cfg, checkpoint)
            drawn[mode] = stage2.draw_classes(model, rows=5)
    stage2.ways_picture(drawn, work_dir / 'ways.png')
    return {'classifier': accuracy, **found}


def summarise(
    cfg: Config,
    metrics: dict[str, float],
    accuracy: dict,
    generation: dict,
    seconds: dict,
) -> dict:
    """Sort the numbers under the names that ``summary.json`` has."""
    keeps = list(cfg.model.test_cfg.keep)

    def of(prefix: str) -> dict[str, dict[str, float]]:
        return {
            f'K{keep}': {
                name.split('/', 2)[2]: round(float(value), 4)
                for name, value in metrics.items()
                if name.startswith(f'{prefix}/K{keep}/')
            }
            for keep in keeps
        }

    return {
        'keep': keeps,
        'reconstruction': of('recon'),
        'codebook': of('codebook'),
        'source_recovery': of('source'),
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
    bars = [
        ('PSNR at K=16 (dB)', summary['reconstruction']['K16']['psnr'], 22.0),
        ('PSNR at K=64 (dB)', summary['reconstruction']['K64']['psnr'], 25.0),
        ("probe above the pixels' and a random encoder's (%)", probe['encoder'], above),
        ("the judge's accuracy on real digits (%)", drawn['classifier'], 97.0),
        ('class consistency of drawn digits (%)', min(consistency), 90.0),
        ('what the caches may still differ of 2 points', 2.0 - spread, 0.0),
        ('class consistency of digits drawn in few passes (%)', right, 90.0),
        ("what is left of 1.25 times the raster's Fréchet distance", beyond, 0.0),
        ('what is left of 20 minutes', 20.0 - summary['seconds']['total'] / 60, 0.0),
    ]
    return [
        f'{name} is {value:.2f}, not at least {bar:.2f}.'
        for name, value, bar in bars
        if value < bar
    ]


def main() -> None:
    args = parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT / 'tools'))
    work_dir = Path(args.work_dir)
    clock = Clock()
    if not args.resume:
        try:
            clear(work_dir)
        except ValueError as error:
            sys.exit(f'error: {error}')
    with clock.phase('data'):
        prepare_data()
    cfg = load_config(args)
    with clock.phase('training'):
        train(cfg)
    with clock.phase('evaluation'):
        metrics, model = evaluate(cfg, work_dir)
    with clock.phase('probe'):
        accuracy = probe(cfg, model)
    generation = generate(cfg, work_dir, args, clock)
    summary = summarise(cfg, metrics, accuracy, generation, clock.seconds)
    (work_dir / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
    for picture in work_dir.rglob('reconstruction_test.png'):
        shutil.copy(picture, work_dir / 'reconstructions.png')
    print(json.dumps(summary, indent=2))
    print(
        '[quickstart] wrote summary.json, reconstructions.png, samples.png and '
        f'ways.png into {work_dir}'
    )
    missed = shortfalls(summary)
    for sentence in missed:
        print(f'[quickstart] {sentence}')
    if args.check and missed:
        sys.exit(1)


if __name__ == '__main__':
    main()
