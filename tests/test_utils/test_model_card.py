"""What a card says, and what it does not make up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mergevq_mm.utils.model_card import check_told, model_card, read_metrics

TOKENIZER = {
    'type': 'mergevq_mm.MergeVQ',
    **dict.fromkeys(('backbone', 'quantizer', 'neck', 'decoder'), {}),
}
GENERATOR = {'type': 'mergevq_mm.MergeAR', 'tokenizer': {}}
SIZE = {'type': 'x', 'parts': {'backbone': 1200}, 'parameters': 1200}


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split('---\n')[1])


def test_nothing_is_made_up() -> None:
    card = model_card(TOKENIZER, SIZE)
    assert front_matter(card) == {
        'library_name': 'transformers',
        'pipeline_tag': 'image-feature-extraction',
        'tags': ['mergevq', 'image-tokenizer', 'custom_code'],
    }
    assert '| measured |' not in card and 'preview.png' not in card
    assert 'Licence of the weights: not stated here.' in card
    assert '| all | 1,200 |' in card
    assert card.count("'FOLDER_OR_REPOSITORY'") == 3
    assert 'trust_remote_code=True' in card and 'import mergevq_mm.huggingface' in card
    other = model_card({'type': 'mergevq_mm.MergeVQEncoder'}, SIZE)
    assert front_matter(other)['library_name'] == 'mergevq_mm'
    assert 'transformers' not in other


def test_what_is_told() -> None:
    told = {
        'license': 'other: "mine"',
        'metrics': {'K16': {'psnr': 23.1044}, 'a|b': 2},
        'repository': 'someone/thing',
        'images': 'digits',
    }
    measured = [{'image': 'cat', 'keep': 3456, 'psnr': 29.449, 'bits_per_pixel': 1.125}]
    check_told(told)
    card = model_card(GENERATOR, {**SIZE, **told}, measured)
    matter = front_matter(card)
    assert matter['license'] == 'other: "mine"'
    assert matter['library_name'] == 'mergevq_mm'
    assert '| K16.psnr | 23.1044 |\n| a\\|b | 2 |\n' in card
    assert '| cat | 3,456 | 29.45 dB | 1.1250 |' in card and '](preview.png)' in card
    assert card.count("'someone/thing', subfolder='tokenizer', trust_remote_c") == 2
    assert "mergevq_mm.from_pretrained('someone/thing')" in card
    assert '* images: digits\n' in card and '* license' not in card


@pytest.mark.parametrize(
    ('told', 'message'),
    [
        ({'license': 'a\nb'}, "license'.*no text of one line; give an identifier"),
        ({'license': 3}, 'no text of one line'),
        ({'metrics': 3}, 'is a int; give a dict of names and numbers'),
        ({'metrics': {'a': {'b': 'good'}}}, "has 'good' at a.b, which is no number"),
        ({'metrics': {'a': True}}, 'has True at a'),
    ],
)
def test_what_cannot_be_said(told: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_told(told)


def test_metrics_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / 'summary.json'
    path.write_text(json.dumps({'keep': [16], 'K16': {'psnr': 23.1, 'by': 'us'}}))
    assert read_metrics(path) == {'K16.psnr': 23.1}
    path.write_text('{"by": "us"}')
    with pytest.raises(ValueError, match='summary.json" has no number; give a file'):
        read_metrics(path)
    with pytest.raises(FileNotFoundError, match='nowhere.json" does not exist'):
        read_metrics(tmp_path / 'nowhere.json')
