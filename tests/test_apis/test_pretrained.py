"""Folders for others: written, read, pushed, and what must not get in or out."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import pytest
import tiny_mergevq as tiny
import torch
from mmengine.config import Config
from safetensors import safe_open
from torch import Tensor, nn

import mergevq_mm
from mergevq_mm.apis import export_checkpoint
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.carried import CODE, PREPROCESSOR
from mergevq_mm.utils.checkpoint_format import FORMAT
from mergevq_mm.utils.export import read_config, read_folder, tensor_shapes
from mergevq_mm.utils.published import published_weights

GENERATOR = dict(
    type='mergevq_mm.MergeAR',
    arch=dict(embed_dims=32, num_layers=2, num_heads=4, ffn_multiple=32, head_layers=1),
    num_classes=3,
    keep=dict(target=9, candidates=[9, 16]),
)


def lively(model: nn.Module) -> nn.Module:
    """All weights random, in evaluation mode."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope='module')
def tokenizer() -> nn.Module:
    torch.manual_seed(0)
    model = lively(tiny.build_model())
    model.target_generator.init_weights()  # the helpers are there, and must not leave
    model.head.perceptual.model.init_weights()
    return model


@pytest.fixture(scope='module')
def folder(tokenizer: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp('published') / 'tokenizer'
    config = Config(dict(model=tiny.model_cfg()))
    return mergevq_mm.save_pretrained(tokenizer, target, config, {'epoch': 3})


def images(number: int = 2) -> Tensor:
    return torch.rand(number, 3, tiny.SIZE, tiny.SIZE) * 2 - 1


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / 'copy'))


def edit(folder: Path, change: object) -> None:
    """Change the config of a folder."""
    path = folder / 'config.json'
    content = json.loads(path.read_text())
    change(content['model'])
    path.write_text(json.dumps(content))


# ------------------------------------------------------------------------- round trips


@torch.no_grad()
def test_tokenizer_comes_back_equal(tokenizer: nn.Module, folder: Path) -> None:
    loaded = mergevq_mm.from_pretrained(folder)
    assert not loaded.training
    assert loaded.predict_source and loaded.test_keep == tokenizer.test_keep
    state = loaded.state_dict()
    trained = tokenizer.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in state.items())
    image = images()
    for keep in (9, 16):
        merged, quantized = loaded.encode(image, keep)
        right, codes = tokenizer.encode(image, keep)
        assert torch.equal(merged.group, right.group)
        assert torch.equal(quantized.index, codes.index)
        for group in (merged.group, None):  # with the learned recovery, too
            ours = loaded.decode(quantized.codes, group, merged.grid)[0]
            theirs = tokenizer.decode(codes.codes, group, merged.grid)[0]
            assert torch.equal(ours, theirs)
    again = mergevq_mm.save_pretrained(loaded, folder.parent / 'again')
    name = 'model.safetensors'
    assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_half_precision(tokenizer: nn.Module, tmp_path: Path) -> None:
    """Half as large; at work in float32, with weights that float16 holds."""
    config, known = Config(dict(model=tiny.model_cfg())), {'images': 'noise'}
    saved = mergevq_mm.save_pretrained(tokenizer, tmp_path / 'a', config, known, True)
    loaded = mergevq_mm.from_pretrained(saved)
    trained = tokenizer.state_dict()
    for name, value in loaded.state_dict().items():
        right = trained[name]
        right = right.half().float() if right.is_floating_point() else right
        assert value.dtype == right.dtype and torch.equal(value, right)
    again = mergevq_mm.save_pretrained(loaded, tmp_path / 'b', half=True)
    assert read_folder(again)[2]['images'] == 'noise'
    name = 'model.safetensors'
    assert (again / name).read_bytes() == (saved / name).read_bytes()
    with pytest.raises(ValueError, match='weight has numbers up to 1e.06, which float'):
        published_weights({'weight': torch.tensor([1.0, 1e6])}, half=True)


