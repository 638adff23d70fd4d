"""Ways to draw the same images: images a second and bytes of the cache, in one run.

Every row of a model has the same weights and the settings of the model's `sample_cfg`.
`loop` is what one writes without this package: a static cache over all L places that
each step reads whole, in a python loop without tensors of the host; with --compile also
with a compiled step, on a GPU by torch.compile(mode='reduce-overhead').

`KiB` is the most that keys and values of an image held at once, `tokens` how many a
pass gives, `codes` how many distinct ones an image has. `same` is the share of the
codes that are those of the full cache: all of them, but for rounding. `MiB` is what a
pass of the whole batch has to read: the weights once (those of the head's transformer
once for each part of a code) and the occupied part of the cache, for `loop` all of it.
`bound` is how many images a second that allows at the bandwidth of the memory, which is
measured by copying 512 MiB with the same number of threads; `reached` is the measured
share of it. Small models stay in the processor's caches, which are faster.

Examples:
    python tools/benchmarks/generation.py CONFIG CHECKPOINT --others OTHER:CHECKPOINT
    python tools/benchmarks/generation.py configs/mergear_l_g+r.py --random --batch 1 64
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import MIB, add_arguments, interleaved, median_ratio, run_main, start
from plain_loop import PlainLoop
from reporting import Report
from torch import Tensor, nn

import mergevq_mm  # noqa: F401  (before torchvision and mmagic)
from mergevq_mm.models.generators import MergeAR, RandAR, SampledCodes, decoding_step
from mergevq_mm.models.generators.code_generator import CodeGenerator
from mergevq_mm.models.generators.precision import set_precision
from mergevq_mm.models.generators.random_order import parallel_schedule
from mergevq_mm.models.generators.raster_decoding import decode_step
from mergevq_mm.models.generators.visibility import first_of_its_kind, mergear_mask
from mergevq_mm.utils.operator_count import count_operators

OWN = ('cache', 'speculative', 'step')  # what the rows differ in

COLUMNS = {
    'way': 'way',
    'batch': 'batch|d',
    'rate': 'img/s|.2f',
    'ratio': 'x loop|.2f',
    'cache': 'KiB|.0f',
    'passes': 'passes|.0f',
    'accepted': 'tokens|.2f',
    'distinct': 'codes|.1f',
    'same': 'same|.0%',
    'read': 'MiB|.2f',
    'bound': 'bound|.1f',
    'reached': 'reached|.0%',
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Benchmark of generation')
    parser.add_argument('config', help='config of a MergeAR over the whole raster')
    parser.add_argument('checkpoint', nargs='?', help='its weights')
    parser.add_argument(
        '--random',
        action='store_true',
        help='random weights; samples are then restricted to K distinct codes',
    )
    parser.add_argument(
        '--others',
        nargs='+',
        default=[],
        metavar='CONFIG[:CHECKPOINT]',
        help='generators of the K tokens: RandAR, MergeAR of distinct tokens',
    )
    parser.add_argument(
        '--batch', type=int, nargs='+', default=[1, 64], help='default: 1 64'
    )
    parser.add_argument('--keep', type=int, help="K (default: the config's)")
    parser.add_argument('--drafts', type=int, default=4, help='default: 4')
    parser.add_argument('--guidance', type=float, help="default: the config's")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    precision.add_argument(
        '--dtype',
        choices=['fp32', 'bf16'],
        default='fp32',
        help='of weights and cache. Defaults to fp32',
    )
    parser.add_argument(
        '--compile', action='store_true', help='also compiled steps, and CUDA graphs'
    )
    add_arguments(parser, repeats=3)
    return parser.parse_args(argv)


# --------------------------------------------------------------------- bytes to be read


def weight_bytes(model: CodeGenerator, element: int) -> int:
    """Bytes of the weights that a pass reads: all but the embeddings' tables."""

    def size(part: nn.Module) -> int:
        return sum(p.numel() for p in part.parameters())

    head = model.head
    parts = len(head.split)
    number = size(model.transformer) + size(head.heads)
    number += parts * (size(head.transformer) + size(head.norm))
    return number * element


def slots_read(model: CodeGenerator, drawn: SampledCodes, reads: str) -> Tensor:
    """Slots that all passes of a sequence have to read together, for each sample.

    Args:
        model (CodeGenerator): The generator.
        drawn (SampledCodes): What it has drawn.
        reads (str): What: of a 'static' cache all slots at each pass; of a 'full' or a
            'compressed' one those that are occupied; 'pairs' of RandAR.

    Returns:
        Tensor: B.
    """
    prefix, length = model.prefix, drawn.index.shape[1]
    passes = drawn.stats['passes'].float()
    if reads == 'static':
        return passes * (prefix + length)
    if reads == 'pairs':
        done = total = 0
        for number in parallel_schedule(length, int(passes[0])):
            total += prefix + 2 * done + number
            done += number
        return torch.full_like(passes, total)
    window = model.window if reads == 'compressed' else None
    if window is None:
        mean = prefix + (length - 1) / 2
        return passes * mean
    first = first_of_its_kind(drawn.index[:, :-1])
    occupied = mergear_mask(first, prefix, window)[:, 0, prefix - 1 :].sum(dim=-1)
    return passes * occupied.float().mean(dim=1)


