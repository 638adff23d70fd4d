"""A K for each image: the choice against all choices, codes against single calls."""

from __future__ import annotations

import itertools
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_mergevq import LENGTH, SIZE, build_model, model_cfg
from torch import Tensor
from torch.nn import functional as F

from mergevq_mm import Budget
from mergevq_mm.evaluation.features import TokenFeatures
from mergevq_mm.evaluation.functional.image_quality import psnr
from mergevq_mm.models import MergeVQ
from mergevq_mm.models.utils.budget import best_at_mean, fewest_that_reach
from mergevq_mm.models.utils.budget_signals import (
    encode_ragged,
    merge_similarities,
    similarity_quality,
)
from mergevq_mm.models.utils.group_map import first_occurrence
from mergevq_mm.models.utils.ragged import Ragged, rows_by_keep

KEEPS = [4, 6, 8, 12, 16]


@pytest.fixture(scope='module')
def model() -> MergeVQ:
    torch.manual_seed(0)
    return build_model().eval()


@pytest.fixture(scope='module')
def images() -> Tensor:
    """Six images, from a flat one to noise."""
    rng = torch.Generator().manual_seed(1)
    noise = torch.rand(6, 3, SIZE, SIZE, generator=rng) * 2 - 1
    return noise * torch.linspace(0, 1, 6).view(-1, 1, 1, 1)


# ------------------------------------------------------------------------- the choice


def test_fewest_that_reach_an_aim() -> None:
    table = np.array([[1, 5, 9.0], [5, 4, 9], [1, 3, 2], [9, 9, 9]])
    # The third never reaches 5 and gets its best.
    assert fewest_that_reach(table, 5.0).tolist() == [1, 0, 1, 0]


def totals(table: np.ndarray, keeps: list[int], mean: float) -> float:
    """The highest total of all choices within a mean."""
    rows = range(len(table))
    return max(
        sum(table[i, c] for i, c in zip(rows, places))
        for places in itertools.product(range(len(keeps)), repeat=len(table))
        if sum(keeps[c] for c in places) <= mean * len(table)
    )


@pytest.mark.parametrize('seed', range(20))
def test_the_best_at_a_mean_against_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    keeps = [2, 3, 5, 9]
    table = rng.normal(size=(4, 4)) if seed % 2 else rng.random((4, 4)).cumsum(axis=1)
    for mean in (2, 2.5, 3.75, 5, 9):
        chosen = best_at_mean(table, keeps, mean)
        assert sum(keeps[c] for c in chosen) <= 4 * mean
        found = table[range(4), chosen].sum()
        best = totals(table, keeps, mean)
        # What is left is less than one step, which gains no more than a whole row.
        assert best - np.ptp(table, axis=1).max() <= found <= best + 1e-9
    assert best == pytest.approx(found)  # where all may have all


@pytest.mark.parametrize('seed', range(5))
def test_steps_of_one_token_of_falling_worth_are_the_best(seed: int) -> None:
    gains = -np.sort(-np.random.default_rng(seed).random((4, 3)), axis=1)
    table = np.pad(gains.cumsum(axis=1), ((0, 0), (1, 0)))
    for mean in (1, 1.25, 2, 2.5, 3.75):
        chosen = best_at_mean(table, [1, 2, 3, 4], mean)
        found = table[range(4), chosen].sum()
        assert found == pytest.approx(totals(table, [1, 2, 3, 4], mean))


def test_a_mean_is_spent_where_it_is_worth_most() -> None:
    """By hand; what no image gains by is not spent."""
    table = np.array([[0, 8, 9.0], [0, 1, 2.0], [5, 5, 5.0]])
    assert best_at_mean(table, [4, 8, 12], 4).tolist() == [0, 0, 0]
    assert best_at_mean(table, [4, 8, 12], 4 + 4 / 3).tolist() == [1, 0, 0]
    assert best_at_mean(table, [4, 8, 12], 12).tolist() == [2, 2, 0]


def test_a_mean_is_spent_on_decibels_or_on_the_error() -> None:
    """2 dB of a good image are more decibels and less of an error than 1 dB."""
    table = np.array([[30.0, 32.0], [10.0, 11.0]])
    assert Budget(mean=6).choose(table, [4, 8], 16) == [8, 4]
    assert Budget(mean=6, by='error').choose(table, [4, 8], 16) == [4, 8]


