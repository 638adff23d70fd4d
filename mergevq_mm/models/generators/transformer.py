"""The causal transformer of the generators: RMSNorm, rotary attention, SwiGLU."""

from __future__ import annotations

from typing import Protocol

from timm.layers import SwiGLU
from torch import Tensor, nn
from torch.nn import functional as F

from .rotary import rotate


class Memory(Protocol):
    """Where a layer's keys and values of this and of earlier calls stand."""

    def __call__(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values, B×H×n×c, and return all that are to be read."""


class RotaryAttention(nn.Module):
    """Multi-head self-attention with rotary positions, without biases.

    Args:
        dim (int): Width, D.
        num_heads (int): Heads, H.

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
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        x: Tensor,
        factors: Tensor,
        mask: Tensor | None,
        memory: Memory | None,
        layer: int,
    ) -> Tensor:
        """Attend.

        Args:
            x (Tensor): B×n×D.
            factors (Tensor): Rotary factors of the n places.
            mask (Tensor, optional): True where a query may look, B×1×n×m or
                broadcastable to it. None is causal.
            memory (Memory, optional): Of a cached decoder.
            layer (int): Number of this layer, for the memory.

        Returns:
            Tensor: B×n×D.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # B×n×3×H×c -> 3×B×H×n×c
        query, key = rotate(query, factors), rotate(key, factors)
        if memory is not None:
            key, value = memory(layer, key, value)
        causal = mask is None
        seen = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal
        )
        return self.proj(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and SwiGLU, each behind an RMSNorm and with a residual.

    Args:
        dim (int): Width, D.
        num_heads (int): Heads.
        hidden (int): Width within the SwiGLU.
        dropout (float): After attention and SwiGLU.
    """

    def __init__(self, dim: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(dim, eps=1e-5)
        self.attn = RotaryAttention(dim, num_heads)
        self.norm2 = nn.RMSNorm(dim, eps=1e-5)
        self.ffn = SwiGLU(dim, hidden, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        factors: Tensor,
        mask: Tensor | None,
        memory: Memory | None,
        layer: int,
    ) -> Tensor:
        """B×n×D to B×n×D."""
        seen = self.attn(self.norm1(x), factors, mask, memory, layer)
        x = x + self.dropout(seen)
        return x + self.dropout(self.ffn(self.norm2(x)))


class CausalTransformer(nn.Module):
    """Blocks of a decoder-only transformer, which does not know what remembers for it.

    Args:
        dim (int): Width, D.
        num_layers (int): Blocks.
        num_heads (int): Heads.
        dropout (float): Defaults to 0.
        ffn_multiple (int): The SwiGLU's width is 8/3 D, rounded up to a multiple of
            this. Defaults to 256.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        dropout: float = 0.0,
        ffn_multiple: int = 256,
    ) -> None:
        super().__init__()
        hidden = -(-(8 * dim // 3) // ffn_multiple) * ffn_multiple
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, hidden, dropout) for _ in range(num_layers)
        )
        self.num_heads = num_heads
        self.head_dim = dim // num_heads

    def forward(
        self,
        x: Tensor,
        factors: Tensor,
        mask: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Transform a sequence, or the next part of one.

        Args:
            x (Tensor): B×n×D.
            factors (Tensor): Rotary factors, n×(c/2)×2 or B×n×(c/2)×2.
            mask (Tensor, optional): Defaults to None, causal.
            memory (Memory, optional): Keys and values of the earlier parts; with it a
                mask over all that it returns is needed. Defaults to None.

        Returns:
            Tensor: B×n×D.
        """
        for layer, block in enumerate(self.blocks):
            x = block(x, factors, mask, memory, layer)
        return x


def init_llama(module: nn.Module, std: float = 0.02) -> None:
    """Normal weights for all linear maps and embeddings, in place."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
            if getattr(part, 'bias', None) is not None:
                nn.init.zeros_(part.bias)
