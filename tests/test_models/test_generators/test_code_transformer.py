"""Rotary positions, factorised codes, sizes, and the golden generator."""

from __future__ import annotations

import cmath
import math

import pytest
import tiny_mergear as tiny
import torch
from golden_gpt import LENGTH, TOLERANCE, Golden
from torch.testing import assert_close

from mergevq_mm.models.generators import MergeAR
from mergevq_mm.models.generators.architectures import resolve_architecture
from mergevq_mm.models.generators.rotary import (
    grid_positions,
    no_position,
    rank_positions,
    rotary_factors,
    rotate,
)
from mergevq_mm.models.generators.token_cache import TokenCache
from mergevq_mm.models.generators.transformer import CausalTransformer, RotaryAttention
from mergevq_mm.models.quantizers.lfq_functional import join_index, split_index

# ------------------------------------------------------------------------ positions


def test_ranks_lie_on_the_smallest_square() -> None:
    assert grid_positions(2, 3).tolist() == [
        [0, 0],
        [0, 1],
        [0, 2],
        [1, 0],
        [1, 1],
        [1, 2],
    ]
    for number in range(1, 40):
        columns = math.ceil(math.sqrt(number))
        slow = [[rank // columns, rank % columns] for rank in range(number)]
        assert rank_positions(number).tolist() == slow


def test_pairs_of_channels_turn_as_complex_numbers() -> None:
    dim, positions = 12, torch.tensor([[0, 0], [3, 1], [2, 7]])
    x = torch.randn(2, 5, 3, dim)
    out = rotate(x, rotary_factors(positions, dim))
    for place, (row, column) in enumerate(positions.tolist()):
        for pair in range(dim // 2):
            # Three frequencies for the row, then the same three for the column.
            at, nth = (row, pair) if pair < 3 else (column, pair - 3)
            turn = cmath.exp(1j * at * 10000 ** (-nth / 3))
            before = torch.complex(x[..., place, 2 * pair], x[..., place, 2 * pair + 1])
            now = torch.complex(
                out[..., place, 2 * pair], out[..., place, 2 * pair + 1]
            )
            assert_close(now, before * turn)


def test_factors_of_each_sample() -> None:
    positions = torch.randint(9, (4, 5, 2))
    x = torch.randn(4, 3, 5, 8)
    out = rotate(x, rotary_factors(positions, 8))
    for sample in range(4):
        alone = rotate(x[sample], rotary_factors(positions[sample], 8))
        assert torch.equal(out[sample], alone)
    assert rotate(x.bfloat16(), rotary_factors(positions, 8)).dtype == torch.bfloat16


def test_scores_depend_on_the_distance_alone() -> None:
    query, key = torch.randn(2, 1, 16)
    for row, column in ((0, 0), (5, 2), (11, 30)):
        near = torch.tensor([[row + 1, column + 4]]), torch.tensor([[row, column]])
        turned = [rotate(x, rotary_factors(p, 16)) for x, p in zip((query, key), near)]
        score = (turned[0] * turned[1]).sum()
        if row == 0:
            first = score
        assert_close(score, first, rtol=1e-4, atol=1e-5)


def test_no_position_is_zero_not_identity() -> None:
    assert (rotate(torch.randn(2, 3, 2, 8), no_position(2, 8)) == 0).all()


def test_widths_that_do_not_go() -> None:
    with pytest.raises(ValueError, match='head_dim=6 is no multiple of 4'):
        rotary_factors(torch.zeros(1, 2), 6)
    with pytest.raises(ValueError, match='num_heads=3 does not divide the width 32'):
        RotaryAttention(32, 3)


# ---------------------------------------------------------------------------- codes


def test_embedding_is_the_sum_of_the_parts() -> None:
    embedding = tiny.make(MergeAR).embedding
    index = torch.randint(tiny.VOCABULARY, (2, 6))
    pre, post = (part.weight for part in embedding.parts)
    for row, codes in zip(embedding(index), index.tolist(), strict=True):
        for vector, code in zip(row, codes, strict=True):
            assert torch.equal(vector, pre[code % 8] + post[code // 8])


@pytest.mark.parametrize('split', [(3, 5), (2, 3, 3), (8,)])
@torch.no_grad()
def test_drawing_part_by_part_reads_the_teacher_forced_logits(split: tuple) -> None:
    model = tiny.make(MergeAR, tokenizer=dict(split=split))
    context = torch.randn(2, 4, 32)
    seen: list[torch.Tensor] = []

    def likeliest(part, logits, before):
        assert part == len(seen) and (before is None) == (part == 0)
        if before is not None:
            parts = split_index(codes_so_far[-1], split[:part])
            assert torch.equal(before, join_index(parts, split[:part]))
        seen.append(logits)
        value = logits.argmax(dim=-1)
        known = [] if before is None else list(split_index(before, split[:part]))
        codes_so_far.append(join_index([*known, value], split[: part + 1]))
        return value

    codes_so_far: list[torch.Tensor] = []
    index = model.head.draw(context, model.embedding, likeliest)
    assert torch.equal(index, codes_so_far[-1])
    for drawn, forced in zip(
        seen, model.head(context, index, model.embedding), strict=True
    ):
        assert_close(drawn, forced, rtol=1e-5, atol=1e-5)
    # Nothing of one draw is left for the next.
    seen.clear(), codes_so_far.clear()
    assert torch.equal(model.head.draw(context, model.embedding, likeliest), index)


@torch.no_grad()
def test_the_second_part_depends_on_the_first() -> None:
    model = tiny.make(MergeAR)
    context = torch.randn(1, 1, 32)
    index = torch.tensor([[0, 1, 8]])  # (pre, post): (0, 0), (1, 0), (0, 1)
    pre, post = model.head(context.expand(1, 3, -1), index, model.embedding)
    assert_close(pre[0, 0], pre[0, 1]), assert_close(post[0, 0], post[0, 2])
    assert (post[0, 0] - post[0, 1]).abs().max() > 0.01


# ---------------------------------------------------------------------------- golden


@torch.no_grad()
def test_golden_logits() -> None:
    golden = Golden()
    logits = golden.model.logits(golden.index, golden.labels, LENGTH)
    for ours, theirs in zip(logits, golden.logits, strict=True):
        assert_close(ours, theirs, **TOLERANCE)


# With a window of all 16 the compressed cache evicts nothing, and all is seen.
@pytest.mark.parametrize(
    ('cache', 'window'), [('full', None), ('compressed', LENGTH), ('full', LENGTH)]
)
def test_golden_logits_step_by_step(
    cache: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = Golden(window=window)
    if cache == 'compressed':  # which is used although it saves nothing here
        monkeypatch.setattr(TokenCache, 'slots_needed', lambda *args: 10**6)
    logits, decoding = tiny.cached_logits(
        golden.model, golden.index, golden.labels, LENGTH, cache
    )
    assert type(decoding.cache).__name__ == (
        'CompressedCache' if cache == 'compressed' else 'TokenCache'
    )
    for ours, theirs in zip(logits, golden.logits, strict=True):
        assert_close(ours, theirs, **TOLERANCE)


# ----------------------------------------------------------------------------- sizes


def parameters(arch: str, keeps: int, classes: int = 1000) -> int:
    """Weights by the formula: 4D² and 3Dh a block, two norms, tables and heads."""
    dim, layers = {'B': (768, 12), 'L': (1024, 24), 'XL': (1280, 36)}[arch]
    hidden = math.ceil(8 * dim / 3 / 256) * 256
    block = 4 * dim**2 + 3 * dim * hidden + 2 * dim
    vocabulary = 2 * (64 + 4096) * dim  # embeddings and heads
    return (layers + 2) * block + dim + vocabulary + (classes + 1 + keeps) * dim


@pytest.mark.parametrize(
    ('arch', 'millions'), [('B', '106.3'), ('L', '343.6'), ('XL', '784.0')]
)
def test_parameter_counts(arch: str, millions: str) -> None:
    with torch.device('meta'):
        model = MergeAR(
            tokenizer=dict(type='mergevq_mm.GridOfCodes', grid=(16, 16), split=(6, 12)),
            arch=arch.lower(),
            keep=dict(target=144, candidates=[144, 169, 196, 225, 256]),
        )
    count = sum(p.numel() for p in model.parameters())
    assert count == parameters(arch, keeps=5)
    assert f'{count / 1e6:.1f}' == millions


def test_width_of_the_swiglu() -> None:
    for dim, multiple, hidden in ((1024, 256, 2816), (768, 256, 2048), (64, 32, 192)):
        inner = CausalTransformer(dim, 1, 4, ffn_multiple=multiple)
        assert inner.blocks[0].ffn.fc1_g.out_features == hidden


def test_unknown_sizes() -> None:
    with pytest.raises(ValueError, match="arch='S' is not known; choose one of B, L"):
        resolve_architecture('S')
    with pytest.raises(ValueError, match='lacks num_heads, num_layers'):
        resolve_architecture(dict(embed_dims=32))
