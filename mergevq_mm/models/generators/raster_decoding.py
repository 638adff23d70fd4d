"""Drawing codes one after the other, with keys and values remembered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..quantizers.lfq_functional import split_index
from .code_drawing import CodeDrawing
from .token_cache import TokenCache


@dataclass
class Drafting:
    """How far samples are that draw several tokens a pass.

    Attributes:
        drawn (Tensor): The codes, B×(L+1+drafts) int64, filled in; what is drawn
            beyond the end has room there.
        done (Tensor): Place of the last code that is certain, B×1 int64.
        passes (Tensor): That each has needed, the prefix's among them, B×1 int64.
        columns (int): Of the grid.
    """

    drawn: Tensor
    done: Tensor
    passes: Tensor
    columns: int

    @classmethod
    def begin(cls, index: Tensor, drafts: int, columns: int) -> Drafting:
        """Where nothing is drawn yet.

        Args:
            index (Tensor): Room for the codes, B×L int64.
            drafts (int): Tokens to guess a pass, at least 1.
            columns (int): Of the grid.
        """
        behind = index.new_full((len(index), drafts + 1), -1)
        done = torch.zeros_like(index[:, :1])
        drawn = torch.cat([index, behind], dim=1)
        return cls(drawn, done, torch.ones_like(done), columns)


@dataclass
class RasterDecoding(CodeDrawing):
    """Samples of the whole raster, or of the distinct codes in their order.

    Attributes:
        cache (TokenCache): Of all sequences: B, or 2B where guidance is on. The
            network's rotary factors are those of prefix and tokens, n×(c/2)×2.
        given (Tensor, optional): Codes that stand already, B×n int64, -1 where one is
            to be drawn.
        drafting (Drafting, optional): Where several tokens are drawn a pass.
    """

    cache: TokenCache
    given: Tensor | None = None
    drafting: Drafting | None = None

    def start(self, prefix: Tensor) -> Tensor:
        """Run the prefix tokens, (rows·B)×P×D; the context of the first token."""
        placement = self.cache.place_prefix()
        factors = self.network.factors[: prefix.shape[1]]
        transform = self.network.transformer
        x: Tensor = transform(prefix, factors, placement.mask, placement.memory)
        return x[:, -1:]

    def advance(self, code: Tensor, token: Tensor, read: int) -> Tensor:
        """Run known codes and return their contexts.

        Args:
            code (Tensor): B×n int64.
            token (Tensor): Their raster positions, B×n int64.
            read (int): Of the cache's ``reserve``.

        Returns:
            Tensor: (rows·B)×n×D; that of token i draws token i + 1.
        """
        code = code.repeat(self.rows, 1)
        step = token.repeat(self.rows, 1) + self.cache.prefix
        placement = self.cache.place(code, step, read)
        x: Tensor = self.network.embedding(code)
        places = self.network.factors
        if step.shape[1] > 1:
            # Drafts may lie beyond the last place; nobody uses what they say.
            step = step.clamp(max=places.shape[0] - 1)
        factors = places[step]
        transform = self.network.transformer
        x = transform(x, factors, placement.mask, placement.memory)
        return x

    def draw(self, context: Tensor, token: Tensor) -> Tensor:
        """Draw the codes of raster positions.

        Args:
            context (Tensor): (rows·B)×n×D.
            token (Tensor): Positions to draw, B×n int64.

        Returns:
            Tensor: B×n int64.
        """
        length, parts = self.noise.shape[1:]
        if token.shape[1] > 1:
            token = token.clamp(max=length - 1)  # drafts may point beyond the end
        noise = self.noise.gather(1, token.unsqueeze(-1).expand(-1, -1, parts))
        begins = None
        if self.beginnings is not None:
            ranks = torch.arange(self.index.shape[1], device=token.device)
            begins = self.begun(ranks < token)
        code = self.draw_codes(context, noise, self.scale[token], begins, token)
        if self.given is None:
            return code
        given = self.given.gather(1, token)
        return torch.where(given < 0, code, given)

    def restricted(self, logits: Tensor, part: int, before: Tensor | None) -> Tensor:
        """Take out what no remembered code has, in samples that have enough codes."""
        if self.rule.restrict is None:
            return logits
        batch = logits.shape[0]
        code = self.cache.code[:batch, None]  # B×1×slots, -1 where there is none
        split = self.network.head.split
        fits = code >= 0
        if before is not None:
            below = 2 ** sum(split[:part]) - 1
            fits = fits & ((code & below) == before.unsqueeze(-1))
        value = split_index(code.clamp(min=0), split)[part]
        allowed = torch.zeros(logits.shape, dtype=torch.int32, device=logits.device)
        shape = (batch, logits.shape[1], value.shape[2])
        allowed.scatter_add_(2, value.expand(shape), fits.expand(shape).int())
        enough = self.cache.distinct[:batch, None, None] >= self.rule.restrict
        return logits.masked_fill(enough & (allowed == 0), -torch.inf)


def decode_raster(
    decoding: RasterDecoding,
    prefix: Tensor,
    step: Callable[[Tensor, Tensor, int], Tensor] | None = None,
) -> Tensor:
    """Draw all tokens, one after the other.

    The loop makes no tensors on the host and asks the device for nothing.

    Args:
        decoding (RasterDecoding): The samples, none drawn yet.
        prefix (Tensor): Embedded prefix, (rows·B)×P×D.
        step (Callable, optional): Does what :func:`decode_step` does after
            ``decoding``: compiled, or a captured graph. Defaults to None.

    Returns:
        Tensor: B×L int64.
    """
    index, cache = decoding.index, decoding.cache
    token = torch.zeros_like(index[:, :1])
    code = decoding.draw(decoding.start(prefix), token)
    index[:, :1] = code
    with decoding.joined:
        for position in range(index.shape[1] - 1):
            read = cache.reserve(latest=cache.prefix + position)
            if step is None:
                code = decode_step(decoding, code, token, read)
            else:
                code = step(code, token, read)
    return index if step is None else index.clone()  # a graph's next batch takes it


def decode_step(
    decoding: RasterDecoding, code: Tensor, token: Tensor, read: int
) -> Tensor:
    """One step for each sample: the next code, with static shapes, on the device alone.

    Args:
        decoding (RasterDecoding): The samples; cache and ``index`` are filled in place.
        code (Tensor): The code that was drawn last, B×1 int64.
        token (Tensor): Its raster position, B×1 int64; moved on by one in place.
        read (int): Slots of the cache to read.

    Returns:
        Tensor: The next code, B×1 int64.
    """
    context = decoding.advance(code, token, read)
    token += 1
    code = decoding.draw(context, token)
    decoding.index.scatter_(1, token, code)
    return code