def test_nothing_of_the_training_is_published(
    tokenizer: nn.Module, folder: Path
) -> None:
    """By name, and by size: the file is as big as the parts that it needs."""
    path = folder / 'model.safetensors'
    with safe_open(path, 'pt') as file:
        names = list(file.keys())
        assert file.metadata() == {'format': 'pt'}
    assert {name.partition('.')[0] for name in names} == {
        'backbone',
        'quantizer',
        'neck',
        'decoder',
        'head',
    }
    of_head = [name for name in names if name.startswith('head.')]
    assert all(name.startswith('head.alignment.projector.') for name in of_head)
    parts = ['backbone', 'quantizer', 'neck', 'decoder']
    modules = [getattr(tokenizer, part) for part in parts]
    modules.append(tokenizer.head.alignment.projector)
    size = 4 * sum(p.numel() for m in modules for p in m.parameters())
    assert 4 * sum(t.numel() for t in tensor_shapes(path).values()) == size
    header = path.stat().st_size - size
    assert 0 < header < 150 * len(names) + 1000
    text = (folder / 'config.json').read_text() + (folder / 'config.py').read_text()
    for word in ('iscriminator', 'perceptual', 'target_generator', 'init_cfg'):
        assert word not in text
    card = (folder / 'README.md').read_text()
    assert f'| all | {size // 4:,} |' in card and '* epoch: 3' in card


def test_the_folder_serves_openmmlab(tokenizer: nn.Module, folder: Path) -> None:
    """Its config.py and weights are what FrozenTokenizer and init_model take."""
    frozen = MODELS.build(
        dict(
            type='mergevq_mm.FrozenTokenizer',
            model=str(folder / 'config.py'),
            checkpoint=str(folder / 'model.safetensors'),
        )
    )
    image = images()
    index = frozen.encode(image, 9).index
    assert torch.equal(index, tokenizer.encode(image, 9)[1].index)
    weights = str(folder / 'model.safetensors')
    for model in (
        mergevq_mm.init_model(folder / 'config.py', weights),
        mergevq_mm.get_model(folder),
    ):
        assert torch.equal(model.encode(image, 9)[1].index, index)


@torch.no_grad()
@pytest.mark.parametrize('kind', ['MergeAR', 'RandAR'])
def test_generator_takes_its_tokenizer_along(
    kind: str, tokenizer: nn.Module, folder: Path, tmp_path: Path
) -> None:
    config = dict(
        GENERATOR,
        type=f'mergevq_mm.{kind}',
        tokenizer=dict(
            type='mergevq_mm.FrozenTokenizer',
            model=str(folder / 'config.py'),
            checkpoint=str(folder / 'model.safetensors'),
        ),
    )
    generator = lively(MODELS.build(dict(config)))
    mergevq_mm.save_pretrained(generator, tmp_path / 'a', config)
    # It may move, and needs nothing that it was made from.
    shutil.move(tmp_path / 'a', tmp_path / 'b')
    loaded = mergevq_mm.from_pretrained(tmp_path / 'b')
    labels = [0, 2]
    ours, drawn = loaded.generate(labels, seed=4)
    theirs, right = generator.generate(labels, seed=4)
    assert torch.equal(drawn.index, right.index) and torch.equal(ours, theirs)
    assert loaded.tokenizer.fingerprint() == generator.tokenizer.fingerprint()
    part = mergevq_mm.from_pretrained(tmp_path / 'b' / 'tokenizer')
    assert part.predict_source
    image = images()
    right = tokenizer.encode(image, 9)[1].index
    assert torch.equal(part.encode(image, 9)[1].index, right)
    again = mergevq_mm.save_pretrained(loaded, tmp_path / 'c')
    first = (tmp_path / 'b' / 'model.safetensors').read_bytes()
    assert (again / 'model.safetensors').read_bytes() == first
    (tmp_path / 'b' / 'tokenizer' / 'model.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='has no tokenizer/model.safetensors'):
        mergevq_mm.from_pretrained(tmp_path / 'b')


def test_checkpoint_of_a_run_is_exported(
    tokenizer: nn.Module, folder: Path, tmp_path: Path
) -> None:
    """With optimizers, raw weights and book-keeping beside the averaged ones."""
    state = tokenizer.state_dict()
    run = {
        'state_dict': state,
        'ema_state_dict': {name: value + 1 for name, value in state.items()},
        'optimizer': {'generator': {'state': {0: torch.ones(1000)}}},
        'meta': {'epoch': 3, 'iter': 10},
    }
    torch.save(run, tmp_path / 'epoch_3.pth')
    Config(dict(model=tiny.model_cfg())).dump(tmp_path / 'config.py')
    out = export_checkpoint(
        tmp_path / 'config.py', tmp_path / 'epoch_3.pth', tmp_path / 'out'
    )
    name = 'model.safetensors'
    assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / 'epoch_3.pth').stat().st_size > 2 * (out / name).stat().st_size


