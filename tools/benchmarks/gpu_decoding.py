"""Section of the report on a GPU: ways to draw codes against a good static cache."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import generation
import torch
from common import MIB, synchronize
from gpu_setting import Setting, operators
from reporting import Report

from mergevq_mm.models.generators.captured_step import rounded_read
from mergevq_mm.models.generators.precision import set_precision
from mergevq_mm.models.generators.token_cache import CompressedCache, TokenCache

CONFIGS = Path(__file__).parents[2] / 'configs'
LARGE = ('mergear_l_g+r.py', 'randar_l_g+r.py')
SMALL = ('quickstart/mergear_mnist5k.py', 'quickstart/randar_mnist5k.py')
# What takes long to make comes after all the rest, for all batches.
ORDER = ('graph', 'loop, compile', 'eager', 'loop', 'compile-graph', 'compile')
BASES = ('loop, compile', 'loop')  # the first that is there is compared with
ELEMENT = 2  # bytes of a bfloat16


@contextmanager
def logged_reads() -> Iterator[list[tuple[int, int]]]:
    """Note of each step how many slots of a sequence it reads, of how many.

    Yields:
        list[tuple[int, int]]: What :meth:`TokenCache.reserve` has said, and the slots
        that there were.
    """
    log: list[tuple[int, int]] = []
    kinds = (TokenCache, CompressedCache)
    plain = [vars(kind)['reserve'] for kind in kinds]

    def logging(reserve: Callable) -> Callable:
        def logged(cache: TokenCache, *arguments: int, **options: int) -> int:
            read = reserve(cache, *arguments, **options)
            log.append((read, cache.store.slots))
            return read

        return logged

    try:
        for kind, reserve in zip(kinds, plain, strict=True):
            kind.reserve = logging(reserve)
        yield log
    finally:
        for kind, reserve in zip(kinds, plain, strict=True):
            kind.reserve = reserve


def bytes_of(
    way: generation.Way, name: str, log: list[tuple[int, int]], guided: bool
) -> int:
    """What the passes of a batch have read: weights once each, and slots.

    Args:
        way (Way): Has drawn.
        name (str): Of the way.
        log (list): Of :func:`logged_reads`, while it drew.
        guided (bool): Whether each sample is two sequences.

    Returns:
        int: Bytes.
    """
    inner, batch = way.model.transformer, len(way.last.index)
    if log:
        graph = name.endswith('graph')
        reads = (rounded_read(*pair) if graph else pair[0] for pair in log)
        slots = batch * (way.model.prefix + sum(reads))
    else:  # the loop reads all slots at each pass, RandAR those that it has filled
        slots = float(generation.slots_read(way.model, way.last, way.reads).sum())
    slot = 2 * len(inner.blocks) * inner.num_heads * inner.head_dim * ELEMENT
    weights = generation.weight_bytes(way.model, ELEMENT)
    passes = float(way.last.stats['passes'].max())
    return round(weights * passes + slots * slot * (1 + guided))


def arithmetic_of(way: generation.Way, guided: bool) -> float:
    """Operations of the products with weights of all passes of a batch."""
    weights = generation.weight_bytes(way.model, 1)
    tokens = way.last.index.numel() * (2 if way.reads == 'pairs' else 1)
    return 2.0 * weights * tokens * (1 + guided)


def decoding(setting: Setting, section: Callable[..., Report]) -> None:
    """Both generators with guidance, one image and many, weights of bfloat16."""
    files = [str(CONFIGS / name) for name in (SMALL if setting.small else LARGE)]
    batches = [2] if setting.small else [1, 64]
    flags = [files[0], '--random', '--dtype', 'bf16', '--device', str(setting.device)]
    args = generation.parse_args([*flags, *(['--compile'] * setting.gpu)])
    models = {}
    for name, file in zip(('raster', 'RandAR'), files, strict=True):
        model = generation.load(file, None, setting.device)
        models[name] = set_precision(model, args.dtype)
    report = section(
        f'Decoding, {", ".join(Path(file).stem for file in files)}, random weights of '
        'bfloat16, guidance',
        {
            'way': 'way',
            'batch': 'batch|d',
            'rate': 'img/s|,.1f',
            'step': 'a pass (ms)|.2f',
            'ratio': 'x loop|.2f',
            'passes': 'passes|.0f',
            'operators': 'operators a pass|.0f',
            'mib': 'MiB a pass|,.1f',
            'bound': 'bound (img/s)|,.0f',
            'reached': 'reached|.0%',
        },
    )
    report.note(
        'x loop: against a static cache with torch.compile(mode="reduce-overhead"), '
        'without tensors of the host in the loop; where that is not measured against '
        'the same, not compiled; in the files alone. operators: of the first batch. '
        'MiB: the weights once a pass and the part of the cache that is read. bound: '
        'by the bytes at the bandwidth of a copy, or by the products with weights at '
        'the rate of a large one, whichever is lower; of the codes alone, also where '
        'the source map is predicted and images are decoded (in float32).'
    )
    ways = {}
    for number in batches:
        labels = torch.arange(number, device=setting.device)
        labels = labels % models['raster'].num_classes
        ways[number] = generation.ways_of(models, labels, args)
        name = 'RandAR, graph' if setting.gpu else 'RandAR'
        whole = name.replace('RandAR', 'RandAR with images')
        ways[number][whole] = with_images(ways[number][name])
    for name in in_order(ways[batches[0]]):
        for number in batches:
            measure = partial(
                _measured, setting, ways[number][name], name, args, number == batches[0]
            )
            report.attempt(measure, way=name, batch=number)
            compare(report.rows)
            report.store()


def with_images(way: generation.Way) -> generation.Way:
    """The same codes, their source map and the tokenizer's images of them."""
    model = way.model

    def draw() -> generation.SampledCodes:
        drawn = way.draw()
        model.tokenizer.decode(drawn.index, model.grid, drawn.complete)
        return drawn

    return generation.Way(model, way.reads, draw)


