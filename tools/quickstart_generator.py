"""The quickstart's second half: small generators on the codes of the tokenizer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import mergevq_mm  # noqa: F401  first: makes the installed stack usable

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config

    from mergevq_mm.models.generators import MergeAR
    from mergevq_mm.models.generators.code_generator import CodeGenerator

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = 'configs/quickstart/mergevq_g+r_mnist5k.py'
# Ways to draw an image: the whole raster; its K codes, with the places where their
# groups begin, in order; or in random order, several at a time.
GENERATORS = {
    'raster': 'configs/quickstart/mergear_mnist5k.py',
    'distinct': 'configs/quickstart/mergear_mnist5k_distinct.py',
    'random': 'configs/quickstart/randar_mnist5k.py',
}
CLASSIFIER = 'configs/quickstart/lenet5_mnist5k.py'
CACHES = ('compressed', 'full')
JUDGE = 97.0  # per cent of the held-out digits that it must know
NUMBERS = (
    'frechet',
    'frechet_reference',
    'consistency',
    'consistency_worst',
    'distinct',
    'occupied',
    'cache_slots',
    'passes',
)


def train_classifier(work_dir: Path, short: bool) -> tuple[Path, float]:
    """Train the judge of the generated digits, unless that is done.

    Args:
        work_dir (Path): Of the quickstart.
        short (bool): Whether one epoch will do.

    Returns:
        tuple[Path, float]: Its checkpoint and its accuracy on the held-out digits, %.
    """
    from mmengine.runner import find_latest_checkpoint

    from mergevq_mm.engine.quiet_runner import QuietRunner
    from mergevq_mm.utils.config import load_config

    cfg = load_config(str(ROOT / CLASSIFIER))
    cfg.work_dir = str(work_dir / 'classifier')
    if short:
        cfg.train_cfg.update(max_epochs=4, val_interval=4)
        cfg.default_hooks.checkpoint.interval = 4
    found = (
        find_latest_checkpoint(cfg.work_dir) if Path(cfg.work_dir).is_dir() else None
    )
    if found is None:
        QuietRunner.from_cfg(cfg).train()
        found = find_latest_checkpoint(cfg.work_dir)
    cfg.load_from = found
    cfg.experiment_name = 'quickstart_classifier_test'
    accuracy = float(QuietRunner.from_cfg(cfg).test()['accuracy/top1'])
    if accuracy < JUDGE and not short:
        print(
            f'[quickstart] warning: the judge is right on {accuracy:.1f} % of the '
            f'held-out digits, below {JUDGE} %: class consistency says less.'
        )
    return Path(found), accuracy


def extract_codes(checkpoint: str, out: Path, configs: Iterable[Config]) -> None:
    """Encode the training digits once at each K that the generators learn."""
    found = {keep for cfg in configs for keep in cfg.model.keep.candidates}
    keeps = [str(keep) for keep in sorted(found)]
    flags = ['--keep', *keeps, '--no-flip']
    command = ['tools/extract_codes.py', TOKENIZER, checkpoint, str(out), *flags]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


def load_config(
    mode: str,
    work_dir: Path,
    tokenizer: str,
    judge: Path,
    short: bool = False,
    resume: bool = False,
) -> Config:
    """The config of a generator with the files of this quickstart.

    Args:
        mode (str): One of ``GENERATORS``.
        work_dir (Path): Of the quickstart.
        tokenizer (str): Checkpoint of the tokenizer.
        judge (Path): Checkpoint of the classifier.
        short (bool): Whether two epochs on a few digits will do. Defaults to False.
        resume (bool): Whether to go on with a run that was stopped. Defaults to False.

    Returns:
        Config: Ready to train and to test.
    """
    from train import merge_args, parse_args

    from mergevq_mm.utils.config import load_config as read

    flags = [str(ROOT / GENERATORS[mode]), '--work-dir', str(work_dir / mode)]
    args = parse_args(flags + ['--resume'] * resume)
    cfg = merge_args(read(args.config), args)
    cfg.model.tokenizer.checkpoint = tokenizer
    cfg.train_dataloader.dataset.root = str(work_dir / 'codes')
    cfg.test_evaluator.metrics[-1].classifier.init_cfg.checkpoint = str(judge)
    if short:
        cfg.train_cfg.update(max_epochs=2, val_interval=2)
        cfg.train_dataloader.dataset.indices = list(range(0, 4000, 10))
        for metric in cfg.test_evaluator.metrics:
            metric.fake_nums = 100
    return cfg


def train(cfg: Config) -> str:
    """Train the generator, or go on with it; returns its checkpoint.

    There is no validation at the end: the evaluation takes its place.
    """
    from mmengine.runner import find_latest_checkpoint

    from mergevq_mm.engine.quiet_runner import QuietRunner

    cfg = cfg.copy()
    cfg.train_cfg.val_begin = cfg.train_cfg.max_epochs + 1
    QuietRunner.from_cfg(cfg).train()
    return find_latest_checkpoint(cfg.work_dir)


def evaluate(
    cfg: Config, checkpoint: str, **sample_cfg: Any
) -> tuple[dict[str, Any], CodeGenerator]:
    """Fréchet distance, class consistency and cache of drawn images.

    Args:
        cfg (Config): Of the generator.
        checkpoint (str): Its weights.
        **sample_cfg (Any): How to draw, where it differs from the config.

    Returns:
        tuple[dict, CodeGenerator]: The numbers, and the generator.
    """
    from mergevq_mm.engine.quiet_runner import QuietRunner
    from mergevq_mm.engine.testing import run_test

    cfg = cfg.copy()
    cfg.resume, cfg.load_from = False, checkpoint
    cfg.model.sample_cfg.update(sample_cfg)
    # The checkpoint's weights are the averaged ones already.
    cfg.custom_hooks = [h for h in cfg.custom_hooks if 'EMA' not in h['type']]
    cfg.experiment_name = '_'.join(
        ('quickstart_test', Path(cfg.work_dir).name, *map(str, sample_cfg.values()))
    )
    runner = QuietRunner.from_cfg(cfg)
    metrics = run_test(runner)
    found = {name: metrics.get(f'gen/{name}') for name in NUMBERS}
    found = {k: round(float(v), 4) for k, v in found.items() if v is not None}
    return found, runner.model


def measure_speed(model: MergeAR, number: int, turns: int) -> dict[str, Any]:
    """Tokens a second and bytes of a cache, the ways to draw taking turns.

    Codes alone are drawn; the decoder's time is not in it.

    Args:
        model (MergeAR): The generator.
        number (int): Images of a batch.
        turns (int): Batches of each way; the median counts.

    Returns:
        dict: For each way ``tokens_per_second``, ``cache_kib`` of an image and
        ``tokens_per_pass``.
    """
    import torch

    from mergevq_mm.models.generators.generation_request import seeds_of

    model.eval()
    labels = torch.arange(number) % model.num_classes
    common = {k: v for k, v in model.sample_cfg.items() if k not in ('keep', 'seed')}
    keep = model.sample_cfg.get('keep', model.keep_sampler.target)
    ways = {cache: {**common, 'cache': cache} for cache in CACHES}
    ways['speculative'] = {**common, 'cache': 'compressed', 'speculative': 4}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    drawn = {}
    for turn in range(turns + 1):
        for way, options in ways.items():
            seeds = seeds_of(turn, range(number))
            begin = time.perf_counter()
            drawn[way] = model.sample_codes(labels, keep, seeds, **options)
            seconds[way].append(time.perf_counter() - begin)
    tokens = number * model.tokenizer.length
    return {
        way: {
            'tokens_per_second': round(tokens / median(seconds[way][1:]), 1),
            'cache_kib': round(float(codes.stats['cache_bytes'][0]) / 1024, 1),
            'tokens_per_pass': round(
                model.tokenizer.length / float(codes.stats['passes'].float().mean()), 3
            ),
        }
        for way, codes in drawn.items()
    }


def draw_classes(model: CodeGenerator, rows: int) -> np.ndarray:
    """Digits of all ten classes, a column a class, H×W×3 uint8."""
    import torch

    from mergevq_mm.visualization.grids import sample_grid, to_uint8

    labels = torch.arange(10).repeat(rows)
    images, _ = model.generate(labels, seed=1)
    return sample_grid([to_uint8(i * 0.5 + 0.5) for i in images], columns=10)


def picture(model: CodeGenerator, path: Path, rows: int = 8) -> None:
    """A page of digits of all ten classes."""
    from mergevq_mm.visualization.grids import save_png

    save_png(path, draw_classes(model, rows))


def ways_picture(drawn: dict[str, np.ndarray], path: Path) -> None:
    """Digits of each way to draw, side by side.

    Args:
        drawn (dict[str, np.ndarray]): Pages of :func:`draw_classes` by their mode.
        path (Path): Where to.
    """
    from mergevq_mm.visualization.grids import save_png, tile

    save_png(path, tile([list(drawn.values())], list(drawn)))