# ---------------------------------------------------------------------------- bad input


def test_a_folder_of_a_later_version_is_refused_by_its_number(
    folder: Path, tmp_path: Path
) -> None:
    copy = copied(folder, tmp_path)
    content = json.loads((copy / 'config.json').read_text())
    assert content['format'] == FORMAT
    del content['format']  # of before the number
    (copy / 'config.json').write_text(json.dumps(content))
    assert read_config(copy)[0] == content['model']
    content['metadata']['mergevq_mm'] = '9.1.0'
    content['model']['type'] = 'mergevq_mm.NotYetKnown'
    (copy / 'config.json').write_text(json.dumps({'format': FORMAT + 1, **content}))
    message = f'config.json" has format {FORMAT + 1}, written by mergevq_mm 9.1.0'
    with pytest.raises(ValueError, match=message):
        mergevq_mm.from_pretrained(copy)


def test_a_config_can_execute_nothing(folder: Path, tmp_path: Path) -> None:
    """mmengine builds whatever a type names; here it does not get that far."""
    mark = tmp_path / 'ran'
    copy = copied(folder, tmp_path)
    original = (copy / 'config.json').read_text()
    (copy / 'config.py').write_text(f'open({str(mark)!r}, "w")')
    mergevq_mm.from_pretrained(copy)  # does not read it
    attack = {'type': 'os.system', 'command': f'touch {mark}'}
    popen = {'type': 'subprocess.Popen', 'args': ['touch', str(mark)]}
    inside = {'type': 'mergevq_mm.utils.checkpoint.load_pretrained'}

    def put(name: str, value: object) -> object:
        return lambda model: model.update({name: value})

    for change, message in (
        (lambda model: model.update(attack), "model.type='os.system', which is no"),
        (put('decoder', popen), "model.decoder.type='subprocess.Popen'"),
        (put('extra', [[popen]]), r'model.extra\[0\]\[0\].type'),
        (put('neck', inside), 'which is no registered model of mergevq_mm'),
        (put('head', dict(type='mmpretrain.TIMMBackbone')), 'model.head.type='),
        (put('init_cfg', dict(type='Pretrained', checkpoint='x')), 'file or object'),
        (put('type', 3), 'holds no config of a model'),
    ):
        (copy / 'config.json').write_text(original)
        edit(copy, change)
        with pytest.raises(ValueError, match=message) as caught:
            mergevq_mm.from_pretrained(copy)
        assert '\n' not in str(caught.value)
    script = tmp_path / 'evil.py'
    script.write_text(f'open({str(mark)!r}, "w")\nmodel = dict()')
    generator = dict(
        GENERATOR,
        tokenizer=dict(type='mergevq_mm.FrozenTokenizer', model=str(script)),
    )
    (copy / 'config.json').write_text(json.dumps({'model': generator}))
    with pytest.raises(ValueError, match='at model.tokenizer.model, but a published'):
        mergevq_mm.from_pretrained(copy)
    generator['tokenizer'] = dict(
        type='mergevq_mm.FrozenTokenizer', model={}, checkpoint='../../x.pth'
    )
    (copy / 'config.json').write_text(json.dumps({'model': generator}))
    with pytest.raises(ValueError, match='x.pth.* at model.tokenizer.checkpoint'):
        mergevq_mm.from_pretrained(copy)
    assert not mark.exists()


