"""Drawing codes in random order, several at a time (spec section 11.3).

A sequence is a prefix and then pairs: a position instruction, which says whose code
comes next and at whose place that code is predicted, and the code. At inference
several instructions are asked at once. Each sees the finished pairs and itself, not its
neighbours, so that it predicts what it would predict if it were the next one. The next
pass writes the finished pairs over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .code_drawing import CodeDrawing
from .kv_store import KVStore, SlotMemory
from .rotary import rotate

# Share of the codes that is drawn after a share of the steps. The cosine is RandAR's;
# the arc cosine draws a ninth of 144 codes in the last of 64 steps.
LAWS: dict[str, Callable[[float], float]] = {
    'cosine': lambda share: 1 - math.cos(math.pi / 2 * share),
    'arccos': lambda share: 1 - math.acos(share) / (math.pi / 2),
}


def parallel_schedule(number: int, num_steps: int, law: str = 'cosine') -> list[int]:
    """How many codes each step draws: few at first, many when the most is known.

    After step t of S the share 1 - cos(π/2 t/S) of the codes is drawn, rounded, but at
    least one more at each step. Rounding may put a smaller number behind a larger one;
    they are sorted.

    Args:
        number (int): Codes, K.
        num_steps (int): Steps, S; at most one a code is made.
        law (str): 'cosine'; or 'arccos', the share 1 - 2/π arccos(t/S). Defaults to
            'cosine'.

    Returns:
        list[int]: min(num_steps, K) numbers of at least 1, none less than the one
        before it, whose sum is K.

    Raises:
        ValueError: If there are no steps, or the law is not known.
    """
    if num_steps < 1:
        raise ValueError(
            f'num_steps={num_steps} draws nothing; give at least 1, or K to draw the '
            'codes one by one.'
        )
    if law not in LAWS:
        raise ValueError(
            f"step_schedule='{law}' is not known; choose one of {', '.join(LAWS)}."
        )
    steps = min(num_steps, number)
    shares = (LAWS[law](step / steps) for step in range(steps + 1))
    done = [
        max(math.floor(number * share + 0.5), step) for step, share in enumerate(shares)
    ]
    return sorted(after - before for before, after in zip(done, done[1:], strict=False))


def in_order(values: Tensor, order: Tensor) -> Tensor:
    """Rearrange B×K×… along the second axis by B×n numbers of slots."""
    index = order.reshape(*order.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def interleave(first: Tensor, second: Tensor) -> Tensor:
    """Pair B×n×… with B×n×…: a₁ b₁ a₂ b₂ …, B×2n×…."""
    return torch.stack([first, second], dim=2).flatten(1, 2)


def instruct(vector: Tensor, factors: Tensor) -> Tensor:
    """Position instructions: one vector, turned head by head to the places.

    Args:
        vector (Tensor): What is the same of all instructions, D.
        factors (Tensor): Rotary factors of the places, B×n×(c/2)×2.

    Returns:
        Tensor: B×n×D.
    """
    heads = vector.reshape(1, -1, 1, 2 * factors.shape[-2])  # 1×H×1×c
    return rotate(heads, factors).transpose(1, 2).flatten(2)


def sampled_positions(noise: Tensor, number: int) -> Tensor:
    """Raster positions at random, as first occurrences may lie: the first one is 0.

    Args:
        noise (Tensor): In [0, 1), B×(L-1).
        number (int): K.

    Returns:
        Tensor: B×K int64, increasing, each subset that holds 0 equally likely.
    """
    ranked = noise.argsort(dim=1, stable=True) + 1
    chosen = torch.nn.functional.pad(ranked[:, : number - 1], (1, 0))
    return chosen.sort(dim=1).values


def parallel_mask(
    finished: int, known: int, asked: int, device: torch.device | str
) -> Tensor:
    """What the tokens of one pass see.

    Args:
        finished (int): Tokens of earlier passes.
        known (int): New tokens that stay, which see one another causally.
        asked (int): Instructions after them, each of which sees itself alone and all
            that stays.
        device (torch.device): Where it is needed.

    Returns:
        Tensor: (known+asked)×(finished+known+asked) bool.
    """
    stays = finished + known
    key = torch.arange(stays + asked, device=device)
    query = key[finished:, None]
    return (key == query) | ((key < query) & (key < stays))


@dataclass
class ParallelDecoding(CodeDrawing):
    """Samples of K slots; noise and codes are in the order of the slots.

    Attributes:
        store (KVStore): Of all sequences: B, or 2B where guidance is on. The network's
            rotary factors are those of the prefix and then of the slots in the order
            of drawing, B×(P+K)×(c/2)×2.
        instruction (Tensor): The vector of the position instructions, D.
        order (Tensor): Slots in the order of drawing, B×K int64.
    """

    store: KVStore
    instruction: Tensor
    order: Tensor

    @property
    def prefix(self) -> int:
        """int: Tokens of the prefix, P."""
        return self.network.factors.shape[1] - self.order.shape[1]

    def factors(self, first: int, last: int) -> Tensor:
        """Rotary factors of a part of the order, B×n×(c/2)×2."""
        return self.network.factors[:, self.prefix + first : self.prefix + last]

    def ask(self, known: Tensor, last: int, asked_last: int) -> Tensor:
        """Run the tokens that stay, and the next instructions.

        Args:
            known (Tensor): The last tokens of prefix and finished pairs, all that have
                not been run yet, (rows·B)×m×D.
            last (int): Finished pairs, and first instruction to ask.
            asked_last (int): Instruction before which to stop.

        Returns:
            Tensor: Contexts of the instructions, (rows·B)×n×D.
        """
        number = known.shape[1]
        finished = self.prefix + 2 * last - number
        asked = self.factors(last, asked_last)
        if finished:  # the pairs of the last step
            old = self.factors(last - number // 2, last)
            stays = interleave(old, old)
        else:
            old = self.factors(0, last)
            stays = torch.cat(
                [self.network.factors[:, : self.prefix], interleave(old, old)], dim=1
            )
        tokens = instruct(self.instruction, asked).repeat(self.rows, 1, 1)
        x = torch.cat([known, tokens], dim=1)
        factors = torch.cat([stays, asked], dim=1).repeat(self.rows, 1, 1, 1)
        mask = parallel_mask(finished, number, tokens.shape[1], x.device)
        memory = SlotMemory(self.store, finished, read=finished + x.shape[1])
        out: Tensor = self.network.transformer(x, factors, mask, memory)
        return out[:, number:]

    def pairs(self, code: Tensor, first: int, last: int) -> Tensor:
        """Instructions and their codes, (rows·B)×2n×D."""
        instructions = instruct(self.instruction, self.factors(first, last))
        pairs = interleave(instructions, self.network.embedding(code))
        return pairs.repeat(self.rows, 1, 1)

    def draw(self, context: Tensor, first: int, last: int) -> Tensor:
        """Draw the codes of a part of the order.

        Args:
            context (Tensor): (rows·B)×n×D.
            first (int): First place in the order.
            last (int): Place before which to stop.

        Returns:
            Tensor: B×n int64, also written to their slots.
        """
        slots = self.order[:, first:last]
        noise = in_order(self.noise, slots)
        begins = None
        if self.beginnings is not None:
            there = torch.zeros_like(self.index, dtype=torch.bool)
            begins = self.begun(there.scatter_(1, self.order[:, :first], True))
        scale = self.scale[first:last]
        code = self.draw_codes(context, noise, scale, begins, slots)
        self.index.scatter_(1, slots, code)
        return code


def parts_of(
    decoding: ParallelDecoding,
) -> tuple[Tensor, dict[str, Any], dict[str, Tensor]]:
    """All that makes a decoding, without its network and memory.

    How strong guidance is stands in a tensor, so that batches of any strength are of
    one kind.

    Args:
        decoding (ParallelDecoding): The samples.

    Returns:
        tuple: Rotary factors; the arguments of a :class:`SamplingRule`; tensors by the
        names of the attributes, and ``open`` of ``beginnings``.
    """
    rule = dict(
        vars(decoding.rule),
        guidance=1.0 + decoding.rule.guided,
        guidance_schedule='constant',
    )
    names = ('noise', 'index', 'order', 'scale')
    tensors = {name: getattr(decoding, name) for name in names}
    if decoding.beginnings is not None:
        tensors['open'] = decoding.beginnings.open
    return decoding.network.factors, rule, tensors


def decode_parallel(
    decoding: ParallelDecoding, prefix: Tensor, schedule: Sequence[int]
) -> Tensor:
    """Draw codes, several a pass; nothing in the loop waits for the device.

    Args:
        decoding (ParallelDecoding): The samples. Where the schedule draws fewer than K,
            the first of the order are known and stand in ``index``.
        prefix (Tensor): Embedded prefix, (rows·B)×P×D.
        schedule (Sequence[int]): Of :func:`parallel_schedule`.

    Returns:
        Tensor: B×K int64, slot by slot.
    """
    known, last = prefix, decoding.order.shape[1] - sum(schedule)
    if last:
        code = in_order(decoding.index, decoding.order[:, :last])
        known = torch.cat([prefix, decoding.pairs(code, 0, last)], dim=1)
    with decoding.joined:
        for number in schedule:
            first, last = last, last + number
            context = decoding.ask(known, first, last)
            known = decoding.pairs(decoding.draw(context, first, last), first, last)
    return decoding.index