def bandwidth(device: torch.device, size: int = 512 * MIB) -> float:
    """Bytes a second that copying so many bytes moves (read and written)."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    source.fill_(1)
    target = torch.empty_like(source)
    seconds = interleaved({'copy': lambda: target.copy_(source)}, 8, device, warmup=2)
    return 2 * source.numel() / min(seconds['copy'])


# ------------------------------------------------------------------------- measurement


@dataclass
class Way:
    """One way to draw, and what its last run drew.

    Attributes:
        model (CodeGenerator): The generator.
        reads (str): See :func:`slots_read`.
        draw (Callable): Draws once.
        last (SampledCodes, optional): What ``draw`` returned last.
    """

    model: CodeGenerator
    reads: str
    draw: Callable[[], SampledCodes]
    last: SampledCodes | None = None

    def __call__(self) -> None:
        """Draw once."""
        self.last = self.draw()

    def bytes_read(self, element: int, guided: bool) -> int:
        """What the passes of the whole batch have to read, numbers of so many bytes."""
        inner, passes = self.model.transformer, self.last.stats['passes']
        slot = 2 * len(inner.blocks) * inner.num_heads * inner.head_dim * element
        slots = float(slots_read(self.model, self.last, self.reads).sum())
        weights = weight_bytes(self.model, element) * float(passes.max())
        return round(weights + slots * slot * (1 + guided))


def load(config: str, checkpoint: str | None, device: torch.device) -> CodeGenerator:
    """A generator of a config, with the weights of a file or random ones."""
    from mmengine.logging import MMLogger

    from mergevq_mm.registry import MODELS
    from mergevq_mm.utils.checkpoint import load_pretrained
    from mergevq_mm.utils.config import load_config

    # A new model otherwise tells of each of its tensors how it began.
    MMLogger.get_current_instance().setLevel('WARNING')
    cfg = load_config(config).model
    cfg.tokenizer.update(checkpoint=None, random_init=True)  # draws no images
    model = MODELS.build(cfg)
    if checkpoint is None:
        model.init_weights()
        for head in model.head.heads:  # zeros would draw every code alike
            nn.init.normal_(head.weight, std=0.02)
    else:
        load_pretrained(model, checkpoint, min_matched=1.0)
    return model.to(device).eval()


def settings(
    model: CodeGenerator, args: argparse.Namespace
) -> tuple[int, dict[str, Any]]:
    """K and the options of sampling: the model's own, then those of the flags."""
    options = {k: v for k, v in model.sample_cfg.items() if k not in OWN}
    options.pop('seed', None)
    keep = options.pop('keep', model.keep_sampler.target)
    keep = args.keep or keep
    if args.guidance is not None:
        options['guidance'] = args.guidance
    if args.random and getattr(model, 'sequence', None) == 'raster':
        options['restrict'] = True
    return model.check_keep(keep), options


def ways_of(
    models: dict[str, CodeGenerator], labels: Tensor, args: argparse.Namespace
) -> dict[str, Way]:
    """All ways to draw images of these classes."""
    main, seeds = models['raster'], list(range(len(labels)))
    kind = labels.device.type

    def amp() -> torch.autocast:
        return torch.autocast(kind, torch.bfloat16, enabled=args.amp)

    def sample(model: CodeGenerator, reads: str, **more: Any) -> Way:
        keep, options = settings(model, args)
        options.update(more)

        def draw() -> SampledCodes:
            with amp():
                return model.sample_codes(labels, keep, seeds, **options)

        return Way(model, reads, draw)

    keep, options = settings(main, args)
    options.pop('restrict', None)
    rule = main.sampling_rule(**options)

    def loop(plain: PlainLoop) -> SampledCodes:
        with amp():
            return plain(labels, keep, rule)

    ways = {'loop': Way(main, 'static', partial(loop, PlainLoop(main)))}
    if args.compile:
        on_gpu = {'mode': 'reduce-overhead', 'dynamic': False}
        how = on_gpu if kind == 'cuda' else {}
        plain = PlainLoop(main, dict(backend=decoding_step.BACKEND, **how))
        ways['loop, compile'] = Way(main, 'static', partial(loop, plain))
    for cache in ('full', 'compressed'):
        ways[cache] = sample(main, cache, cache=cache)
    if args.compile:
        steps = ('compile', 'graph', 'compile-graph')
        for step in steps if kind == 'cuda' else steps[:1]:
            for cache in ('full', 'compressed'):
                name = f'{cache}, {step}'
                ways[name] = sample(main, cache, cache=cache, step=step)
    for cache in ('full', 'compressed'):
        name = f'{cache}, {args.drafts} drafts'
        ways[name] = sample(main, cache, cache=cache, speculative=args.drafts)
        if args.compile and kind == 'cuda':
            more = dict(cache=cache, speculative=args.drafts, step='graph')
            ways[f'{name}, graph'] = sample(main, cache, **more)
    for name, model in models.items():
        if model is not main:
            ways[name] = sample(model, 'pairs' if isinstance(model, RandAR) else 'full')
            if isinstance(model, RandAR) and args.compile and kind == 'cuda':
                ways[f'{name}, graph'] = sample(model, 'pairs', step='graph')
    return ways


