"""MergeAR: losses by the formula, switches, bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny_mergear as tiny
import torch
from tiny_mergear import GRID, LENGTH, SPLIT
from torch import Tensor
from torch.testing import assert_close

from mergevq_mm.models.generators import CodeBatch, MergeAR, RandAR
from mergevq_mm.models.generators.code_generator import CodeGenerator
from mergevq_mm.models.quantizers.lfq_functional import split_index
from mergevq_mm.utils.checkpoint import load_pretrained

LABELS = torch.tensor([1, 4, 9])


def code_batch(keep: int = 4) -> CodeBatch:
    """Groups numbered by first occurrence; two of them share a code."""
    group = torch.randint(keep, (3, LENGTH))
    group[:, :keep] = torch.arange(keep)
    index = torch.randint(tiny.VOCABULARY, (3, keep))
    index[:, 1] = index[:, 0]
    return CodeBatch(index, group, LABELS, GRID)


def cross_entropy(logits: list[Tensor], index: Tensor, smoothing: float) -> list[float]:
    """Mean over all codes, for each part, in numpy's precision."""
    losses = []
    for part, values in zip(logits, split_index(index, SPLIT), strict=True):
        log = part.double().log_softmax(dim=-1)
        right = log.gather(-1, values.unsqueeze(-1)).mean()
        losses.append(-((1 - smoothing) * right + smoothing * log.mean()).item())
    return losses


# -------------------------------------------------------------------------------- loss


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('sequence', ['raster', 'distinct'])
@torch.no_grad()
def test_losses(sequence: str, smoothing: float) -> None:
    model = tiny.make(MergeAR, sequence=sequence, label_smoothing=smoothing)
    batch = code_batch()
    losses = model.loss_codes(batch)
    index = batch.index
    if sequence == 'raster':
        index = torch.stack([codes[g] for codes, g in zip(batch.index, batch.group)])
        assert index.shape == (3, LENGTH)
    logits = model.logits(index, LABELS, 4)
    pre, post = cross_entropy(logits, index, smoothing)
    assert losses['loss_pre'].item() == pytest.approx(pre, rel=1e-5)
    assert losses['loss_post'].item() == pytest.approx(post, rel=1e-5)
    likeliest = logits[0].argmax(-1) + 8 * logits[1].argmax(-1)
    share = (likeliest == index).float().mean()
    assert losses['code_acc'] == share
    assert [name for name in losses if 'loss' in name] == ['loss_pre', 'loss_post']


@torch.no_grad()
def test_new_heads_know_nothing() -> None:
    model = tiny.make(MergeAR)
    model.init_weights()
    losses = model.loss_codes(code_batch())
    assert losses['loss_pre'].item() == pytest.approx(math.log(8))
    assert losses['loss_post'].item() == pytest.approx(math.log(32))
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and 'head.heads' not in name:
            assert 0.01 < weight.std() < 0.03, name


@torch.no_grad()
def test_repetitions_by_code_or_by_group() -> None:
    batch = code_batch()
    index = torch.stack([codes[g] for codes, g in zip(batch.index, batch.group)])
    losses = {}
    for duplicates, kinds in (('code', index), ('group', batch.group)):
        model = tiny.make(MergeAR, duplicates=duplicates, window=1)
        losses[duplicates] = model.loss_codes(batch)
        logits = model.logits(index, LABELS, 4, kinds)
        expected = cross_entropy(logits, index, 0.0)
        assert losses[duplicates]['loss_pre'].item() == pytest.approx(expected[0])
    # Two groups of one code: the second is a repetition by its code only.
    assert losses['code']['loss_pre'] != losses['group']['loss_pre']


def test_every_weight_learns() -> None:
    for kind in (MergeAR, RandAR):
        model = tiny.make(kind).train()
        labels = torch.tensor([1, 4, model.num_classes])
        losses = model.loss_codes(code_batch()._replace(labels=labels))
        (losses['loss_pre'] + losses['loss_post']).backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None and weight.grad.abs().max() > 0, name


