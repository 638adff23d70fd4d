"""The tokenizer in the authors' checkpoint layout (spec of the format: its names).

The architecture is read off the shapes. Two things stand in no shape: the number of
heads (known for the published widths) and the size of the images. The authors' encoder
has no position embedding, and their tokenizer no trained recovery, so that the
converted one recovers by the true source map.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..models.backbones.architectures import ARCHITECTURES
from .file import Conversion, is_learned, read_shapes, refuse_foreign
from .renaming import rename

PAIRS = (
    ('encoder.conv_in', 'backbone.stem.conv_in'),
    ('encoder.down.#.block', 'backbone.stem.stages.#'),
    ('encoder.down.#.downsample', 'backbone.stem.downsamples.#'),
    ('encoder.attn.cls_token', 'backbone.cls_token'),
    ('encoder.attn.blocks', 'backbone.layers'),
    ('encoder.norm_out', 'quantizer.projection.norm'),
    ('encoder.conv_out', 'quantizer.projection.linear'),
    ('encoder.dist_head', 'head.alignment.projector'),
    ('decoder.conv_in', 'decoder.conv_in'),
    ('decoder.attn.pos_embed', 'decoder.position'),
    ('decoder.attn.blocks', 'decoder.layers'),
    # Theirs are numbered from the full resolution, ours in running order.
    ('decoder.up.~.block', 'decoder.stages.~'),
    ('decoder.up.~.upsample.conv1', 'decoder.upsamples.~.conv'),
    ('decoder.adaptive.~', 'decoder.adaptive_norms.~'),
    ('decoder.norm_out', 'decoder.norm_out'),
    ('decoder.conv_out', 'decoder.conv_out'),
)
INNER = (('nin_shortcut', 'shortcut'),)
# Where the patchify encoder (R) has its convolution and its norm: the released files
# that are known are hybrid ones, so these are found by their shapes, and given back
# under the names that they had.
PATCH_NAMES = ('encoder.conv_in', 'encoder.norm_in')
PATCH_OURS = ('backbone.stem.projection', 'backbone.stem.norm')

HEADS = {384: 8, 512: 8, 768: 12}  # by width, in all published models
SPLITS = {18: [6, 12]}  # of the index, for stage 2
# Tokens that the paper keeps, by architecture.
KEEPS = {'g': 256, 'g+r': 144, 'r': 36}


def tokenizer_to_ours(
    weights: Mapping[str, Tensor],
    img_size: int = 256,
    num_heads: int | None = None,
) -> Conversion:
    """Rename the tensors of an authors' tokenizer and read its architecture.

    Args:
        weights (Mapping[str, Tensor]): Under their names, raw or averaged.
        img_size (int): Side of the images in pixels. Defaults to 256.
        num_heads (int, optional): Attention heads, where the width is none of the
            published ones. Defaults to None.

    Returns:
        Conversion: Weights, config, names without a place, names left out.

    Raises:
        ValueError: If this is no tokenizer of theirs, or its heads are not known.
    """
    for needed in ('encoder.attn.blocks.0.attn.qkv.weight', 'decoder.conv_out.weight'):
        if needed not in weights:
            raise refuse_foreign('tokenizer', needed, weights)
    levels = _count(weights, r'decoder\.up\.(\d+)\.')
    patch = find_patch_stem(weights)
    converted, unknown, left_out = {}, [], []
    for name, tensor in weights.items():
        if not is_learned(name):
            left_out.append(name)
            continue
        module, _, kind = name.rpartition('.')
        if patch and module in patch:
            converted[f'{PATCH_OURS[patch.index(module)]}.{kind}'] = tensor
            continue
        new = rename(name, PAIRS, INNER, levels)
        if new is None:
            unknown.append(name)
            continue
        if new == 'quantizer.projection.linear.weight':
            tensor = tensor.flatten(1)  # 1×1 convolution to linear
        converted[new] = tensor
    model = read_shapes(read_tokenizer, converted, img_size, num_heads)
    return Conversion(converted, model, unknown, left_out)


def tokenizer_to_official(
    weights: Mapping[str, Tensor], patch_names: tuple[str, str] = PATCH_NAMES
) -> Conversion:
    """Rename the tensors of a tokenizer of ours to the authors' names.

    Args:
        weights (Mapping[str, Tensor]): Under our names.
        patch_names (tuple[str, str]): Of convolution and norm of a patchify stem.

    Returns:
        Conversion: Weights, no config, names without a place, names left out.

    Raises:
        ValueError: If this is no tokenizer of ours.
    """
    for needed in ('backbone.layers.0.attn.qkv.weight', 'decoder.conv_out.weight'):
        if needed not in weights:
            raise ValueError(
                f'The weights are no MergeVQ tokenizer: they lack {needed}; give a '
                'checkpoint of a mergevq_mm.MergeVQ.'
            )
    levels = _count(weights, r'decoder\.stages\.(\d+)\.')
    stem = dict(zip(PATCH_OURS, patch_names, strict=True))
    aside = (
        'discriminator.',
        'lecam.',
        'target_generator.',
        'head.perceptual.',
        'data_preprocessor.',
    )
    converted, unknown, left_out = {}, [], []
    for name, tensor in weights.items():
        if name.startswith(aside):
            left_out.append(name)
            continue
        module, _, kind = name.rpartition('.')
        if module in stem:
            converted[f'{stem[module]}.{kind}'] = tensor
            continue
        new = rename(name, PAIRS, INNER, levels, back=True)
        if new is None:
            unknown.append(name)
            continue
        if new == 'encoder.conv_out.weight':
            tensor = tensor[..., None, None]  # linear to 1×1 convolution
        converted[new] = tensor
    return Conversion(converted, {}, unknown, left_out)


def find_patch_stem(weights: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Names of convolution and norm of a patchify stem, found by their shapes.

    Args:
        weights (Mapping[str, Tensor]): Under the authors' names.

    Returns:
        tuple[str, str] | None: None if the stem is a convolutional one.

    Raises:
        ValueError: If there is neither a convolutional stem nor a patchify one.
    """
    if any(name.startswith('encoder.down.') for name in weights):
        return None
    dim = weights['encoder.attn.blocks.0.attn.qkv.weight'].shape[1]
    free = {
        name.rpartition('.')[0]: weights[name]
        for name in weights
        if name.startswith('encoder.')
        and name.endswith('.weight')
        and (
            name.startswith('encoder.conv_in.') or rename(name, PAIRS, INNER, 1) is None
        )
    }
    convolutions = [n for n, w in free.items() if w.dim() == 4 and w.shape[0] == dim]
    norms = [n for n, w in free.items() if w.shape == (dim,)]
    if len(convolutions) != 1 or len(norms) != 1:
        raise refuse_foreign(
            'tokenizer', 'encoder.down.* and a patchify convolution', weights
        )
    return convolutions[0], norms[0]