def test_similarity_is_that_of_the_pairs_that_merge() -> None:
    pairs = np.array([[0.9, 0.5, 0.7], [1.0, 1.0, 1.0]])
    table = similarity_quality(pairs, [1, 2, 4], length=4)
    expected = [[(0.9 + 0.5 + 0.7 + 1) / 4, (0.9 + 0.7 + 2) / 4, 1], [1, 1, 1]]
    np.testing.assert_allclose(table, expected)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(), r'Budget\(\) has to say one thing; give one of mean'),
        (dict(mean=8, psnr=20.0), r'Budget\(mean=8, psnr=20.0\) has to say one thing'),
        (dict(mean=True), 'mean=True of a budget is no number; give one'),
        (dict(psnr=float('nan')), 'psnr=nan of a budget is no number'),
        (dict(mean=0), 'mean=0 of a budget leaves no tokens; give a number'),
        (dict(similarity=1.5), r'similarity=1.5 .* outside \(-1, 1\]; give a cosine'),
        (dict(mean=8, by='size'), "by='size' .* choose one of psnr, error, similarity"),
        (dict(psnr=20.0, by='psnr'), "by='psnr' of a budget .* leave it out beside"),
        (
            dict(mean=np.ones(2)),
            r'mean=\[1.0, 1.0\] of a budget is no number; give one',
        ),
        (dict(mean=12, keeps=8), 'keeps=8 of a budget is no list of numbers .*; give'),
        (dict(mean=12, keeps='8'), "keeps='8' of a budget is no list of numbers"),
        (dict(mean=12, keeps=['8']), r"keeps=\['8'\] of a budget is no list of num"),
        (dict(mean=12, keeps=[]), r'keeps=\[\] of a budget is no list of numbers'),
        (dict(mean=12, keeps=b'8'), "keeps=b'8' of a budget is no list of numbers"),
        (dict(mean=12, keeps={8: 1}), r'keeps=\{8: 1\} of a budget is no list of num'),
        (dict(mean=12, keeps=[10**400]), 'of a budget is no list of numbers'),
        (dict(psnr=10**400), 'of a budget is no number; give one'),
    ],
)
def test_budgets_that_say_nothing_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**given)


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    """A float is a share whosoever it is, and the header of codes tells it plainly."""
    share = Budget(mean=np.float32(0.25), keeps=np.array([4, 8]))
    assert share == Budget(mean=0.25, keeps=(4, 8)) and share.tokens(64) == 16
    assert str(share) == 'Budget(mean=0.25, keeps=(4, 8))'
    whole = Budget(mean=np.int64(1), keeps=[np.int64(4), torch.tensor(8)])
    assert whole.tokens(64) == 1 and whole.keeps == (4, 8)
    assert str(Budget(psnr=torch.tensor(20.5))) == 'Budget(psnr=20.5)'


def test_a_share_of_one_is_not_one_token() -> None:
    one, whole = Budget(mean=1), Budget(mean=1.0)
    assert one != whole and len({one, whole}) == 2
    assert (one.tokens(64), whole.tokens(64)) == (1, 64)
    assert Budget(psnr=20, keeps=[1, 8]) != Budget(psnr=20, keeps=[1.0, 8])
    assert Budget(mean=8.0) == Budget(mean=8) and str(Budget(mean=8.0)).endswith('=8)')
    assert Budget(mean=8) != 8 and Budget(mean=Fraction(1, 4)).tokens(64) == 16


@pytest.mark.parametrize('wrong', [np.nan, np.inf, -np.inf])
def test_an_image_without_a_quality_spends_nothing(wrong: float) -> None:
    """One that overflows is not to take what its neighbours could use."""
    table = np.array([[10.0, 20.0, 30.0], [10.0, 20.0, 21.0]])
    spoilt = np.insert(table, 1, [5.0, wrong, 30.0], axis=0)
    for budget in (Budget(mean=8), Budget(mean=8, by='error'), Budget(psnr=20.0)):
        first, second = budget.choose(table, [4, 8, 12], 16)
        alone = Budget(**{**vars(budget), 'mean': budget.mean and 20 / 3})
        assert alone.choose(spoilt, [4, 8, 12], 16) == [first, 4, second]