@pytest.mark.parametrize('ending', ['json', 'yaml', 'yml', 'JSON'])
def test_a_config_file_of_data_can_execute_nothing(
    folder: Path, tmp_path: Path, ending: str
) -> None:
    """Given alone, with weights, it is held to the rules of the folder."""
    from mergevq_mm.apis.loading import load_for_inference
    from mergevq_mm.models.generators.tokenizer import FrozenTokenizer

    mark, script = tmp_path / 'ran', tmp_path / 'evil.py'
    script.write_text(f'open({str(mark)!r}, "w")\nmodel = dict()')
    weights, path = folder / 'model.safetensors', tmp_path / f'config.{ending}'
    good = json.loads((folder / 'config.json').read_text())['model']
    bare = {k: v for k, v in good.items() if k != 'data_preprocessor'}
    attack = {'type': 'os.system', 'command': f'touch {mark}'}
    tokenizer = {'type': 'mergevq_mm.FrozenTokenizer', 'model': str(script)}
    generator = dict(GENERATOR, tokenizer=tokenizer)
    init = dict(type='Pretrained', checkpoint='http://127.0.0.1:1/x.pth')
    for content, message in (
        ({'model': attack}, "model.type='os.system', which is no registered"),
        ({'model': {**good, 'extra': [[attack]]}}, r'model.extra\[0\]\[0\].type'),
        ({'model': {**good, 'decoder': attack}}, "model.decoder.type='os.system'"),
        ({'model': bare, 'data_preprocessor': attack}, 'data_preprocessor.type='),
        ({'model': generator}, 'at model.tokenizer.model, but a published'),
        ({'model': good, '_base_': str(script)}, 'inherits from .*evil.py'),
        ({'model': {**good, 'checkpoint': 'x.pth'}}, "file or object 'x.pth'"),
        ({'model': {**good, 'neck': {'_scope_': 'os', 'type': 'system'}}}, 'neck.type'),
        ({'model': {**good, 'head': 'x', 'test_cfg': 3}}, 'no model that could be bui'),
        ({'model': {**good, 'bogus': 1}}, 'no model that could be built'),
        ({'model': 'x'}, 'holds no config of a model'),
        ({'no': 1}, 'holds no config of a model'),
    ):
        path.write_text(json.dumps(content))  # which is YAML, too
        for load in (
            lambda: mergevq_mm.get_model(path, weights),
            lambda: mergevq_mm.init_model(str(path), str(weights)),
            lambda: load_for_inference(path, weights, 'cpu'),
            lambda: export_checkpoint(path, weights, tmp_path / 'out'),
        ):
            with pytest.raises(ValueError, match=message) as caught:
                load()
            assert '\n' not in str(caught.value)
    for content in (attack, {'_base_': str(script)}):
        path.write_text(json.dumps({'model': {**good, 'decoder': content}}))
        with pytest.raises(ValueError):
            FrozenTokenizer(str(path), str(weights))
    # What is no part of the model is left aside, and what is only trained is not built.
    sleeping = {**good, 'discriminator': attack, 'backbone': dict(good['backbone'])}
    sleeping['backbone']['init_cfg'] = init
    content = {'model': sleeping, 'custom_imports': {'imports': ['evil']}}
    path.write_text(json.dumps(content))
    assert mergevq_mm.get_model(path, weights).decoder is not None
    with pytest.raises(ValueError, match='training=True, but of .* give a .py config'):
        mergevq_mm.get_model(path, weights, training=True)
    assert not mark.exists() and not (tmp_path / 'out').exists()


