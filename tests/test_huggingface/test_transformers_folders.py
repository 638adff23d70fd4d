"""Published folders in transformers, with this package and without."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tiny_mergevq as tiny
import torch
from mmengine.config import Config
from PIL import Image
from torch import nn

import mergevq_mm
from mergevq_mm.registry import MODELS
from mergevq_mm.utils import carried
from mergevq_mm.utils.compat import torchvision_ops

transformers = pytest.importorskip('transformers')
NEW = int(transformers.__version__.partition('.')[0]) >= 5
NAMED = re.compile(r"'mergevq_mm\.([A-Z]\w+)'")
SCRIPT = Path(__file__).with_name('without_package.py')
PREPARATION = [
    {'type': 'mergevq_mm.LoadImage'},
    {'type': 'mmpretrain.ResizeEdge', 'scale': 8, 'backend': 'pillow'},
    {'type': 'mmpretrain.CenterCrop', 'crop_size': 8},
]
GENERATOR = dict(
    type='mergevq_mm.MergeAR',
    arch=dict(embed_dims=32, num_layers=1, num_heads=4, ffn_multiple=32, head_layers=1),
    num_classes=3,
    keep=dict(target=9, candidates=[9, 16]),
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a tokenizer with a trained recovery; in float16, as a small one would be."""
    torch.manual_seed(0)
    model = tiny.build_model()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    data = dict(dataset=dict(pipeline=PREPARATION))
    config = Config(dict(model=tiny.model_cfg(), val_dataloader=data))
    target = tmp_path_factory.mktemp('published') / 'tiny'
    return mergevq_mm.save_pretrained(model, target, config, half=True)


