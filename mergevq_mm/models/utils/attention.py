"""Attention blocks of the encoder and the decoder."""

from __future__ import annotations

from timm.layers import DropPath, LayerScale, Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from mergevq_mm.base.module import BaseModule

from .token_merging import Matching, bipartite_matching, merge_tokens


class Attention(nn.Module):
    """Multi-head self-attention that can weigh tokens by their size.

    Args:
        dim (int): Width, D.
        num_heads (int): Number of heads.

    Raises:
        ValueError: If the heads do not divide the width.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f'num_heads={num_heads} does not divide the width {dim}; choose a '
                'number of heads that does.'
            )
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend from each token to all tokens.

        Args:
            x (Tensor): B×T×D.
            size (Tensor, optional): Positions that each token stands for, B×T; their
                logarithm is added to the scores (proportional attention). Defaults to
                None, all the same.

        Returns:
            tuple[Tensor, Tensor]: B×T×D, and the keys, B×h×T×D/h.
        """
        batch, length, dim = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each B×h×T×D/h
        bias = None
        if size is not None:
            bias = size.log().to(q.dtype)[:, None, None, :]  # B×1×1×T
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out.transpose(1, 2).reshape(batch, length, dim)
        return self.proj(out), k


class MixMlp(nn.Module):
    """Linear, depth-wise 3×3 convolution on the grid, GELU, linear (MixFFN)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """B×L×D to B×L×D, L = rows * columns of the grid."""
        hidden = self.fc1(x).transpose(1, 2).unflatten(2, grid)  # B×C×h×w
        hidden = self.dwconv(hidden).flatten(2).transpose(1, 2)  # B×L×C
        out: Tensor = self.fc2(F.gelu(hidden))
        return out


class MergingBlock(BaseModule):
    """Pre-norm attention block that merges tokens between attention and MLP.

    Args:
        dim (int): Width, D.
        num_heads (int): Number of heads.
        mlp_ratio (float): Hidden width of the MLP over D. Defaults to 4.
        layer_scale (float): Initial LayerScale. Defaults to 1e-5.
        drop_path (float): Probability that a branch is dropped. Defaults to 0.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        layer_scale: float = 1e-5,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.ls1 = LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))  # linear, exact GELU, linear
        self.ls2 = LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, size: Tensor | None, matches: tuple[Matching, ...], r: int
    ) -> tuple[Tensor, Tensor | None, tuple[Matching, ...]]:
        """Attend, merge the r most similar pairs, transform.

        Args:
            x (Tensor): B×T×D, the class token first.
            size (Tensor, optional): Sizes of the tokens, B×T; None while all are 1.
            matches (tuple[Matching]): Merges of the blocks before.
            r (int): Number of pairs to merge.

        Returns:
            tuple: The same three for the T - r tokens that are left; what stands for
            which raster position is told by
            :func:`~mergevq_mm.models.utils.token_merging.follow_merges`.
        """
        attended, keys = self.attn(self.norm1(x), size)
        x = x + self.drop_path(self.ls1(attended))
        if r > 0:
            match = bipartite_matching(keys.mean(dim=1), r)
            x, size = merge_tokens(x, size, match)
            matches = (*matches, match)
        x = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return x, size, matches


class GridBlock(BaseModule):
    """Pre-norm attention block of the decoder, with a convolution in its MLP.

    Args:
        dim (int): Width, D.
        num_heads (int): Number of heads.
        mlp_ratio (float): Hidden width of the MLP over D. Defaults to 4.
        layer_scale (float): Initial LayerScale. Defaults to 1e-5.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        layer_scale: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.ls1 = LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MixMlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, layer_scale)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """B×L×D to B×L×D, L = rows * columns of the grid."""
        x = x + self.ls1(self.attn(self.norm1(x))[0])
        x = x + self.ls2(self.mlp(self.norm2(x), grid))
        return x


def init_transformer(module: nn.Module) -> None:
    """Initialise the linear layers below ``module`` as ViTs are: N(0, 0.02), bias 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
