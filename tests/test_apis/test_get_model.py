"""Models by name: from the repository, and from an installed wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tiny_mergevq as tiny
import torch
from mmengine.config import Config

import mergevq_mm
from mergevq_mm.apis import hub, model_info
from mergevq_mm.models import MergeVQ

REPO = Path(__file__).resolve().parents[2]
# Arguments that make the model of configs/mergevq_g+r.py small.
SMALL = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            stem='hybrid',
            base_channels=8,
            channel_mult=(1, 1, 2, 2, 4),
            num_res_blocks=1,
            num_layers=2,
            num_heads=2,
        )
    ),
    quantizer=dict(in_channels=32),
    neck=dict(embed_dims=32, num_heads=2, feedforward_channels=32),
    decoder=dict(base_channels=8, channel_mult=(1, 1, 2, 2, 4), num_layers=1),
    head=dict(alignment=dict(in_channels=32)),
    test_cfg=dict(keep=[144, 256]),
    keep=dict(number=6),
)


def test_names() -> None:
    names = mergevq_mm.list_models()
    assert names == sorted(names)
    assert {'mergevq_g', 'mergevq_g+r', 'mergevq_r', 'mergear_l_g+r'} <= set(names)
    names = ['mergevq_r', 'mergevq_r_emoji', 'mergevq_r_k64']
    assert mergevq_mm.list_models('mergevq_r') == names
    assert mergevq_mm.list_models('MergeVQ_R', ['*k64']) == names[:2]
    randar = mergevq_mm.list_models('*', task='Image Generation')
    assert randar == ['mergear_l_g', 'mergear_l_g+r', 'randar_l_g', 'randar_l_g+r']
    assert 'mergevq_r_k64' in mergevq_mm.list_models(task='null')


def test_what_the_metafile_says() -> None:
    info = model_info('MergeVQ_G+R')
    assert info.config == str(hub.index_root() / 'configs' / 'mergevq_g+r.py')
    assert info.weights is None and info.metadata.data['Epochs'] == 270
    metrics = info.results[0].metrics
    assert metrics['rFID, K=144 (paper)'] == 1.48
    assert 'arxiv.org' in info.full_model.paper['URL']


def test_by_name_without_what_only_training_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = mergevq_mm.get_model('mergevq_g+r', **SMALL)
    assert type(model) is MergeVQ and not model.training
    assert model.discriminator is None and model.target_generator is None
    assert model.head.perceptual is None and model.head.alignment is not None
    assert model.head.alignment.projector[-1].out_features == 768
    assert model.backbone.embed_dims == 32 and model.test_keep == [144, 256]
    assert model._metainfo.name == 'mergevq_g+r'
    assert model._config.model.keep.target == 144


def test_generator_by_name_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config names the tokenizer's relative to the repository."""
    monkeypatch.chdir(tmp_path)
    small = dict(embed_dims=32, num_layers=1, num_heads=2, ffn_multiple=32)
    model = mergevq_mm.get_model('mergear_b_g', arch=dict(_delete_=True, **small))
    assert model.grid == (32, 32) and model.tokenizer.bits == 18
    assert model.class_embedding.embedding_dim == 32


def test_by_config_and_by_path(tmp_path: Path) -> None:
    config = Config(dict(model=tiny.model_cfg()))
    config.dump(tmp_path / 'tiny.py')
    trained = tiny.build_model().eval()
    torch.save({'state_dict': trained.state_dict()}, tmp_path / 'tiny.pth')
    image = torch.rand(2, 3, tiny.SIZE, tiny.SIZE)
    right = trained.encode(image, 9)[0].tokens
    for model in (
        mergevq_mm.get_model(config, tmp_path / 'tiny.pth'),
        mergevq_mm.init_model(tmp_path / 'tiny.py', tmp_path / 'tiny.pth', 'cpu'),
        mergevq_mm.get_model(config, tmp_path / 'tiny.pth', training=True),
    ):
        assert torch.equal(model.encode(image, 9)[0].tokens, right)
    assert type(model.discriminator).__name__ == 'NormedDiscriminator'
    assert config.model.discriminator is not None  # the caller's config stays
    model = mergevq_mm.get_model(tmp_path / 'tiny.py', test_cfg=dict(keep=[4]))
    assert model.test_keep == [4]


