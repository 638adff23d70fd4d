"""The authors' checkpoints to ours and back, and files that are none of theirs."""

from __future__ import annotations

import importlib.util
import math
import pickle
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from mergevq_mm.apis import from_pretrained
from mergevq_mm.models.backbones.architectures import ARCHITECTURES
from mergevq_mm.models.generators import MergeAR
from mergevq_mm.official.file import averaged_names, choose_weights
from mergevq_mm.official.generator import ffn_multiple, read_generator
from mergevq_mm.official.tokenizer import (
    tokenizer_to_official,
    tokenizer_to_ours,
)
from mergevq_mm.utils.building import build_on_meta

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / 'test_models'), str(TESTS / 'test_models/test_generators')]

import golden  # noqa: E402
import golden_gpt  # noqa: E402
import tiny_mergear as tiny  # noqa: E402

TOOLS = TESTS.parent / 'tools' / 'model_converters'
TINY = ['--num-heads', '4', '--img-size', '32']


def load_tool(name: str) -> ModuleType:
    sys.path.insert(0, str(TOOLS))
    try:
        spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TOOLS))
    return module


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    return load_tool('mergevq_official_to_mm')


@pytest.fixture(scope='module')
def gpt_tool() -> ModuleType:
    return load_tool('mergear_official_to_mm')


@pytest.fixture(scope='module')
def numbers() -> dict[str, np.ndarray]:
    return golden.load('hybrid_tiny.npz')


@pytest.fixture(scope='module')
def theirs(numbers: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(value)
        for name, value in numbers.items()
        if name.startswith(('encoder.', 'decoder.'))
    }


def lightning(path: Path, weights: dict[str, Tensor], **more: object) -> str:
    """A file as Lightning writes it, with the helpers that theirs has in it."""
    aside = {
        'loss.discriminator.main.0.weight': torch.ones(2),
        'loss.perceptual_loss.lin0.model.1.weight': torch.ones(2),
        'dist_model.embeddings.cls_token': torch.ones(2),
        'quantize.mask': torch.ones(2),
    }
    state = {**weights, **aside, **more}
    torch.save({'state_dict': state, 'global_step': 7, 'epoch': 1}, path)
    return str(path)