def in_order(ways: dict[str, generation.Way]) -> list[str]:
    """What is measured first: the loops, graphs, what is eager, then what compiles."""

    def rank(name: str) -> int:
        kind = name if name.startswith('loop') else name.rpartition(', ')[2]
        return ORDER.index(kind if kind in ORDER else 'eager')

    names = [name for name in ways if 'drafts' not in name]
    return sorted(names, key=rank)


def compare(rows: list[dict[str, Any]]) -> None:
    """Fill in how fast each row is against the loop of its batch, once it is known."""
    rates = {(row['way'], row['batch']): row.get('rate') for row in rows}
    for row in rows:
        bases = (rates.get((name, row['batch'])) for name in BASES)
        base = next(filter(None, bases), None)
        if base and row.get('rate'):
            row['ratio'] = row['rate'] / base


def _measured(
    setting: Setting, way: generation.Way, name: str, args: Namespace, count: bool
) -> dict[str, Any]:
    """Measure a way of a batch, and count its operators if that is asked for."""
    with logged_reads() as log:
        way()  # compiles
    if name.endswith('graph'):
        way()  # captures what has come for the second time
    synchronize(setting.device)
    took = setting.timed(way, warmup=0)
    number, passes = len(way.last.index), float(way.last.stats['passes'].max())
    guided = way.model.sampling_rule(
        guidance=generation.settings(way.model, args)[1].get('guidance', 1.0)
    ).guided
    read = bytes_of(way, name, log, guided)
    least = max(
        read / setting.bandwidth, arithmetic_of(way, guided) / setting.matrix_rate
    )
    eager = not name.endswith(('graph', 'compile'))
    return dict(
        rate=number / took,
        step=1e3 * took / passes,
        passes=passes,
        operators=operators(way) / passes if eager and count else None,
        mib=read / passes / MIB,
        bound=number / least,
        reached=least / took,
    )
