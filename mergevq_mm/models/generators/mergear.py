"""MergeAR, stage 2: raster-order generation that forgets repetitions (paper Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mergevq_mm.registry import MODELS

from ..utils.group_map import recover_tokens
from .code_drawing import DecodingNetwork
from .code_generator import CodeGenerator
from .decoding_step import check_step, make_pass, make_step
from .editing import KnownCodes
from .kv_store import KVStore
from .raster_decoding import Drafting, RasterDecoding, decode_raster
from .rotary import grid_positions, rank_positions, rotary_factors
from .sampling import check_count, uniform_noise
from .speculative import decode_speculatively
from .structures import CodeBatch, SampledCodes
from .token_cache import CompressedCache, TokenCache
from .visibility import first_of_its_kind, mergear_mask

CACHE_BLOCK = 16  # slots
CACHES = {'full': TokenCache, 'compressed': CompressedCache}


@MODELS.register_module()
class MergeAR(CodeGenerator):
    """Class-conditional autoregressive generator of a tokenizer's codes.

    ::

        [class] [K] t₁ t₂ … ─ transformer ─ context ─ head ─ 6 bits, then 12 bits
           prefix    └ mask: the prefix, the last w tokens, first occurrences

    A sequence has the code of each raster position in turn ('raster'): L steps, in
    which repetitions leave the cache when they leave the window. Or it has the K codes
    alone, in the order of their first occurrence ('distinct'): K steps, after which
    the tokenizer's source recovery finds their places.

    Differences: the authors published no code of it. The window's size and the draw of
    K stand nowhere; the paper's Eq. 12 is degenerate (see :mod:`.visibility`). The
    instruction token has no rotary position, as the class token has none. With
    ``merge_token=False, window=None`` and no merging this is the released stage-2
    generator.

    Args:
        sequence (str): 'raster' or 'distinct'. Defaults to 'raster'.
        window (int, optional): Tokens that are seen whatever they are, w. None: all
            are, nothing is ever dropped. Defaults to 2.
        duplicates (str): What a repetition is in training: an equal 'code', as in
            generation, or the same 'group' of the source map. Defaults to 'code'.
        **kwargs: Of :class:`CodeGenerator`.

    Raises:
        ValueError: If an argument is not known or does not fit the tokenizer.
    """

    def __init__(
        self,
        *args: Any,
        sequence: str = 'raster',
        window: int | None = 2,
        duplicates: str = 'code',
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for name, value, known in (
            ('sequence', sequence, ('raster', 'distinct')),
            ('duplicates', duplicates, ('code', 'group')),
        ):
            if value not in known:
                raise ValueError(
                    f"{name}='{value}' is not known; choose one of {', '.join(known)}."
                )
        if window is not None and window < 1:
            raise ValueError(
                f'window={window} would hide a token from itself; give at least 1, or '
                'None to see all.'
            )
        if sequence == 'distinct' and not self.tokenizer.learned_recovery:
            raise ValueError(
                "sequence='distinct' needs a tokenizer that predicts the source map; "
                "give it neck=dict(type='mergevq_mm.SourceRecovery') or generate the "
                "whole 'raster'."
            )
        if sequence == 'raster' and self.place_bits:
            raise ValueError(
                "first_places=True has no meaning for sequence='raster', in which each "
                "place has its code; leave it out, or use sequence='distinct'."
            )
        self.sequence, self.duplicates = sequence, duplicates
        self.window = window if sequence == 'raster' else None

    # ------------------------------------------------------------------- training

    def loss_codes(self, batch: CodeBatch) -> dict[str, Tensor]:
        """Losses of tokenized images; see :meth:`CodeGenerator.code_losses`."""
        if self.sequence == 'raster':
            index = recover_tokens(batch.index.unsqueeze(-1), batch.group).squeeze(-1)
            kinds = index if self.duplicates == 'code' else batch.group
        else:
            index = kinds = self.tokens(batch.index, batch.group)
        labels, keep = self.drop_classes(batch.labels), batch.index.shape[1]
        return self.code_losses(self.logits(index, labels, keep, kinds), index)

    def logits(
        self, index: Tensor, labels: Tensor, keep: int, kinds: Tensor | None = None
    ) -> list[Tensor]:
        """Logits of a whole sequence under teacher forcing.

        Args:
            index (Tensor): Codes, B×n int64.
            labels (Tensor): B int64.
            keep (int): K.
            kinds (Tensor, optional): Equal where one token repeats another, B×n.
                Defaults to None, the codes.

        Returns:
            list[Tensor]: For each part B×n×2^bits.
        """
        known = index[:, :-1]
        x = torch.cat([self.embed_prefix(labels, keep), self.embedding(known)], dim=1)
        first = first_of_its_kind((index if kinds is None else kinds)[:, :-1])
        mask = mergear_mask(first, self.prefix, self.window)
        factors = self.factors(keep)[: x.shape[1]]
        x = self.transformer(self.dropout(x), factors, mask)
        context = x[:, self.prefix - 1 :]
        logits: list[Tensor] = self.head(context, index, self.embedding)
        return logits

    def places(self, keep: int) -> Tensor:
        """Row and column of each token of a sequence, n×2."""
        if self.sequence == 'raster':
            return grid_positions(*self.tokenizer.grid)
        return rank_positions(keep)

    def factors(self, keep: int) -> Tensor:
        """Rotary factors of prefix and tokens, (P+n)×(c/2)×2."""
        places = self.places(keep)
        places = places.to(self.prefix_factors.device)
        turned = rotary_factors(places, self.transformer.head_dim)
        return torch.cat([self.prefix_factors, turned])

    # ----------------------------------------------------------------- generation

    @torch.no_grad()
    def sample_codes(
        self,
        labels: Tensor,
        keep: int,
        seeds: Sequence[int],
        cache: str = 'compressed',
        restrict: bool = False,
        speculative: int = 0,
        step: str = 'eager',
        known: KnownCodes | None = None,
        **options: Any,
    ) -> SampledCodes:
        """Draw codes of given classes.

        Args:
            labels (Tensor): B int64.
            keep (int): K, in the table of instruction tokens.
            seeds (Sequence[int]): One a sample. A sample depends on its own seed alone.
            cache (str): 'full' or 'compressed', which holds what the window lets be
                seen (and is the full one where that is no larger). Defaults to
                'compressed'.
            restrict (bool): Whether a sample that has K distinct codes draws none but
                these. Defaults to False: the cache grows.
            speculative (int): Tokens to draft at a time as copies of earlier ones and
                to verify in one pass; in fp32 the samples stay the same. Defaults to 0.
            step (str): How the step of one token runs: 'eager', 'compile' (by
                torch.compile, at the first use), 'graph' (CUDA graphs, also of the
                passes of drafts) or 'compile-graph'. Defaults to 'eager'.
            known (KnownCodes, optional): Images to keep but for a region, which has to
                end the raster; it takes as many passes as without. Defaults to None.
            **options: ``temperature``, ``top_k``, ``top_p``, ``guidance`` (one number,
                or one a part) and ``guidance_schedule``.

        Returns:
            SampledCodes: With, for each sample, its ``distinct`` codes, the
            ``occupied`` ones of the ``cache_slots``, ``cache_bytes`` at the end and
            ``cache_peak_bytes`` while it grew (of both sequences where guidance needs
            two), and ``passes``, the runs of the transformer, the prefix's among them.

        Raises:
            ValueError: If an option is not known or out of range.
        """
        check_step(step, labels.device, speculative)
        decoding = self.start_decoding(
            labels, keep, seeds, cache, restrict, speculative, known, **options
        )
        prefix = self.embed_prefix(self.guided_labels(labels, decoding.rule), keep)
        passes = torch.full_like(labels, decoding.index.shape[1])
        if speculative:
            run = make_pass(step, decoding)
            index, passes = decode_speculatively(decoding, prefix, run)
        else:
            index = decode_raster(decoding, prefix, make_step(step, decoding))
        stats = {**self._cache_stats(decoding.cache, labels), 'passes': passes}
        complete = index.shape[1] == self.tokenizer.length
        index, first = self.codes(index)
        if first is not None:  # the cache has told tokens apart, not codes
            stats['distinct'] = first_of_its_kind(index).sum(dim=1)
        return SampledCodes(index, keep, complete, stats, first)

    @staticmethod
    def _cache_stats(cache: TokenCache, labels: Tensor) -> dict[str, Tensor]:
        """What a cache holds for each sample."""
        number, store = labels.shape[0], cache.store
        return {
            'distinct': cache.distinct[:number],
            'occupied': cache.occupied[:number],
            'cache_slots': torch.full_like(labels, store.slots),
            'cache_bytes': torch.full_like(labels, store.nbytes // number),
            'cache_peak_bytes': torch.full_like(labels, store.peak_bytes // number),
        }

    def start_decoding(
        self,
        labels: Tensor,
        keep: int,
        seeds: Sequence[int],
        cache: str = 'compressed',
        restrict: bool = False,
        speculative: int = 0,
        known: KnownCodes | None = None,
        **options: Any,
    ) -> RasterDecoding:
        """Cache, noise and room for the codes; see :meth:`sample_codes`."""
        check_count(
            'speculative', speculative, 0, '0 draws the tokens one by one, 4 drafts 4'
        )
        if not isinstance(restrict, bool):
            raise ValueError(
                f'restrict={restrict} is neither True nor False; how many codes it '
                'restricts to is keep.'
            )
        if restrict and self.sequence == 'distinct':
            raise ValueError(
                "restrict=True has no meaning for sequence='distinct', which draws K "
                'codes and no more; leave it out.'
            )
        if speculative and self.place_bits:
            raise ValueError(
                f'speculative={speculative} guesses tokens as copies of earlier ones, '
                'but with first_places=True none is; leave it out.'
            )
        rule = self.sampling_rule(restrict=keep if restrict else None, **options)
        length = keep
        if self.sequence == 'raster':
            length = self.tokenizer.grid[0] * self.tokenizer.grid[1]
        rows = labels.shape[0] * (1 + rule.guided)
        noise = uniform_noise(seeds, (length, len(self.head.split)), labels.device)
        network = DecodingNetwork(
            self.embedding, self.transformer, self.head, self.factors(keep)
        )
        memory = self.make_cache(cache, rows, length, keep, speculative, restrict)
        index = labels.new_zeros(labels.shape[0], length)
        given = None if known is None else self.given_codes(known)
        drafting = None
        if speculative:
            columns = int(self.places(keep)[:, 1].max()) + 1
            drafting = Drafting.begin(index, speculative, columns)
        return RasterDecoding(
            network,
            rule,
            noise,
            index,
            cache=memory,
            given=given,
            drafting=drafting,
            beginnings=self.beginnings(len(labels), known),
        )

    def given_codes(self, known: KnownCodes) -> Tensor:
        """Codes of the sequence that are kept, B×n int64; -1 where one is drawn.

        Raises:
            ValueError: If one that is kept comes after one that is drawn.
        """
        raster = self.sequence == 'raster'
        index = known.raster() if raster else self.tokens(known.index, known.group)
        free = known.free if raster else known.checked_groups()
        if (free[:, :-1] & ~free[:, 1:]).any():
            raise ValueError(
                'region has known tokens behind it in raster order, which MergeAR does '
                'not see when it draws; let the region reach from its first token to '
                "the end of the raster, or use type='mergevq_mm.RandAR'."
            )
        return index.masked_fill(free, -1)

    def make_cache(
        self,
        name: str,
        rows: int,
        length: int,
        keep: int,
        drafts: int = 0,
        restrict: bool = False,
    ) -> TokenCache:
        """A cache for ``rows`` sequences of ``length`` tokens with K distinct codes.

        Raises:
            ValueError: If it is not known.
        """
        if name not in CACHES:
            raise ValueError(
                f"cache='{name}' is not known; choose one of {', '.join(CACHES)}."
            )
        kind, more = CACHES[name], {}
        size = (self.prefix, length, self.window, keep, drafts)
        spare = 0 if restrict else CACHE_BLOCK
        full = TokenCache.slots_needed(*size)
        # Where nothing is ever out of sight, nothing can be dropped; and a cache that
        # is no smaller saves nothing.
        if self.window is None or kind.slots_needed(*size, spare=spare) >= full:
            kind = TokenCache
        if kind is CompressedCache:
            more = {'restrict': restrict}
        inner, like = self.transformer, self.class_embedding.weight

        def make_store(slots: int) -> KVStore:
            return KVStore(
                len(inner.blocks), rows, inner.num_heads, slots, inner.head_dim, like
            )

        return kind(
            make_store,
            *size,
            spare=CACHE_BLOCK,
            block=CACHE_BLOCK,
            **more,
        )
