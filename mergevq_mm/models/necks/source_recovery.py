"""From K codes back to L positions: the recovery R_ω (paper section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mergevq_mm.base.module import BaseModule
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.older_neck import complete_older_neck

from ..utils.attention import init_transformer
from ..utils.group_map import first_occurrence, recover_tokens
from ..utils.possible_maps import best_possible_map, check_first_places
from ..utils.precision import no_autocast
from ..utils.sinusoids import sinusoids
from ..utils.structures import RecoveredTokens


@MODELS.register_module()
class GroupMapRecovery(BaseModule):
    """Recovery by the true source map: each position copies its group's code."""

    learned, num_classes = False, 0

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

    A generator knows more of an image than its codes: its class, and maybe the place
    where each group begins. A neck can be made to take them. In training it is given
    each for half of the samples, so that it does without, too.

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
        num_classes (int): Classes that it can be told of. Defaults to 0, none.
        first_places (bool): Whether it can be told where each group begins. Defaults to
            False; then first places that it is given restrict the map alone.
        detach (bool): Whether to stop the gradient into the codes. Defaults to False.
        init_cfg (dict, optional): Initialization. Defaults to None.

    Raises:
        ValueError: If the width is odd, or a number of layers or classes negative.
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
        num_classes: int = 0,
        first_places: bool = False,
        detach: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check_sizes(embed_dims, code_layers=code_layers, num_classes=num_classes)
        self.bits = bits
        self.num_classes = num_classes
        self.detach = detach
        self.query = nn.Parameter(torch.zeros(1, embed_dims, *grid))
        self.embed = nn.Sequential(
            nn.Linear(bits, embed_dims), nn.LayerNorm(embed_dims)
        )
        self.order = nn.Linear(2 * embed_dims, embed_dims, bias=False)
        arguments: dict[str, Any] = {
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
        # One class more: not known. So is a first place of -1.
        self.class_embedding: nn.Embedding | None = None
        if num_classes:
            self.class_embedding = nn.Embedding(num_classes + 1, embed_dims)
        self.first = nn.Linear(embed_dims, embed_dims) if first_places else None
        init_transformer(self)
        for name, parameter in self.named_parameters():
            # nn.TransformerDecoder copies one layer.
            if name.endswith('in_proj_weight'):
                nn.init.xavier_uniform_(parameter)
        nn.init.trunc_normal_(self.query, std=0.02)
        if self.class_embedding is not None:
            nn.init.trunc_normal_(self.class_embedding.weight, std=0.02)
        register = self._register_load_state_dict_pre_hook
        register(self._complete_older)  # type: ignore[no-untyped-call]  # torch's

    def forward(
        self,
        codes: Tensor,
        group: Tensor | None,
        grid: tuple[int, int],
        labels: Tensor | None = None,
        first: Tensor | None = None,
    ) -> RecoveredTokens:
        """Score the tokens for each position and put the codes back on the grid.

        Args:
            codes (Tensor): B×K×d, in the order of their first raster position.
            group (Tensor, optional): True token of each raster position, B×L int64.
                With None the best possible one is used, see
                :func:`~mergevq_mm.models.utils.possible_maps.best_possible_map`. In
                training it tells the first places, too.
            grid (tuple[int, int]): Rows and columns, rows * columns = L ≥ K.
            labels (Tensor, optional): Classes, B int64; ``num_classes`` is none.
                Defaults to None, none.
            first (Tensor, optional): Where each group begins, B×K int64. The map has
                them then. Defaults to None, not known.

        Returns:
            RecoveredTokens: Tokens B×L×d and logits B×L×K float32.

        Raises:
            ValueError: If a map is to be predicted for more codes than positions or
                for first places that contradict each other, or the classes are not
                those of so many images.
        """
        if labels is not None:
            self._check_labels(labels, codes.shape[0])
        if first is not None:
            check_first_places(first, codes.shape[:2], grid[0] * grid[1])
        told = (labels, first)
        if self.training and group is not None:
            told = self._half_of(labels, group, codes.shape[1])
        logits = self.scores(codes.detach() if self.detach else codes, grid, *told)
        if group is None:
            group = best_possible_map(logits, first)
        return RecoveredTokens(recover_tokens(codes, group), logits)

    def scores(
        self,
        codes: Tensor,
        grid: tuple[int, int],
        labels: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """Score of each token for each position, B×L×K float32; see :meth:`forward`."""
        number, length = codes.shape[1], grid[0] * grid[1]
        rank = torch.arange(number, device=codes.device)
        place = torch.arange(length, device=codes.device)
        query: Tensor = self.query
        if query.shape[-2:] != tuple(grid):
            query = F.interpolate(query, grid, mode='bicubic', align_corners=False)
        query = query.flatten(2).transpose(1, 2)  # 1×D×h×w -> 1×L×D
        query = query + self._in_order(place, place)
        memory = self.embed(codes) + self._in_order(rank, rank * length / number)
        if self.class_embedding is not None:
            if labels is None:
                labels = rank.new_full((codes.shape[0],), self.num_classes)
            query = query + self.class_embedding(labels).unsqueeze(1)
        if self.first is not None and first is not None:
            sines = sinusoids(first, self.first.in_features).to(memory.dtype)
            memory = memory + self.first(sines) * (first >= 0).unsqueeze(-1)
        for layer in self.code_layers:
            memory = layer(memory)
        refined = self.layers(query.expand(codes.shape[0], -1, -1), memory)
        keys = self.key(memory).transpose(1, 2)
        # In bfloat16 close scores are equal, and the first of them would win.
        with no_autocast(refined):
            scores: Tensor = refined.float() @ keys.float() / keys.shape[1] ** 0.5
        return scores

    def _check_labels(self, labels: Tensor, batch: int) -> None:
        """Refuse classes that the neck does not know.

        Outside of training it waits for the device, to look at them.
        """
        if not self.num_classes:
            raise ValueError(
                f'labels of shape {tuple(labels.shape)} tell a SourceRecovery of '
                'num_classes=0 nothing; leave them out, or train one that takes them.'
            )
        if not isinstance(labels, Tensor):
            raise ValueError(
                f'labels of type {type(labels).__name__} are no tensor; give classes, '
                f'int64, of the {batch} images that have this K.'
            )
        if tuple(labels.shape) != (batch,):
            raise ValueError(
                f'labels of shape {tuple(labels.shape)} do not go with the codes of '
                f'{batch} images; give a class for each.'
            )
        unseen = self.training or torch.compiler.is_compiling() or labels.is_meta
        if unseen or not batch:
            return
        low, high = torch.stack(labels.aminmax()).tolist()
        if low < 0 or high > self.num_classes:
            raise ValueError(
                f'labels in [{low}, {high}] are not those of num_classes='
                f'{self.num_classes}; give 0 to {self.num_classes - 1}, or '
                f'{self.num_classes} for none.'
            )

    def _half_of(
        self, labels: Tensor | None, group: Tensor, keep: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Classes, and first places, of a random half of the samples each."""

        def hidden() -> Tensor:
            return torch.rand(len(group), device=group.device) < 0.5

        if labels is not None and self.num_classes:
            labels = labels.masked_fill(hidden(), self.num_classes)
        first = None
        if self.first is not None:
            first = first_occurrence(group, keep)
            first = first.masked_fill(hidden().unsqueeze(1), -1)
        return labels, first

    def _in_order(self, rank: Tensor, place: Tensor) -> Tensor:
        """What a code's rank and its mean place add to it, n×D."""
        dims = self.order.out_features
        sines = torch.cat([sinusoids(rank, dims), sinusoids(place, dims)], dim=-1)
        added: Tensor = self.order(sines.to(self.order.weight.dtype))
        return added

    def _complete_older(
        self, state_dict: dict[str, Any], prefix: str, *args: object
    ) -> None:
        """Let weights of before the order was known be loaded as they were."""
        complete_older_neck(state_dict, {prefix + 'order.weight': self.order.weight})


def _check_sizes(embed_dims: int, **numbers: int) -> None:
    """Refuse what no neck can be made of."""
    if embed_dims % 2:
        raise ValueError(
            f'embed_dims={embed_dims} of SourceRecovery is odd, but it shows ranks as '
            'sines and as many cosines; choose an even width.'
        )
    for name, value in numbers.items():
        if value < 0:
            raise ValueError(
                f'{name}={value} of SourceRecovery is negative; give 0 for none.'
            )
