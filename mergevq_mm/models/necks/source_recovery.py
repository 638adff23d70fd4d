"""From K codes back to L positions: the recovery R_ω (paper section 3.2)."""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mergevq_mm.registry import MODELS
from mergevq_mm.utils.older_neck import complete_older_neck

from ..utils.attention import init_transformer
from ..utils.group_map import recover_tokens
from ..utils.possible_maps import best_possible_map
from ..utils.precision import no_autocast
from ..utils.sinusoids import sinusoids
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
    with the projected codes. The codes stand in the order of their first raster
    position: a linear layer of sines of the rank k and of k·L/K, the place that it has
    on average, is added to them, and of those of its own place to each query. The map
    is the best of those that can exist. Reconstruction during training uses the true
    map where it is given.

    Differences: paper text and appendix disagree on width and layers (spec section 7);
    these are two standard decoder layers of width 384 with 8 heads. The paper says
    nothing of an order of the codes; without it equal codes cannot be told apart, nor
    can K, and it takes the likeliest token of each position by itself. The authors'
    code has a class for it, but neither trains nor uses it.

    Args:
        bits (int): Width of the codes, d. Defaults to 18.
        grid (tuple[int, int]): Grid that the queries are made for; for other grids they
            are interpolated. Defaults to (16, 16).
        embed_dims (int): Width; even. Defaults to 384.
        num_layers (int): Decoder layers. Defaults to 2.
        num_heads (int): Heads. Defaults to 8.
        feedforward_channels (int): Hidden width of the MLPs. Defaults to 1536.
        code_layers (int): Self-attention layers over the codes before the queries look
            at them. Defaults to 0.
        detach (bool): Whether to stop the gradient into the codes. Defaults to False.
        init_cfg (dict, optional): Initialization. Defaults to None.

    Raises:
        ValueError: If the width is odd.
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
        code_layers: int = 0,
        detach: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if embed_dims % 2:
            raise ValueError(
                f'embed_dims={embed_dims} of SourceRecovery is odd, but it shows ranks '
                'as sines and as many cosines; choose an even width.'
            )
        self.bits = bits
        self.detach = detach
        self.query = nn.Parameter(torch.zeros(1, embed_dims, *grid))
        self.embed = nn.Sequential(
            nn.Linear(bits, embed_dims), nn.LayerNorm(embed_dims)
        )
        self.order = nn.Linear(2 * embed_dims, embed_dims, bias=False)
        arguments = {
            'd_model': embed_dims,
            'nhead': num_heads,
            'dim_feedforward': feedforward_channels,
            'dropout': 0.0,
            'activation': F.gelu,
            'batch_first': True,
            'norm_first': True,
        }
        self.code_layers = nn.ModuleList(
            nn.TransformerEncoderLayer(**arguments) for _ in range(code_layers)
        )
        self.layers = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(**arguments),
            num_layers,
            norm=nn.LayerNorm(embed_dims),
        )
        self.key = nn.Linear(embed_dims, embed_dims, bias=False)
        init_transformer(self)
        for name, parameter in self.named_parameters():
            if name.endswith(
                'in_proj_weight'
            ):  # nn.TransformerDecoder copies one layer
                nn.init.xavier_uniform_(parameter)
        nn.init.trunc_normal_(self.query, std=0.02)
        self._register_load_state_dict_pre_hook(self._complete_older)

    def forward(
        self,
        codes: Tensor,
        group: Tensor | None,
        grid: tuple[int, int],
    ) -> RecoveredTokens:
        """Score the tokens for each position and put the codes back on the grid.

        Args:
            codes (Tensor): B×K×d, in the order of their first raster position.
            group (Tensor, optional): True token of each raster position, B×L int64.
                With None the best possible one is used, see
                :func:`~mergevq_mm.models.utils.possible_maps.best_possible_map`.
            grid (tuple[int, int]): Rows and columns, rows * columns = L ≥ K.

        Returns:
            RecoveredTokens: Tokens B×L×d and logits B×L×K float32.

        Raises:
            ValueError: If a map is to be predicted for more codes than positions.
        """
        logits = self.scores(codes.detach() if self.detach else codes, grid)
        if group is None:
            group = best_possible_map(logits)
        return RecoveredTokens(recover_tokens(codes, group), logits)

    def scores(self, codes: Tensor, grid: tuple[int, int]) -> Tensor:
        """Score of each token for each position, B×L×K float32."""
        number, length = codes.shape[1], grid[0] * grid[1]
        rank = torch.arange(number, device=codes.device)
        place = torch.arange(length, device=codes.device)
        query = self.query
        if query.shape[-2:] != tuple(grid):
            query = F.interpolate(query, grid, mode='bicubic', align_corners=False)
        query = query.flatten(2).transpose(1, 2)  # 1×D×h×w -> 1×L×D
        query = query + self._in_order(place, place)
        memory = self.embed(codes) + self._in_order(rank, rank * length / number)
        for layer in self.code_layers:
            memory = layer(memory)
        refined = self.layers(query.expand(codes.shape[0], -1, -1), memory)
        keys = self.key(memory).transpose(1, 2)
        # In bfloat16 close scores are equal, and the first of them would win.
        with no_autocast(refined):
            return refined.float() @ keys.float() / keys.shape[1] ** 0.5

    def _in_order(self, rank: Tensor, place: Tensor) -> Tensor:
        """What a code's rank and its mean place add to it, n×D."""
        dims = self.order.out_features
        sines = torch.cat([sinusoids(rank, dims), sinusoids(place, dims)], dim=-1)
        return self.order(sines.to(self.order.weight.dtype))

    def _complete_older(self, state_dict: dict, prefix: str, *args: object) -> None:
        """Let weights of before the order was known be loaded as they were."""
        complete_older_neck(state_dict, {prefix + 'order.weight': self.order.weight})