def test_candidates() -> None:
    near = [6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24]
    assert Budget(mean=12).candidates(64, 1) == near
    assert Budget(mean=0.5).candidates(16, 4) == [4, 5, 6, 7, 8, 9, 11, 12, 13, 16]
    assert Budget(mean=99).candidates(16, 4) == [16]
    assert Budget(psnr=9.0).candidates(16, 4) == [4, 5, 6, 7, 8, 10, 11, 13, 16]
    assert len(Budget(similarity=0.9).candidates(256, 1)) == 17
    assert Budget(mean=0.25, keeps=[4, 0.5, 1.0]).candidates(16, 4) == [4, 8, 16]
    assert Budget(mean=0.25).tokens(64) == 16 and Budget(mean=1.5).tokens(64) == 1.5
    with pytest.raises(ValueError, match=r'keeps=\[2, 8\] .* 4 to 16 tokens that'):
        Budget(mean=8, keeps=[2, 8]).candidates(16, 4)
    # A remedy for the command line, too, which has no keeps.
    least = (
        'mean=3 of a budget is less than the 4 tokens that .* at least; give 4 or mo'
    )
    with pytest.raises(ValueError, match=least):
        Budget(mean=3).candidates(16, 4)
    with pytest.raises(ValueError, match='less than the 8 tokens .*; give 8 or more'):
        Budget(mean=0.25, keeps=[8, 16]).candidates(16, 4)


# ------------------------------------------------------------------------- ragged


def test_ragged_has_the_images_in_order() -> None:
    keeps = [8, 4, 8, 2, 4]
    rows = rows_by_keep(keeps)
    assert rows == {2: [3], 4: [1, 4], 8: [0, 2]}
    values = torch.arange(5.0)
    ragged = Ragged({k: (r, values[r].unsqueeze(1)) for k, r in rows.items()})
    assert ragged.keeps == keeps and len(ragged) == 5
    assert torch.equal(ragged.join(), values.unsqueeze(1))
    assert [one.tolist() for one in ragged] == [[[float(i)]] for i in range(5)]
    assert ragged[-1].item() == 4
    doubled = ragged.map(lambda a, b: a + b, ragged)
    assert torch.equal(doubled.join(), 2 * values.unsqueeze(1))
    # Others go along: a batch of all images, and what all images share.
    column = values.unsqueeze(1)
    mixed = ragged.map(lambda a, b, c, d: (a + b) * c + d, column, 2, d=ragged)
    assert torch.equal(mixed.join(), 5 * column)
    assert ragged[torch.tensor(1)].item() == ragged[np.int64(1)].item() == 1
    with pytest.raises(IndexError, match='image 5 of a batch of 5; give 0 to 4'):
        ragged[5]
    with pytest.raises(TypeError, match='slice'):
        ragged[1:3]
    wide = Ragged({k: (r, torch.zeros(len(r), k)) for k, r in rows.items()})
    with pytest.raises(ValueError, match=r'are \(1, 2\), \(2, 4\), .* do not join'):
        wide.join()
    with pytest.raises(ValueError, match='are tuple, tuple, tuple, which do not join'):
        wide.map(lambda part: (part,)).join()
    with pytest.raises(ValueError, match=r'shape \(4,\) does not go with the 5 images'):
        ragged.map(torch.add, values[:4])
    other = Ragged({k: (r, values[r]) for k, r in rows_by_keep(keeps[::-1]).items()})
    with pytest.raises(ValueError, match=r'Ragged\(\[4, 2, 8, 4, 8\]\) does not go wi'):
        ragged.map(torch.add, other)


# ------------------------------------------------------------------------ encoding


