"""The causal transformer of the generators: RMSNorm, rotary attention, SwiGLU."""

from __future__ import annotations

from typing import Protocol

import timm.layers
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kv_store import activation_dtype
from .rotary import rotate, rotate_
from .visibility import attention_bias


class Memory(Protocol):
    """Where a layer's keys and values of this and of earlier calls stand."""

    def __call__(self, layer: int, new: Tensor) -> Tensor:
        """Store new keys and values, 2×B×H×n×c, and return all that are to be read."""


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
        factors: Tensor | None,
        bias: Tensor | None,
        memory: Memory | None,
        layer: int,
    ) -> Tensor:
        """Attend.

        Args:
            x (Tensor): B×n×D.
            factors (Tensor, optional): Rotary factors of the n places; see
                :meth:`alone` for None.
            bias (Tensor, optional): Added to the logits, B×1×n×m or broadcastable to
                it. None: all is seen that ``memory`` returns, without it what is past.
            memory (Memory, optional): Of a cached decoder.
            layer (int): Number of this layer, for the memory.

        Returns:
            Tensor: B×n×D.
        """
        if factors is None:
            assert memory is not None  # a token alone is the first of a memory
            return self.alone(x, memory, layer)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        qkv = qkv.permute(2, 0, 3, 1, 4)  # B×n×3×H×c -> 3×B×H×n×c
        if memory is None:
            query, key = rotate(qkv[:2], factors)
            value = qkv[2]
        else:  # keys and values stay together, and are stored by one operator
            rotate_(qkv[:2], factors)
            query = qkv[0]
            key, value = memory(layer, qkv[1:])
        causal = bias is None and memory is None
        seen = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, is_causal=causal
        )
        out: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return out

    def alone(self, x: Tensor, memory: Memory, layer: int) -> Tensor:
        """Attend to the only token there is, B×1×D, which has no position.

        Its key vanishes, and what it sees is its value.
        """
        value = F.linear(x, self.qkv.weight.chunk(3)[2])
        heads = value.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        memory(layer, F.pad(heads.unsqueeze(0), (0,) * 8 + (1, 0)))
        out: Tensor = self.proj(value)
        return out


class SwiGLU(timm.layers.SwiGLU):
    """SwiGLU without biases, whose two inputs may come from one product.

    Attributes:
        joined (Tensor, optional): Weights of gate and value together, 2h×D.
    """

    joined: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """…×D to …×D."""
        if self.joined is None:
            gate, value = self.fc1_g(x), self.fc1_x(x)
        else:
            gate, value = F.linear(x, self.joined).chunk(2, dim=-1)
        out: Tensor = self.fc2(F.silu(gate) * value)
        return out

    def weights(self) -> Tensor:
        """Both weights as they are now, in the type of the activations, 2h×D."""
        both = torch.cat([self.fc1_g.weight, self.fc1_x.weight]).detach()
        return both.to(activation_dtype(both))


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
        factors: Tensor | None,
        bias: Tensor | None,
        memory: Memory | None,
        layer: int,
    ) -> Tensor:
        """B×n×D to B×n×D."""
        seen = self.attn(self.norm1(x), factors, bias, memory, layer)
        x = x + self.dropout(seen)
        x = x + self.dropout(self.ffn(self.norm2(x)))
        return x


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
        factors: Tensor | None,
        mask: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Transform a sequence, or the next part of one.

        Args:
            x (Tensor): B×n×D.
            factors (Tensor, optional): Rotary factors, n×(c/2)×2 or B×n×(c/2)×2. None
                for a single token without a position, the first one in ``memory``.
            mask (Tensor, optional): True where a query may look, B×1×n×m bool or
                broadcastable to it. Defaults to None: with ``memory`` everywhere,
                without it causally.
            memory (Memory, optional): Keys and values of the earlier parts. Defaults to
                None.

        Returns:
            Tensor: B×n×D.
        """
        bias = None if mask is None else attention_bias(mask, activation_dtype(x))
        for layer, block in enumerate(self.blocks):
            x = block(x, factors, bias, memory, layer)
        return x


class JoinedWeights:
    """For many steps of few tokens: within it each SwiGLU reads its input once.

    The joined weights are a copy, of 45 % of the blocks' weights, which is taken anew
    on each entry: so they are never old ones. The next entry writes where the last one
    did, as captured graphs need it.

    Args:
        *transformers (CausalTransformer): Whose steps are to come.
    """

    def __init__(self, *transformers: CausalTransformer) -> None:
        modules = (part for each in transformers for part in each.modules())
        self.parts = [part for part in modules if isinstance(part, SwiGLU)]
        self.joined: list[Tensor] | None = None

    def __enter__(self) -> None:
        if self.joined is None:
            self.joined = [part.weights() for part in self.parts]
        else:
            for old, part in zip(self.joined, self.parts, strict=True):
                old.copy_(part.weights())
        for part, joined in zip(self.parts, self.joined, strict=True):
            part.joined = joined

    def __exit__(self, *error: object) -> None:
        for part in self.parts:
            part.joined = None


def init_llama(module: nn.Module, std: float = 0.02) -> None:
    """Normal weights for all linear maps and embeddings, in place."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
            bias = getattr(part, 'bias', None)
            if bias is not None:
                nn.init.zeros_(bias)