@torch.no_grad()
def test_config_files_of_data_still_serve(
    tokenizer: nn.Module, folder: Path, tmp_path: Path
) -> None:
    """Published ones, and what ``Config.dump`` makes of a config of a training."""
    right = tokenizer.encode(image := images(), 9)[1].index
    paths = [folder / 'config.json']
    for ending in ('json', 'yaml'):
        paths.append(tmp_path / f'dumped.{ending}')
        Config(dict(model=tiny.model_cfg())).dump(paths[-1])
    torch.save({'state_dict': tokenizer.state_dict()}, tmp_path / 'run.pth')
    for path in paths:
        for weights in (folder / 'model.safetensors', tmp_path / 'run.pth'):
            model = mergevq_mm.get_model(path, weights)
            assert torch.equal(model.encode(image, 9)[1].index, right)
        frozen = MODELS.build(
            dict(
                type='mergevq_mm.FrozenTokenizer',
                model=str(path),
                checkpoint=str(folder / 'model.safetensors'),
            )
        )
        assert torch.equal(frozen.encode(image, 9).index, right)


@pytest.mark.parametrize(
    ('part', 'name'),
    [('decoder', 'num_layers'), ('neck', 'num_layers'), ('decoder', 'num_res_blocks')],
)
def test_a_config_larger_than_its_weights(
    folder: Path, tmp_path: Path, part: str, name: str
) -> None:
    """Some bytes that ask for 200,000 layers take seconds, and nothing is built."""
    copy = copied(folder, tmp_path)
    edit(copy, lambda model: model[part].update({name: 200_000}))
    weights = copy / 'model.safetensors'
    begin = time.monotonic()
    for load in (
        lambda: mergevq_mm.from_pretrained(copy),
        lambda: mergevq_mm.get_model(copy / 'config.json', weights),
        lambda: mergevq_mm.get_model(copy / 'config.json'),
    ):
        with pytest.raises(ValueError, match='has far more layers than its weights'):
            load()
    assert time.monotonic() - begin < 60
    edit(copy, lambda model: model[part].update({name: 10**30}))
    with pytest.raises(ValueError, match='config.json" describes no model that could'):
        mergevq_mm.from_pretrained(copy)


def test_a_tokenizer_larger_than_its_weights(
    tokenizer: nn.Module, folder: Path, tmp_path: Path
) -> None:
    parts = json.loads((folder / 'config.json').read_text())['model']
    config = dict(
        GENERATOR,
        tokenizer=dict(
            type='mergevq_mm.FrozenTokenizer',
            model=parts,
            checkpoint=str(folder / 'model.safetensors'),
        ),
    )
    target = mergevq_mm.save_pretrained(MODELS.build(config), tmp_path / 'g', config)
    for name, value, message in (
        ('num_layers', 200_000, 'far more layers'),
        ('base_channels', 800_000, 'tokenizer/model.safetensors" has .* of shape'),
        ('num_layers', 2, 'tokenizer/model.safetensors" has 1.. of the 1.. tensors'),
    ):
        original = (target / 'config.json').read_text()
        edit(target, lambda m: m['tokenizer']['model']['decoder'].update({name: value}))  # noqa: B023
        for load in (
            lambda: mergevq_mm.from_pretrained(target),
            lambda: mergevq_mm.get_model(
                target / 'config.json', target / 'model.safetensors'
            ),
        ):
            with pytest.raises(ValueError, match=message):
                load()
        (target / 'config.json').write_text(original)
    model = mergevq_mm.get_model(target / 'config.json', target / 'model.safetensors')
    model.tokenizer.init_weights()  # its weights lie beside the config
    edit(target, lambda m: m['tokenizer'].update(checkpoint=None, random_init=True))
    with pytest.raises(ValueError, match='tokenizer without weights at model.token'):
        mergevq_mm.from_pretrained(target)


