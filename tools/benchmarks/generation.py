"""Ways to draw the same images: images a second and bytes of the cache, in one run.

Every row has the same weights. `loop` is what one writes without this package: a static
cache over all L places that each step reads whole, in a python loop, as LlamaGen does.
The bound is the time in which the memory can deliver the weights and the occupied part
of the cache once a pass; `reached` is that time over the measured one. The bandwidth is
measured by copying, with the same number of threads.

Examples:
    python tools/benchmarks/generation.py CONFIG CHECKPOINT --others OTHER:CHECKPOINT
    python tools/benchmarks/generation.py configs/mergear_l_g+r.py --random --batch 1 64
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import (
    MIB,
    Report,
    add_arguments,
    interleaved,
    median_ratio,
    run_main,
    start,
)
from torch import Tensor, nn
from torch.nn import functional as F

import mergevq_mm  # noqa: F401  (before torchvision and mmagic)
from mergevq_mm.models.generators import SampledCodes, TokenGenerator
from mergevq_mm.models.generators.rotary import rotate
from mergevq_mm.models.quantizers.lfq_functional import join_index


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
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument('--compile', action='store_true', help='also compiled steps')
    add_arguments(parser, repeats=3)
    return parser.parse_args(argv)


# ------------------------------------------------------------- the straightforward loop


class PlainLoop:
    """A generator's weights in a loop such as one finds in other projects.

    One slot a place, all of them read at each step under a mask; causal attention to
    everything past; plain multinomial sampling.

    Args:
        model (MergeAR): Whose weights to use.
    """

    def __init__(self, model: TokenGenerator) -> None:
        self.model = model

    def attend(
        self, block: nn.Module, x: Tensor, factors: Tensor, cache: Tensor, place: Tensor
    ) -> Tensor:
        """One block on new tokens at ``place``; the cache is 2×B×H×T×c."""
        qkv = block.attn.qkv(block.norm1(x)).unflatten(
            -1, (3, block.attn.num_heads, -1)
        )
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        cache[0, :, :, place] = rotate(key, factors).to(cache.dtype)
        cache[1, :, :, place] = value.to(cache.dtype)
        mask = torch.arange(cache.shape[3], device=x.device) <= place[:, None]
        seen = F.scaled_dot_product_attention(
            rotate(query, factors), cache[0], cache[1], attn_mask=mask
        )
        x = x + block.attn.proj(seen.transpose(1, 2).flatten(2))
        return x + block.ffn(block.norm2(x))

    def new_cache(self, rows: int, places: int, layers: int, x: Tensor) -> Tensor:
        """layers×2×B×H×T×c of zeros."""
        inner = self.model.transformer
        shape = (layers, 2, rows, inner.num_heads, places, inner.head_dim)
        return torch.zeros(shape, dtype=x.dtype, device=x.device)

    def code(self, context: Tensor, scale: float, guided: bool) -> Tensor:
        """Draw a code from contexts, B×1."""
        head = self.model.head
        cache = self.new_cache(len(context), 2, len(head.transformer.blocks), context)
        x, values = context, []
        for i, linear in enumerate(head.heads):
            place = torch.tensor([i], device=x.device)
            for block, room in zip(head.transformer.blocks, cache, strict=True):
                x = self.attend(block, x, head.factors[i : i + 1], room, place)
            logits = linear(head.norm(x))[:, 0].float()
            if guided:
                given, free = logits.chunk(2)
                logits = free + scale * (given - free)
            values.append(torch.multinomial(logits.softmax(dim=-1), 1))
            if i + 1 < len(head.heads):
                x = self.model.embedding.parts[i](values[i])
                x = torch.cat([x, x]) if guided else x
        return join_index(values, head.split)

    @torch.no_grad()
    def __call__(self, labels: Tensor, keep: int, scale: float) -> tuple[Tensor, int]:
        """Codes B×L and the bytes of the cache."""
        model, guided = self.model, scale != 1
        if guided:
            labels = torch.cat([labels, torch.full_like(labels, model.num_classes)])
        x = model.embed_prefix(labels, keep)
        factors = model.factors(keep)
        length = len(factors) - model.prefix
        cache = self.new_cache(len(x), len(factors), len(model.transformer.blocks), x)
        place, codes = torch.arange(model.prefix, device=x.device), []
        for position in range(length):
            turn = factors[place]
            for block, room in zip(model.transformer.blocks, cache, strict=True):
                x = self.attend(block, x, turn, room, place)
            codes.append(self.code(x[:, -1:], scale, guided))
            x = model.embedding(codes[-1])
            x = torch.cat([x, x]) if guided else x
            place = torch.tensor([model.prefix + position], device=x.device)
        return torch.cat(codes, dim=1), cache.numel() * cache.element_size()


# ------------------------------------------------------------------------- measurement


@dataclass
class Way:
    """One way to draw, and what its last run reported.

    Attributes:
        model (TokenGenerator): The generator.
        draw (Callable): Draws once; returns codes and bytes of the cache.
        weights (int): Bytes that each pass reads.
        last (tuple): What ``draw`` returned last.
    """

    model: TokenGenerator
    draw: Callable[[], tuple[Any, int]]
    weights: int
    last: tuple = field(default=(None, 0))

    def __call__(self) -> None:
        """Draw once."""
        self.last = self.draw()


def weight_bytes(model: nn.Module, amp: bool) -> int:
    """Bytes of the weights that a pass reads: all but the embeddings' tables."""
    parts = [model.transformer, model.head]
    number = sum(p.numel() for part in parts for p in part.parameters())
    return number * (2 if amp else 4)


