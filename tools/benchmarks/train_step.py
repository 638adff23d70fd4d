"""Time and memory of one training step, part by part.

Builds the model, the optimizers and the EMA of a config and trains on random images, so
neither data nor weights are needed: teacher and perceptual network are the config's own
with random weights. K is the config's target in each step.

Examples:
    python tools/benchmarks/train_step.py --img-size 128 --batch-size 2
    python tools/benchmarks/train_step.py --config configs/mergevq_g.py --amp
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from common import MIB, add_arguments, interleaved, median_ratio, run_main, start
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.registry import init_default_scope
from offline import prepare, view_sizes
from parts import BACKWARD, FORWARD, UPDATE, PartRecorder, by_part
from reporting import Report
from torch import nn

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)
from mergevq_mm.registry import HOOKS, MODELS
from mergevq_mm.utils.config import enable_amp, load_config
from mergevq_mm.utils.config_options import merge_options

READS = (
    'model',
    'optim_wrapper',
    'custom_hooks',
    'default_scope',
    'train_dataloader.dataset.pipeline',
)
NAMES = {
    'quantizer': 'quantizer',
    'neck': 'recovery',
    'decoder': 'decoder',
    'target_generator': 'teacher',
    'data_preprocessor': 'preprocessing',
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Benchmark of a training step')
    parser.add_argument(
        '--config',
        default=str(Path(__file__).parents[2] / 'configs' / 'mergevq_g+r.py'),
        help='config file of stage 1 (default: configs/mergevq_g+r.py)',
    )
    parser.add_argument(
        '--img-size',
        type=int,
        help="another size than the config's; K keeps its share of L, views their own",
    )
    parser.add_argument('--batch-size', type=int, default=2, help='default: 2')
    parser.add_argument('--keep', type=int, help="K (default: the config's target)")
    parser.add_argument(
        '--view-sizes',
        type=int,
        nargs='*',
        help="sizes of the student's and the teacher's view (default: the pipeline's)",
    )
    parser.add_argument('--amp', action='store_true', help='needs a GPU')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings to override, as key=value',
    )
    add_arguments(parser, repeats=3)
    return parser.parse_args(argv)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what imports and constructors tell out of the table."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def build_optimizers(
    model: nn.Module, cfg: Config
) -> OptimWrapperDict | dict[str, OptimWrapper]:
    """The config's optimizers; AdamW for both sides where it names none."""
    if cfg.get('optim_wrapper'):
        return build_optim_wrapper(model, cfg.optim_wrapper)
    sides = {'generator': nn.ModuleDict(model.generator_parts())}
    if model.discriminator is not None:
        sides['discriminator'] = model.discriminator
    return OptimWrapperDict(
        **{
            name: OptimWrapper(torch.optim.AdamW(side.parameters(), lr=1e-4))
            for name, side in sides.items()
        }
    )


def build_ema(model: nn.Module, optimizers: OptimWrapperDict, cfg: Config) -> list:
    """The config's EMA hooks, ready, each with what it takes for the runner."""
    hooks = []
    for hook in cfg.get('custom_hooks') or []:
        if 'EMAHook' in hook['type']:
            built: Hook = HOOKS.build(hook)
            runner = SimpleNamespace(
                model=model,
                optim_wrapper=optimizers,
                iter=10**9,
                epoch=10**9,
                max_iters=10**9,
                max_epochs=10**9,
            )
            built.before_run(runner)
            built.before_train(runner)
            hooks.append((built, runner))
    return hooks


def make_batch(model: nn.Module, sizes: Sequence[int], batch_size: int) -> dict:
    """Random images as a data loader hands them over: [image, views …] and samples."""
    from mmpretrain.structures import DataSample

    samples = []
    for i in range(batch_size):
        sample = DataSample(metainfo={'img_path': f'{i}.png'})
        samples.append(sample.set_gt_label(i % 2))
    views = [torch.randint(0, 256, (batch_size, 3, n, n)) for n in sizes]
    return {'inputs': [view.to(torch.uint8) for view in views], 'data_samples': samples}


