"""RandAR, stage 2: the K codes in random order, several a step (spec section 11.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mergevq_mm.registry import MODELS

from ..utils.graphed_methods import use_graphs
from ..utils.group_map import first_occurrence
from .code_drawing import DecodingNetwork, SamplingRule
from .code_generator import CodeGenerator
from .decoding_step import check_step
from .editing import KnownCodes, put_together
from .first_places import Beginnings
from .kv_store import KVStore
from .random_order import (
    ParallelDecoding,
    decode_parallel,
    in_order,
    instruct,
    interleave,
    parallel_schedule,
    parts_of,
    sampled_positions,
)
from .rotary import grid_positions, rank_positions, rotary_factors
from .sampling import check_count, uniform_noise
from .structures import CodeBatch, SampledCodes
from .visibility import first_of_its_kind


@MODELS.register_module()
class RandAR(CodeGenerator):
    """Class-conditional generator of the K codes in any order.

    ::

        [class] [K] p₃ t₃ p₁ t₁ p₄ t₄ … ─ transformer ─ context at p ─ head ─ t
           prefix    └ pairs: instruction for a slot, the slot's code

    The slots are the groups of a tokenized image, ranked by their first occurrence.
    In training each sample has its own random order of them, under plain causal
    attention; so any order, and many slots a step, can be drawn. The tokenizer's source
    recovery then finds the places of the codes.

    Differences: the paper instructs for the raster positions of the tokens that have
    survived merging, which depend on the image and are not known where it is to be
    generated. Here a slot's position is its rank, on a grid of ⌈√K⌉ columns; with
    ``positions='raster'`` it is the paper's in training, and drawn at random in
    generation. How the paper predicts 2^18 codes is not said: the factorised head.

    Args:
        positions (str): Position of a slot: its 'rank', or the first 'raster' position
            of its group. Defaults to 'rank'.
        **kwargs: Of :class:`CodeGenerator`.

    Raises:
        ValueError: If an argument is not known or does not fit the tokenizer.
    """

    GRAPHED = ('decode_anew',)
    any_region = True

    def __init__(self, *args: Any, positions: str = 'rank', **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if positions not in ('rank', 'raster'):
            raise ValueError(
                f"positions='{positions}' is not known; choose one of rank, raster."
            )
        if not self.tokenizer.learned_recovery:
            raise ValueError(
                'tokenizer does not predict the source map, without which RandAR has '
                'codes but no image; give it '
                "neck=dict(type='mergevq_mm.SourceRecovery') or use "
                "type='mergevq_mm.MergeAR'."
            )
        if positions == 'raster' and self.place_bits:
            raise ValueError(
                "positions='raster' asks for the code of a place that is known before, "
                "but first_places=True draws it; use positions='rank' with it."
            )
        self.positions = positions
        self.instruction = nn.Embedding(1, self.class_embedding.embedding_dim)

    # ------------------------------------------------------------------- training

    def loss_codes(self, batch: CodeBatch) -> dict[str, Tensor]:
        """Losses of tokenized images; see :meth:`CodeGenerator.code_losses`."""
        places = self.places(batch.group, batch.index.shape[1])
        order = torch.rand(batch.index.shape, device=batch.index.device).argsort(dim=1)
        index = in_order(self.tokens(batch.index, batch.group), order)
        places = in_order(places, order)
        labels = self.drop_classes(batch.labels)
        return self.code_losses(self.logits(index, labels, places), index)

    def places(self, group: Tensor, keep: int) -> Tensor:
        """Row and column of each slot, B×K×2.

        Args:
            group (Tensor): Group of each raster position, B×L.
            keep (int): K.

        Returns:
            Tensor: Int64.
        """
        if self.positions == 'rank':
            ranks = rank_positions(keep).to(group.device)
            return ranks.expand(group.shape[0], -1, -1)
        return self._on_the_grid(first_occurrence(group, keep))

    def _on_the_grid(self, position: Tensor) -> Tensor:
        """Row and column of raster positions."""
        grid = grid_positions(*self.tokenizer.grid).to(position.device)
        return grid[position]

    def logits(self, index: Tensor, labels: Tensor, places: Tensor) -> list[Tensor]:
        """Logits of a whole sequence under teacher forcing, read at the instructions.

        Args:
            index (Tensor): Codes in the order of the sequence, B×K int64.
            labels (Tensor): B int64.
            places (Tensor): Row and column of each of them, B×K×2.

        Returns:
            list[Tensor]: For each part B×K×2^bits.
        """
        prefix = self.embed_prefix(labels, index.shape[1])
        factors = self.factors(places)
        turned = factors[:, self.prefix :]
        asked = instruct(self.instruction.weight[0], turned)
        x = torch.cat([prefix, interleave(asked, self.embedding(index))], dim=1)
        # Nobody is left to look at the last code.
        x = self.dropout(x[:, :-1])
        factors = torch.cat([factors[:, : self.prefix], interleave(turned, turned)], 1)
        context = self.transformer(x, factors[:, :-1])[:, self.prefix :: 2]
        logits: list[Tensor] = self.head(context, index, self.embedding)
        return logits

    def factors(self, places: Tensor) -> Tensor:
        """Rotary factors of prefix and slots, B×(P+K)×(c/2)×2."""
        turned = rotary_factors(places, self.transformer.head_dim)
        prefix = self.prefix_factors.expand(places.shape[0], -1, -1, -1)
        return torch.cat([prefix, turned], dim=1)

    # ----------------------------------------------------------------- generation

    @torch.no_grad()
    def sample_codes(
        self,
        labels: Tensor,
        keep: int,
        seeds: Sequence[int],
        num_steps: int = 88,
        step_schedule: str = 'cosine',
        known: KnownCodes | None = None,
        step: str = 'eager',
        **options: Any,
    ) -> SampledCodes:
        """Draw codes of given classes.

        Args:
            labels (Tensor): B int64.
            keep (int): K, in the table of instruction tokens.
            seeds (Sequence[int]): One a sample. A sample depends on its own seed alone.
            num_steps (int): Steps to draw the K codes in, at most K. Defaults to 88.
            step_schedule (str): How many of them each step draws: by the 'cosine', as
                RandAR does, or the 'arccos'; see :func:`parallel_schedule`. Defaults
                to 'cosine'.
            known (KnownCodes, optional): Images to keep but for a region: their groups
                that reach out of it come first in the sequence, and ``num_steps`` draw
                the others. Slots stand where those of the image do. Defaults to None.
            step (str): How the passes run: 'eager', or 'graph': all of them as one CUDA
                graph, which is captured when a kind of batch comes for the second time.
                Defaults to 'eager'.
            **options: ``temperature``, ``top_k``, ``top_p``, ``guidance`` (one number,
                or one a part) and ``guidance_schedule``; 'linear' is linear in the
                share of the codes that are drawn.

        Returns:
            SampledCodes: Of the K slots. With, for each sample, its ``distinct`` codes,
            the ``occupied`` of the allocated ``cache_slots``, ``cache_bytes`` (of both
            sequences where guidance needs two; ``cache_peak_bytes`` are the same), and
            ``passes``, the runs of the transformer.

        Raises:
            ValueError: If an option is not known or out of range.
        """
        check_count('num_steps', num_steps, 1, 'K draws the codes one by one')
        if step not in ('eager', 'graph'):
            raise ValueError(
                f"step='{step}' is not for RandAR, whose passes grow; choose one of "
                'eager, graph.'
            )
        check_step(step, labels.device)
        options['graph'] = step == 'graph'
        if known is None:
            schedule = parallel_schedule(keep, num_steps, step_schedule)
            return self._draw(labels, keep, seeds, schedule, **options)
        parts, number = [], known.checked_groups().sum(dim=1)
        # Each number of codes to draw has a schedule of its own.
        for codes in number.unique().tolist():
            rows = (number == codes).nonzero().flatten()
            schedule = parallel_schedule(codes, num_steps, step_schedule)
            own, theirs = known.rows(rows), [seeds[row] for row in rows.tolist()]
            drawn = self._draw(labels[rows], keep, theirs, schedule, own, **options)
            parts.append((rows, drawn))
        return put_together(parts)

    def _draw(
        self,
        labels: Tensor,
        keep: int,
        seeds: Sequence[int],
        schedule: list[int],
        known: KnownCodes | None = None,
        graph: bool = False,
        **options: Any,
    ) -> SampledCodes:
        """Draw by one schedule; see :meth:`sample_codes`."""
        decoding = self.start_decoding(labels, keep, seeds, schedule, known, **options)
        prefix = self.embed_prefix(self.guided_labels(labels, decoding.rule), keep)
        if graph:
            # In other memory than its own, which is not even taken.
            token = use_graphs(self).decode_anew(*parts_of(decoding), prefix, schedule)
        else:
            token = decode_parallel(decoding, prefix, schedule)
        index, first = self.codes(token)
        store = decoding.store
        stats = {
            'distinct': first_of_its_kind(index).sum(dim=1),
            'occupied': torch.full_like(labels, store.slots),
            'cache_slots': torch.full_like(labels, store.slots),
            'cache_bytes': torch.full_like(labels, store.nbytes // len(labels)),
            'cache_peak_bytes': torch.full_like(
                labels, store.peak_bytes // len(labels)
            ),
            'passes': torch.full_like(labels, len(schedule)),
        }
        # Of K = L groups each is a place, and there is no map to find.
        return SampledCodes(index, keep, keep == self.tokenizer.length, stats, first)

    def start_decoding(
        self,
        labels: Tensor,
        keep: int,
        seeds: Sequence[int],
        schedule: Sequence[int],
        known: KnownCodes | None = None,
        **options: Any,
    ) -> ParallelDecoding:
        """Order, places, noise and memory of B samples; see :meth:`sample_codes`."""
        rule = self._rule(options)
        batch, parts = len(labels), len(self.head.split)
        # For each slot its rank in the order and the noise of its parts; then places.
        slots = keep * (1 + parts)
        free = self.tokenizer.grid[0] * self.tokenizer.grid[1] - 1
        extra = free if self.positions == 'raster' else 0
        noise = uniform_noise(seeds, (slots + extra,), labels.device)
        of_slots = noise[:, :slots].unflatten(1, (keep, -1))  # B×K×(1+parts)
        rank, index = of_slots[..., 0], labels.new_zeros(batch, keep)
        if known is not None:  # those that are kept come first
            rank = rank + known.free_groups()
            index = self.tokens(known.index, known.group).clone()
        order = rank.argsort(dim=1, stable=True)
        if known is not None:
            places = self.places(known.group, keep)
        elif self.positions == 'rank':
            places = rank_positions(keep).to(labels.device).expand(batch, -1, -1)
        else:
            places = self._on_the_grid(sampled_positions(noise[:, slots:], keep))
        factors = self.factors(in_order(places, order))
        return self._decoding(
            factors,
            rule,
            schedule,
            noise=of_slots[..., 1:],
            index=index,
            order=order,
            beginnings=self.beginnings(batch, known),
        )

    def _decoding(
        self,
        factors: Tensor,
        rule: SamplingRule,
        schedule: Sequence[int],
        **tensors: Any,
    ) -> ParallelDecoding:
        """A decoding of so many codes a pass, with memory of its own."""
        inner, (batch, keep) = self.transformer, tensors['index'].shape
        store = KVStore(
            len(inner.blocks),
            batch * (1 + rule.guided),
            inner.num_heads,
            # The last codes are drawn, but never run.
            self.prefix + 2 * keep - schedule[-1],
            inner.head_dim,
            like=self.class_embedding.weight,
        )
        network = DecodingNetwork(self.embedding, inner, self.head, factors)
        instruction = self.instruction.weight[0]
        return ParallelDecoding(
            network, rule, store=store, instruction=instruction, **tensors
        )

    def decode_anew(
        self,
        factors: Tensor,
        rule: dict[str, Any],
        tensors: dict[str, Tensor],
        prefix: Tensor,
        schedule: Sequence[int],
    ) -> Tensor:
        """Decode what :func:`parts_of` has told, on the device alone.

        Args:
            factors (Tensor): Rotary factors.
            rule (dict): Of :class:`SamplingRule`.
            tensors (dict): Of :class:`ParallelDecoding`, and ``open``.
            prefix (Tensor): Embedded prefix.
            schedule (Sequence[int]): Of :func:`parallel_schedule`.

        Returns:
            Tensor: B×K int64.
        """
        tensors = dict(tensors, index=tensors['index'].clone())
        opened = tensors.pop('open', None)
        beginnings = None if opened is None else Beginnings(self.place_bits, opened)
        decoding = self._decoding(
            factors, SamplingRule(**rule), schedule, beginnings=beginnings, **tensors
        )
        return decode_parallel(decoding, prefix, schedule)

    def _rule(self, options: dict[str, Any]) -> SamplingRule:
        """Checked options of sampling."""
        for name in ('cache', 'restrict', 'speculative'):
            if name in options:
                raise ValueError(
                    f'{name}={options[name]} is an option of raster generation; leave '
                    "it out for RandAR, or use type='mergevq_mm.MergeAR'."
                )
        return self.sampling_rule(**options)