@torch.no_grad()
def test_images_are_encoded_and_decoded_as_alone(
    model: MergeVQ, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the flat one pairs are equally similar; the last digits, which depend on the
    # batch and the processor, would choose.
    images, keeps = images[1:], [4, 16, 8, 5, 4]
    passes = []
    monkeypatch.setattr(
        model.backbone,
        'embed',
        lambda x, embed=model.backbone.embed: passes.append(len(x)) or embed(x),
    )
    merged, quantized = model.encode(images, keeps)
    assert passes == [5] and merged.keeps == quantized.keeps == keeps
    decoded, recovered = model.decode(merged, quantized)
    assert [r.logits.shape[-1] for r in recovered] == keeps
    for i, keep in enumerate(keeps):
        one, codes = model.encode(images[i : i + 1], keep)
        assert torch.equal(merged[i].group, one.group)
        assert torch.equal(quantized[i].index, codes.index)
        torch.testing.assert_close(merged[i].cls, one.cls)
        alone, _ = model.decode(one, codes)
        torch.testing.assert_close(decoded[i : i + 1], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.reconstruct(images, keeps), decoded)
    with pytest.raises(ValueError, match='keep has 2 numbers for 5 images; give one'):
        model.encode(images, [4, 8])


@torch.no_grad()
def test_a_map_is_predicted_as_for_each_image_alone(images: Tensor) -> None:
    """From codes alone, and by what the neck is told of each: its class and places."""
    torch.manual_seed(0)
    neck = dict(model_cfg()['neck'], num_classes=4, first_places=True)
    model = build_model(neck=neck).eval()
    images, keeps = images[1:], [4, 16, 8, 5, 4]
    merged, quantized = model.encode(images, keeps)
    labels = torch.tensor([3, 0, 1, 2, 0])
    first = merged.map(lambda one: first_occurrence(one.group, one.tokens.shape[1]))
    told = [{}, dict(labels=labels), dict(labels=labels, first=first)]
    codes = quantized.map(lambda one: one.codes)
    index = quantized.map(lambda one: one.index)
    groups = merged.map(lambda one: one.group)
    found = {}
    for name, arguments, kinds in (
        ('predicted', (merged, None), told),
        ('of codes', (codes, None, (4, 4)), told),
        ('true map', (merged, quantized), told[:2]),
        ('of indices', (index, groups.join(), (4, 4)), told[:2]),
    ):
        for also in kinds:
            decoded, recovered = model.decode(*arguments, **also)
            found[name, len(also)] = decoded
            predicted = arguments[1] is None
            for i in range(5):
                own = {
                    k: v[i] if k == 'first' else v[i : i + 1] for k, v in also.items()
                }
                group = None if predicted else merged[i].group
                alone, scores = model.decode(quantized[i].codes, group, (4, 4), **own)
                close = dict(rtol=0, atol=1e-5)
                torch.testing.assert_close(decoded[i : i + 1], alone, **close)
                torch.testing.assert_close(recovered[i].logits, scores.logits, **close)
    torch.testing.assert_close(found['predicted', 1], found['of codes', 1])
    torch.testing.assert_close(found['true map', 0], found['of indices', 0])
    assert not torch.equal(found['predicted', 0], found['predicted', 1])
    assert not torch.equal(found['predicted', 1], found['predicted', 2])
    with pytest.raises(ValueError, match=r'shape \(2,\) does not go with the 5 images'):
        model.decode(merged, None, labels=labels[:2])
    with pytest.raises(ValueError, match='QuantizedTokens of one K do not go with Rag'):
        model.decode(merged, model.encode(images, 16)[1])
    with pytest.raises(ValueError, match='labels of type list are no tensor; give cla'):
        model.decode(merged, None, labels=[3, 0, 1, 2, 0])


@torch.no_grad()
def test_numbers_of_tokens_may_be_a_tensor_or_an_array(
    model: MergeVQ, images: Tensor
) -> None:
    for keeps in (torch.tensor([4, 8]), np.array([4, 8]), [np.int64(4), 8]):
        assert model.encode(images[:2], keeps)[0].keeps == [4, 8]
    assert model.encode(images[:2], torch.tensor(4))[0].tokens.shape[1] == 4
    assert model.encode(images[:2], np.float32(0.5))[0].tokens.shape[1] == 8
    scalars = [torch.tensor(4), np.float64(0.5)]
    assert model.encode(images[:2], scalars)[0].keeps == [4, 8]
    with pytest.raises(ValueError, match=r'keep=\[4, 8\] is no number of tokens; give'):
        model.encode(images[:2], torch.tensor([[4, 8]]))
    with pytest.raises(ValueError, match="keep='12' is no number of tokens; give K"):
        model.encode(images[:2], '12')


@torch.no_grad()
@pytest.mark.parametrize(
    'keep',
    [8, [], Budget(mean=8), Budget(psnr=20.0), Budget(mean=0.5, by='similarity')],
)
def test_a_batch_of_no_images(
    model: MergeVQ, images: Tensor, keep: int | list | Budget
) -> None:
    made = model.reconstruct(images[:0], keep)
    assert made.shape == (0, 3, SIZE, SIZE) and made.dtype == images.dtype
    with pytest.raises(ValueError, match='keep has 2 numbers for 0 images; give one'):
        model.encode(images[:0], [4, 8])


@torch.no_grad()
def test_a_compiled_encoder_takes_a_budget(model: MergeVQ, images: Tensor) -> None:
    parts = SimpleNamespace(**dict(model.named_children()))
    parts.backbone = torch.compile(parts.backbone)
    found = encode_ragged(parts, images, Budget(mean=8))
    assert found.keeps == model.encode(images, Budget(mean=8))[0].keeps


@torch.no_grad()
def test_the_encoder_alone_names_who_takes_a_budget(
    model: MergeVQ, images: Tensor
) -> None:
    for keep in (Budget(mean=8), [4, 8], torch.tensor([4, 8])):
        with pytest.raises(
            ValueError, match=r'is no number of tokens; .*model\.encode'
        ):
            model.backbone.encode(images[:2], keep)


@torch.no_grad()
def test_views_of_an_image_have_the_k_of_the_first(
    model: MergeVQ, images: Tensor
) -> None:
    parts, budget = SimpleNamespace(**dict(model.named_children())), Budget(mean=8)
    keeps = model.encode(images, budget)[0].keeps
    both = torch.cat([images, images.flip(-1)])
    assert encode_ragged(parts, both, budget, views=2).keeps == keeps * 2
    assert model.encode(both, budget)[0].keeps != keeps * 2
    for views in (2, 0, -1, 1.0):
        with pytest.raises(ValueError, match=f'views={views} of 7 images in all; give'):
            encode_ragged(parts, both[:7], budget, views=views)


@torch.no_grad()
def test_a_psnr_is_reached_with_the_fewest_tokens(
    model: MergeVQ, images: Tensor
) -> None:
    def quality(keep: int) -> Tensor:
        made = model.reconstruct(images, keep).clamp(-1, 1)
        return psnr(made / 2 + 0.5, images / 2 + 0.5)

    table = torch.stack([quality(keep) for keep in KEEPS], dim=1)
    aim = float(table.median())
    found = model.encode(images, Budget(psnr=aim, keeps=KEEPS))[0].keeps
    assert len(set(found)) > 1
    for keep, row in zip(found, table.tolist(), strict=True):
        reached = [k for k, value in zip(KEEPS, row) if value >= aim - 1e-4]
        assert keep == (reached[0] if reached else KEEPS[row.index(max(row))])
    # At a mean each K of an image is one that no cheaper one is better than.
    spent = model.encode(images, Budget(mean=8, keeps=KEEPS))[0].keeps
    assert sum(spent) <= 8 * 6
    value = table[range(6), [KEEPS.index(k) for k in spent]].sum()
    assert value >= table[:, KEEPS.index(8)].sum() - 1e-4  # no worse than 8 for all


@torch.no_grad()
def test_similar_images_need_few_tokens(model: MergeVQ, images: Tensor) -> None:
    embedded = model.backbone.embed(images)
    pairs = merge_similarities(model.backbone, embedded, 4)
    assert pairs.shape == (6, LENGTH - 4) and pairs.dtype == torch.float32
    # Of the first layer by hand.
    layer, first = model.backbone.layers[0], model.backbone.plan(embedded.grid, 4)[0]
    _, keys = layer.attn(layer.norm1(embedded.tokens))
    keys = F.normalize(keys.mean(dim=1), dim=-1)
    best = (keys[:, 2::2] @ keys[:, 1::2].transpose(1, 2)).amax(dim=-1)
    expected = best.sort(dim=1, descending=True).values[:, :first]
    torch.testing.assert_close(pairs[:, :first], expected)
    assert merge_similarities(model.backbone, embedded, LENGTH).shape == (6, 0)

    table = similarity_quality(pairs.double().numpy(), KEEPS, LENGTH)
    assert (np.diff(table, axis=1) >= 0).all() and (table[:, -1] == 1).all()
    aim = float(np.median(table[:, 1:-1]))
    found = model.encode(images, Budget(similarity=aim, keeps=KEEPS))[0].keeps
    assert found == [KEEPS[int((row >= aim).argmax())] for row in table]
    assert found[0] == 4 < max(found)  # the flat one
    spent = model.encode(images, Budget(mean=0.5, by='similarity'))[0].keeps
    assert sum(spent) <= 48 and spent[0] == 4
    assert model.encode(images, Budget(similarity=1.0))[0].keeps[1:] == [LENGTH] * 5


@torch.no_grad()
def test_features_within_a_budget(model: MergeVQ, images: Tensor) -> None:
    names = ('cls', 'avg', 'codes')
    budget = Budget(mean=8, by='similarity')
    keeps = model.encode(images, budget)[0].keeps
    found = TokenFeatures(model.backbone, model.quantizer, names, budget)(images)
    assert set(found) == set(names) and len(set(keeps)) > 1
    for i, keep in enumerate(keeps):
        extract = TokenFeatures(model.backbone, model.quantizer, names, keep)
        for name, value in extract(images[i : i + 1]).items():
            torch.testing.assert_close(found[name][i : i + 1], value)
    with pytest.raises(ValueError, match='psnr needs a decoder, which features do wit'):
        TokenFeatures(model.backbone, keep=Budget(psnr=20.0))(images)
