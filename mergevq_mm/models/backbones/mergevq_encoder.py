"""The encoder of MergeVQ as an mmpretrain backbone (paper sections 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mergevq_mm.base.algorithm import BaseBackbone
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.pretrained import init_pretrained

from ..utils.attention import MergingBlock, init_transformer
from ..utils.group_map import in_raster_order, recover_tokens
from ..utils.merge_schedule import (
    SCHEDULES,
    check_removed,
    merge_schedule,
    resolve_keep,
)
from ..utils.structures import EmbeddedImage, MergedTokens
from ..utils.token_merging import Matching, follow_merges
from .architectures import (
    ARCHITECTURES,
    check_frozen,
    check_stages,
    one_of,
    read_architecture,
    read_indices,
)
from .positions import fit_loaded_positions, resize_positions, sincos_positions
from .stems import build_stem


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
            ``num_res_blocks``; for 'patch', ``embed_dims`` and ``patch_size``; for
            either ``norm_groups`` of the stem. Defaults to 'g+r-d64'.
        img_size (int | tuple): Image size that the position embedding is made for; any
            other size that the stride divides works too. Defaults to 256.
        in_channels (int): Channels of the image. Defaults to 3.
        pos_embed (bool | str, optional): Whether to add a learned position embedding;
            'sincos' starts it from sines and cosines, as MAE does, True from noise.
            Defaults to None: for 'patch' True, for 'hybrid' False.
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
        recompute_stages (int): Stages of a 'hybrid' stem, from the full resolution
            down, whose inner maps are computed again in the backward pass instead of
            kept: less memory, a second forward pass of them. Defaults to 0.
        init_cfg (dict, optional): Initialization. With type 'Pretrained', a checkpoint
            that matches no weight is an error. Defaults to None.

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    arch_zoo = ARCHITECTURES
    OUT_TYPES = ('cls_token', 'featmap', 'avg_featmap', 'raw')
    GRAPHED = ('encode_embedded', 'block_features')  # see `graphed_methods`

    def __init__(
        self,
        arch: str | dict[str, Any] = 'g+r-d64',
        img_size: int | tuple[int, int] = 256,
        in_channels: int = 3,
        pos_embed: bool | str | None = None,
        schedule: str = 'linear',
        keep: int | float | None = None,
        out_type: str = 'cls_token',
        out_indices: int | Sequence[int] = -1,
        out_stages: Sequence[int] = (),
        frozen_stages: int = -1,
        drop_path_rate: float = 0.0,
        layer_scale: float = 1e-5,
        recompute_stages: int = 0,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        arch = read_architecture(arch)
        one_of('out_type', out_type, self.OUT_TYPES)
        one_of('schedule', schedule, SCHEDULES)
        self.stem = build_stem(arch, in_channels, recompute_stages)
        self.embed_dims = self.stem.out_channels
        self.stride = self.stem.stride
        self.num_layers: int = arch['num_layers']
        self.schedule = schedule
        self.keep = keep
        self.out_type = out_type
        self.out_stages = tuple(out_stages)
        self.out_indices = read_indices(out_indices, self.num_layers)
        check_stages(self.out_stages, len(self.stem.stage_channels))

        if not isinstance(img_size, Sequence):
            img_size = (img_size, img_size)
        height, width = img_size  # a list, where it comes from JSON
        self.img_size = (height, width)
        self.grid = self.grid_of(height, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))
        self.pos_embed: nn.Parameter | None = None
        if pos_embed is None:
            pos_embed = arch['stem'] == 'patch'
        one_of('pos_embed', pos_embed, (True, False, 'sincos'))
        if pos_embed:
            length = self.grid[0] * self.grid[1]
            self.pos_embed = nn.Parameter(torch.zeros(1, length, self.embed_dims))
            # Stands in checkpoints: 4x4 and 2x8 positions are equally many.
            self.register_buffer('pos_grid', torch.tensor(self.grid))
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
        check_frozen(frozen_stages, self.num_layers)
        self.frozen_stages = frozen_stages
        self._freeze_stages()
        self._init_parameters(sincos=pos_embed == 'sincos')
        register = self._register_load_state_dict_pre_hook
        register(self._fit_loaded_positions)  # type: ignore[no-untyped-call]  # torch's

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
        return self.encode_embedded(self.embed(x), keep, removed)

    def embed(self, x: Tensor) -> EmbeddedImage:
        """Run the stem, which does not depend on K.

        Args:
            x (Tensor): Images, B×3×H×W.

        Returns:
            EmbeddedImage: What :meth:`encode_embedded` takes, at any number of K.

        Raises:
            ValueError: If the stride does not divide the image.
        """
        _, embedded = self._embed(x)
        return embedded

    def encode_embedded(
        self,
        embedded: EmbeddedImage,
        keep: int | float | None = None,
        removed: Sequence[int] | None = None,
    ) -> MergedTokens:
        """Run the blocks: the second half of :meth:`encode`.

        Args:
            embedded (EmbeddedImage): From :meth:`embed`.
            keep (int | float, optional): See :meth:`encode`. Defaults to None.
            removed (Sequence[int], optional): See :meth:`encode`. Defaults to None.

        Returns:
            MergedTokens: See :meth:`encode`.

        Raises:
            ValueError: If K cannot be reached.
        """
        x, grid = embedded
        size, matches = None, ()
        for layer, r in zip(self.layers, self.plan(grid, keep, removed), strict=True):
            x, size, matches = layer(x, size, matches, r)
        group = follow_merges(x, matches, grid[0] * grid[1])
        return in_raster_order(x, size, group, grid)

    # ------------------------------------------------------------------- backbone

    def forward(
        self,
        x: Tensor,
        keep: int | float | None = None,
        mode: str = 'features',
        removed: Sequence[int] | None = None,
    ) -> tuple[Tensor, ...] | MergedTokens:
        """Extract features, or encode for the tokenizer.

        Args:
            x (Tensor): Images, B×3×H×W.
            keep (int | float, optional): Tokens to keep. Defaults to None: for
                features, the constructor's; for encoding, all.
            mode (str): 'features', or 'encode' for :meth:`encode`, callable here so
                that distributed wrappers see it. Defaults to 'features'.
            removed (Sequence[int], optional): Instead of the schedule, how many tokens
                to merge in each block. Defaults to None.

        Returns:
            tuple[Tensor] | MergedTokens: A tensor for each of ``out_stages``
            and ``out_indices``, by ``out_type``; or what :meth:`encode` returns.
        """
        one_of('mode', mode, ('features', 'encode'))
        if mode == 'encode':
            return self.encode(x, keep, removed)
        maps, embedded = self._embed(x)
        keep = self.keep if keep is None else keep
        outs = self.block_features(embedded, self.plan(embedded.grid, keep, removed))
        return (*(maps[i] for i in self.out_stages), *outs)

    def block_features(
        self, embedded: EmbeddedImage, plan: Sequence[int]
    ) -> list[Tensor]:
        """Run the blocks: a tensor for each of ``out_indices``; see :meth:`forward`."""
        x, grid = embedded
        size, matches, outs = None, (), []
        for i, (layer, r) in enumerate(zip(self.layers, plan, strict=True)):
            x, size, matches = layer(x, size, matches, r)
            if i in self.out_indices:
                outs.append(self._format(x, matches, grid))
        return outs

    def _embed(self, x: Tensor) -> tuple[list[Tensor], EmbeddedImage]:
        """Image to the maps of the stem's stages and the tokens of the last one."""
        grid = self.grid_of(*x.shape[-2:])
        maps = self.stem(x)
        tokens = maps[-1].flatten(2).transpose(1, 2)  # B×D×h×w -> B×L×D
        if self.pos_embed is not None:
            tokens = tokens + resize_positions(self.pos_embed, self.grid, grid)
        batch = tokens.shape[0]  # len() would fix it for torch.export
        cls = self.cls_token.expand(batch, -1, -1)
        tokens = torch.cat([cls, tokens], dim=1)
        return maps, EmbeddedImage(tokens, grid)

    def plan(
        self,
        grid: tuple[int, int],
        keep: int | float | None,
        removed: Sequence[int] | None = None,
    ) -> Sequence[int]:
        """How many tokens each block merges.

        Args:
            grid (tuple[int, int]): Rows and columns of the tokens.
            keep (int | float, optional): See :meth:`encode`.
            removed (Sequence[int], optional): See :meth:`encode`. Defaults to None.

        Returns:
            Sequence[int]: A number for each block.

        Raises:
            ValueError: If K cannot be reached, or ``removed`` does not fit.
        """
        length = grid[0] * grid[1]
        if removed is not None:
            check_removed(length, removed, self.num_layers)
            return removed
        keep = resolve_keep(keep, length)
        return merge_schedule(length, keep, self.num_layers, self.schedule)

    def _format(
        self, x: Tensor, matches: tuple[Matching, ...], grid: tuple[int, int]
    ) -> Tensor:
        """Tokens B×(1+K)×D to what ``out_type`` asks for."""
        if self.out_type == 'raw':
            return x
        if self.out_type == 'cls_token':
            return x[:, 0]
        group = follow_merges(x, matches, grid[0] * grid[1])
        on_grid = recover_tokens(x, group)  # B×L×D
        if self.out_type == 'avg_featmap':
            return on_grid.mean(dim=1)
        maps: Tensor = on_grid.transpose(1, 2).unflatten(2, grid)
        return maps

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the tokens of an image of so many pixels."""
        if height % self.stride or width % self.stride or not height * width:
            raise ValueError(
                f'image size {height}x{width} is not divisible by the stride '
                f'{self.stride}; resize or pad the image to a multiple of it.'
            )
        return height // self.stride, width // self.stride

    # -------------------------------------------------------------- configuration

    def _init_parameters(self, sincos: bool) -> None:
        init_transformer(self.layers)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.pos_embed is not None and sincos:
            self.pos_embed.data.copy_(sincos_positions(self.grid, self.embed_dims))
        elif self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def init_weights(self) -> None:
        """Load what ``init_cfg`` names, refusing a file that matches no weight.

        Raises:
            FileNotFoundError: If the file is not there or cannot be downloaded.
            ValueError: If it fills nothing.
        """
        if init_pretrained(self):
            return
        try:
            super().init_weights()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'init_cfg of the backbone: {str(error).rstrip(".")} as its '
                "'checkpoint', or set init_cfg=None to start from random weights."
            ) from error

    def _fit_loaded_positions(
        self, state_dict: dict[str, Any], prefix: str, *args: object
    ) -> None:
        """Fit the position embedding of a checkpoint made for another grid."""
        if self.pos_embed is not None:
            fit_loaded_positions(state_dict, prefix, self.pos_embed, self.grid)

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
