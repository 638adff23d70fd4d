"""``init_cfg=dict(type='mergevq_mm.WeightSelection', …)``: blocks of a larger ViT.

Weight selection (Xu et al., arXiv 2311.18823) takes from each dimension of a tensor of
a trained network as many evenly spaced elements as the smaller one has. The paper
initialises the blocks and the class token of G and G+R so from DINOv2.

Differences: in the fused projection the elements are taken within queries, keys and
values separately, as evenly spaced rows of the whole could mix the three. A vector of
LayerScale that the source lacks (CLIP, MAE) keeps its initial value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import torch
from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn

from mergevq_mm.registry import WEIGHT_INITIALIZERS

from .checkpoint import LoadReport, get_state_dict
from .checkpoint_file import load_checkpoint_file

# Names of a block's tensors in timm's layout (also DINOv2's and MAE's own), which is
# ours, by those of mmpretrain's.
_MMPRETRAIN = (
    ('ln1', 'norm1'),
    ('ln2', 'norm2'),
    ('attn.gamma1.weight', 'ls1.gamma'),
    ('ffn.gamma2.weight', 'ls2.gamma'),
    ('ffn.layers.0.0', 'mlp.fc1'),
    ('ffn.layers.1', 'mlp.fc2'),
)
# What may stand before: nothing, or what wrappers and mmpretrain's models put there.
_BLOCK = re.compile(
    r'(?:(?:module|model|backbone|visual|trunk|teacher|encoder)\.)*'
    r'(?:blocks|layers)\.(\d+)\.(.+)'
)
_CLS = re.compile(
    r'(?:(?:module|model|backbone|visual|trunk|teacher|encoder)\.)*cls_token'
)


@WEIGHT_INITIALIZERS.register_module()
class WeightSelection:
    """Initialises transformer blocks and class token from a larger ViT.

    Args:
        checkpoint (str | PathLike): Path or URL of a ViT in timm's or mmpretrain's
            layout (DINOv2, CLIP, MAE).
        prefix (str): Take only names that start with it, such as 'backbone.', where a
            file holds several networks. Defaults to ''.
        trust (bool): Whether to unpickle arbitrary objects. Defaults to False.

    Attributes:
        report (LoadReport | None): After a call: the module's tensors that were filled,
            those of its blocks that were not, and the source's that were not used.

    Raises:
        ValueError: When it is called: if the file fills no block, or is narrower than
            the module.
        FileNotFoundError: When it is called: if there is no such file.
    """

    def __init__(
        self, checkpoint: str | os.PathLike, prefix: str = '', trust: bool = False
    ) -> None:
        self.checkpoint, self.prefix, self.trust = checkpoint, prefix or '', trust
        self.report: LoadReport | None = None

    def __call__(self, module: nn.Module) -> None:
        """Fill ``layers.*`` and ``cls_token`` of a module; the rest stays.

        Args:
            module (nn.Module): A ``MergeVQEncoder``, or what has such names.
        """
        content = load_checkpoint_file(self.checkpoint, trust=self.trust)
        source = {
            name[len(self.prefix) :]: value
            for name, value in get_state_dict(content).items()
            if name.startswith(self.prefix)
        }
        wanted = {
            name: tensor
            for name, tensor in module.state_dict().items()
            if name.startswith('layers.') or name == 'cls_token'
        }
        selected = select_blocks(source, wanted)
        if not any(name.endswith('.attn.qkv.weight') for name in selected):
            raise ValueError(
                f'Checkpoint "{self.checkpoint}" (prefix={self.prefix!r}) fills no '
                f'block of {type(module).__name__}: found names like '
                f'{", ".join(list(source)[:3]) or "none"}; give a ViT in the layout of '
                'timm or mmpretrain.'
            )
        with torch.no_grad():
            for name, tensor in selected.items():
                wanted[name].copy_(tensor)
        used = {translate(name) for name in source} & set(selected)
        self.report = LoadReport(
            list(selected),
            [name for name in wanted if name not in selected],
            [name for name in source if translate(name) not in used],
        )
        self._log(module, len(wanted))
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'selected from {self.checkpoint}')

    def _log(self, module: nn.Module, wanted: int) -> None:
        """Tell what was filled in one line."""
        missing = self.report.missing
        kinds = sorted({re.sub(r'\d+', '*', name) for name in missing})
        lacks = f'; not in it: {", ".join(kinds)}' if missing else ''
        print_log(
            f'Weight selection filled {len(self.report.matched)} of {wanted} tensors '
            f'of blocks and class token of {type(module).__name__} from '
            f'"{self.checkpoint}"{lacks}.',
            logger='current',
        )


def translate(name: str) -> str | None:
    """Our name of a block's tensor or of the class token.

    Args:
        name (str): In timm's or mmpretrain's layout.

    Returns:
        str | None: None for anything else, such as a decoder's block.
    """
    if _CLS.fullmatch(name):
        return 'cls_token'
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    number, rest = match.groups()
    for theirs, ours in _MMPRETRAIN:
        if rest == theirs or rest.startswith(theirs + '.'):
            rest = ours + rest[len(theirs) :]
            break
    return f'layers.{number}.{rest}'


def select_blocks(
    source: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Select from a larger ViT what a smaller one has.

    Where the source has more blocks, the first ones are taken.

    Args:
        source (Mapping[str, Tensor]): Weights of the ViT under its names.
        target (Mapping[str, Tensor]): Tensors to fill, under our names.

    Returns:
        dict[str, Tensor]: Of the target's shapes, under our names.

    Raises:
        ValueError: If a tensor of the source is smaller than the target's.
    """
    found = {}
    for name, tensor in source.items():
        ours = translate(name)
        if ours in target:
            found[ours] = (name, tensor)
    selected = {}
    for ours, wanted in target.items():
        if ours not in found:
            continue
        name, tensor = found[ours]
        small = tensor.dim() != wanted.dim() or any(
            have < need for have, need in zip(tensor.shape, wanted.shape)
        )
        if small:
            raise ValueError(
                f'{name} of shape {tuple(tensor.shape)} is smaller than {ours} of '
                f'shape {tuple(wanted.shape)}; weights can only be selected from a '
                'ViT that is at least as wide.'
            )
        parts = 3 if '.attn.qkv.' in ours else 1
        selected[ours] = select_elements(tensor, wanted.shape, parts)
    return selected


def select_elements(
    tensor: Tensor, shape: torch.Size | tuple[int, ...], parts: int = 1
) -> Tensor:
    """Evenly spaced elements of each dimension of a tensor.

    Args:
        tensor (Tensor): Of any shape.
        shape (tuple[int, ...]): As many dimensions, none larger.
        parts (int): Equal parts of the first dimension that are selected from one by
            one: 3 for stacked queries, keys and values. Defaults to 1.

    Returns:
        Tensor: Of that shape.
    """
    chunks = []
    for chunk in tensor.chunk(parts):
        for dim, size in enumerate((shape[0] // parts, *shape[1:])):
            index = even_indices(chunk.shape[dim], size)
            chunk = chunk.index_select(dim, index.to(chunk.device))
        chunks.append(chunk)
    return torch.cat(chunks)


def even_indices(source: int, target: int) -> Tensor:
    """Indices of evenly spaced elements.

    Args:
        source (int): Number of elements.
        target (int): Number to select, at most as many.

    Returns:
        Tensor: ``target`` int64; every (source/target)-th where that is a whole number,
        else rounded positions from the first element to the last.
    """
    if source % target == 0:
        return torch.arange(target) * (source // target)
    return torch.linspace(0, source - 1, target, dtype=torch.float64).round().long()
