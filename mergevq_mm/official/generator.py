"""The stage-2 GPT in the authors' checkpoint layout, and MergeAR without merge token.

The number of heads stands in no shape; published ones have heads 64 wide. Nor does the
size of the grid, as positions are rotary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..models.generators.architectures import ARCHITECTURES
from .file import Conversion, is_learned, read_shapes, refuse_foreign
from .renaming import rename

PAIRS = (
    ('spatial_blocks', 'transformer.blocks'),
    ('factorized_blocks', 'head.transformer.blocks'),
    ('class_emb.embedding_table', 'class_embedding'),
    ('pre_emb', 'embedding.parts.0'),
    ('post_emb', 'embedding.parts.1'),
    ('norm', 'head.norm'),
    ('head.#', 'head.heads.#'),
)
INNER = (
    ('attention.wqkv', 'attn.qkv'),
    ('attention.wo', 'attn.proj'),
    ('attention_norm', 'norm1'),
    ('ffn_norm', 'norm2'),
    ('feed_forward.w1', 'ffn.fc1_g'),
    ('feed_forward.w3', 'ffn.fc1_x'),
    ('feed_forward.w2', 'ffn.fc2'),
)
FIRST = 'spatial_blocks.0.attention.wqkv.weight'


def find_prefix(weights: Mapping[str, Any]) -> str:
    """What stands before the GPT's names, such as 'transformer.'.

    Args:
        weights (Mapping): Under the authors' names.

    Returns:
        str: The prefix, '' if there is none.

    Raises:
        ValueError: If there is no such GPT.
    """
    for name in weights:
        if name.endswith(FIRST) and not name.startswith('model_ema.'):
            return name[: -len(FIRST)]
    raise refuse_foreign('stage-2 GPT', FIRST, weights)


def generator_to_ours(
    weights: Mapping[str, Tensor], num_heads: int | None = None
) -> Conversion:
    """Rename the tensors of an authors' GPT and read its architecture.

    Args:
        weights (Mapping[str, Tensor]): Under their names, perhaps all with a prefix;
            those without it (the tokenizer of the same file) are left out.
        num_heads (int, optional): Attention heads. Defaults to None, width / 64.

    Returns:
        Conversion: Weights, config of a ``mergevq_mm.MergeAR`` without its tokenizer,
        names without a place, names left out.

    Raises:
        ValueError: If this is no GPT of theirs, or its heads are not known.
    """
    prefix = find_prefix(weights)
    converted, unknown, left_out = {}, [], []
    for name, tensor in weights.items():
        if not name.startswith(prefix) or not is_learned(name):
            left_out.append(name)
            continue
        new = rename(name[len(prefix) :], PAIRS, INNER)
        if new is None:
            unknown.append(name)
        else:
            converted[new] = tensor
    model = read_shapes(read_generator, converted, num_heads)
    return Conversion(converted, model, unknown, left_out)


def generator_to_official(
    weights: Mapping[str, Tensor], prefix: str = ''
) -> Conversion:
    """Rename the tensors of a MergeAR without merge token to the authors' names.

    Args:
        weights (Mapping[str, Tensor]): Under our names.
        prefix (str): To put before the authors' names. Defaults to ''.

    Returns:
        Conversion: Weights, no config, names without a place, none left out.

    Raises:
        ValueError: If this is no generator of ours, or it has what theirs lacks.
    """
    if 'transformer.blocks.0.attn.qkv.weight' not in weights:
        raise ValueError(
            'The weights are no MergeAR: they lack transformer.blocks.0.attn.qkv.weight'
            '; give a checkpoint of a mergevq_mm.MergeAR.'
        )
    if 'keep_embedding.weight' in weights or 'instruction.weight' in weights:
        raise ValueError(
            "The generator has instruction tokens, for which the authors' GPT has no "
            'place; only a MergeAR with merge_token=False can go back.'
        )
    converted, unknown = {}, []
    for name, tensor in weights.items():
        new = rename(name, PAIRS, INNER, back=True)
        if new is None:
            unknown.append(name)
        else:
            converted[prefix + new] = tensor
    return Conversion(converted, {}, unknown, [])


def read_generator(
    weights: Mapping[str, Tensor], num_heads: int | None = None
) -> dict[str, Any]:
    """Config of a generator by the shapes of its weights, without its tokenizer.

    Args:
        weights (Mapping[str, Tensor]): Under our names.
        num_heads (int, optional): Attention heads. Defaults to None, width / 64.

    Returns:
        dict[str, Any]: Of a ``mergevq_mm.MergeAR``.

    Raises:
        ValueError: If the heads are not known, or the SwiGLU's width is none of ours.
    """
    needed = ('class_embedding.weight', 'embedding.parts.0.weight')
    for name in (*needed, 'transformer.blocks.0.ffn.fc1_g.weight'):
        if name not in weights:
            raise refuse_foreign('stage-2 GPT', f'what becomes {name}', weights)
    classes, dim = weights['class_embedding.weight'].shape
    heads = num_heads or dim // 64
    if heads < 1 or dim % heads or (dim // heads) % 4:
        raise ValueError(
            f'num_heads={heads} does not fit the width {dim}; give --num-heads, so '
            'that heads are a multiple of 4 wide.'
        )
    arch: dict[str, Any] = {
        'embed_dims': dim,
        'num_layers': _blocks(weights, 'transformer'),
        'num_heads': heads,
    }
    hidden = weights['transformer.blocks.0.ffn.fc1_g.weight'].shape[0]
    extra = {
        'ffn_multiple': ffn_multiple(dim, hidden),
        'head_layers': _blocks(weights, 'head.transformer'),
    }
    if extra != {'ffn_multiple': 256, 'head_layers': 2}:
        arch.update(extra)
    names = [name for name, known in ARCHITECTURES.items() if known == arch]
    return {
        'type': 'mergevq_mm.MergeAR',
        'arch': names[0] if names else arch,
        'num_classes': classes - 1,  # the last one is no class
        'merge_token': False,
        'window': None,
    }


def read_split(weights: Mapping[str, Tensor]) -> list[int]:
    """Bits of the parts of a code, by the embeddings under our names."""
    sizes = [weights[f'embedding.parts.{i}.weight'].shape[0] for i in range(2)]
    return [int(math.log2(size)) for size in sizes]


def ffn_multiple(dim: int, hidden: int) -> int:
    """What the width 8/3 D of a SwiGLU was rounded up to a multiple of.

    Args:
        dim (int): Width, D.
        hidden (int): Width within the SwiGLU.

    Returns:
        int: The largest power of 2 up to 256 that fits.

    Raises:
        ValueError: If none does.
    """
    for multiple in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        if -(-(8 * dim // 3) // multiple) * multiple == hidden:
            return multiple
    raise ValueError(
        f'feed_forward.w1 is {hidden} wide where 8/3 of {dim}, rounded up, is needed; '
        'give a file of the factorised GPT.'
    )


def _blocks(weights: Mapping[str, Tensor], where: str) -> int:
    """Number of blocks of a transformer."""
    pattern = re.compile(re.escape(where) + r'\.blocks\.(\d+)\.')
    found = (pattern.match(name) for name in weights)
    return 1 + max((int(match[1]) for match in found if match), default=-1)