def bandwidth(device: torch.device) -> float:
    """Bytes a second that copying moves (read and written)."""
    source = torch.empty(64 * MIB, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = interleaved({'copy': lambda: target.copy_(source)}, 20, device, warmup=3)
    return 2 * source.numel() / min(seconds['copy'])


def load(config: str, checkpoint: str | None, device: torch.device) -> TokenGenerator:
    """A generator of a config, with the weights of a file or random ones."""
    from mergevq_mm.registry import MODELS
    from mergevq_mm.utils.checkpoint import load_pretrained
    from mergevq_mm.utils.config import load_config

    cfg = load_config(config).model
    if checkpoint is None:
        cfg.tokenizer.update(checkpoint=None, random_init=True)
    model = MODELS.build(cfg)
    if checkpoint is None:
        model.init_weights()
        for head in model.head.heads:  # zeros would draw every code alike
            nn.init.normal_(head.weight, std=0.02)
    else:
        load_pretrained(model, checkpoint, min_matched=1.0)
    return model.to(device).eval()


def ways_of(
    models: dict[str, TokenGenerator], labels: Tensor, args: argparse.Namespace
) -> dict[str, Way]:
    """All ways to draw images of these classes."""
    main, seeds = models['raster'], list(range(len(labels)))
    keep = args.keep or main.keep_sampler.target
    scale = args.guidance
    if scale is None:
        scale = main.sample_cfg.get('guidance', 1.0)
    weights = weight_bytes(main, args.amp)
    options = {'guidance': scale, 'restrict': args.random}

    def sample(model: TokenGenerator, **more: Any) -> Callable[[], tuple]:
        def draw() -> tuple[SampledCodes, int]:
            cfg = {'guidance': scale, **more}
            with torch.autocast(labels.device.type, torch.bfloat16, enabled=args.amp):
                drawn = model.sample_codes(labels, keep, seeds, **cfg)
            return drawn, int(drawn.stats['cache_bytes'].sum())

        return draw

    def loop() -> tuple[Tensor, int]:
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=args.amp):
            return plain(labels, keep, scale)

    plain = PlainLoop(main)
    ways = {'loop': Way(main, loop, weights)}
    for cache in ('full', 'compressed'):
        draw = sample(main, cache=cache, **{**options})
        ways[cache] = Way(main, draw, weights)
    for cache in ('full', 'compressed'):
        draw = sample(main, cache=cache, speculative=args.drafts, **options)
        ways[f'{cache}, {args.drafts} drafts'] = Way(main, draw, weights)
    for name, model in models.items():
        if model is not main:
            ways[name] = Way(model, sample(model), weight_bytes(model, args.amp))
    return ways


def measure(
    ways: dict[str, Way],
    number: int,
    speed: float,
    args: argparse.Namespace,
    report: Report,
) -> None:
    """Time all ways in turn and add their rows."""
    device = torch.device(args.device)
    seconds = interleaved(dict(ways), args.repeats, device)
    base_bytes = ways['loop'].last[1]
    for name, way in ways.items():
        drawn, size = way.last
        stats = drawn.stats if isinstance(drawn, SampledCodes) else {}
        tokens = drawn.index if isinstance(drawn, SampledCodes) else drawn
        passes = float(stats['passes'].max()) if stats else float(tokens.shape[1])
        took = median(seconds[name])
        # On average a static cache is read whole, the others are half filled.
        bound = passes * (way.weights + size * (1.0 if name == 'loop' else 0.5)) / speed
        report.add(
            way=name,
            batch=number,
            rate=number / took,
            ratio=median_ratio(seconds['loop'], seconds[name]),
            cache=size / number / 1024,
            cache_share=size / base_bytes,
            passes=passes,
            accepted=tokens.shape[1] / float(stats['passes'].float().mean())
            if stats
            else None,
            distinct=float(stats['distinct'].float().mean()) if stats else None,
            reached=bound / took,
            seconds=seconds[name],
        )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.checkpoint is None and not args.random:
        raise ValueError('no checkpoint: give one, or --random for random weights.')
    device = start(args)
    files = [('raster', args.config, args.checkpoint)]
    for other in args.others:
        config, _, checkpoint = other.partition(':')
        files.append((Path(config).stem, config, checkpoint or None))
    models = {name: load(config, file, device) for name, config, file in files}
    speed = bandwidth(device)
    weights = (
        'random weights' if args.checkpoint is None else Path(args.checkpoint).name
    )
    report = Report(
        f'{Path(args.config).stem}, {weights}' + (', bfloat16' if args.amp else ''),
        {
            'way': 'way',
            'batch': 'batch|d',
            'rate': 'images/s|.2f',
            'ratio': 'ratio to loop|.2f',
            'cache': 'cache (KiB/image)|.0f',
            'cache_share': 'of loop|.0%',
            'passes': 'passes|.0f',
            'accepted': 'tokens a pass|.2f',
            'distinct': 'distinct|.1f',
            'reached': 'of the bound|.1%',
        },
    )
    for number in args.batch:
        labels = torch.arange(number, device=device) % models['raster'].num_classes
        measure(ways_of(models, labels, args), number, speed, args, report)
    report.note(f'copying moves {speed / 1e9:.1f} GB/s here; K={args.keep or "target"}')
    report.show(args, device, bandwidth=speed)
    return 0


if __name__ == '__main__':
    run_main(main)