def test_classes_are_dropped_in_training_only() -> None:
    model = tiny.make(MergeAR, class_dropout=0.25)
    labels = torch.randint(tiny.CLASSES, (20000,))
    assert torch.equal(model.eval().drop_classes(labels), labels)
    dropped = model.train().drop_classes(labels)
    gone = dropped != labels
    assert (dropped[gone] == tiny.CLASSES).all()
    assert gone.float().mean().item() == pytest.approx(0.25, abs=0.015)
    always = tiny.make(MergeAR, class_dropout=0.0).train()
    assert torch.equal(always.drop_classes(labels), labels)
    assert always.class_embedding.num_embeddings == tiny.CLASSES
    assert model.class_embedding.num_embeddings == tiny.CLASSES + 1


@pytest.mark.parametrize('kind', [MergeAR, RandAR])
def test_losses_without_classes(kind: type[CodeGenerator]) -> None:
    model, batch = tiny.make(kind).train(), code_batch()
    free = batch._replace(labels=torch.full_like(LABELS, tiny.CLASSES))

    def loss(share: float, codes: CodeBatch) -> Tensor:
        torch.manual_seed(2)  # the same order
        model.class_dropout = share
        return model.loss_codes(codes)['loss_pre']

    assert loss(1.0, batch) == loss(0.0, free) != loss(0.0, batch)


def test_dropout_is_for_training() -> None:
    model, batch = tiny.make(MergeAR, dropout=0.5), code_batch()
    plain = tiny.make(MergeAR).loss_codes(batch)['loss_pre']
    assert model.eval().loss_codes(batch)['loss_pre'] == plain
    assert model.train().loss_codes(batch)['loss_pre'] != plain