def measure(
    ways: dict[str, Way],
    number: int,
    speed: float,
    args: argparse.Namespace,
    report: Report,
) -> None:
    """Time all ways in turn and add their rows."""
    seconds = interleaved(dict(ways), args.repeats, torch.device(args.device))
    base = int(ways['loop'].last.stats['cache_peak_bytes'].sum())
    for name, way in ways.items():
        index, stats = way.last.index, way.last.stats
        size = int(stats['cache_peak_bytes'].sum())
        passes = float(stats['passes'].max())
        rule = way.model.sampling_rule(guidance=_guidance(way.model, args))
        half = args.amp or args.dtype == 'bf16'
        read = way.bytes_read(2 if half else 4, rule.guided)
        took = median(seconds[name])
        comparable = way.model is ways['full'].model and way.reads != 'static'
        same = (index == ways['full'].last.index).float().mean() if comparable else None
        report.add(
            way=name,
            batch=number,
            rate=number / took,
            ratio=median_ratio(seconds['loop'], seconds[name]),
            cache=size / number / 1024,
            cache_share=size / base,
            passes=passes,
            accepted=index.shape[1] / float(stats['passes'].float().mean()),
            distinct=float(stats['distinct'].float().mean()),
            most_distinct=int(stats['distinct'].max()),
            same=None if same is None else float(same),
            read=read / passes / MIB,
            bound=number * speed / read,
            reached=read / speed / took,
            seconds=seconds[name],
        )


@torch.no_grad()
def operators_of_a_step(
    model: MergeAR, cache: str, args: argparse.Namespace
) -> Counter[str]:
    """What the second step of an image runs; see :func:`count_operators`."""
    keep, options = settings(model, args)
    label = torch.zeros(1, dtype=torch.int64, device=args.device)
    with torch.autocast(label.device.type, torch.bfloat16, enabled=args.amp):
        decoding = model.start_decoding(label, keep, [0], cache, **options)
        prefix = model.embed_prefix(model.guided_labels(label, decoding.rule), keep)
        token = torch.zeros_like(label)[:, None]
        code = decoding.draw(decoding.start(prefix), token)
        with decoding.joined:
            for place in range(2):
                read = decoding.cache.reserve(model.prefix + place)
                with count_operators() as counts:
                    code = decode_step(decoding, code, token, read)
    return counts


def _guidance(model: CodeGenerator, args: argparse.Namespace) -> Any:
    """Guidance of a model's rows."""
    return settings(model, args)[1].get('guidance', 1.0)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.checkpoint is None and not args.random:
        raise ValueError('no checkpoint: give one, or --random for random weights.')
    device = start(args)
    files = [('raster', args.config, args.checkpoint)]
    for other in args.others:
        config, _, checkpoint = other.partition(':')
        files.append((Path(config).stem, config, checkpoint or None))
    models = {
        name: set_precision(load(config, file, device), args.dtype)
        for name, config, file in files
    }
    raster = models['raster']
    if not isinstance(raster, MergeAR) or raster.sequence != 'raster':
        raise ValueError(
            f'{args.config} is no MergeAR over the whole raster; give one such as '
            'configs/mergear_l_g+r.py, and this one with --others.'
        )
    speed = bandwidth(device)
    weights = (
        'random weights' if args.checkpoint is None else Path(args.checkpoint).name
    )
    title = f'{Path(args.config).stem}, {weights}' + (', autocast' if args.amp else '')
    title += f', {args.dtype}'
    report = Report(title, COLUMNS, args, device)
    for number in args.batch:
        labels = torch.arange(number, device=device) % raster.num_classes
        measure(ways_of(models, labels, args), number, speed, args, report)
    keep, options = settings(raster, args)
    report.note(
        f'copying moves {speed / 1e9:.1f} GB/s here; K={keep}, w={raster.window}, '
        f'{options}'
    )
    for cache in ('full', 'compressed'):
        counts = operators_of_a_step(raster, cache, args)
        norms = counts['rms_norm']
        report.note(
            f'{cache} cache: {counts.total()} operators a step, {norms} norms among '
            'them, each of which is one on a GPU'
        )
    for name, _, file in files[1:]:
        if file is None:
            report.note(f'{name}: untrained weights, speed only')
    report.show(bandwidth=speed, keep=keep, window=raster.window)
    return 0


if __name__ == '__main__':
    run_main(main)