def test_bad_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'mergevq_x" is not known \(did you me'):
        mergevq_mm.get_model('mergevq_x')
    with pytest.raises(ValueError, match='no weights are published for .mergevq_r'):
        mergevq_mm.get_model('mergevq_r', pretrained=True)
    with pytest.raises(FileNotFoundError, match='nowhere.py" does not exist'):
        mergevq_mm.get_model(tmp_path / 'nowhere.py')
    (tmp_path / 'empty.py').write_text('lr = 1')
    with pytest.raises(ValueError, match='has no model; give a config'):
        mergevq_mm.get_model(tmp_path / 'empty.py')
    with pytest.raises(ValueError, match='arch=.* You may set `_delete_=True`'):
        mergevq_mm.get_model('mergevq_r', backbone=dict(arch=dict(stem='patch')))
    with pytest.raises(FileNotFoundError, match='nothing.pth" does not exist'):
        mergevq_mm.get_model(Config(dict(model=tiny.model_cfg())), 'nothing.pth')


CODE = """
import sys, mergevq_mm
from mergevq_mm.apis.hub import index_root
assert str(index_root()).startswith(sys.argv[1]), index_root()
assert 'mergevq_r' in mergevq_mm.list_models()
assert mergevq_mm.list_models(pretrained=True) == ['digits', 'photos']
small = dict(_delete_=True, embed_dims=32, num_layers=1, num_heads=2)
generator = mergevq_mm.get_model('randar_l_g+r', arch=small)
assert generator.grid == (16, 16)
print('all is there', mergevq_mm.__version__)
"""


@pytest.mark.slow
def test_from_a_wheel_in_another_folder(tmp_path: Path) -> None:
    """What pip would install has the configs, index and tools where mim looks."""
    pip = [sys.executable, '-m', 'pip', 'wheel', str(_copy(tmp_path / 'source'))]
    pip += [
        '--no-deps',
        '--no-build-isolation',
        '--no-index',
        '-q',
        '-w',
        str(tmp_path),
    ]
    subprocess.run(pip, check=True, cwd=tmp_path, capture_output=True)
    (wheel,) = tmp_path.glob('*.whl')
    site = tmp_path / 'site'
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = set(archive.namelist())
    # What brings the package in before the rest of the stack.
    name = 'mergevq_mm_startup'
    assert (site / f'{name}.pth').read_text() == f'import {name}\n'
    startup = REPO / 'mergevq_mm/utils/compat/startup.py'
    assert (site / f'{name}.py').read_text() == startup.read_text()
    mim = 'mergevq_mm/.mim/'
    for path in (*REPO.glob('configs/**/*.py'), *REPO.glob('configs/**/*.yml')):
        if '__pycache__' not in path.parts:
            assert mim + path.relative_to(REPO).as_posix() in names
    assert {mim + 'model-index.yml', mim + 'tools/train.py'} <= names
    assert 'mergevq_mm/py.typed' in names
    for path in REPO.glob('mergevq_mm/shipped/**/*.*'):
        assert path.relative_to(REPO).as_posix() in names
    assert not any(name.endswith('.pyc') for name in names)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', CODE, str(site)],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'all is there' in done.stdout


def _copy(target: Path) -> Path:
    """The sources without what runs have left there: builds write into them."""
    import shutil

    target.mkdir()
    for name in ('mergevq_mm', 'configs', 'tools'):
        ignore = shutil.ignore_patterns('__pycache__', '.mim')
        shutil.copytree(REPO / name, target / name, ignore=ignore)
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'model-index.yml'):
        shutil.copy2(REPO / name, target / name)
    (target / 'README.md').write_text('# mergevq_mm\n')
    return target
