"""Parameters and multiply-accumulates of each part of a model.

torch's own counter watches the operators of a forward pass on the meta device, which
computes nothing: any config, any image size and any K take a second. One
multiply-accumulate is two floating-point operations. Norms, activations, the softmax
and the sorting of token merging are not counted.

``layers`` are the multiplications by weights (convolutions and linear layers),
``products`` those of activations with one another: attention, and the matching and
adding up of token merging (a product on a GPU). The paper's Table A1 counts the layers
alone, as counters do that do not know the fused attention: see docs/weights.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .building import build_on_meta
from .published import published_model


class PartCost(NamedTuple):
    """Cost of one part for one image.

    Attributes:
        part (str): 'encoder', 'quantizer', 'recovery', 'decoder', 'head', 'generator'
            or 'code head'.
        parameters (int): Of the part.
        layers (int): Multiply-accumulates of convolutions and linear layers.
        products (int): Multiply-accumulates of activations with one another.
    """

    part: str
    parameters: int
    layers: int
    products: int

    @property
    def macs(self) -> int:
        """int: All multiply-accumulates."""
        return self.layers + self.products


def count_macs(module: nn.Module, run: Callable[[], Any]) -> tuple[int, int]:
    """Count the multiply-accumulates of a computation.

    Args:
        module (nn.Module): Whose convolutions, linear layers and ``MultiheadAttention``
            are the layers; none of its tensors requires gradients.
        run (Callable): Computes with it on the meta device; torch's counter does not
            know the fused attention of CPUs.

    Returns:
        tuple[int, int]: Of layers, and of products of activations.
    """
    layers = 0

    def add(layer: nn.Module, inputs: tuple, kwargs: dict, output: Any) -> None:
        nonlocal layers
        layers += _layer_macs(layer, inputs, output)

    kinds = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
    hooks = [
        layer.register_forward_hook(add, with_kwargs=True)
        for layer in module.modules()
        if isinstance(layer, kinds)
    ]
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return layers, counter.get_total_flops() // 2 - layers


def _layer_macs(layer: nn.Module, inputs: tuple, output: Any) -> int:
    """Multiplications by the weights of one layer in one call."""
    if isinstance(layer, nn.MultiheadAttention):
        query, key, value = (x.numel() for x in inputs)
        # Four projections: of query, key and value, and of what was attended to.
        return (2 * query + key + value) * layer.embed_dim
    if isinstance(layer, nn.Conv2d):
        kernel = layer.kernel_size[0] * layer.kernel_size[1]
        return output.numel() * layer.in_channels // layer.groups * kernel
    return output.numel() * layer.in_features


def tokenizer_costs(
    model: Mapping[str, Any],
    size: tuple[int, int] | None = None,
    keep: int | float | None = None,
    schedule: str | None = None,
) -> list[PartCost]:
    """Costs of the parts of a tokenizer for one image.

    Args:
        model (Mapping): Config of a ``mergevq_mm.MergeVQ``.
        size (tuple[int, int], optional): Height and width of the image in pixels.
            Defaults to None, that of the backbone.
        keep (int | float, optional): K, or its share of L. Defaults to None, L.
        schedule (str, optional): Instead of the backbone's. Defaults to None.

    Returns:
        list[PartCost]: Of encoder, quantizer, recovery, decoder and head.

    Raises:
        ValueError: If the stride does not divide the size, or K cannot be reached.
    """
    config = published_model(model)
    config.pop('keep', None)
    config.pop('test_cfg', None)
    if schedule is not None:
        config['backbone']['schedule'] = schedule
    net = _frozen(build_on_meta(config))
    size = tuple(net.backbone.img_size if size is None else size)
    grid = net.backbone.grid_of(*size)
    length, bits = grid[0] * grid[1], net.quantizer.bits
    with torch.device('meta'):
        image = torch.zeros(1, 3, *size)
        group = torch.zeros(1, length, dtype=torch.long)
        tokens = net.backbone.encode(image, keep).tokens
        codes = torch.zeros(1, tokens.shape[1], bits)
        on_grid = torch.zeros(1, length, bits)
        cls = torch.zeros(1, net.backbone.embed_dims)
        runs = {
            'encoder': (net.backbone, lambda: net.backbone.encode(image, keep)),
            'quantizer': (net.quantizer, lambda: net.quantizer(tokens)),
            'recovery': (net.neck, lambda: net.neck(codes, group, grid)),
            'decoder': (net.decoder, lambda: net.decoder(on_grid, grid)),
        }
        if net.head.alignment is not None:
            projector = net.head.alignment.projector
            runs['head'] = (projector, lambda: projector(cls))
        return [
            PartCost(name, parameters(part), *count_macs(part, run))
            for name, (part, run) in runs.items()
        ]


def generator_costs(
    model: Mapping[str, Any], keep: int | None = None
) -> list[PartCost]:
    """Costs of a generator for one sequence, all of whose codes are known.

    Drawing with a cache multiplies by the same weights, once a token; its attention
    reads the cache in the place of the whole sequence, which is counted here.

    Args:
        model (Mapping): Config of a ``MergeAR`` or ``RandAR``.
        keep (int, optional): K, of its table. Defaults to None, its target.

    Returns:
        list[PartCost]: Of the transformer with its embeddings, and of the head that
        predicts the parts of a code.

    Raises:
        ValueError: If K is not in its table.
    """
    config = published_model(model)
    tokenizer = config['tokenizer']
    if tokenizer.get('type') == 'mergevq_mm.FrozenTokenizer':
        # Its size is asked, its weights are not.
        config['tokenizer'] = {**tokenizer, 'checkpoint': None, 'random_init': True}
    net = _frozen(build_on_meta(config))
    keep = net.check_keep(net.keep_sampler.target if keep is None else keep)
    number = net.grid[0] * net.grid[1] if _is_raster(net) else keep
    with torch.device('meta'):
        index = torch.zeros(1, number, dtype=torch.long)
        labels = torch.zeros(1, dtype=torch.long)
        context = torch.zeros(1, number, net.class_embedding.embedding_dim)
        places = torch.zeros(1, number, 2, dtype=torch.long)
        last = places if hasattr(net, 'instruction') else keep
        layers, products = count_macs(net, lambda: net.logits(index, labels, last))
        head = count_macs(net.head, lambda: net.head(context, index, net.embedding))
    of_head = parameters(net.head)
    return [
        PartCost(
            'generator', parameters(net) - of_head, layers - head[0], products - head[1]
        ),
        PartCost('code head', of_head, *head),
    ]


def model_costs(
    model: Mapping[str, Any],
    size: tuple[int, int] | None = None,
    keep: int | float | None = None,
    schedule: str | None = None,
) -> list[PartCost]:
    """Costs of the parts of a tokenizer or a generator; see the two functions.

    Raises:
        ValueError: If it is neither, or an argument does not fit it.
    """
    if 'backbone' in model and 'decoder' in model:
        return tokenizer_costs(model, size, keep, schedule)
    if 'tokenizer' not in model:
        raise ValueError(
            f'model.type={model.get("type")!r} is neither a tokenizer nor a generator; '
            "give the config of one (for classifiers: mmpretrain's get_flops.py)."
        )
    for name, value in (('size', size), ('schedule', schedule)):
        if value is not None:
            raise ValueError(
                f'{name}={value} is of no use for a generator, whose sequence has the '
                'size of its tokenizer; leave it out.'
            )
    return generator_costs(model, keep)


def parameters(module: nn.Module) -> int:
    """Number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def _is_raster(net: nn.Module) -> bool:
    return getattr(net, 'sequence', 'distinct') == 'raster'


def _frozen(module: nn.Module) -> nn.Module:
    """For counting: the counter's hooks need tensors without gradients."""
    return module.requires_grad_(False).eval()
