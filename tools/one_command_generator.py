"""The second half of a one-command training: generators on the tokenizer's codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from one_command import (
    ROOT,
    Plan,
    for_test,
    read_config,
    run_tool,
    take_few,
    train,
    training_few,
)
from one_command_clock import Clock

import mergevq_mm  # noqa: F401  first: makes the installed stack usable

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config

    from mergevq_mm.models.generators import MergeAR
    from mergevq_mm.models.generators.code_generator import CodeGenerator

CACHES = ('compressed', 'full')
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


def train_classifier(
    plan: Plan, work_dir: Path, short: bool
) -> tuple[Path, dict[str, float]]:
    """Train the judge of the drawn images, or what is left of that.

    Args:
        plan (Plan): Of the run.
        work_dir (Path): Of the run.
        short (bool): Whether few epochs will do.

    Returns:
        tuple[Path, dict[str, float]]: Its checkpoint, and how many of the held-out
        images it knows in per cent, ``classifier``; where its config measures the
        recall, also the mean over the classes, ``classifier_recall``: drawn images are
        as many of each.
    """
    from mmengine.runner import find_latest_checkpoint

    from mergevq_mm.engine.quiet_runner import QuietRunner
    from mergevq_mm.utils.config import load_config

    cfg = load_config(str(ROOT / plan.classifier))
    cfg.work_dir = str(work_dir / 'classifier')
    if short:
        cfg.train_cfg.update(max_epochs=4, val_interval=4)
        cfg.default_hooks.checkpoint.interval = 4
        if plan.few_everywhere:
            take_few(cfg, plan)
    cfg.resume = (Path(cfg.work_dir) / 'last_checkpoint').is_file()
    QuietRunner.from_cfg(cfg).train()
    found = find_latest_checkpoint(cfg.work_dir)
    cfg.resume, cfg.load_from = False, found
    cfg.experiment_name = f'{plan.name}_classifier_test'
    metrics = QuietRunner.from_cfg(cfg).test()
    accuracy = float(metrics['accuracy/top1'])
    if accuracy < plan.judge and not short:
        print(
            f'[{plan.name}] warning: the judge is right on {accuracy:.1f} % of the '
            f'held-out {plan.images}, below {plan.judge} %: class consistency says '
            'less.'
        )
    known = {'classifier': accuracy}
    if 'single-label/recall' in metrics:
        known['classifier_recall'] = round(float(metrics['single-label/recall']), 4)
    return Path(found), known


def extract_codes(
    plan: Plan, checkpoint: str, out: Path, configs: Iterable[Config], short: bool
) -> None:
    """Encode the training images once at each K that the generators learn."""
    found = {keep for cfg in configs for keep in cfg.model.keep.candidates}
    keeps = [str(keep) for keep in sorted(found)]
    flags = ['--keep', *keeps, *(() if plan.flip else ('--no-flip',))]
    if short and plan.few_everywhere:
        few = str(training_few(plan)).replace(' ', '')
        flags += ['--cfg-options', f'train_dataloader.dataset.indices={few}']
    run_tool('tools/extract_codes.py', plan.tokenizer, checkpoint, out, *flags)


def load_config(
    plan: Plan,
    mode: str,
    work_dir: Path,
    tokenizer: str,
    judge: Path,
    short: bool = False,
    resume: bool = False,
) -> Config:
    """The config of a generator with the files of this run.

    Args:
        plan (Plan): Of the run.
        mode (str): One of its ``generators``.
        work_dir (Path): Of the run.
        tokenizer (str): Checkpoint of the tokenizer.
        judge (Path): Checkpoint of the classifier.
        short (bool): Whether two epochs on a few images will do. Defaults to False.
        resume (bool): Whether to go on with a run that was stopped. Defaults to False.

    Returns:
        Config: Ready to train and to test.
    """
    flags = ['--work-dir', str(work_dir / mode), *['--resume'] * resume]
    cfg = read_config(ROOT / plan.generators[mode], *flags)
    cfg.model.tokenizer.checkpoint = tokenizer
    cfg.train_dataloader.dataset.root = str(work_dir / 'codes')
    cfg.test_evaluator.metrics[-1].classifier.init_cfg.checkpoint = str(judge)
    if short:
        cfg.train_cfg.update(max_epochs=2, val_interval=2)
        if not plan.few_everywhere:  # the codes are of few images already
            cfg.train_dataloader.dataset.indices = training_few(plan)
        for metric in cfg.test_evaluator.metrics:
            metric.fake_nums = 100
    return cfg


def evaluate(
    plan: Plan, cfg: Config, checkpoint: str, **sample_cfg: Any
) -> tuple[dict[str, Any], CodeGenerator]:
    """Fréchet distance, class consistency and cache of drawn images.

    Args:
        plan (Plan): Of the run.
        cfg (Config): Of the generator.
        checkpoint (str): Its weights.
        **sample_cfg (Any): How to draw, where it differs from the config.

    Returns:
        tuple[dict, CodeGenerator]: The numbers, and the generator.
    """
    from mergevq_mm.engine.quiet_runner import QuietRunner
    from mergevq_mm.engine.testing import run_test

    words = (f'{plan.name}_test', Path(cfg.work_dir).name, *sample_cfg.values())
    cfg = for_test(cfg, checkpoint, '_'.join(map(str, words)))
    cfg.model.sample_cfg.update(sample_cfg)
    runner = QuietRunner.from_cfg(cfg)
    metrics = run_test(runner)
    found = {name: metrics.get(f'gen/{name}') for name in NUMBERS}
    found = {k: round(float(v), 4) for k, v in found.items() if v is not None}
    return found, runner.model


def generate(
    plan: Plan,
    work_dir: Path,
    clock: Clock,
    seed: int,
    short: bool = False,
    resume: bool = False,
    modes: Iterable[str] | None = None,
    show: Callable[[str, CodeGenerator], None] = lambda mode, model: None,
) -> dict[str, Any]:
    """Train generators on the tokenizer's codes, draw images and judge them.

    Args:
        plan (Plan): Of the run.
        work_dir (Path): Of the run.
        clock (Clock): Of its phases.
        seed (int): Of the generators.
        short (bool): Whether a few steps will do. Defaults to False.
        resume (bool): Whether to go on with a run that was stopped. Defaults to False.
        modes (Iterable[str], optional): Of ``plan.generators``. Defaults to None, all.
        show (Callable): What else to do with a way to draw and its generator. Defaults
            to nothing.

    Returns:
        dict: The judge's accuracy on real images, for each cache and each other way to
        draw the numbers of the images drawn with it, and the speed of the raster.
    """
    from mmengine.runner import find_latest_checkpoint

    tokenizer = find_latest_checkpoint(str(work_dir))
    with clock.phase('classifier'):
        judge, known = train_classifier(plan, work_dir, short)
    files = (work_dir, tokenizer, judge)
    configs = {
        mode: load_config(plan, mode, *files, short, resume)
        for mode in modes or plan.generators
    }
    for cfg in configs.values():
        cfg.randomness.seed = seed
    with clock.phase('codes'):
        extract_codes(plan, tokenizer, work_dir / 'codes', configs.values(), short)
    found: dict[str, Any] = {**known}
    for mode, cfg in configs.items():
        with clock.phase(f'generator training ({mode})'):
            checkpoint = train(cfg)
        with clock.phase(f'generation ({mode})'):
            if mode == 'raster':
                for cache in CACHES:
                    way = evaluate(plan, cfg, checkpoint, cache=cache)
                    found[cache], model = way
                number, turns = (20, 1) if short else (100, 3)
                found['speed'] = measure_speed(model, number, turns)
            else:
                found[mode], model = evaluate(plan, cfg, checkpoint)
            show(mode, model)
    return found


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
    labels = torch.arange(number, device=model.device) % model.num_classes
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


def draw(model: CodeGenerator, rows: int, seed: int = 1) -> list[np.ndarray]:
    """Images of all classes in turn, so many of each.

    Args:
        model (CodeGenerator): The generator.
        rows (int): Images a class.
        seed (int): Defaults to 1.

    Returns:
        list[np.ndarray]: H×W×3 uint8 each: the first image of each class, the second …
    """
    import torch

    from mergevq_mm.visualization.grids import to_uint8

    labels = torch.arange(model.num_classes).repeat(rows)
    images, _ = model.generate(labels, seed=seed)
    return [to_uint8(image * 0.5 + 0.5) for image in images]


def draw_classes(model: CodeGenerator, rows: int) -> np.ndarray:
    """A page of images of all classes, a column a class, H×W×3 uint8."""
    from mergevq_mm.visualization.grids import sample_grid

    return sample_grid(draw(model, rows), columns=model.num_classes)


def ways_picture(drawn: dict[str, np.ndarray], path: Path) -> None:
    """Images of each way to draw, side by side.

    Args:
        drawn (dict[str, np.ndarray]): Pages of :func:`draw_classes` by their mode.
        path (Path): Where to.
    """
    from mergevq_mm.visualization.grids import save_png, tile

    save_png(path, tile([list(drawn.values())], list(drawn)))