def watch_model(recorder: PartRecorder, model: nn.Module) -> None:
    """Watch the parts of a two-sided model."""
    for name, part in model.named_children():
        if name == 'backbone':
            recorder.watch(name, part, lambda: _view(recorder))
        elif name == 'discriminator':
            recorder.watch(name, part, lambda part=part: _pass(part))
        elif name == 'head':
            recorder.watch(name, part, lambda: 'other losses')
            for term, loss in part.named_children():
                recorder.watch(f'{name}.{term}', loss, lambda t=term: f'{t} loss')
        elif name in NAMES:
            recorder.watch(name, part, lambda name=name: NAMES[name])
    if hasattr(model.quantizer, 'losses'):
        recorder.wrap(model.quantizer, 'losses', 'entropy')
    recorder.wrap(model, 'after_generator_step', 'teacher EMA', UPDATE)


def _view(recorder: PartRecorder) -> str:
    first = recorder.call('backbone') == 0
    return 'encoder' if first else 'encoder, alignment view'


def _pass(discriminator: nn.Module) -> str:
    learns = any(p.requires_grad for p in discriminator.parameters())
    return f'discriminator, {"D" if learns else "G"} pass'


def watch_optimizers(recorder: PartRecorder, optimizers: OptimWrapperDict) -> None:
    """Watch backward passes and updates."""
    for name, wrapper in optimizers.items():
        recorder.wrap(wrapper, 'backward', 'other', BACKWARD)
        for method in ('step', 'zero_grad'):
            recorder.wrap(wrapper, method, f'optimizer, {name}', UPDATE)


def add_rows(report: Report, timed: list[list], traced: list) -> None:
    """A row for each part: median times over the steps, memory of one step.

    Args:
        report (Report): To fill.
        timed (list[list[Segment]]): Segments of the timed steps.
        traced (list[Segment]): Segments of a step whose memory was followed.
    """
    steps = [by_part(segments) for segments in timed]
    memory = by_part(traced)
    whole = median(sum(segment.seconds for segment in step) for step in timed)
    for part in steps[0]:
        times = {
            phase: median(step[part].seconds.get(phase, 0.0) for step in steps)
            for phase in (FORWARD, BACKWARD, UPDATE)
        }
        total = median(sum(step[part].seconds.values()) for step in steps)
        report.add(
            part=part,
            **{phase: 1e3 * seconds or None for phase, seconds in times.items()},
            total=1e3 * total,
            share=total / whole,
            held=memory[part].held / MIB,
            peak=memory[part].peak / MIB,
        )
    report.add(
        part='step',
        **{
            phase: sum(row[phase] or 0.0 for row in report.rows)
            for phase in (FORWARD, BACKWARD, UPDATE)
        },
        total=1e3 * whole,
        share=1.0,
        held=None,
        peak=max(total.peak for total in memory.values()) / MIB,
    )


