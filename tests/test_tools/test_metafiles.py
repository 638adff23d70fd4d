"""The model index in mmpretrain's format: every config, no invented links."""

from __future__ import annotations

import os
from pathlib import Path

import mmpretrain
import pytest
import yaml
from modelindex.load_model_index import load

from mergevq_mm.utils.config import load_config
from mergevq_mm.utils.flops import model_costs

REPO = Path(__file__).resolve().parents[2]
INDEX = REPO / 'model-index.yml'
MMPRETRAIN = Path(mmpretrain.__file__).parent / '.mim'


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding='utf-8'))


METAFILES = [REPO / path for path in read(INDEX)['Import']]
MODELS = [model for path in METAFILES for model in read(path)['Models']]
COLLECTIONS = [c for path in METAFILES for c in read(path)['Collections']]


def configs() -> set[str]:
    """All configs that are not there to be inherited from alone."""
    return {
        path.relative_to(REPO).as_posix()
        for path in REPO.glob('configs/**/*.py')
        if not {'_base_', '__pycache__'} & set(path.parts)
    }


def test_every_config_has_an_entry_and_every_entry_a_config() -> None:
    """A new config goes into the metafile of its folder."""
    listed = [model['Config'] for model in MODELS]
    assert len(listed) == len(set(listed))
    assert set(listed) == configs()
    names = [model['Name'].lower() for model in MODELS]
    assert len(names) == len(set(names))


def test_every_metafile_is_imported() -> None:
    assert set(METAFILES) == set(REPO.glob('configs/**/metafile.yml'))


def test_the_library_reads_it() -> None:
    index = load(str(INDEX))
    index.build_models_with_collections()
    assert len(index.models) == len(MODELS)
    for model in index.models:
        assert model.full_model.paper['URL'] == 'https://arxiv.org/abs/2504.00999'
        assert not model.check_errors, (model.name, model.check_errors)


def test_fields_are_those_of_mmpretrain() -> None:
    """No key that mmpretrain's own metafiles do not have, none of theirs missing."""
    theirs = [
        read(MMPRETRAIN / path)
        for path in read(MMPRETRAIN / 'model-index.yml')['Import']
    ]
    known = {key for file in theirs for model in file['Models'] for key in model}
    always = set.intersection(
        *(set(model) for file in theirs for model in file['Models'])
    )
    metadata = {
        key for file in theirs for model in file['Models'] for key in model['Metadata']
    }
    for model in MODELS:
        assert always <= set(model) <= known, model['Name']
        assert set(model['Metadata']) <= metadata | {'Tokens', 'Training Data'}
    known = {key for file in theirs for c in file.get('Collections', []) for key in c}
    collections = {c['Name'] for c in COLLECTIONS}
    for collection in COLLECTIONS:
        assert {'Name', 'Metadata', 'Paper', 'README'} <= set(collection) <= known
    assert {model['In Collection'] for model in MODELS} == collections
    for path in METAFILES:
        for collection in read(path)['Collections']:
            readme = path.parent / collection['README']
            assert os.path.normpath(readme) == str(REPO / 'README.md')


def test_no_weights_and_no_results_of_ours_are_claimed() -> None:
    for model in MODELS:
        assert model['Weights'] is None, 'a link needs a file behind it'
        for result in model['Results'] or []:
            assert set(result) == {'Task', 'Dataset', 'Metrics'}
            for name, value in result['Metrics'].items():
                assert name.endswith(('(paper)', "(authors' read-me)"))
                assert isinstance(value, float)


@pytest.mark.parametrize(
    'name', ['mergevq_g', 'mergevq_g+r_d32', 'mergevq_r', 'mergear_b_g', 'randar_l_g+r']
)
def test_sizes_are_what_the_tool_counts(name: str) -> None:
    (entry,) = (model for model in MODELS if model['Name'] == name)
    config = load_config(REPO / entry['Config'])
    metadata = entry['Metadata']
    assert metadata['Epochs'] == config.train_cfg.max_epochs
    assert metadata['Tokens'] == config.model.keep.target
    costs = model_costs(config.model.to_dict(), keep=metadata['Tokens'])
    parts = [cost for cost in costs if cost.part != 'head']
    assert metadata['Parameters'] == sum(cost.parameters for cost in parts)
    assert metadata['FLOPs'] == sum(cost.macs for cost in parts)


def test_published_numbers() -> None:
    """The paper's, from its Tables 1 to 3."""
    results = {
        model['Name']: {
            name: value
            for result in model['Results'] or []
            for name, value in result['Metrics'].items()
        }
        for model in MODELS
    }
    assert results['mergevq_g'] == {
        'rFID, K=256 (paper)': 1.06,
        'rFID, K=1024 (paper)': 0.54,
    }
    accuracy = 'Top 1 Accuracy, linear probe (paper)'
    assert results['mergevq_r'][accuracy] == 79.8
    assert results['mergevq_g+r'][accuracy] == 77.9
    assert results['randar_l_g']['gFID (paper)'] == 2.24
    assert results['mergear_l_g+r']['Inception Score (paper)'] == 253.8
    assert not results['mergevq_r_k64'] and not results['mergear_xl_g']
