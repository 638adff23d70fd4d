"""Recovery and decoder trained on: what is frozen, predicted, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_mergevq import batch, build_model, clone_state, model_cfg, moved, optimizers
from torch import Tensor

from mergevq_mm.models import MergeVQRefinement
from mergevq_mm.models.utils.group_map import first_occurrence, recover_tokens
from mergevq_mm.models.utils.possible_maps import best_possible_map


def refinement(**overrides: Any) -> MergeVQRefinement:
    head = dict(model_cfg()['head'], alignment=None)
    settings = dict(head=head, target_generator=None, **overrides)
    return build_model(type='mergevq_mm.MergeVQRefinement', **settings)


def test_a_step_changes_recovery_and_decoder_alone() -> None:
    model = refinement()
    before = clone_state(model)
    log = model.train_step(batch(views=1), optimizers(model))
    assert moved(before, model) == {'neck', 'decoder', 'discriminator', 'lecam'}
    assert {'loss_pixel', 'loss_source', 'loss_gan', 'keep'} <= set(log)
    assert 'loss_entropy' not in log
    assert not model.backbone.training and not model.quantizer.training
    assert model.decoder.training


@pytest.mark.parametrize('predicted', [0.0, 1.0])
@pytest.mark.parametrize('first_places', [False, True])
def test_images_are_decoded_with_the_predicted_map(
    predicted: float, first_places: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    neck = dict(model_cfg()['neck'], first_places=first_places)
    model = refinement(neck=neck, predicted=predicted)
    data = model.data_preprocessor(batch(views=1), training=True)
    seen = {}
    decode = model.decoder.forward

    def look(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        seen['tokens'] = tokens
        return decode(tokens, grid)

    monkeypatch.setattr(model.decoder, 'forward', look)
    # With K = L the map is the identity, predicted or not.
    monkeypatch.setattr(model, 'keep_sampler', lambda iteration: 9)
    hidden = torch.get_rng_state()
    model.generator_losses(data['inputs'], data['data_samples'])
    keep = model.keep_sampler(model.iteration)
    merged, quantized = model.encode(data['inputs'][0], keep)
    group = merged.group
    if predicted:
        torch.set_rng_state(hidden)
        logits = model.neck(quantized.codes, group, merged.grid).logits
        first = first_occurrence(group, keep) if first_places else None
        group = best_possible_map(logits, first)
        assert not torch.equal(group, merged.group)
    assert torch.equal(seen['tokens'], recover_tokens(quantized.codes, group))


def test_needs_a_trained_tokenizer(tmp_path: Path) -> None:
    model = refinement()
    with pytest.raises(
        ValueError, match='goes on from a trained tokenizer; give model'
    ):
        model.init_weights()
    trained = build_model()
    torch.save({'state_dict': trained.state_dict()}, tmp_path / 'trained.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'trained.pth'))
    model = refinement(init_cfg=init_cfg)
    model.init_weights()
    for name in ('backbone', 'quantizer', 'neck', 'decoder', 'discriminator'):
        expected = getattr(trained, name).state_dict()
        for key, value in getattr(model, name).state_dict().items():
            assert torch.equal(value, expected[key]), f'{name}.{key}'


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(predicted=-0.1), r'predicted=-0\.1 is no share; give one in \[0, 1\]'),
        (
            dict(neck=dict(type='mergevq_mm.GroupMapRecovery')),
            'GroupMapRecovery does not; use',
        ),
    ],
)
def test_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refinement(**settings)


def test_refuses_an_alignment_that_nothing_learns_from() -> None:
    cfg = model_cfg(type='mergevq_mm.MergeVQRefinement')
    with pytest.raises(ValueError, match='head.alignment trains the encoder'):
        build_model(**cfg)