def read_tokenizer(
    weights: Mapping[str, Tensor], img_size: int = 256, num_heads: int | None = None
) -> dict[str, Any]:
    """Config of a tokenizer by the shapes of its weights.

    Args:
        weights (Mapping[str, Tensor]): Under our names.
        img_size (int): Side of the images in pixels. Defaults to 256.
        num_heads (int, optional): Where the width is none of the published ones.
            Defaults to None.

    Returns:
        dict[str, Any]: Of a ``mergevq_mm.MergeVQ`` that is complete without training.
    """
    name, arch = _read_encoder(weights, num_heads)
    dim = weights['backbone.cls_token'].shape[-1]
    bits = weights['decoder.conv_in.weight'].shape[1]
    decoder = _read_decoder(weights, num_heads)
    keep = KEEPS.get(name.partition('-')[0])
    length = (img_size // 2 ** (len(decoder['channel_mult']) - 1)) ** 2
    head: dict[str, Any] = {'type': 'mergevq_mm.MergeVQHead'}
    alignment = _read_alignment(weights)
    if alignment:
        head['alignment'] = alignment
    model = {
        'type': 'mergevq_mm.MergeVQ',
        'backbone': {
            'type': 'mergevq_mm.MergeVQEncoder',
            'arch': name or arch,
            'img_size': img_size,
            'pos_embed': False,
        },
        'quantizer': {
            'type': 'mergevq_mm.LFQ',
            'bits': bits,
            'in_channels': dim,
            'split': SPLITS.get(bits) or [bits // 3, bits - bits // 3],
        },
        'neck': {'type': 'mergevq_mm.GroupMapRecovery'},
        'decoder': {'type': 'mergevq_mm.MergeVQDecoder', 'bits': bits, **decoder},
        'head': head,
    }
    if keep is not None and keep <= length:
        model.update(keep=keep, test_cfg={'keep': [keep, length]})
    return model


def _read_encoder(
    weights: Mapping[str, Tensor], num_heads: int | None
) -> tuple[str, dict[str, Any]]:
    """Name ('' if it has none) and ``arch`` of the encoder."""
    layers = _count(weights, r'backbone\.layers\.(\d+)\.')
    arch: dict[str, Any]
    if PATCH_OURS[0] + '.weight' in weights:
        shape = weights[PATCH_OURS[0] + '.weight'].shape
        arch = {'stem': 'patch', 'embed_dims': shape[0], 'patch_size': shape[2]}
        dim = shape[0]
    else:
        base = weights['backbone.stem.conv_in.weight'].shape[0]
        stage = 'backbone.stem.stages.{}.0.conv1.weight'
        number = _count(weights, r'backbone\.stem\.stages\.(\d+)\.')
        widths = [weights[stage.format(i)].shape[0] for i in range(number)]
        if any(width % base for width in widths):
            base = math.gcd(base, *widths)
        arch = {
            'stem': 'hybrid',
            'base_channels': base,
            'channel_mult': [width // base for width in widths],
            'num_res_blocks': _count(weights, r'backbone\.stem\.stages\.0\.(\d+)\.'),
        }
        dim = widths[-1]
    arch.update(num_layers=layers, num_heads=_heads('encoder', dim, num_heads))
    for name, known in ARCHITECTURES.items():
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in known.items()}
        if plain == arch:
            return name, arch
    return '', arch


def _read_decoder(
    weights: Mapping[str, Tensor], num_heads: int | None
) -> dict[str, Any]:
    """Arguments of the decoder."""
    levels = _count(weights, r'decoder\.stages\.(\d+)\.')
    stage = 'decoder.stages.{}.0.conv1.weight'
    widths = [weights[stage.format(i)].shape[0] for i in reversed(range(levels))]
    stem = weights.get('backbone.stem.conv_in.weight')
    base = math.gcd(*widths) if stem is None else math.gcd(stem.shape[0], *widths)
    full = rf'decoder\.stages\.{levels - 1}\.(\d+)\.'
    return {
        'base_channels': base,
        'channel_mult': [width // base for width in widths],
        'num_res_blocks': _count(weights, full),
        'num_layers': _count(weights, r'decoder\.layers\.(\d+)\.'),
        'num_heads': _heads('decoder', widths[-1], num_heads),
    }


def _read_alignment(weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Arguments of the alignment head, if there is one."""
    prefix = 'head.alignment.projector.'
    first = weights.get(prefix + '0.weight')
    if first is None:
        return None
    layers = 2 if weights[prefix + '2.weight'].dim() == 1 else 3
    last = weights[prefix + ('3.weight' if layers == 2 else '4.weight')]
    return {
        'in_channels': first.shape[1],
        'out_channels': last.shape[0],
        'layers': layers,
        'ratio': first.shape[0] // first.shape[1],
    }


def _heads(part: str, dim: int, num_heads: int | None) -> int:
    """Number of heads of a width."""
    heads = num_heads or HEADS.get(dim)
    if heads is None or dim % heads:
        raise ValueError(
            f'num_heads={num_heads} of the {part} (width {dim}) cannot be read off the '
            'shapes; give --num-heads, a number that divides the width.'
        )
    return heads


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest number that names have at a place."""
    found = (re.match(pattern, name) for name in weights)
    return 1 + max((int(match[1]) for match in found if match), default=-1)
