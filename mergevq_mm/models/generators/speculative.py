"""Several raster tokens a pass, with the very same samples.

A merged image repeats itself, so that the next tokens are guessed as copies: what
followed where the context was last the same, or the code in the row above, or the last
code once more. One pass computes the distributions at all guessed places, and each
place is drawn with the noise that it would have been drawn with anyway. A guess x that
is proposed with certainty is to be accepted with probability p(x), and else replaced by
a draw from p without x: drawing from p and comparing with x does exactly that. So
rejection sampling is exact, and with the same noise the codes are those of one step at
a time: in fp32. In half precision a pass of several tokens rounds otherwise than one of
a single token, which can decide a draw another way; the distribution is that of the
rounded logits either way. (Paper: none; speculative sampling is Leviathan et al.,
2023.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from .host_copy import HostCopy
from .raster_decoding import RasterDecoding

LAG = 4  # passes after which the host has to know how far the samples were


def decode_speculatively(
    decoding: RasterDecoding,
    prefix: Tensor,
    run: Callable[[int], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw all tokens, several of them a pass.

    Samples run at their own speed. How far they are the host reads when the numbers
    have arrived, and waits for none but those of ``LAG`` passes ago: so a device may
    run up to that many passes after the last one, in which nothing happens.

    Args:
        decoding (RasterDecoding): The samples, none drawn yet, with their drafting; its
            cache has room for the drafts.
        prefix (Tensor): Embedded prefix.
        run (Callable, optional): Does what :func:`draft_pass` does after ``decoding``,
            by a captured graph. Defaults to None.

    Returns:
        tuple[Tensor, Tensor]: Codes B×L int64, and for each sample the passes that it
        needed, the prefix's among them, B.
    """
    cache, drafting = decoding.cache, decoding.drafting
    assert drafting is not None
    length = decoding.index.shape[1]
    a_pass = drafting.drawn.shape[1] - length  # tokens
    drafting.drawn[:, :1] = decoding.draw(decoding.start(prefix), drafting.done)
    looks: deque[HostCopy] = deque()
    slowest = fastest = 0
    with decoding.joined:
        while slowest < length - 1:
            # No sample is further than if all guesses had been right since.
            latest = min(fastest + len(looks) * a_pass, length - 1) + a_pass - 1
            # Guesses are copies: one code at most is new.
            read = cache.reserve(cache.prefix + latest, new=1)
            far = draft_pass(decoding, read) if run is None else run(read)
            looks.append(HostCopy(far))
            while looks and (looks[0].ready or len(looks) > LAG):
                slowest, fastest = looks.popleft().read()
    # What is left does not depend on how long the host did not know of the end.
    cache.evict((drafting.done + cache.prefix).repeat(decoding.rows, 1))
    # Copies: the next batch of a graph takes the memory.
    return drafting.drawn[:, :length].clone(), drafting.passes[:, 0].clone()


def draft_pass(decoding: RasterDecoding, read: int) -> Tensor:
    """One pass: guess the next codes of each sample, and keep the right ones.

    It has static shapes and works in place, on the device alone.

    Args:
        decoding (RasterDecoding): The samples; cache and ``drafting`` are changed.
        read (int): Slots of the cache to read.

    Returns:
        Tensor: Place of the last certain code of the slowest and of the fastest sample,
        2 int64.
    """
    cache, drafting = decoding.cache, decoding.drafting
    assert drafting is not None
    drawn, done, length = drafting.drawn, drafting.done, decoding.index.shape[1]
    offset = torch.arange(drawn.shape[1] - length, device=drawn.device)  # 1 + drafts
    guess = guess_next(drawn, done, len(offset) - 1, drafting.columns)
    tried = torch.cat([drawn.gather(1, done), guess], dim=1)
    token = done + offset  # B×(1 + drafts)
    code = decoding.draw(decoding.advance(tried, token, read), token + 1)
    # A code is right if all the guesses before it were.
    right = (code[:, :-1] == guess).cumprod(dim=1).sum(dim=1, keepdim=True)
    active = done < length - 1
    drawn.scatter_(1, torch.where(active, token + 1, length + offset), code)
    drafting.passes += active
    done.copy_(torch.where(active, done + 1 + right, done).clamp(max=length - 1))
    cache.forget((done + cache.prefix).repeat(decoding.rows, 1))
    return torch.stack(done.aminmax())


def guess_next(drawn: Tensor, done: Tensor, number: int, columns: int) -> Tensor:
    """Guess the next codes as copies of earlier ones.

    The place that is most like the present one is the one before which the most of the
    last three codes are the same; among equals the place in the row above, then the
    latest. What followed there is copied, over and over if it is short.

    Args:
        drawn (Tensor): Codes, B×m int64; those after ``done`` are not looked at.
        done (Tensor): Place of the last known code, B×1.
        number (int): Codes to guess, n.
        columns (int): Of the grid.

    Returns:
        Tensor: B×n int64.
    """
    place = torch.arange(drawn.shape[1], device=drawn.device)
    same = torch.ones_like(drawn, dtype=torch.bool)
    score = (place == done - columns) * 0.75 + place / (4 * drawn.shape[1])
    for back in range(3):
        last = drawn.gather(1, (done - back).clamp(min=0))
        before = drawn.roll(back, dims=1)  # at each place the code ``back`` earlier
        same = same & (before == last) & (place >= back) & (done >= back)
        score = score + same
    score = score.masked_fill(place >= done, -1.0)
    period = (done - score.argmax(dim=1, keepdim=True)).clamp(min=1)
    ahead = torch.arange(number, device=drawn.device)
    return drawn.gather(1, done - period + 1 + ahead % period)