@pytest.mark.parametrize('full', ['model.safetensors', 'config.json', 'README.md'])
def test_a_full_disk_leaves_the_old_folder(
    tokenizer: nn.Module,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    full: str,
) -> None:
    """Whichever file it is that does not fit; a new folder is not begun."""
    from mergevq_mm.utils import export

    copy = copied(folder, tmp_path)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}

    def refusing(write: object) -> object:
        def refuse(content: object, path: Path, *more: object) -> None:
            if Path(path).name == full:
                raise OSError(28, 'No space left on device')
            write(content, path, *more)

        return refuse

    import safetensors.torch

    monkeypatch.setattr(
        safetensors.torch, 'save_file', refusing(safetensors.torch.save_file)
    )
    monkeypatch.setattr(export, 'write_atomically', refusing(export.write_atomically))
    config = Config(dict(model=tiny.model_cfg()))
    with pytest.raises(OSError, match='No space left'):
        mergevq_mm.save_pretrained(tokenizer, copy, config, {'epoch': 4})
    assert before == {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(OSError, match='No space left'):
        mergevq_mm.save_pretrained(tokenizer, tmp_path / 'new', config)
    assert not (tmp_path / 'new').exists()
    monkeypatch.undo()
    mergevq_mm.save_pretrained(tokenizer, copy, config, {'epoch': 4})
    assert read_folder(copy)[2]['epoch'] == 4
    assert {path.name for path in copy.iterdir()} == before.keys()


def test_a_pickle_in_the_place_of_weights(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / 'ran',)

    copy = copied(folder, tmp_path)
    torch.save({'state_dict': Bomb()}, copy / 'model.safetensors')
    with pytest.raises(ValueError, match='model.safetensors.* is damaged'):
        mergevq_mm.from_pretrained(copy)
    assert not (tmp_path / 'ran').exists()


def test_damaged_and_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='"nowhere" is no folder; give one'):
        mergevq_mm.from_pretrained('nowhere')
    with pytest.raises(FileNotFoundError, match='has no config.json; give a folder'):
        mergevq_mm.from_pretrained(tmp_path)
    copy = copied(folder, tmp_path)
    weights = copy / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match='is damaged'):
        mergevq_mm.from_pretrained(copy)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match='does not exist'):
        mergevq_mm.from_pretrained(copy)
    (copy / 'config.json').write_text('{"model": ')
    with pytest.raises(ValueError, match='config.json" is damaged .* save the model'):
        mergevq_mm.from_pretrained(copy)


