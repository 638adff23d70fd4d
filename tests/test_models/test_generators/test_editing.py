"""Edits: what is kept is kept to the bit, and what is drawn knows of it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_mergevq
import torch
from tiny_mergear import ARCH
from tiny_mergevq import LENGTH, SIZE
from torch import Tensor, nn

import mergevq_mm.models.generators.tokenizer  # noqa: F401
from mergevq_mm.models.generators.code_generator import CodeGenerator
from mergevq_mm.models.generators.editing import (
    KnownCodes,
    keep_outside,
    place_codes,
    read_region,
    tokenize_known,
)
from mergevq_mm.models.generators.sampling import draw, filter_logits, uniform_noise
from mergevq_mm.models.generators.structures import SampledCodes
from mergevq_mm.models.quantizers.lfq_functional import join_index
from mergevq_mm.registry import MODELS

CLASSES, GRID, KEEP = 3, (4, 4), 9
KINDS = {
    'raster': dict(type='mergevq_mm.MergeAR', window=3),
    'distinct': dict(type='mergevq_mm.MergeAR', sequence='distinct'),
    'random': dict(type='mergevq_mm.RandAR'),
    'random places': dict(type='mergevq_mm.RandAR', positions='raster'),
    'distinct, placed': dict(
        type='mergevq_mm.MergeAR', sequence='distinct', first_places=True
    ),
    'random, placed': dict(type='mergevq_mm.RandAR', first_places=True),
}
LOWER = torch.zeros(SIZE, SIZE, dtype=torch.bool)
LOWER[3:] = True  # from the second row of tokens on
CENTRE = torch.zeros(SIZE, SIZE, dtype=torch.bool)
CENTRE[2:6, 2:7] = True


def build(kind: str, **overrides: Any) -> CodeGenerator:
    """A generator with lively random weights on a tokenizer of 4×4 positions."""
    cfg = dict(
        tokenizer=dict(
            type='mergevq_mm.FrozenTokenizer',
            model=tiny_mergevq.model_cfg(),
            random_init=True,
        ),
        arch=ARCH,
        num_classes=CLASSES,
        keep=dict(target=KEEP, candidates=[6, KEEP, LENGTH]),
        dropout=0.0,
    )
    model = MODELS.build({**cfg, **KINDS[kind], **overrides}).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def images(number: int, seed: int = 0) -> Tensor:
    """Smooth noise in [-1, 1], of which much merges."""
    rng = torch.Generator().manual_seed(seed)
    small = torch.rand(number, 3, 3, 3, generator=rng) * 2 - 1
    return nn.functional.interpolate(small, (SIZE, SIZE), mode='bilinear')


def tokens(region: Tensor) -> Tensor:
    """Raster positions that a mask touches, by a loop, L bool."""
    side = SIZE // GRID[0]
    return torch.tensor(
        [
            region[r * side : (r + 1) * side, c * side : (c + 1) * side].any().item()
            for r in range(GRID[0])
            for c in range(GRID[1])
        ]
    )


def raster_of(model: CodeGenerator, known: Tensor, keep: int) -> Tensor:
    """Codes of all places of images, B×L."""
    index, group, _ = model.tokenizer.encode(known, keep)
    return index.gather(1, group)


# ------------------------------------------------------------------------ what is kept


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('keep', [KEEP, LENGTH])
@pytest.mark.parametrize('labels', [[0, 2, 1], None])
def test_tokens_outside_are_equal_to_the_bit(
    kind: str, keep: int, labels: list[int] | None
) -> None:
    model, known = build(kind), images(3)
    options = dict(keep=keep, seed=4, known=known, region=LOWER)
    edited, drawn = model.generate(labels, **options)
    assert edited.shape == known.shape and drawn.complete
    assert drawn.index.shape == (3, LENGTH) and drawn.keep == keep
    before, free = raster_of(model, known, keep), tokens(LOWER)
    assert torch.equal(drawn.index[:, ~free], before[:, ~free])
    assert (drawn.index != before)[:, free].any(dim=1).all()
    decoded = model.tokenizer.decode(drawn.index, GRID)
    assert torch.equal(edited, decoded.clamp(-1, 1))
    again = model.generate(labels, **options)[1]
    assert torch.equal(again.index, drawn.index)
    other = model.generate(labels, **{**options, 'seed': 5})[1]
    assert (other.index != drawn.index).any(dim=1).all()


@pytest.mark.parametrize('kind', ['random', 'random places', 'random, placed'])
@pytest.mark.parametrize('keep', [KEEP, LENGTH])
def test_any_region_in_random_order(kind: str, keep: int) -> None:
    model, known = build(kind), images(3, seed=2)
    right = torch.zeros_like(LOWER)
    right[:, 4:] = True
    for region in (~CENTRE, right, *([CENTRE] if keep == LENGTH else [])):
        drawn = model.generate([0, 1, 2], keep=keep, known=known, region=region)[1]
        free = tokens(region)
        before = raster_of(model, known, keep)
        assert torch.equal(drawn.index[:, ~free], before[:, ~free])
        assert (drawn.index != before)[:, free].any()


@pytest.mark.parametrize('kind', KINDS)
def test_a_batch_is_its_images(kind: str) -> None:
    """Each with a region of its own: so many codes to draw, and so many steps."""
    model, known, seeds = build(kind), images(4), [3, 4, 5, 6]
    last = torch.zeros_like(LOWER)
    last[4:] = True
    regions = torch.stack([LOWER, last, LOWER, last])
    for keep in (KEEP, LENGTH):
        options = dict(keep=keep, guidance=1.5)
        if 'random' in kind:
            options['num_steps'] = 4
        together = model.generate(
            [0, 1, 2, 0], seeds=seeds, known=known, region=regions, **options
        )[1]
        for i, label in enumerate([0, 1, 2, 0]):
            alone = model.generate(
                [label],
                seeds=seeds[i : i + 1],
                known=known[i : i + 1],
                region=regions[i],
                **options,
            )[1]
            assert torch.equal(alone.index[0], together.index[i])
            for name, values in alone.stats.items():
                if 'cache' not in name:
                    assert values[0] == together.stats[name][i], name


def test_one_image_for_many_samples() -> None:
    model, known = build('random'), images(1)
    options = dict(keep=LENGTH, seeds=[1, 2, 3], region=CENTRE)
    one = model.generate([0, 0, 0], known=known, **options)[1].index
    each = model.generate([0, 0, 0], known=known.expand(3, -1, -1, -1), **options)[1]
    assert torch.equal(one, each.index) and len({tuple(i) for i in one.tolist()}) == 3


# ------------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize('kind', ['random', 'random places'])
@pytest.mark.parametrize('keep', [KEEP, LENGTH])
@torch.no_grad()
def test_random_order_against_a_loop_without_cache(kind: str, keep: int) -> None:
    """Each code: a full pass over the known pairs, those drawn, and its own place."""
    model, known = build(kind), images(2)
    labels, seeds, options = torch.tensor([2, 0]), [5, 6], dict(temperature=0.8)
    kept = tokenize_known(model.tokenizer, known, LOWER, keep, 2)
    drawn = model.sample_codes(
        labels, keep, seeds, num_steps=keep, known=kept, guidance=1.7, **options
    )
    extra = LENGTH - 1 if kind == 'random places' else 0
    parts = len(model.head.split)
    noise = uniform_noise(seeds, (keep * (1 + parts) + extra,), 'cpu')
    for b in range(2):
        of_slots = noise[b, : keep * (1 + parts)].reshape(keep, -1)
        places = model.places(kept.group[b : b + 1], keep)
        group, region = kept.group[b], kept.free[b]
        free = [bool(region[group == k].all()) for k in range(keep)]
        assert any(free) and not all(free)
        order = sorted(range(keep), key=lambda k: (free[k], of_slots[k, 0].item()))  # noqa: B023
        index = kept.index[b].clone()
        for turn, slot in enumerate(order):
            if not free[slot]:
                continue
            sequence, values = index[order].repeat(2, 1), []
            for part in range(parts):
                both = torch.stack([labels[b], torch.tensor(CLASSES)])
                where = places[:, order].expand(2, -1, -1)
                logits = model.logits(sequence, both, where)[part][:, turn]
                logits = logits[1] + 1.7 * (logits[0] - logits[1])
                uniform = of_slots[slot, 1 + part]
                values.append(draw(filter_logits(logits, **options), uniform))
                filled = [*values, *[torch.zeros_like(values[0])] * parts][:parts]
                sequence[:, turn] = join_index(filled, model.head.split)
            index[slot] = sequence[0, turn]
        assert torch.equal(drawn.index[b], index)


@pytest.mark.parametrize('kind', ['raster', 'distinct'])
@pytest.mark.parametrize('options', [{}, dict(speculative=3), dict(cache='full')])
def test_raster_order_goes_on_from_what_is_known(kind: str, options: dict) -> None:
    """What the generator would have drawn anyway, given as known, changes nothing."""
    model, seeds = build(kind), [7, 8]
    labels = torch.tensor([1, 2])
    plain = model.sample_codes(labels, KEEP, seeds).index
    length = plain.shape[1]
    group = torch.arange(LENGTH).clamp(max=KEEP - 1).expand(2, -1)
    start = 5
    free = torch.arange(LENGTH) >= start
    index = plain if kind == 'distinct' else plain[:, :KEEP]
    known = KnownCodes(index, group, free.expand(2, -1))
    drawn = model.sample_codes(labels, KEEP, seeds, known=known, **options)
    assert torch.equal(drawn.index, plain)
    changed = index.clone()
    changed[:, :start] ^= 21
    known = known._replace(index=changed)
    drawn = model.sample_codes(labels, KEEP, seeds, known=known, **options).index
    assert torch.equal(drawn[:, :start], changed[:, :start]) and length > start
    assert (drawn[:, start:] != plain[:, start:]).any()


def test_fewer_steps_where_less_is_drawn() -> None:
    model, known = build('random'), images(1)
    for steps, passes in ((2, 2), (88, tokens(CENTRE).sum())):
        drawn = model.generate(
            [0], keep=LENGTH, known=known, region=CENTRE, num_steps=steps
        )[1]
        assert drawn.stats['passes'].tolist() == [passes]


def test_at_k_of_all_places_there_is_no_map_to_find() -> None:
    for kind in ('random', 'distinct'):
        drawn = build(kind).generate([0, 1], keep=LENGTH)[1]
        assert drawn.complete and drawn.index.shape == (2, LENGTH)


def test_places_outside_stay_in_their_groups() -> None:
    model, known = build('random'), images(2)
    kept = tokenize_known(model.tokenizer, known, LOWER, 6, 2)
    scores = keep_outside(torch.randn(2, LENGTH, 6), kept)
    possible = scores > -torch.inf
    for b in range(2):
        for place in range(LENGTH):
            own = [k == kept.group[b, place] for k in range(6)]
            expected = [True] * 6 if kept.free[b, place] else own
            assert possible[b, place].tolist() == expected


def test_the_map_of_an_edit_is_a_possible_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, known = build('random'), images(3)
    kept = tokenize_known(model.tokenizer, known, LOWER, KEEP, 3)
    own = torch.arange(KEEP).expand(3, -1)  # codes by which groups are seen
    drawn = SampledCodes(own, KEEP, False, {})
    asked = []

    def scores(index: Tensor, labels: Tensor, first: Tensor | None) -> Tensor:
        asked.append(labels)
        assert first is None  # none was drawn
        return torch.randn(3, LENGTH, KEEP) * 5

    monkeypatch.setattr(model.tokenizer, 'source_scores', scores)
    for _ in range(20):
        placed = place_codes(model.tokenizer, drawn, kept, torch.tensor([0, 1, 2]))
        group, free = placed.index, kept.free
        assert placed.complete and torch.equal(group[~free], kept.group[~free])
        for row in group.tolist():
            first = [row.index(number) for number in range(KEEP)]  # all are there
            assert first == sorted(first)
    assert asked[0].tolist() == [0, 1, 2]


# ---------------------------------------------------------------------------- bad input


def test_masks() -> None:
    free = read_region(CENTRE, 3, (SIZE, SIZE), GRID)
    assert free.tolist() == [tokens(CENTRE).tolist()] * 3
    numbers = CENTRE[None].float()
    assert torch.equal(read_region(numbers, 3, (SIZE, SIZE), GRID), free)
    wide = torch.zeros(4, 12, dtype=torch.bool)
    wide[3, 11] = True
    assert read_region(wide, 1, (4, 12), (2, 3)).tolist() == [[False] * 5 + [True]]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(region=torch.zeros(4, 8)), r'region of shape \(4, 8\) does not fit 2 im'),
        (dict(region=torch.zeros(3, SIZE, SIZE)), r'region of shape \(3, 8, 8\)'),
        (dict(region=LOWER * 0.5), 'region holds values from 0 to 0.5; give True'),
        (dict(region=LOWER * 255), 'region holds values from 0 to 255'),
        (dict(region=LOWER & False), 'region of image 0 is empty, so that nothing'),
        (
            dict(region=torch.stack([LOWER, LOWER | True])),
            'region of image 1 covers all 16 tokens, so that nothing would be kept',
        ),
        (dict(region=None), r'region=None, but an edit needs an image \(known\) and'),
        (dict(known=None), 'known=None, but an edit needs'),
        (dict(known=images(2)[:, :1]), r'known of shape \(2, 1, 8, 8\) is not 2'),
        (
            dict(known=(images(2) * 127.5 + 127.5).byte()),
            r'known holds torch.uint8 in \[.*\]; give floating point numbers in \[-1',
        ),
        (dict(known=images(2) * 127.5 + 127.5), r'known holds torch.float32 in \['),
        (dict(known=images(2) * float('nan')), r'known holds .* in \[nan, nan\]'),
        (dict(labels=[]), r'labels=\[\] are no classes; give at least one whole'),
        (dict(labels=[0.5, 1]), r'labels=\[0.5, 1.0\] are no classes'),
        (dict(known=images(3)), r'known of shape \(3, 3, 8, 8\) is not 2 images'),
        (dict(known=torch.zeros(1, 3, 9, 9), region=torch.ones(9, 9)), 'images of 9x9'),
        (dict(keep=7), 'keep=7 is not known to this generator'),
        (dict(labels=[0, 3]), 'labels hold the class 3'),
    ],
)
def test_bad_edits(options: dict, message: str) -> None:
    model = build('random')
    given = dict(labels=[0, 1], known=images(2), region=LOWER)
    with pytest.raises(ValueError, match=message):
        model.generate(**{**given, **options})


def test_what_a_generator_cannot_draw() -> None:
    known = images(1)
    for kind in ('raster', 'distinct'):
        with pytest.raises(ValueError, match='region has known tokens behind it in ra'):
            build(kind).generate([0], keep=LENGTH, known=known, region=CENTRE)
    # One pixel, whose group is larger than it.
    flat, dot = torch.zeros(1, 3, SIZE, SIZE), LOWER & False
    dot[-1, -1] = True
    for kind in ('random', 'distinct'):
        with pytest.raises(ValueError, match='region of image 0 holds no token as a w'):
            build(kind).generate([0], keep=6, known=flat, region=dot)
    with pytest.raises(ValueError, match='labels=None needs a null class'):
        build('random', class_dropout=0.0).generate(None, known=known, region=LOWER)
    with pytest.raises(ValueError, match='labels=None does not say how many to draw'):
        build('random').generate(None)