@pytest.fixture(scope='module')
def picture(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    path = folder.parent / 'picture.png'
    Image.fromarray(rng.integers(0, 256, (20, 31, 3), dtype=np.uint8)).save(path)
    return path


def save_generator(folder: Path) -> Path:
    tokenizer = dict(
        type='mergevq_mm.FrozenTokenizer',
        model=str(folder / 'config.py'),
        checkpoint=str(folder / 'model.safetensors'),
    )
    config = dict(GENERATOR, tokenizer=tokenizer)
    target = folder.parent / 'generator'
    return mergevq_mm.save_pretrained(MODELS.build(dict(config)), target, config)


@torch.no_grad()
def ours(folder: Path, picture: Path) -> dict:
    """What this package makes of a picture."""
    model = mergevq_mm.from_pretrained(folder)
    infer = mergevq_mm.ReconstructionInferencer(model, device='cpu')
    listed = infer._inputs_to_list(str(picture))
    pixels = infer.images(next(infer.preprocess(listed, fit='crop')))
    merged, codes = model.encode(pixels, 9)
    features = mergevq_mm.FeatureInferencer(model, device='cpu')(str(picture))[0]
    return {
        'pixels': pixels,
        'index': codes.index,
        'group': merged.group,
        'image': model.decode(merged, codes)[0],
        'predicted': model.decode(codes.index, None, merged.grid)[0],
        'each': model.reconstruct(pixels.repeat(2, 1, 1, 1), [9, 16]),
        'features': {n: torch.from_numpy(features[n][None]) for n in features if n in
                     ('cls', 'avg', 'codes')},
        'seen': {
            'last_hidden_state': merged.tokens,
            'pooler_output': merged.cls,
            'index': codes.index,
            'group': merged.group,
            'size': merged.size,
        },
    }  # fmt: skip


def assert_equal(made: dict, right: dict) -> None:
    for name, value in right.items():
        if isinstance(value, dict):
            assert_equal(made[name], value)
        else:
            torch.testing.assert_close(made[name], value, rtol=0, atol=1e-5)


def in_cache(folder: Path, name: str, home: Path) -> None:
    """Put a folder where huggingface_hub keeps what it has fetched."""
    commit = '0123456789abcdef0123456789abcdef01234567'
    root = home / 'hub' / f'models--{name.replace("/", "--")}'
    (root / 'refs').mkdir(parents=True)
    (root / 'refs' / 'main').write_text(commit)
    shutil.copytree(folder, root / 'snapshots' / commit)


@pytest.mark.slow
@pytest.mark.skipif(not NEW, reason='transformers 4 renames tensors')
def test_a_folder_suffices(folder: Path, picture: Path, tmp_path: Path) -> None:
    """From a repository, in a process that can import neither us nor OpenMMLab."""
    in_cache(folder, 'someone/tiny', tmp_path)
    generator, out = save_generator(folder), tmp_path / 'made.pt'
    words = ['someone/tiny', generator, picture, out, torchvision_ops.__file__]
    hub = {'HF_HOME': str(tmp_path), 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': ''}
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', str(SCRIPT), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **hub},
    )
    assert result.returncode == 0, result.stderr
    made = torch.load(out, weights_only=False)
    assert made['hidden'] and not any(made['loading'].values())
    right = ours(folder, picture)
    assert_equal(made, right)
    assert torch.equal(made['of the generator'], right['index'])
    told = made['generator']
    assert 'is of a generator (mergevq_mm.MergeAR)' in told and '\n' not in told
    assert "give subfolder='tokenizer' for its tokenizer" in told
    rows = Image.frombytes('RGB', (8, 8), made['picture'])
    wanted = ((right['image'][0] + 1) * 127.5).round().clamp(0, 255).byte()
    assert (np.asarray(rows) == wanted.permute(1, 2, 0).numpy()).all()
    assert made['file'].endswith('mergevq_sources.py/mergevq_mm/registry.py')
    assert made['line'] == (carried.PACKAGE / 'registry.py').read_text('utf-8')


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where transformers puts the code of folders."""
    modules = tmp_path / 'modules'
    dynamic = transformers.dynamic_module_utils
    monkeypatch.setattr(dynamic, 'HF_MODULES_CACHE', str(modules))
    monkeypatch.setattr(sys, 'path', [*sys.path])
    return modules


@pytest.mark.skipif(not NEW, reason='transformers 4 renames tensors')
def test_with_the_package(
    folder: Path, picture: Path, tmp_path: Path, modules: Path
) -> None:
    """By the folder's own class, and by ours, which runs nothing of the folder."""
    right = ours(folder, picture)
    trusted = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert type(trusted).__module__.startswith('transformers_modules.')
    with pytest.raises(ValueError, match='of a MergeVQHead, and no tokenizer'):
        other = type(trusted.config)({'type': 'mergevq_mm.MergeVQHead'})
        type(trusted)(other)
    import mergevq_mm.huggingface as huggingface

    before = sorted(modules.rglob('*'))
    (folder / 'modeling_mergevq.py').rename(tmp_path / 'modeling.py')
    try:
        model = transformers.AutoModel.from_pretrained(folder)
        prepare = transformers.AutoImageProcessor.from_pretrained(folder)
    finally:
        (tmp_path / 'modeling.py').rename(folder / 'modeling_mergevq.py')
    assert isinstance(model, huggingface.MergeVQModel)
    assert sorted(modules.rglob('*')) == before
    pixels = prepare(Image.open(picture), return_tensors='pt').pixel_values
    assert torch.equal(pixels, right['pixels'])
    for one in (trusted, model):
        assert {p.dtype for p in one.parameters()} == {torch.float32}
        assert not one.training
        with torch.no_grad():
            assert_equal(dict(one(pixels, keep=9)), right['seen'])
            assert len(one(pixels, return_dict=False)) == 5
            with pytest.raises(ValueError, match=r'keep=\[9\] gives each image a K of'):
                one(pixels, keep=[9])
    # What transformers saves, both load again; with the code.
    model.save_pretrained(tmp_path / 'saved')
    prepare.save_pretrained(tmp_path / 'saved')
    for name in carried.CODE:
        assert (tmp_path / 'saved' / name).read_bytes() == (folder / name).read_bytes()
    again = mergevq_mm.from_pretrained(tmp_path / 'saved')
    assert torch.equal(again.encode(pixels, 9)[1].index, right['index'])
    assert len(prepare([picture, picture], fit='whole', size=16)['pixel_values']) == 2


def test_weights_of_another_config_are_refused(
    folder: Path, tmp_path: Path, modules: Path
) -> None:
    """Where transformers itself warns, and goes on from random weights."""
    copy = Path(shutil.copytree(folder, tmp_path / 'copy'))
    weights = safetensors.torch.load_file(copy / 'model.safetensors')
    del weights['decoder.conv_out.weight']
    safetensors.torch.save_file(weights, copy / 'model.safetensors', {'format': 'pt'})
    message = '1 tensors, such as decoder.conv_out.weight' if NEW else 'transformers 5'
    with pytest.raises(ValueError, match=f'has other weights than .*{message}'):
        transformers.AutoModel.from_pretrained(copy, trust_remote_code=True)


# ------------------------------------------------------------------- what is carried


def test_the_code_is_that_of_the_package(folder: Path) -> None:
    found = runpy.run_path(str(folder / 'mergevq_sources.py'))
    finder, files = found['SourceFinder'](), found['SOURCES']
    assert 60 < len(files) < 100
    made = {name for name in files if name.endswith('__init__.py')}
    for name in sorted(files):
        module = name.removesuffix('.py').removesuffix('/__init__').replace('/', '.')
        text = finder.get_source(module)
        assert finder.find_spec(module).origin.endswith(name)
        finder.get_code(module)
        own = (carried.PACKAGE.parent / name).read_text('utf-8')
        if name in made and text != own:  # of its room nothing is imported as a whole
            assert not text or name == 'mergevq_mm/models/__init__.py'
        else:
            assert text == own
    assert finder.find_spec('mergevq_mm.engine') is finder.get_source('os') is None
    with pytest.raises(ImportError, match='mergevq_mm.engine is none of the'):
        finder.get_code('mergevq_mm.engine')
    with pytest.raises(ImportError, match='carries no files'):
        runpy.run_path(str(carried.PACKAGE / 'huggingface' / carried.CODE[1]))[
            'provide'
        ]()
    own = carried.PACKAGE / 'huggingface' / carried.CODE[0]
    assert (folder / carried.CODE[0]).read_bytes() == own.read_bytes()


def test_imports_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In functions and alternatives, but not those for checkers of types."""
    package = tmp_path / 'mergevq_mm'
    (package / 'a' / 'b').mkdir(parents=True)
    for name in ('__init__', 'x', 'a/__init__', 'a/y', 'a/b/__init__', 'a/b/z'):
        (package / f'{name}.py').write_text('')
    monkeypatch.setattr(carried, 'PACKAGE', package)
    path = package / 'a' / 'b' / 'z.py'
    path.write_text(
        'import os, mergevq_mm.x\nfrom typing import TYPE_CHECKING\n'
        'if TYPE_CHECKING:\n    from ..none import T\n'
        'else:\n    import mergevq_mm.a.b\n'
        'if os.name:\n    from .. import y\n'
        'def f():\n    from ..y import g\n    from mergevq_mm.a import h\n'
    )
    assert set(carried._imports('mergevq_mm.a.b.z', path)) == {
        'mergevq_mm.x',
        'mergevq_mm.a.y',
        'mergevq_mm.a',
        'mergevq_mm.a.b',
    }


def test_what_a_file_builds_by_name_is_carried() -> None:
    """Such as the head that another one makes; imports do not tell of it."""
    sources = carried.carried_sources()
    named = {name for s in sources.values() for name in NAMED.findall(s)}
    # Of generators, and of configs that are scripts.
    for name in named - {'FrozenTokenizer', 'LoadImage'}:
        assert any(f'class {name}(' in text for text in sources.values()), name
    assert 'AlignmentHead' in named


def test_what_the_config_says(folder: Path) -> None:
    config = json.loads((folder / 'config.json').read_text())
    assert config['auto_map'] == {
        'AutoConfig': 'modeling_mergevq.MergeVQConfig',
        'AutoModel': 'modeling_mergevq.MergeVQModel',
    }
    assert config['dtype'] == 'float32'  # the file holds float16
    prepared = json.loads((folder / 'preprocessor_config.json').read_text())
    assert (prepared['shortest_edge'], prepared['stride']) == (8, 2)
    assert [s['type'] for s in prepared['preparation']] == [
        'mmpretrain.ResizeEdge',
        'mmpretrain.CenterCrop',
    ]
    assert carried.transformers_files({'type': 'mergevq_mm.MergeVQEncoder'}, {}) == {}


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, 'mergevq_mm.huggingface', raising=False)
    monkeypatch.setattr('mergevq_mm.base.tier.exists', lambda name: False)
    with pytest.raises(ImportError, match='needs transformers, .*: pip install trans'):
        import mergevq_mm.huggingface  # noqa: F401