def test_weights_of_another_architecture(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    edit(copy, lambda model: model['neck'].update(num_layers=1))
    with pytest.raises(ValueError, match=r'\d+ of the \d+ tensors of MergeVQ, and 18'):
        mergevq_mm.from_pretrained(copy)
    edit(copy, lambda model: model['neck'].update(num_layers=2, embed_dims=8))
    with pytest.raises(ValueError, match='has neck.* of shape .* nothing was loaded'):
        mergevq_mm.from_pretrained(copy)


def test_half_a_checkpoint_loads_nothing(tokenizer: nn.Module, tmp_path: Path) -> None:
    state = dict(tokenizer.state_dict())
    for name in list(state):
        if name.startswith('decoder.layers'):
            del state[name]
    torch.save({'state_dict': state}, tmp_path / 'half.pth')
    config = Config(dict(model=tiny.model_cfg()))
    with pytest.raises(
        ValueError, match='has .* tensors of MergeVQ, without decoder.l'
    ):
        mergevq_mm.get_model(config, tmp_path / 'half.pth')
    state = dict(tokenizer.state_dict())
    state['decoder.conv_out.weight'] = torch.ones(3, 9, 3, 3)
    torch.save({'state_dict': state}, tmp_path / 'wide.pth')
    model = mergevq_mm.get_model(config)
    before = tiny.clone_state(model)
    from mergevq_mm.apis.model import load_weights

    with pytest.raises(ValueError, match='decoder.conv_out.weight of shape'):
        load_weights(model, tmp_path / 'wide.pth')
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_a_model_must_know_its_config(tokenizer: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='MergeVQ does not know its config; give'):
        mergevq_mm.save_pretrained(tokenizer, tmp_path / 'a')
    other = tiny.model_cfg()
    other['neck']['num_layers'] = 1
    with pytest.raises(ValueError, match='The MergeVQ to save has'):
        mergevq_mm.save_pretrained(tokenizer, tmp_path / 'a', other)
    probe = {'type': 'mmpretrain.ImageClassifier', 'backbone': {}}
    message = r'this Linear \(mmpretrain.ImageClassifier\) serves training or judging'
    with pytest.raises(ValueError, match=message):
        mergevq_mm.save_pretrained(nn.Linear(1, 1), tmp_path / 'a', probe)
    assert not (tmp_path / 'a').exists()


# ------------------------------------------------------------------------------ the hub


class FakeHub:
    """A hub in a folder: the calls that are made of huggingface_hub."""

    def __init__(self, root: Path) -> None:
        self.root, self.tokens, self.patterns = root, [], None

    def HfApi(self, token: str | None = None) -> FakeHub:  # noqa: N802
        self.tokens.append(token)
        return self

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return f'https://hub.example/{repo_id}'

    def upload_folder(
        self, repo_id: str, folder_path: str, commit_message: str
    ) -> None:
        assert commit_message
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def snapshot_download(
        self,
        repo_id: str,
        revision: str | None = None,
        token: str | None = None,
        allow_patterns: list[str] | None = None,
    ) -> str:
        if not (self.root / repo_id).is_dir():
            raise OSError('404 Client Error')
        self.patterns = allow_patterns
        return str(self.root / repo_id)


def test_push_and_fetch(
    tokenizer: nn.Module, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub(tmp_path / 'hub')
    monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
    monkeypatch.chdir(tmp_path)
    config = tiny.model_cfg()
    url = mergevq_mm.push_to_hub(tokenizer, 'someone/tiny', config, token='secret')
    assert url == 'https://hub.example/someone/tiny' and hub.tokens == ['secret']
    assert mergevq_mm.push_to_hub(folder, 'someone/again').endswith('again')
    files = {p.name for p in (hub.root / 'someone' / 'tiny').iterdir()}
    loads = {*CODE, PREPROCESSOR}  # in transformers
    assert files == {'model.safetensors', 'config.json', 'config.py', 'README.md'} | (
        loads
    )
    card = (hub.root / 'someone' / 'tiny' / 'README.md').read_text()
    assert card.count("from_pretrained('someone/tiny'") == 3
    index = tokenizer.encode(images(1).fill_(0.3), 9)[1].index
    for name in ('someone/tiny', 'someone/again'):
        loaded = mergevq_mm.from_pretrained(name)
        assert torch.equal(loaded.encode(images(1).fill_(0.3), 9)[1].index, index)
    assert not any(pattern.endswith('.py') for pattern in hub.patterns)
    with pytest.raises(FileNotFoundError, match='cannot be fetched .*404 Client'):
        mergevq_mm.from_pretrained('someone/else')
    with pytest.raises(ValueError, match='repo_id="tiny" is no name of a repository'):
        mergevq_mm.push_to_hub(folder, 'tiny')
    with pytest.raises(FileNotFoundError, match='has no config.json'):
        mergevq_mm.push_to_hub(tmp_path, 'someone/nothing')
    with pytest.raises(ValueError, match='is pushed as it is, with its card; give'):
        mergevq_mm.push_to_hub(folder, 'someone/tiny', metadata={'license': 'mit'})


def test_calls_fit_the_real_hub() -> None:
    """The names of the arguments, by the installed package."""
    import inspect

    hub = pytest.importorskip('huggingface_hub')
    for function, names in (
        (hub.HfApi.create_repo, ('repo_id', 'private', 'exist_ok')),
        (hub.HfApi.upload_folder, ('repo_id', 'folder_path', 'commit_message')),
        (hub.snapshot_download, ('revision', 'token', 'allow_patterns')),
    ):
        assert set(names) <= set(inspect.signature(function).parameters)


def test_without_the_package_the_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ValueError, match=r'pip install mergevq_mm\[hub\]'):
        mergevq_mm.push_to_hub(folder, 'someone/tiny')


def test_metadata_is_read_back(folder: Path) -> None:
    model, weights, metadata = read_folder(folder)
    assert metadata['epoch'] == 3 and metadata['type'] == model['type']
    assert metadata['parameters'] == sum(w.numel() for w in weights.values())
