"""From K codes back to L positions: the recovery R_ω (paper section 3.2)."""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mergevq_mm.registry import MODELS

from ..utils.attention import init_transformer
from ..utils.group_map import recover_tokens
from ..utils.precision import no_autocast
from ..utils.structures import RecoveredTokens


@MODELS.register_module()
class GroupMapRecovery(BaseModule):
    """Recovery by the true source map: each position copies its group's code."""

    learned = False

    def forward(
        self, codes: Tensor, group: Tensor | None, grid: tuple[int, int]
    ) -> RecoveredTokens:
        """Put the codes back on the grid.

        Args:
            codes (Tensor): B×K×d.
            group (Tensor): Token of each raster position, B×L int64.
            grid (tuple[int, int]): Rows and columns; not used here.

        Returns:
            RecoveredTokens: Tokens B×L×d, no logits.

        Raises:
            ValueError: If there is no map.
        """
        if group is None:
            raise ValueError(
                'group=None, but GroupMapRecovery cannot predict the source map; give '
                'the map or use SourceRecovery.'
            )
        return RecoveredTokens(recover_tokens(codes, group), None)


@MODELS.register_module()
class SourceRecovery(BaseModule):
    """Learned recovery: predicts for each raster position the token that it belongs to.

    A query a position attends to the K codes in transformer decoder layers, then the
    position is classified: the logits are the scaled products of the refined queries
    with the projected codes. Codes carry no position, so the prediction is equivariant
    to their order. Reconstruction during training uses the true map where it is given.

    Differences: paper text and appendix disagree on width and layers (spec section 7);
    these are two standard decoder layers of width 384 with 8 heads. The authors' code
    has a class for it, but neither trains nor uses it.

    Args:
        bits (int): Width of the codes, d. Defaults to 18.
        grid (tuple[int, int]): Grid that the queries are made for; for other grids they
            are interpolated. Defaults to (16, 16).
        embed_dims (int): Width. Defaults to 384.
        num_layers (int): Decoder layers. Defaults to 2.
        num_heads (int): Heads. Defaults to 8.
        feedforward_channels (int): Hidden width of the MLPs. Defaults to 1536.
        detach (bool): Whether to stop the gradient into the codes. Defaults to False.
        init_cfg (dict, optional): Initialization. Defaults to None.
    """

    learned = True

    def __init__(
        self,
        bits: int = 18,
        grid: tuple[int, int] = (16, 16),
        embed_dims: int = 384,
        num_layers: int = 2,
        num_heads: int = 8,
        feedforward_channels: int = 1536,
        detach: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.bits = bits
        self.detach = detach
        self.query = nn.Parameter(torch.zeros(1, embed_dims, *grid))
        self.embed = nn.Sequential(
            nn.Linear(bits, embed_dims), nn.LayerNorm(embed_dims)
        )
        layer = nn.TransformerDecoderLayer(
            embed_dims,
            num_heads,
            feedforward_channels,
            dropout=0.0,
            activation=F.gelu,
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerDecoder(
            layer, num_layers, norm=nn.LayerNorm(embed_dims)
        )
        self.key = nn.Linear(embed_dims, embed_dims, bias=False)
        init_transformer(self)
        for name, parameter in self.layers.named_parameters():
            if name.endswith(
                'in_proj_weight'
            ):  # nn.TransformerDecoder copies one layer
                nn.init.xavier_uniform_(parameter)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(
        self, codes: Tensor, group: Tensor | None, grid: tuple[int, int]
    ) -> RecoveredTokens:
        """Score the tokens for each position and put the codes back on the grid.

        Args:
            codes (Tensor): B×K×d.
            group (Tensor, optional): True token of each raster position, B×L int64.
                With None the predicted one is used.
            grid (tuple[int, int]): Rows and columns, rows * columns = L.

        Returns:
            RecoveredTokens: Tokens B×L×d and logits B×L×K float32.
        """
        logits = self.scores(codes.detach() if self.detach else codes, grid)
        if group is None:
            group = logits.argmax(dim=-1)
        return RecoveredTokens(recover_tokens(codes, group), logits)

    def scores(self, codes: Tensor, grid: tuple[int, int]) -> Tensor:
        """Score of each token for each position, B×L×K float32."""
        query = self.query
        if query.shape[-2:] != tuple(grid):
            query = F.interpolate(query, grid, mode='bicubic', align_corners=False)
        query = query.flatten(2).transpose(1, 2)  # 1×D×h×w -> 1×L×D
        memory = self.embed(codes)
        refined = self.layers(query.expand(codes.shape[0], -1, -1), memory)
        keys = self.key(memory).transpose(1, 2)
        # In bfloat16 close scores are equal, and the first of them would win.
        with no_autocast(refined):
            return refined.float() @ keys.float() / keys.shape[1] ** 0.5