@torch.no_grad()
def test_the_prefix() -> None:
    model = tiny.make(MergeAR, keep=4)  # and 7
    prefix = model.embed_prefix(LABELS, 7)
    assert torch.equal(prefix[:, 0], model.class_embedding.weight[LABELS])
    assert torch.equal(prefix[:, 1], model.keep_embedding.weight[[1, 1, 1]])
    alone = tiny.make(MergeAR, merge_token=False)
    assert alone.keep_embedding is None and alone.embed_prefix(LABELS, 5).shape[1] == 1
    places = tiny.make(MergeAR, sequence='distinct').places(7)
    assert places.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0]]
    assert model.places(7).tolist() == [[i // 5, i % 5] for i in range(LENGTH)]


@torch.no_grad()
def test_a_later_code_is_not_seen() -> None:
    index = tiny.merged_codes(12)
    for kind in (dict(), dict(window=None), dict(sequence='distinct', keep=12)):
        model = tiny.make(MergeAR, **kind)
        length = 12 if 'sequence' in kind else LENGTH
        keep = kind.get('keep', 4)
        for place in (3, length - 1):
            other = index[:, :length].clone()
            other[:, place:] = 255 - other[:, place:]
            before = model.logits(index[:, :length], LABELS, keep)
            after = model.logits(other, LABELS, keep)
            assert torch.equal(before[0][:, : place + 1], after[0][:, : place + 1])
            assert torch.equal(before[1][:, :place], after[1][:, :place])


def test_distinct_codes_are_not_complete() -> None:
    model = tiny.make(MergeAR, sequence='distinct', keep=7)
    drawn = model.sample_codes(LABELS, 7, [1, 2, 3])
    assert drawn.index.shape == (3, 7) and not drawn.complete and drawn.keep == 7


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(sequence='random'), "sequence='random' is not known; .* raster, disti"),
        (dict(duplicates='pixel'), "duplicates='pixel' .* code, group"),
        (dict(window=0), 'window=0 would hide a token from itself'),
        (dict(class_dropout=1.0), 'class_dropout=1.0 lies outside'),
        (dict(arch='S'), "arch='S' is not known"),
        (
            dict(sequence='distinct', tokenizer=dict(learned_recovery=False)),
            "sequence='distinct' needs a tokenizer that predicts the source map",
        ),
        (dict(keep=40), r'keep=\[40, 43\] holds more tokens than the 30'),
        (dict(num_classes=0), 'num_classes=0'),
    ],
)
def test_bad_configs(cfg: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny.make(MergeAR, **cfg)


@pytest.mark.parametrize('kind', [MergeAR, RandAR])
def test_bad_requests(kind: type[CodeGenerator]) -> None:
    model = tiny.make(kind)

    def refused(message: str, labels: tuple = (1, 4), keep: int = 4, **options: Any):
        with pytest.raises(ValueError, match=message):
            model.generate(labels, keep=keep, **options)

    refused(r'labels hold the class 10; give classes from 0 to 9', labels=(1, 10))
    refused('the class -1', labels=(-1,))
    refused(r'keep=5 is not known to this generator; choose one of \[4, 7\]', keep=5)
    refused(r'top_p=0.0 .* \(0, 1\]', top_p=0.0)
    refused("guidance_schedule='cosine'", guidance_schedule='cosine')
    refused('seeds are 1 for 2 labels', seeds=[1])
    with pytest.raises(ValueError, match=r'keep=5 is not known .* \[4, 7\]'):
        model.embed_prefix(LABELS, 5)


@pytest.mark.parametrize('kind', [MergeAR, RandAR])
def test_guidance_without_a_null_class(kind: type[CodeGenerator]) -> None:
    model = tiny.make(kind, class_dropout=0.0)
    assert model.sample_codes(LABELS, 4, [1, 2, 3], guidance=1.0).index.shape[0] == 3
    with pytest.raises(
        ValueError, match=r'guidance=1.5 needs a null class, .* train w'
    ):
        model.sample_codes(LABELS, 4, [1, 2, 3], guidance=1.5)


@pytest.mark.parametrize('kind', [MergeAR, RandAR])
def test_a_checkpoint_of_another_size(kind: type[CodeGenerator]) -> None:
    model = tiny.make(kind)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    wider = tiny.make(kind, arch={**tiny.ARCH, 'embed_dims': 64})
    with pytest.raises(ValueError, match=f'does not fit {kind.__name__}.*same arch'):
        load_pretrained(wider, state, min_matched=1.0)
    deeper = tiny.make(kind, arch={**tiny.ARCH, 'num_layers': 4})
    with pytest.raises(ValueError, match=r'fills \d+ of the \d+ keys'):
        load_pretrained(deeper, state, min_matched=1.0)
    more_keeps = tiny.make(kind, candidates=[4, 5, 7])
    with pytest.raises(ValueError, match='keep_embedding'):
        load_pretrained(more_keeps, state, min_matched=1.0)
    fresh = tiny.make(kind)
    fresh.init_weights()
    load_pretrained(fresh, state, min_matched=1.0)
    seeds = [1, 2, 3]
    drawn = [m.sample_codes(LABELS, 4, seeds).index for m in (model, fresh)]
    assert torch.equal(*drawn)
    assert not any('factors' in name for name in state)  # made, not stored


def test_losses_do_not_hide_which_part_is_wrong() -> None:
    model = tiny.make(MergeAR, tokenizer=dict(split=(2, 3, 3)))
    batch = code_batch()
    losses = model.loss_codes(batch)
    assert list(losses) == ['loss_part0', 'loss_part1', 'loss_part2', 'code_acc']
    index = torch.stack([codes[g] for codes, g in zip(batch.index, batch.group)])
    logits = model.logits(index, LABELS, 4)
    assert_close(
        losses['loss_part2'],
        torch.nn.functional.cross_entropy(
            logits[2].flatten(0, 1), index.flatten() >> 5
        ),
    )