def weights(model: nn.Module, optimizers: OptimWrapperDict) -> dict[str, float]:
    """MiB of weights and of the optimizers' states."""
    learned = sum(p.numel() * p.element_size() for p in model.parameters())
    states = sum(
        value.numel() * value.element_size()
        for _, wrapper in optimizers.items()
        for state in wrapper.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    return {'weights_mib': learned / MIB, 'optimizer_mib': states / MIB}


def measure(
    step: Callable[[], Any],
    recorder: PartRecorder,
    watch: Callable[[], None],
    args: argparse.Namespace,
) -> tuple[list[list], list, float]:
    """Segments of each timed step, those of the traced one, overhead of recording."""
    with quiet():  # frozen networks are built at their first use
        step()  # makes optimizer states; before the hooks, which a copy would inherit
    watch()
    timed: list[list] = []

    def recorded() -> None:
        with recorder.step() as segments:
            step()
        timed.append(segments)

    work = {'bare': step, 'recorded': recorded}
    seconds = interleaved(work, args.repeats, recorder.device, warmup=0)
    with recorder.step(memory=True) as traced:
        step()
    return timed, traced, median_ratio(seconds['recorded'], seconds['bare'])


def build(
    args: argparse.Namespace, folder: str, change: Callable[[Config], None] | None
) -> tuple[nn.Module, list[int], Config]:
    """Model, sizes of image and views, and config of ``args.config``.

    Args:
        args (Namespace): Parsed flags.
        folder (str): For stand-ins of weights, as long as the model is used.
        change (Callable, optional): Changes the config before the model is built.
    """
    with quiet():
        cfg = load_config(args.config)
        merge_options(cfg, args.cfg_options, READS)
        init_default_scope(cfg.get('default_scope', 'mmpretrain'))
        sizes = args.view_sizes
        sizes = view_sizes(cfg, args.img_size) if sizes is None else sizes
        prepare(cfg, args.img_size, args.keep, args.batch_size, Path(folder))
        if change is not None:
            change(cfg)
        model = MODELS.build(cfg.model).to(args.device).train()
    return model, [model.backbone.img_size[0], *sizes], cfg


def build_step(
    model: nn.Module,
    sizes: Sequence[int],
    cfg: Config,
    batch_size: int,
    recorder: PartRecorder,
) -> tuple[Callable[[], None], OptimWrapperDict | dict[str, OptimWrapper]]:
    """A training step with averages, and the optimizers in it."""
    with quiet():
        optimizers = build_optimizers(model, cfg)
    averages = build_ema(model, optimizers, cfg)
    data = make_batch(model, sizes, batch_size)

    def step() -> None:
        log = model.train_step(data, optimizers)
        if log.get('nonfinite'):
            raise ValueError(
                'the loss of a step is not finite, so it was skipped; use another '
                '--seed or a lower learning rate.'
            )
        recorder.enter('EMA', UPDATE)
        for hook, runner in averages:
            hook.after_train_iter(runner, 0)
        recorder.leave()

    return step, optimizers


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    start(args)
    with tempfile.TemporaryDirectory() as folder:
        return run(*build(args, folder, enable_amp if args.amp else None), args)


def run(
    model: nn.Module, sizes: Sequence[int], cfg: Config, args: argparse.Namespace
) -> int:
    """Measure and report."""
    device = next(model.parameters()).device
    recorder = PartRecorder(device)
    step, optimizers = build_step(model, sizes, cfg, args.batch_size, recorder)

    def watch() -> None:
        watch_model(recorder, model)
        watch_optimizers(recorder, optimizers)

    timed, traced, overhead = measure(step, recorder, watch, args)
    keep, length = model.keep_sampler.target, model.backbone.grid
    length = length[0] * length[1]
    report = Report(
        f'Training step of {Path(args.config).name}, {args.batch_size} images of '
        f'{sizes[0]} px, views {list(sizes[1:])}, K={keep} of L={length}',
        {
            'part': 'part',
            FORWARD: 'forward (ms)|.1f',
            BACKWARD: 'backward (ms)|.1f',
            UPDATE: 'update (ms)|.1f',
            'total': 'all (ms)|.1f',
            'share': 'share|.1%',
            'held': 'leaves (MiB)|.1f',
            'peak': 'peak (MiB)|.1f',
        },
        args,
        device,
    )
    add_rows(report, timed, traced)
    fixed = weights(model, optimizers)
    report.note(
        'leaves: what a forward pass keeps for the backward pass; peak: most memory at '
        'once while the part runs, beyond the weights '
        f'({fixed["weights_mib"]:.0f} MiB) and optimizer states '
        f'({fixed["optimizer_mib"]:.0f} MiB). other: what no part does. Recording made '
        f'the step {overhead - 1:+.1%} longer.'
    )
    idle = [key for key, called in recorder.reached.items() if not called]
    if idle:
        report.note(f'not called in a step: {", ".join(idle)}.')
    report.show(recording_overhead=overhead - 1, idle=idle, **fixed)
    return 0


if __name__ == '__main__':
    run_main(main)
