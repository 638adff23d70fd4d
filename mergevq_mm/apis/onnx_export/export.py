"""The graphs of a model as a folder, each compared with torch before it is there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ...utils.export import replaced_folder
from ...version import __version__
from .check import BATCHES, CODES, FLOATS, Agreement, compare
from .convert import check_packages, write_onnx
from .graphs import Graph, decoder_graph, encoder_graph
from .weights import with_stored_weights

if TYPE_CHECKING:
    from mergevq_mm.models.backbones.mergevq_encoder import MergeVQEncoder
    from mergevq_mm.models.generators.tokenizer import TokenizerParts
    from mergevq_mm.models.selfsup.mergevq import MergeVQ

ENDING = '.onnx'
CODE_LAYOUT = (
    'bit j of an index counts 2^j and is 1 where component j of the code is +1, 0 '
    'where it is -1'
)
# Options of a generator that change its cache and its speed, not what is drawn.
_SAME_SAMPLES = ('cache', 'speculative', 'step', 'seed', 'keep')


class Exported(NamedTuple):
    """A file that was written.

    Attributes:
        path (Path): Where.
        size (int): Bytes, with weights that lie beside it.
        agreement (Agreement): How far onnxruntime and torch agree.
        batches (tuple[int, ...]): Samples at a time, when they were compared.
    """

    path: Path
    size: int
    agreement: Agreement
    batches: tuple[int, ...]

    def __str__(self) -> str:
        sizes = ', '.join(map(str, self.batches))
        return (
            f'{self.path}: {self.size:,} bytes; onnxruntime equals torch at batches of '
            f'{sizes}: {self.agreement}'
        )


def export_onnx(
    model: nn.Module,
    folder: str | os.PathLike[str],
    keep: Sequence[int | float | None] | None = None,
    image_size: tuple[int, int] | None = None,
    precision: str = 'fp32',
    batches: Sequence[int] = BATCHES,
    **sampling: Any,
) -> list[Exported]:
    """Write the graphs of a tokenizer, or of a MergeAR generator with its decoder.

    All of them are compared with torch, or none is written.

    Args:
        model (nn.Module): A MergeVQ, or a MergeAR of the whole raster, with weights.
            It is brought to the CPU and to evaluation.
        folder (str | PathLike): Where; made if it is not there.
        keep (Sequence[int | float | None], optional): Of a tokenizer the K of its
            encoders, as numbers or shares, None where nothing merges; of a generator
            one K. Defaults to None: the model's own, and without merging.
        image_size (tuple[int, int], optional): Rows and columns of pixels of a
            tokenizer. Defaults to None, those that it was trained at.
        precision (str): Of the weights, 'fp32', 'fp16', 'bf16' or 'int8'. Defaults to
            'fp32'.
        batches (Sequence[int]): Samples at a time when comparing. Defaults to 1, 2, 5.
        **sampling (Any): Of a generator: ``temperature``, ``top_k``, ``top_p``,
            ``guidance`` and ``guidance_schedule``, in the place of the config's.

    Returns:
        list[Exported]: A file each.

    Raises:
        MissingExtra: If a package is missing.
        ValueError: If the model is of another kind, an argument does not fit it, ONNX
            lacks an operator, or onnxruntime computes something else.
        OSError: If the folder cannot be written.
    """
    check_packages()
    model = model.cpu().eval()
    if hasattr(model, 'tokenizer'):
        if image_size is not None:
            raise ValueError(
                f'image_size={image_size} has no meaning for a generator, whose raster '
                'is that of its tokenizer; leave it out.'
            )
        graphs = generator_graphs(model, keep, sampling)
    else:
        if sampling:
            raise ValueError(
                f'{", ".join(sampling)}: a tokenizer draws nothing; leave it out, or '
                'give a generator.'
            )
        graphs = tokenizer_graphs(model, keep, image_size)
    with replaced_folder(folder) as part:
        return list(_written(graphs, precision, part, Path(folder), tuple(batches)))


def _written(
    graphs: Iterable[Graph],
    precision: str,
    part: Path,
    folder: Path,
    batches: tuple[int, ...],
) -> Iterator[Exported]:
    """Write and compare, one graph after the other."""
    for graph in graphs:
        graph = dataclasses.replace(
            graph,
            module=with_stored_weights(graph.module, precision),
            facts={**graph.facts, 'weights': precision},
        )
        path = part / (graph.name + ENDING)
        write_onnx(graph, path)
        agreement = compare(graph, path, batches)
        if not agreement.good:
            raise ValueError(
                f'{graph.name}: onnxruntime agrees with torch in {agreement}, but it '
                f'must be to {FLOATS:g} and {100 * CODES:g} %; nothing was written: '
                'try other versions of torch and onnxruntime.'
            )
        size = sum(file.stat().st_size for file in part.glob(f'{path.name}*'))
        yield Exported(folder / path.name, size, agreement, batches)


def tokenizer_graphs(
    model: nn.Module,
    keep: Sequence[int | float | None] | None = None,
    image_size: tuple[int, int] | None = None,
) -> list[Graph]:
    """The graphs of a tokenizer: encoders and a decoder.

    Args:
        model (nn.Module): A MergeVQ, or the parts of one.
        keep (Sequence, optional): See :func:`export_onnx`. Defaults to None.
        image_size (tuple[int, int], optional): See there. Defaults to None.

    Returns:
        list[Graph]: The decoder last.

    Raises:
        ValueError: If it is no tokenizer, or an argument does not fit it.
    """
    from ...models.utils.merge_schedule import least_keep, resolve_keep

    if not all(hasattr(model, name) for name in ('backbone', 'quantizer', 'decoder')):
        raise ValueError(
            f'{type(model).__name__} has no encoder, decoder or step of decoding to '
            'export; give a folder of a MergeVQ or a MergeAR, not of a part that only '
            'training needs.'
        )
    parts: Any = model  # with all of them
    backbone: MergeVQEncoder = parts.backbone
    size = backbone.img_size if image_size is None else image_size
    rows, columns = grid = backbone.grid_of(*size)
    length = rows * columns
    if keep is None:
        own = getattr(model, 'test_keep', None) or [length]
        share = own[0] / (backbone.grid[0] * backbone.grid[1])
        least = least_keep(length, backbone.num_layers)
        keep = [max(round(share * length), least), None]
    facts = tokenizer_facts(parts, size, grid)
    wanted = dict.fromkeys(resolve_keep(one, length) for one in keep)
    graphs = [encoder_graph(model, one, size, facts) for one in wanted]
    return [*graphs, decoder_graph(model, grid, facts)]


def generator_graphs(
    model: nn.Module,
    keep: Sequence[int | float | None] | None,
    sampling: Mapping[str, Any],
) -> list[Graph]:
    """The graphs of a generator: start, step, and its tokenizer's decoder.

    Args:
        model (nn.Module): A MergeAR.
        keep (Sequence, optional): One K. Defaults to None, the model's own.
        sampling (Mapping): Options in the place of the config's.

    Returns:
        list[Graph]: The decoder last.

    Raises:
        ValueError: If it is another generator, or not of the raster; or an option is
            not known.
    """
    from ...models.generators.mergear import MergeAR
    from ...models.utils.merge_schedule import resolve_keep
    from .decoding import decoding_graphs

    if not isinstance(model, MergeAR):
        raise ValueError(
            f'{type(model).__name__} draws several codes a step, in an order of its '
            'own; of the generators MergeAR alone can be exported: give such a folder, '
            "or the generator's tokenizer/."
        )
    if model.sequence != 'raster':
        raise ValueError(
            f"sequence='{model.sequence}' leaves the places of its codes to the source "
            'recovery, which needs the operator aten.cummax, and ONNX lacks it; export '
            "a generator of sequence='raster', or the tokenizer alone."
        )
    if keep is not None and len(keep) != 1:
        raise ValueError(
            f'keep={list(keep)} is not one K, and each needs graphs of its own; export '
            'them one by one, into a folder each.'
        )
    default = model.sample_cfg.get('keep', model.keep_sampler.target)
    wanted = default if keep is None else keep[0]
    length = model.tokenizer.length
    chosen = model.check_keep(resolve_keep(wanted, length))
    options = {
        name: value
        for name, value in {**model.sample_cfg, **sampling}.items()
        if name not in _SAME_SAMPLES
    }
    if options.pop('restrict', False):
        raise ValueError(
            "restrict=True of the model's sample_cfg is not in the exported step, "
            'which draws any code; save the model without it.'
        )
    rule = model.sampling_rule(**options)
    if rule.guided and not model.class_dropout:
        model.guided_labels(torch.zeros(1, dtype=torch.int64), rule)  # says why not
    parts: Any = model.tokenizer.network
    grid: tuple[int, int] = model.tokenizer.grid
    facts = tokenizer_facts(parts, tuple(model.tokenizer.image_size), grid)
    decoder = decoder_graph(parts, grid, facts)
    return [*decoding_graphs(model, chosen, rule, facts), decoder]


def tokenizer_facts(
    parts: TokenizerParts | MergeVQ, size: tuple[int, ...], grid: tuple[int, ...]
) -> dict[str, Any]:
    """What each graph of a tokenizer says of itself.

    Args:
        parts (TokenizerParts | MergeVQ): With all weights.
        size (tuple[int, int]): Pixels, rows and columns.
        grid (tuple[int, int]): Rows and columns of positions.

    Returns:
        dict[str, Any]: As JSON has it.
    """
    from ..coding_inferencers import tokenizer_fingerprint

    quantizer = parts.quantizer
    return {
        'mergevq_mm': __version__,
        'torch': str(torch.__version__),
        'tokenizer': tokenizer_fingerprint(parts),
        'image_size': list(size),
        'grid': list(grid),
        'length': grid[0] * grid[1],
        'channels': 'RGB',
        'mean': 127.5,
        'std': 127.5,
        'bits': quantizer.bits,
        'split': list(quantizer.split),
        'code_layout': CODE_LAYOUT,
        'group': 'number of the token of each raster position',
    }