@pytest.fixture(scope='module')
def converted(
    tool: ModuleType, theirs: dict, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp('converted')
    source = lightning(folder / 'theirs.ckpt', theirs)
    tool.main([source, str(folder / 'ours'), *TINY])
    return folder / 'ours'


# --------------------------------------------------------------------- the tokenizer


@torch.no_grad()
def check_golden(model: torch.nn.Module, numbers: dict[str, np.ndarray]) -> None:
    """All numbers of the golden file, at every K."""
    image = torch.from_numpy(numbers['x'])
    for keep in (64, 36, 25):
        known = {
            name: torch.from_numpy(numbers[f'K{keep}.{name}'])
            for name in ('cls_head', 'z', 'index', 'group', 'recon')
        }
        merged, quantized = model.encode(image, keep)
        theirs, ours = known['group'], merged.group
        same = theirs[:, :, None] == theirs[:, None]
        assert torch.equal(ours[:, :, None] == ours[:, None], same)
        z = model.quantizer.projection(merged.tokens)
        for sample in range(2):
            a, b = ours[sample], theirs[sample]
            assert_close(z[sample][a], known['z'][sample][b], **golden.TOLERANCE)
            index = quantized.index[sample][a]
            assert torch.equal(index, known['index'][sample][b])
        head = model.head.alignment.projector(merged.cls)
        assert_close(head, known['cls_head'], **golden.TOLERANCE)
        recon, _ = model.decode(quantized.codes, merged.group, merged.grid)
        assert_close(recon, known['recon'], **golden.TOLERANCE)


def test_golden_tokenizer_both_ways(
    tool: ModuleType, converted: Path, theirs: dict, numbers: dict, tmp_path: Path
) -> None:
    check_golden(from_pretrained(converted), numbers)
    tool.main([str(converted), str(tmp_path / 'back.ckpt'), '--back', '--with-ema'])
    back = torch.load(tmp_path / 'back.ckpt', weights_only=True)['state_dict']
    assert back.keys() == theirs.keys() | averaged_names(theirs).keys()
    for name, value in theirs.items():
        assert torch.equal(back[name], value), name
        assert torch.equal(back['model_ema.' + name.replace('.', '')], value)
    tool.main([str(tmp_path / 'back.ckpt'), str(tmp_path / 'again'), *TINY])
    first = load_file(converted / 'model.safetensors')
    second = load_file(tmp_path / 'again' / 'model.safetensors')
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    check_golden(from_pretrained(tmp_path / 'again'), numbers)


def test_it_prints_what_matched(
    tool: ModuleType, theirs: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = lightning(tmp_path / 'a.ckpt', theirs)
    tool.main([source, str(tmp_path / 'a.pth'), *TINY])
    text = capsys.readouterr().out
    assert '210 of 210 tensors filled (raw weights)' in text
    assert 'left out, no part of the model: 4' in text
    state = torch.load(tmp_path / 'a.pth', weights_only=True)['state_dict']
    assert len(state) == 210 and not any('loss' in name for name in state)


def test_averaged_weights_are_preferred(theirs: dict) -> None:
    doubled = {name: 2 * value for name, value in theirs.items()}
    book = {'model_ema.decay': torch.ones(()), 'model_ema.num_updates': torch.ones(())}
    state = {**theirs, **averaged_names(doubled), **book}
    for kind, factor in (('auto', 2), ('ema', 2), ('raw', 1)):
        weights, used = choose_weights({'state_dict': state}, kind)
        assert used == ('ema' if factor == 2 else 'raw')
        assert weights.keys() == theirs.keys()
        name = 'encoder.conv_in.weight'
        assert torch.equal(weights[name], factor * theirs[name])
    assert choose_weights({'state_dict': theirs})[1] == 'raw'
    del state['model_ema.encoderconv_inweight']
    with pytest.raises(ValueError, match='lack 1 of 210 tensors, such as encoder.conv'):
        choose_weights({'state_dict': state}, 'ema')


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_published_architectures_are_read_off_the_shapes(name: str) -> None:
    """On the meta device: our model's shapes under their names, and read again."""
    known = ARCHITECTURES[name]
    base = known.get('base_channels', 64)
    mult = known.get('channel_mult', (1, 1, 2, 4, 8))
    dim = known.get('embed_dims', base * mult[-1])
    layers = 2 if name.startswith('g-') else 3
    model = build_on_meta(
        dict(
            type='mergevq_mm.MergeVQ',
            backbone=dict(type='mergevq_mm.MergeVQEncoder', arch=name, pos_embed=False),
            quantizer=dict(type='mergevq_mm.LFQ', bits=18, in_channels=dim),
            neck=dict(type='mergevq_mm.GroupMapRecovery'),
            decoder=dict(
                type='mergevq_mm.MergeVQDecoder',
                base_channels=base,
                channel_mult=mult,
                num_heads=12 if name == 'g+r-d96' else 8,
            ),
            head=dict(
                type='mergevq_mm.MergeVQHead',
                alignment=dict(in_channels=dim, layers=layers),
            ),
        )
    )
    state = model.state_dict()
    stem = ('encoder.patches', 'encoder.patches_norm')
    official = tokenizer_to_official(state, stem)
    assert not official.unknown and len(official.weights) == len(state)
    found = tokenizer_to_ours(official.weights)
    assert not found.unknown
    shapes = {key: value.shape for key, value in state.items()}
    assert {key: value.shape for key, value in found.weights.items()} == shapes
    assert found.model['backbone']['arch'] == name
    assert found.model['head']['alignment']['layers'] == layers
    rebuilt = build_on_meta(found.model)
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == shapes
    assert [m.num_heads for m in rebuilt.modules() if hasattr(m, 'num_heads')] == [
        m.num_heads for m in model.modules() if hasattr(m, 'num_heads')
    ]
    length = math.prod(rebuilt.backbone.grid)
    assert rebuilt.test_keep == [{1024: 256, 256: 144}.get(length), length] or (
        name == 'r-base' and rebuilt.test_keep == [36, 256]
    )


def test_patchify_tokenizer_goes_back_under_the_names_it_had(
    tool: ModuleType, tmp_path: Path
) -> None:
    from mergevq_mm.models import MergeVQ

    model = MergeVQ(
        backbone=dict(
            type='mergevq_mm.MergeVQEncoder',
            arch=dict(
                stem='patch', embed_dims=16, patch_size=4, num_layers=2, num_heads=2
            ),
            img_size=16,
            pos_embed=False,
        ),
        quantizer=dict(type='mergevq_mm.LFQ', bits=6, split=(2, 4), in_channels=16),
        neck=dict(type='mergevq_mm.GroupMapRecovery'),
        decoder=dict(
            type='mergevq_mm.MergeVQDecoder',
            bits=6,
            base_channels=8,
            channel_mult=(1, 1, 2),
            num_res_blocks=1,
            num_layers=1,
            num_heads=2,
        ),
        head=dict(type='mergevq_mm.MergeVQHead'),
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    names = ('encoder.some_conv', 'encoder.some_norm')
    theirs = tokenizer_to_official(model.state_dict(), names).weights
    assert theirs['encoder.some_conv.weight'].shape == (16, 3, 4, 4)
    source = lightning(tmp_path / 'r.ckpt', theirs)
    arguments = ['--num-heads', '2', '--img-size', '16']
    tool.main([source, str(tmp_path / 'ours'), *arguments])
    image = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        merged, _ = from_pretrained(tmp_path / 'ours').encode(image, 9)
        assert_close(merged.tokens, model.encode(image, 9)[0].tokens)
    tool.main([str(tmp_path / 'ours'), str(tmp_path / 'back.ckpt'), '--back'])
    back = torch.load(tmp_path / 'back.ckpt', weights_only=True)['state_dict']
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


# --------------------------------------------------------------------- the generator


@torch.no_grad()
def test_golden_generator_both_ways(
    gpt_tool: ModuleType, converted: Path, tmp_path: Path
) -> None:
    path = golden_gpt.FOLDER / 'gpt_tiny.npz'
    with np.load(path, allow_pickle=False) as file:
        theirs = {
            name: torch.from_numpy(file[name])
            for name in file
            if name.endswith('.weight')
        }
    wrapped = {'transformer.' + name: value for name, value in theirs.items()}
    source = lightning(
        tmp_path / 'gpt.ckpt', wrapped, **{'first_stage_model.x': torch.ones(2)}
    )
    out = tmp_path / 'gpt.safetensors'
    gpt_tool.main([source, str(out), '--num-heads', '4'])
    weights = load_file(out)
    assert len(weights) == len(theirs) == 41

    known = golden_gpt.Golden()
    config = read_generator(weights, num_heads=4)
    config.pop('type')
    tokenizer = dict(type='mergevq_mm.GridOfCodes', grid=(4, 4), split=(3, 5))
    for window in (None, 16):
        model = MergeAR(tokenizer=tokenizer, **{**config, 'window': window}).eval()
        model.load_state_dict(weights)
        logits = model.logits(known.index, known.labels, 16)
        for ours, right in zip(logits, known.logits, strict=True):
            assert_close(ours, right, rtol=1e-4, atol=5e-5)
        for cache in ('full', 'compressed'):
            cached, _ = tiny.cached_logits(model, known.index, known.labels, 16, cache)
            for ours, right in zip(cached, known.logits, strict=True):
                assert_close(ours, right, rtol=1e-4, atol=5e-5)

    back = tmp_path / 'back.ckpt'
    gpt_tool.main([str(out), str(back), '--back', '--prefix', 'transformer.'])
    state = torch.load(back, weights_only=True)['state_dict']
    assert state.keys() == wrapped.keys()
    assert all(torch.equal(state[name], wrapped[name]) for name in wrapped)


@torch.no_grad()
def test_generator_folder_has_its_tokenizer(
    gpt_tool: ModuleType, converted: Path, tmp_path: Path
) -> None:
    model = tiny.make(
        MergeAR,
        tokenizer=dict(split=(3, 7), grid=(8, 8)),
        merge_token=False,
        window=None,
        keep=64,
        candidates=[64],
    )
    from mergevq_mm.official.generator import generator_to_official

    theirs = generator_to_official(model.state_dict()).weights
    source = lightning(tmp_path / 'gpt.ckpt', theirs)
    arguments = ['--num-heads', '4', '--tokenizer', str(converted)]
    gpt_tool.main([source, str(tmp_path / 'ours'), *arguments])
    loaded = from_pretrained(tmp_path / 'ours')
    index, labels = torch.randint(1024, (2, 64)), torch.tensor([1, 4])
    for ours, right in zip(
        loaded.logits(index, labels, 64), model.logits(index, labels, 64), strict=True
    ):
        assert_close(ours, right)
    image = loaded.tokenizer.decode(index)
    tokenizer = from_pretrained(converted)
    codes = tokenizer.quantizer.index_to_codes(index)
    assert_close(image, tokenizer.decoder(codes, (8, 8)))
    # Of another split it is the wrong tokenizer.
    config = (converted / 'config.json').read_text()
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'config.json').write_text(config.replace('3,\n        7', '5,\n        5'))
    with pytest.raises(SystemExit, match=r'split into \[5, 5\] bits where .* \[3, 7\]'):
        gpt_tool.main([source, str(tmp_path / 'x'), *arguments[:2], *_at(other)])
    with pytest.raises(SystemExit, match='is a folder, which holds the tokenizer'):
        gpt_tool.main([source, str(tmp_path / 'x'), '--num-heads', '4'])


def _at(folder: Path) -> list[str]:
    return ['--tokenizer', str(folder)]


def test_swiglu_widths() -> None:
    for dim, multiple in ((1024, 256), (768, 256), (1280, 256), (40, 2)):
        hidden = -(-(8 * dim // 3) // multiple) * multiple
        found = ffn_multiple(dim, hidden)
        assert found >= multiple and -(-(8 * dim // 3) // found) * found == hidden
    with pytest.raises(ValueError, match='feed_forward.w1 is 999 wide'):
        ffn_multiple(64, 999)


def test_instructions_have_no_place_in_theirs(
    gpt_tool: ModuleType, tmp_path: Path
) -> None:
    torch.save(tiny.make(MergeAR).state_dict(), tmp_path / 'ours.pth')
    with pytest.raises(SystemExit, match='has instruction tokens, for which .* no'):
        gpt_tool.main([str(tmp_path / 'ours.pth'), str(tmp_path / 'a.ckpt'), '--back'])


# --------------------------------------------------------------------------- bad input


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.path),)


def refused(tool: ModuleType, source: Path | str, tmp_path: Path, *options: str) -> str:
    """The one sentence; nothing is written."""
    out = tmp_path / 'refused'
    with pytest.raises(SystemExit) as caught:
        tool.main([str(source), str(out), *TINY, *options])
    assert not out.exists()
    text = str(caught.value.code)
    assert text.startswith('error: ') and '\n' not in text
    return text


def test_missing_truncated_and_foreign_files(
    tool: ModuleType, theirs: dict, tmp_path: Path
) -> None:
    assert 'does not exist' in refused(tool, tmp_path / 'no.ckpt', tmp_path)
    whole = Path(lightning(tmp_path / 'a.ckpt', theirs)).read_bytes()
    cut = tmp_path / 'cut.ckpt'
    for share in (0.1, 0.5, 0.99):
        cut.write_bytes(whole[: int(share * len(whole))])
        assert 'truncated' in refused(tool, cut, tmp_path)
    (tmp_path / 'text.ckpt').write_text('<html>not found</html>')
    text = refused(tool, tmp_path / 'text.ckpt', tmp_path)
    assert 'is no PyTorch checkpoint' in text
    torch.save({'state_dict': {'conv1.weight': torch.ones(2)}}, tmp_path / 'b.ckpt')
    text = refused(tool, tmp_path / 'b.ckpt', tmp_path)
    assert 'is no tokenizer of the authors: it lacks encoder.attn' in text
    assert 'conv1.weight' in text


def test_code_in_a_file_does_not_run(
    tool: ModuleType, theirs: dict, tmp_path: Path
) -> None:
    mark = tmp_path / 'ran'
    content = {'state_dict': theirs, 'hyper_parameters': Bomb(str(mark))}
    torch.save(content, tmp_path / 'bomb.ckpt')
    (tmp_path / 'bomb.pkl').write_bytes(pickle.dumps(content, protocol=2))
    for name in ('bomb.ckpt', 'bomb.pkl'):
        text = refused(tool, tmp_path / name, tmp_path)
        assert not mark.exists()
    text = refused(tool, tmp_path / 'bomb.ckpt', tmp_path)
    assert 'can run code when loaded' in text or '--trust' in text
    assert '--trust' in text and not mark.exists()
    # What --trust means: the same file is read, and its code has run.
    out = tmp_path / 'trusted'
    tool.main([str(tmp_path / 'bomb.ckpt'), str(out), *TINY, '--trust'])
    assert mark.exists() and (out / 'model.safetensors').is_file()


def test_half_matching_files(tool: ModuleType, theirs: dict, tmp_path: Path) -> None:
    names = [n for i, n in enumerate(theirs) if i % 7 or '.blocks.' not in n]
    half = {name: theirs[name] for name in names}
    source = lightning(tmp_path / 'half.ckpt', half)
    text = refused(tool, source, tmp_path)
    assert 'of the 210 tensors of MergeVQ are filled' in text
    assert '--allow-partial' in text
    no_decoder = {n: v for n, v in theirs.items() if not n.startswith('decoder.up')}
    text = refused(tool, lightning(tmp_path / 'n.ckpt', no_decoder), tmp_path)
    assert 'architecture cannot be read' in text
    surplus = {'recovery.query': torch.ones(3), 'encoder.rep_blocks.0.x': torch.ones(1)}
    text = refused(tool, lightning(tmp_path / 's.ckpt', theirs, **surplus), tmp_path)
    assert '210 of the 210' in text and 'recovery.query' in text


def test_partial_conversion_when_told(
    tool: ModuleType, theirs: dict, numbers: dict, tmp_path: Path
) -> None:
    lost = 'decoder.attn.blocks.1.mlp.fc1.weight'
    part = {n: v for n, v in theirs.items() if n != lost}
    source = lightning(tmp_path / 'p.ckpt', part, **{'recovery.q': torch.ones(3)})
    for out in ('a', 'b'):
        tool.main([source, str(tmp_path / out), *TINY, '--allow-partial'])
    first, second = (load_file(tmp_path / out / 'model.safetensors') for out in 'ab')
    assert len(first) == 210
    made_up = first['decoder.layers.1.mlp.fc1.weight']
    assert torch.equal(made_up, second['decoder.layers.1.mlp.fc1.weight'])
    assert 0.01 < made_up.std() < 0.03
    assert_close(first['backbone.cls_token'], theirs['encoder.attn.cls_token'])


def test_wrong_architectures(
    tool: ModuleType, gpt_tool: ModuleType, theirs: dict, tmp_path: Path
) -> None:
    source = lightning(tmp_path / 'a.ckpt', theirs)
    with pytest.raises(SystemExit, match='width 64.* give --num-heads'):
        tool.main([source, str(tmp_path / 'x')])
    with pytest.raises(SystemExit, match='is no stage-2 GPT of the authors: it lacks'):
        gpt_tool.main([source, str(tmp_path / 'x.safetensors')])
    mixed = dict(theirs)
    mixed['encoder.attn.blocks.2.mlp.fc2.weight'] = torch.ones(64, 128)
    text = refused(tool, lightning(tmp_path / 'm.ckpt', mixed), tmp_path)
    assert 'has the shape (64, 128) where MergeVQ needs (64, 256)' in text
    learned = {'neck.query': torch.ones(2), 'decoder.conv_out.weight': torch.ones(1)}
    ours = {'backbone.layers.0.attn.qkv.weight': torch.ones(3, 1), **learned}
    torch.save(ours, tmp_path / 'ours.pth')
    with pytest.raises(SystemExit, match='1 tensors have no place .* neck.query'):
        tool.main([str(tmp_path / 'ours.pth'), str(tmp_path / 'y.ckpt'), '--back'])
    torch.save({'a': torch.ones(1)}, tmp_path / 'foreign.pth')
    with pytest.raises(SystemExit, match='are no MergeVQ tokenizer: they lack'):
        tool.main([str(tmp_path / 'foreign.pth'), str(tmp_path / 'y.ckpt'), '--back'])
