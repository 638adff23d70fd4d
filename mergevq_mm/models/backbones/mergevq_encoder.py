"""The encoder of MergeVQ as an mmpretrain backbone (paper sections 3.1 and 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmengine.utils import to_2tuple
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from mergevq_mm.registry import MODELS
from mergevq_mm.utils.pretrained import init_pretrained

from ..utils.attention import MergingBlock, init_transformer
from ..utils.group_map import group_sizes, raster_order, recover_tokens
from ..utils.merge_schedule import (
    SCHEDULES,
    check_removed,
    merge_schedule,
    resolve_keep,
)
from ..utils.structures import MergedTokens
from .architectures import ARCHITECTURES, one_of, read_architecture
from .stems import HybridStem, PatchStem


@MODELS.register_module()
class MergeVQEncoder(BaseBackbone):
    """Image to merged tokens: convolutions or patches, then blocks that merge.

    As a backbone, ``forward(x)`` behaves like mmpretrain's ``VisionTransformer``; for
    the tokenizer, :meth:`encode` returns the K merged tokens with their source map.

    Differences: the authors' encoder has no position embedding, so its patchify variant
    cannot tell where a patch lies; here ``pos_embed`` is on by default for that variant
    (paper Fig. 2) and off for the hybrid ones. There is no final norm, as there.

    Args:
        arch (str | dict): 'g-d32', 'g-d64', 'g+r-d32', 'g+r-d64', 'g+r-d96', 'r-base',
            or a dict with the keys ``stem`` ('hybrid' or 'patch'), ``num_layers``,
            ``num_heads`` and, for 'hybrid', ``base_channels``, ``channel_mult``,
            ``num_res_blocks`` and ``norm_groups``; for 'patch', ``embed_dims`` and
            ``patch_size``. Defaults to 'g+r-d64'.
        img_size (int | tuple): Image size that the position embedding is made for; any
            other size that the stride divides works too. Defaults to 256.
        in_channels (int): Channels of the image. Defaults to 3.
        pos_embed (bool, optional): Whether to add a learned position embedding.
            Defaults to None: for 'patch' yes, for 'hybrid' no.
        schedule (str): How the merged tokens spread over the layers, 'linear',
            'constant' or 'square'. Defaults to 'linear'.
        keep (int | float, optional): Tokens to keep, or their share, where this is used
            as a backbone. Defaults to None, no merging.
        out_type (str): 'cls_token' B×D, 'featmap' B×D×h×w, 'avg_featmap' B×D, or 'raw'
            B×(1+T)×D, the class token first. Merged tokens are put back on the grid
            first, except for 'raw'. Defaults to 'cls_token'.
        out_indices (int | Sequence[int]): Blocks whose output to return. Defaults to
            -1, the last one.
        out_stages (Sequence[int]): Stages of the stem whose maps to return before those
            of the blocks, at the strides 1, 2, 4, … Defaults to ().
        frozen_stages (int): Freeze the stem and so many blocks; 0 the stem alone, -1
            nothing. Defaults to -1.
        drop_path_rate (float): Of the last block, rising linearly. Defaults to 0.
        layer_scale (float): Initial LayerScale. Defaults to 1e-5.
        init_cfg (dict, optional): Initialization. With type 'Pretrained', a checkpoint
            that matches no weight is an error. Defaults to None.

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    arch_zoo = ARCHITECTURES
    OUT_TYPES = ('cls_token', 'featmap', 'avg_featmap', 'raw')

    def __init__(
        self,
        arch: str | dict = 'g+r-d64',
        img_size: int | tuple[int, int] = 256,
        in_channels: int = 3,
        pos_embed: bool | None = None,
        schedule: str = 'linear',
        keep: int | float | None = None,
        out_type: str = 'cls_token',
        out_indices: int | Sequence[int] = -1,
        out_stages: Sequence[int] = (),
        frozen_stages: int = -1,
        drop_path_rate: float = 0.0,
        layer_scale: float = 1e-5,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        arch = read_architecture(arch)
        one_of('out_type', out_type, self.OUT_TYPES)
        one_of('schedule', schedule, SCHEDULES)
        if arch['stem'] == 'hybrid':
            self.stem = HybridStem(
                in_channels,
                arch['base_channels'],
                arch['channel_mult'],
                arch.get('num_res_blocks', 4),
                arch.get('norm_groups', 32),
            )
        else:
            self.stem = PatchStem(in_channels, arch['embed_dims'], arch['patch_size'])
        self.embed_dims = self.stem.out_channels
        self.stride = self.stem.stride
        self.num_layers = arch['num_layers']
        self.schedule = schedule
        self.keep = keep
        self.out_type = out_type
        self.out_stages = tuple(out_stages)
        self.out_indices = self._read_indices(out_indices)

        self.img_size = to_2tuple(img_size)
        self.grid = self.grid_of(*self.img_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))
        self.pos_embed: nn.Parameter | None = None
        if arch['stem'] == 'patch' if pos_embed is None else pos_embed:
            length = self.grid[0] * self.grid[1]
            self.pos_embed = nn.Parameter(torch.zeros(1, length, self.embed_dims))
        step = drop_path_rate / max(self.num_layers - 1, 1)
        self.layers = nn.ModuleList(
            MergingBlock(
                self.embed_dims,
                arch['num_heads'],
                layer_scale=layer_scale,
                drop_path=i * step,
            )
            for i in range(self.num_layers)
        )
        if not -1 <= frozen_stages <= self.num_layers:
            raise ValueError(
                f'frozen_stages={frozen_stages} lies outside [-1, {self.num_layers}]; '
                '-1 freezes nothing, 0 the stem, n the stem and the first n blocks.'
            )
        self.frozen_stages = frozen_stages
        self._freeze_stages()
        self._init_parameters()
        self._register_load_state_dict_pre_hook(self._resize_loaded_pos_embed)

    # ------------------------------------------------------------------ tokenizer

    def encode(
        self,
        x: Tensor,
        keep: int | float | None = None,
        removed: Sequence[int] | None = None,
    ) -> MergedTokens:
        """Encode images into K merged tokens each and the map of where they came from.

        Args:
            x (Tensor): Images, B×3×H×W.
            keep (int | float, optional): Tokens to keep, K, or their share of L.
                Defaults to None, all.
            removed (Sequence[int], optional): Instead of the schedule, how many tokens
                to merge in each block. Defaults to None.

        Returns:
            MergedTokens: The tokens in the order of their first raster position.

        Raises:
            ValueError: If the stride does not divide the image, or K cannot be reached.
        """
        _, x, size, group, grid = self._embed(x)
        for layer, r in zip(self.layers, self._plan(grid, keep, removed), strict=True):
            x, size, group = layer(x, size, group, r)
        return self._merged(x, size, group, grid)

    @staticmethod
    def _merged(
        x: Tensor, size: Tensor | None, group: Tensor, grid: tuple[int, int]
    ) -> MergedTokens:
        """What the blocks left, in raster order and without the class token."""
        cls, tokens = x[:, 0], x[:, 1:]
        group = group - 1  # positions were counted with the class token
        if size is not None:
            group, old = raster_order(group, tokens.shape[1])
            tokens = recover_tokens(tokens, old)
        return MergedTokens(
            cls, tokens, group, group_sizes(group, tokens.shape[1]), grid
        )

    # ------------------------------------------------------------------- backbone

    def forward(
        self,
        x: Tensor,
        keep: int | float | None = None,
        mode: str = 'features',
        removed: Sequence[int] | None = None,
    ) -> tuple[Tensor, ...] | MergedTokens | Tensor:
        """Extract features, or encode for the tokenizer.

        Args:
            x (Tensor): Images, B×3×H×W.
            keep (int | float, optional): Tokens to keep. Defaults to None: for
                features, the constructor's; for encoding, all.
            mode (str): 'features'; 'encode' for :meth:`encode`, callable here so that
                distributed wrappers see it; 'cls' for the last class token alone.
                Defaults to 'features'.
            removed (Sequence[int], optional): Instead of the schedule, how many tokens
                to merge in each block. Defaults to None.

        Returns:
            tuple[Tensor] | MergedTokens | Tensor: A tensor for each of ``out_stages``
            and ``out_indices``, by ``out_type``; what :meth:`encode` returns; or B×D.
        """
        one_of('mode', mode, ('features', 'encode', 'cls'))
        if mode != 'features':
            merged = self.encode(x, keep, removed)
            return merged if mode == 'encode' else merged.cls
        maps, x, size, group, grid = self._embed(x)
        outs = [maps[i] for i in self.out_stages]
        plan = self._plan(grid, self.keep if keep is None else keep, removed)
        for i, (layer, r) in enumerate(zip(self.layers, plan, strict=True)):
            x, size, group = layer(x, size, group, r)
            if i in self.out_indices:
                outs.append(self._format(x, group, grid))
        return tuple(outs)

    def _embed(self, x: Tensor) -> tuple:
        """Image to stage maps, tokens B×(1+L)×D, sizes, source map B×L, and grid."""
        grid = self.grid_of(*x.shape[-2:])
        maps = self.stem(x)
        tokens = maps[-1].flatten(2).transpose(1, 2)  # B×D×h×w -> B×L×D
        if self.pos_embed is not None:
            tokens = tokens + self._resize(self.pos_embed, self.grid, grid)
        batch, length, _ = tokens.shape
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), tokens], dim=1)
        # Positions count the class token, which stays at 0.
        group = torch.arange(1, length + 1, device=x.device).expand(batch, length)
        return maps, tokens, None, group, grid

    def _plan(
        self,
        grid: tuple[int, int],
        keep: int | float | None,
        removed: Sequence[int] | None = None,
    ) -> Sequence[int]:
        """How many tokens each block merges."""
        length = grid[0] * grid[1]
        if removed is not None:
            if len(removed) != self.num_layers:
                raise ValueError(
                    f'removed={list(removed)} has {len(removed)} numbers; give one for '
                    f'each of the {self.num_layers} blocks.'
                )
            check_removed(length, removed)
            return removed
        keep = resolve_keep(keep, length)
        return merge_schedule(length, keep, self.num_layers, self.schedule)

    def _format(self, x: Tensor, group: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens B×(1+K)×D to what ``out_type`` asks for."""
        if self.out_type == 'raw':
            return x
        if self.out_type == 'cls_token':
            return x[:, 0]
        on_grid = recover_tokens(x, group)  # B×L×D
        if self.out_type == 'avg_featmap':
            return on_grid.mean(dim=1)
        return on_grid.transpose(1, 2).unflatten(2, grid)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the tokens of an image of so many pixels."""
        if height % self.stride or width % self.stride or not height * width:
            raise ValueError(
                f'image size {height}x{width} is not divisible by the stride '
                f'{self.stride}; resize or pad the image to a multiple of it.'
            )
        return height // self.stride, width // self.stride

    # -------------------------------------------------------------- configuration

    def _read_indices(self, out_indices: int | Sequence[int]) -> tuple[int, ...]:
        if isinstance(out_indices, int):
            out_indices = [out_indices]
        for index in out_indices:
            if not -self.num_layers <= index < self.num_layers:
                raise ValueError(
                    f'out_indices={list(out_indices)} names block {index}; there are '
                    f'{self.num_layers} blocks, 0 to {self.num_layers - 1}.'
                )
        number = len(self.stem.stage_channels)
        for index in self.out_stages:
            if not 0 <= index < number:
                raise ValueError(
                    f'out_stages={list(self.out_stages)} names stage {index}; the stem '
                    f'has {number}, 0 to {number - 1}.'
                )
        return tuple(index % self.num_layers for index in out_indices)

    def _init_parameters(self) -> None:
        init_transformer(self.layers)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def init_weights(self) -> None:
        """Load ``init_cfg``'s checkpoint, refusing one that matches no weight."""
        if not init_pretrained(self):
            super().init_weights()

    # --------------------------------------------------------- position embedding

    @staticmethod
    def _resize(
        pos_embed: Tensor, src: tuple[int, int], dst: tuple[int, int]
    ) -> Tensor:
        return resize_pos_embed(pos_embed, src, dst, 'bicubic', num_extra_tokens=0)

    def _resize_loaded_pos_embed(
        self, state_dict: dict, prefix: str, *args: object
    ) -> None:
        """Fit the position embedding of a checkpoint made for another image size."""
        name = prefix + 'pos_embed'
        if self.pos_embed is None or name not in state_dict:
            return
        loaded = state_dict[name]
        side = math.isqrt(loaded.shape[1])
        if loaded.shape != self.pos_embed.shape and side * side == loaded.shape[1]:
            state_dict[name] = self._resize(loaded, (side, side), self.grid)

    # ------------------------------------------------------------------- training

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.stem, *self.layers[: self.frozen_stages]]

    def _freeze_stages(self) -> None:
        for module in self._frozen_modules():
            module.requires_grad_(False)
        if self.frozen_stages >= 0:
            self.cls_token.requires_grad_(False)
            if self.pos_embed is not None:
                self.pos_embed.requires_grad_(False)

    def train(self, mode: bool = True) -> MergeVQEncoder:
        """Set the training mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning rates, as mmpretrain counts it.

        Args:
            param_name (str): Name of the parameter.
            prefix (str): What stands before it in the whole model. Defaults to ''.

        Returns:
            tuple[int, int]: The depth, 0 for the stem and i + 1 for block i, and the
            number of depths.
        """
        depths = self.num_layers + 2
        if not param_name.startswith(prefix):
            return depths - 1, depths
        name = param_name[len(prefix) :].split('.')
        if name[0] == 'layers':
            return int(name[1]) + 1, depths
        return 0, depths
