"""Inferencers: against the model itself, on inputs of every kind, and bad ones."""

from __future__ import annotations

import io
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tiny_generator
import tiny_mergevq as tiny
import torch
from mmengine.config import Config
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio as psnr

from mergevq_mm import Budget, apis
from mergevq_mm.apis import image_inputs
from mergevq_mm.apis.coding_inferencers import tokenizer_fingerprint
from mergevq_mm.apis.progress import track
from mergevq_mm.models import MergeVQ
from mergevq_mm.models.generators.generation_request import seeds_of
from mergevq_mm.registry import MODELS

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def model() -> MergeVQ:
    torch.manual_seed(0)
    return tiny.build_model().eval()


def _quiet(kind: str, model: object, **kwargs: object) -> object:
    kwargs = {'device': 'cpu', 'show_progress': False, **kwargs}
    return getattr(apis, kind)(model, **kwargs)


# ------------------------------------------------------------------- reconstruction


def test_reconstruction_is_that_of_the_model(model: MergeVQ, tmp_path: Path) -> None:
    infer = _quiet('ReconstructionInferencer', model)
    result = infer(
        PIXELS, keep=[24, 7, 0.5], predict_source=True, draw=True, out_dir=tmp_path
    )[0]
    assert list(result['reconstructions']) == [24, 7, 12] and result['grid'] == (4, 6)
    assert np.array_equal(result['original'], PIXELS)
    image = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        merged, quantized = model.encode(image, 7)
        made, _ = model.decode(quantized.codes, merged.group, merged.grid)
        predicted, _ = model.decode(quantized.codes, None, merged.grid)
    one = result['reconstructions'][7]
    assert one['index'].tolist() == quantized.index[0].tolist()
    assert one['group'].tolist() == merged.group[0].tolist()
    for name, right in (('image', made), ('predicted_image', predicted)):
        grey = ((right[0] / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()
        assert np.abs(one[name] - grey).max() < 0.51
    assert one['psnr'] == pytest.approx(psnr(PIXELS, one['image']), abs=1e-4)
    assert one['code_bits'] == 7 * tiny.BITS
    assert one['bpp'] == (one['code_bits'] + one['map_bits']) / 96
    assert result['reconstructions'][24]['map_bits'] == 0
    names = [f'image00000_K{k}{p}' for k in (24, 7, 12) for p in ('', '_predicted')]
    names += [f'image00000_merge_K{k}' for k in (24, 7, 12)] + ['image00000_strip']
    assert sorted(f'{n}.png' for n in names) == sorted(
        p.name for p in tmp_path.iterdir()
    )
    assert np.array_equal(Image.open(tmp_path / 'image00000_K7.png'), one['image'])


def test_a_budget_gives_each_image_its_tokens(model: MergeVQ, tmp_path: Path) -> None:
    """Files of several K in one batch: each is that of the image at its K alone."""
    flat = (PIXELS * 0.1).astype(np.uint8)
    inputs = [PIXELS, flat, PIXELS[::-1].copy(), flat[::-1].copy()]
    budget = Budget(similarity=0.97)
    infer = _quiet('EncodingInferencer', model)
    encoded = infer(inputs, keep=budget, out_dir=tmp_path)
    keeps = [len(one['index']) for one in encoded]
    assert len(set(keeps)) > 1
    decode = _quiet('DecodingInferencer', model)
    together = decode(encoded)
    made = _quiet('ReconstructionInferencer', model)(inputs, keep=[budget, 24])
    for image, keep, one, back, rec in zip(inputs, keeps, encoded, together, made):
        alone = infer(image, keep=keep)[0]
        assert alone['content'] == one['content']
        assert back['name'] == one['name'] and len(back['index']) == keep
        assert np.abs(decode(one)[0]['image'] - back['image'].astype(int)).max() <= 1
        assert list(rec['reconstructions']) == list(dict.fromkeys([keep, 24]))
        assert np.array_equal(rec['reconstructions'][keep]['index'], one['index'])
    assert len(list(decode.preprocess(decode._inputs_to_list(encoded), 8))) == 1
    features = _quiet('FeatureInferencer', model)(
        inputs, keep=budget, features=['cls'], fit='whole'
    )
    assert [one['cls'].shape for one in features] == [(tiny.DIMS,)] * 4


def test_one_token_and_all_of_them_are_two_requests(model: MergeVQ) -> None:
    infer = _quiet('ReconstructionInferencer', model)
    asked = [Budget(mean=8), Budget(mean=1.0), 1.0]
    made = infer([PIXELS], keep=asked)[0]['reconstructions']
    names = [name for one in made.values() for name in one['asked']]
    assert names == ['mean8', 'mean_all', 'all']
    with pytest.raises(ValueError, match="keep='all' is no number of tokens"):
        infer([PIXELS], keep='all')


def test_a_budget_names_its_folder(model: MergeVQ, tmp_path: Path) -> None:
    """Requests that meet at one K both have their picture."""
    infer = _quiet('ReconstructionInferencer', model)
    asked = [Budget(mean=9.0, keeps=[9], by='similarity'), 9, 24]
    first, second = infer([PIXELS, PIXELS[::-1].copy()], keep=asked, out_dir=tmp_path)
    assert list(first['reconstructions']) == list(second['reconstructions']) == [9, 24]
    assert first['reconstructions'][9]['asked'] == ['mean9_similarity', 'K9']
    folders = {folder.name for folder in tmp_path.iterdir() if folder.is_dir()}
    assert folders == {'mean9_similarity', 'K9', 'K24'}
    for image in (tmp_path / 'K9').iterdir():
        other = tmp_path / 'mean9_similarity' / image.name
        assert other.read_bytes() == image.read_bytes()


def test_no_two_budgets_have_one_folder(model: MergeVQ, tmp_path: Path) -> None:
    """What only the signal, the K to choose from or many digits tell apart."""
    asked = [
        Budget(mean=12, keeps=[9]),
        Budget(mean=12, keeps=[12]),
        Budget(mean=12, by='similarity', keeps=[7]),
        Budget(psnr=1.0),
        Budget(psnr=1.0000001),
        Budget(mean=12, keeps=[12]),
    ]
    infer = _quiet('ReconstructionInferencer', model)
    images = [PIXELS, PIXELS[::-1].copy()]
    first = infer(images, keep=asked, out_dir=tmp_path)[0]['reconstructions']
    names = {'mean12', 'mean12_2', 'mean12_similarity', 'psnr1', 'psnr1_2'}
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == names
    for name, keep in (('mean12', 9), ('mean12_2', 12), ('mean12_similarity', 7)):
        file = tmp_path / name / 'image00000.png'
        assert np.array_equal(Image.open(file), first[keep]['image'])


def test_default_keep_is_the_models_share(model: MergeVQ) -> None:
    infer = _quiet('ReconstructionInferencer', model)
    assert list(infer(PIXELS)[0]['reconstructions']) == [round(9 / 16 * 24)]
    assert infer.read_keep(None, (4, 4)) == 9 and infer.read_keep(1.0, (4, 6)) == 24
    with pytest.raises(ValueError, match='keep=3 cannot be reached from 16 tokens'):
        infer(PIXELS, keep=3, fit='crop')


def test_inputs_of_every_kind_give_the_same(model: MergeVQ, tmp_path: Path) -> None:
    folder = tmp_path / 'images' / 'inner'
    folder.mkdir(parents=True)
    picture = Image.fromarray(PIXELS)
    picture.save(folder / 'a.png')
    picture.save(folder.parent / 'b.PNG')
    (folder / 'notes.txt').write_text('no image')
    buffer = io.BytesIO()
    picture.save(buffer, 'PNG')
    tensor = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)
    inputs = [
        str(folder / 'a.png'),
        folder.parent,
        picture,
        picture.convert('RGBA'),
        PIXELS,
        PIXELS / 255,
        tensor,
        tensor[None].repeat(2, 1, 1, 1),
        buffer.getvalue(),
        [folder / 'a.png'],
    ]
    results = _quiet('ReconstructionInferencer', model)(inputs, batch_size=4)
    assert len(results) == 12
    for result in results:
        assert np.array_equal(result['original'], PIXELS)
    names = [result['name'] for result in results]
    assert names[:3] == ['a', 'b', 'inner_a'] and names[-1] == 'a_2'
    assert names[3] == 'image00003' and len(set(names)) == 12


def test_address(model: MergeVQ, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / 'cat.png')

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f'http://127.0.0.1:{server.server_port}'
        infer = _quiet('ReconstructionInferencer', model)
        result = infer(f'{address}/cat.png?size=1')[0]
        assert result['name'] == 'cat' and np.array_equal(result['original'], PIXELS)
        with pytest.raises(ValueError, match=r'nothing.png.* cannot be read'):
            infer(f'{address}/nothing.png')
    finally:
        server.shutdown()
        server.server_close()


def test_batches_hold_images_of_one_size(model: MergeVQ) -> None:
    infer = _quiet('ReconstructionInferencer', model)
    tall = PIXELS.transpose(1, 0, 2).copy()
    listed = infer._inputs_to_list([PIXELS, PIXELS, PIXELS, tall, PIXELS])
    assert [len(b) for b in infer.preprocess(listed, 2)] == [2, 1, 1, 1]
    assert [len(b) for b in infer.preprocess(listed, 9, fit='crop')] == [5]


def test_resizing() -> None:
    large = np.repeat(np.repeat(PIXELS, 4, 0), 4, 1)  # 32×48
    whole = image_inputs.fit_pixels(large, 16, 4)
    assert whole.shape == (16, 24, 3)
    right = Image.fromarray(large).resize((24, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(whole, right)
    crop = image_inputs.fit_pixels(large, 16, 4, 'crop')
    assert np.array_equal(crop, np.asarray(right)[:, 4:20])
    assert image_inputs.fit_pixels(large[:, :45], 32, 8).shape == (32, 40, 3)
    with pytest.raises(ValueError, match='size=18 is no multiple .* give 16'):
        image_inputs.fit_pixels(large, 18, 4)
    with pytest.raises(ValueError, match="fit='stretch' is not known"):
        image_inputs.fit_pixels(large, 16, 4, 'stretch')


def test_bad_inputs(model: MergeVQ, tmp_path: Path) -> None:
    infer = _quiet('ReconstructionInferencer', model)
    (tmp_path / 'bad.png').write_bytes(b'no image')
    for inputs, kind, text in (
        (str(tmp_path / 'none.png'), FileNotFoundError, 'none.png" does not exist'),
        (str(tmp_path / 'bad.png'), ValueError, 'bad.png.* cannot be read as an image'),
        ([], ValueError, 'inputs hold nothing'),
        (3, ValueError, 'inputs hold a int, which is no image'),
        (np.zeros((4, 4, 4)), ValueError, r'shape \(4, 4, 4\) is no image'),
        (np.full((4, 4), 2.0), ValueError, r'floats in \[2, 2\]'),
        (np.full((4, 4), np.nan), ValueError, 'floats in .nan'),
        (np.zeros((4, 4), np.int64), ValueError, 'array of int64'),
    ):
        with pytest.raises(kind, match=text):
            infer(inputs)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='has no file that ends in'):
        infer(tmp_path / 'empty')
    with pytest.raises(ValueError, match='no argument kep; did you mean keep'):
        infer(PIXELS, kep=3)
    with pytest.raises(ValueError, match='batch_size=0'):
        infer(PIXELS, batch_size=0)


# ----------------------------------------------------------------- models and weights


def test_models_of_every_kind(model: MergeVQ, tmp_path: Path) -> None:
    config = Config(dict(model=tiny.model_cfg()))
    config.dump(str(tmp_path / 'tiny.py'))
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'tiny.pth')
    folder = apis.export_checkpoint(config, tmp_path / 'tiny.pth', tmp_path / 'folder')
    right = _quiet('ReconstructionInferencer', model)(PIXELS, keep=7)[0]
    right = right['reconstructions'][7]['image']
    for kind, weights in (
        (str(tmp_path / 'tiny.py'), str(tmp_path / 'tiny.pth')),
        (config, tmp_path / 'tiny.pth'),
        (str(folder), None),
    ):
        infer = _quiet('ReconstructionInferencer', kind, pretrained=weights)
        result = infer(PIXELS, keep=7)[0]['reconstructions'][7]['image']
        assert np.array_equal(result, right)
    with pytest.raises(ValueError, match=r'tiny.py comes without weights; give'):
        _quiet('ReconstructionInferencer', str(tmp_path / 'tiny.py'))
    with pytest.raises(ValueError, match='no weights are published for .mergevq_r'):
        _quiet('ReconstructionInferencer', 'mergevq_r')
    infer = _quiet('ReconstructionInferencer', config, pretrained=False)
    assert infer(PIXELS, return_datasamples=True)[0].grid == (4, 6)


def test_a_generator_has_a_tokenizer(model: MergeVQ, tmp_path: Path) -> None:
    generator = _mergear(model, tmp_path)
    for kind in ('ReconstructionInferencer', 'EncodingInferencer'):
        mine, its = (_quiet(kind, m)(PIXELS, keep=7)[0] for m in (model, generator))
        if kind == 'EncodingInferencer':
            assert mine['content'] == its['content']
        else:
            one, other = (r['reconstructions'][7]['image'] for r in (mine, its))
            assert np.array_equal(one, other)
    assert tokenizer_fingerprint(model) == generator.tokenizer.fingerprint()
    with pytest.raises(ValueError, match='FakeGenerator is no tokenizer'):
        _quiet('ReconstructionInferencer', tiny_generator.build())


# ---------------------------------------------------------------- encode and decode


@pytest.mark.parametrize('with_map', [True, False])
def test_encode_and_decode(model: MergeVQ, tmp_path: Path, with_map: bool) -> None:
    encode, decode = (
        _quiet('EncodingInferencer', model),
        _quiet('DecodingInferencer', model),
    )
    tall = PIXELS.transpose(1, 0, 2).copy()
    inputs = [PIXELS, tall, PIXELS[:, :8], PIXELS[:, ::-1].copy()]
    coded = encode(inputs, keep=7, with_map=with_map, out_dir=tmp_path)
    reconstruct = _quiet('ReconstructionInferencer', model)
    right = reconstruct(inputs, keep=7, predict_source=True)
    back = decode(tmp_path)
    again = decode([result['content'] for result in coded], batch_size=2)
    assert [r['name'] for r in back] == [f'image0000{i}' for i in range(4)]
    for one, file, other, expected in zip(coded, back, again, right, strict=True):
        expected = expected['reconstructions'][7]
        name = 'image' if with_map else 'predicted_image'
        # Batches of other sizes may differ in the last bit.
        assert np.abs(file['image'].astype(int) - expected[name]).max() <= 1
        assert np.abs(other['image'].astype(int) - expected[name]).max() <= 1
        assert file['index'].tolist() == expected['index'].tolist()
        assert one['code_bits'] == 7 * tiny.BITS and one['file_bits'] == 8 * len(
            one['content']
        )
        if with_map:
            assert file['group'].tolist() == expected['group'].tolist()
            assert one['bpp'] == expected['bpp']
        else:
            assert file['group'] is None and one['map_bits'] == 0
    # What the one returns the other takes, with its names.
    named = {**coded[3], 'name': 'cat'}
    both = encode(PIXELS, keep=7, with_map=with_map, return_datasamples=True)
    straight = decode([*coded[:3], named, *both])
    names = ['image00000', 'image00001', 'image00002', 'cat', 'image00000_2']
    assert [result['name'] for result in straight] == names
    for result, expected in zip(straight, back):
        assert np.abs(result['image'].astype(int) - expected['image']).max() <= 1
    assert decode(coded[1])[0]['image'].shape == (12, 8, 3)
    assert (tmp_path / 'image00000.mvq').stat().st_size == len(coded[0]['content'])


def test_files_of_another_tokenizer_are_refused(model: MergeVQ, tmp_path: Path) -> None:
    content = _quiet('EncodingInferencer', model)(PIXELS)[0]['content']
    (tmp_path / 'cat.mvq').write_bytes(content)
    with torch.no_grad():
        other = tiny.build_model().eval()
        other.load_state_dict(model.state_dict())
        assert tokenizer_fingerprint(other) == tokenizer_fingerprint(model)
        next(other.decoder.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match=r'cat.mvq" was encoded by the tokenizer'):
        _quiet('DecodingInferencer', other)(tmp_path)
    (tmp_path / 'cat.mvq').write_bytes(content[:-1])
    with pytest.raises(ValueError, match='cat.mvq" is damaged'):
        _quiet('DecodingInferencer', model)(tmp_path)


# ------------------------------------------------------------------------- features


def test_features(model: MergeVQ) -> None:
    result = _quiet('FeatureInferencer', model)([PIXELS, PIXELS[:, 4:]], keep=9)
    square = torch.from_numpy(PIXELS[:, 2:10].copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        merged, quantized = model.encode(square / 127.5 - 1, 9)
    assert np.allclose(result[0]['cls'], merged.cls[0], atol=1e-5)
    spread = quantized.codes[0][merged.group[0]]  # L×d
    assert np.allclose(result[0]['codes'], spread.mean(dim=0), atol=1e-5)
    assert result[1]['avg'].shape == (tiny.DIMS,)
    with pytest.raises(ValueError, match="unknown ones .'pixels'"):
        _quiet('FeatureInferencer', model)(PIXELS, features=['pixels'])


# ------------------------------------------------------------------------ generation


def _mergear(model: MergeVQ, folder: Path) -> torch.nn.Module:
    """A small MergeAR on the tiny tokenizer."""
    torch.save({'state_dict': model.state_dict()}, folder / 'tokenizer.pth')
    torch.manual_seed(1)
    generator = MODELS.build(
        dict(
            type='mergevq_mm.MergeAR',
            tokenizer=dict(
                type='mergevq_mm.FrozenTokenizer',
                model=tiny.model_cfg(),
                checkpoint=str(folder / 'tokenizer.pth'),
            ),
            arch=dict(
                embed_dims=32, num_layers=2, num_heads=2, head_layers=1, ffn_multiple=32
            ),
            num_classes=12,
            keep=dict(target=9, candidates=[6, 9], family='uniform'),
            sample_cfg=dict(temperature=0.7, guidance=2.0, seed=3),
        )
    )
    torch.nn.init.normal_(generator.head.heads[0].weight, std=0.5)
    return generator.eval()


def test_generation_is_that_of_the_model(model: MergeVQ, tmp_path: Path) -> None:
    generator = _mergear(model, tmp_path)
    infer = _quiet('GenerationInferencer', generator)
    results = infer([7, 2], num_per_class=2, batch_size=3, out_dir=tmp_path / 'out')
    assert [r['name'] for r in results] == [
        '07_00000',
        '02_00000',
        '07_00001',
        '02_00001',
    ]
    images, drawn = generator.generate([7, 2, 7, 2], seeds=seeds_of(3, [7, 2, 19, 14]))
    for i, result in enumerate(results):
        assert result['index'].tolist() == drawn.index[i].tolist()
        grey = ((images[i] / 2 + 0.5) * 255).permute(1, 2, 0).numpy()
        assert np.abs(result['image'] - grey).max() < 1.01
        assert result['stats']['distinct'] == drawn.stats['distinct'][i]
        path = tmp_path / 'out' / f'{result["name"]}.png'
        assert np.array_equal(Image.open(path), result['image'])
    # Alone, with another batch, the first image of class 2 is the same.
    assert infer(2)[0]['index'].tolist() == results[1]['index'].tolist()
    assert infer(2, seed=4)[0]['index'].tolist() != results[1]['index'].tolist()


def test_modes_of_generation(model: MergeVQ, tmp_path: Path) -> None:
    infer = _quiet('GenerationInferencer', _mergear(model, tmp_path))
    plain = infer(5, keep=6, mode='compressed', temperature=1.5)[0]
    for mode in ('full', 'speculative'):
        same = infer(5, keep=6, mode=mode, temperature=1.5)[0]
        assert same['index'].tolist() == plain['index'].tolist()
    assert infer(5, keep=6, mode='full')[0]['stats']['cache_slots'] == 2 + 16
    few = infer(5, keep=6, mode='restricted', temperature=1.5)[0]
    assert len(set(few['index'].tolist())) <= 6 < len(set(plain['index'].tolist()))
    for kwargs, text in (
        (dict(inputs=12), 'hold the class 12; give classes from 0 to 11'),
        (dict(inputs=0.5), 'are no classes'),
        (dict(inputs=[1, 1]), 'name a class twice'),
        (dict(inputs=1, num_per_class=0), 'num_per_class=0'),
        (dict(inputs=1, mode='fast'), "mode='fast' is not known; choose one of comp"),
        (dict(inputs=1, keep=7), 'keep=7 is not known to this generator'),
        (dict(inputs=1, guidance=-1.0), 'guidance'),
    ):
        with pytest.raises(ValueError, match=text):
            infer(**kwargs)
    with pytest.raises(ValueError, match='MergeVQ is no generator'):
        _quiet('GenerationInferencer', model)


@pytest.mark.gpu
def test_on_a_gpu(model: MergeVQ) -> None:
    import copy

    moved = copy.deepcopy(model)
    infer = _quiet('ReconstructionInferencer', moved, device='cuda')
    assert infer.device.type == 'cuda'
    result = infer(PIXELS, keep=24)[0]['reconstructions'][24]
    right = _quiet('ReconstructionInferencer', model)(PIXELS, keep=24)[0]
    right = right['reconstructions'][24]
    assert (result['index'] == right['index']).mean() > 0.8


# -------------------------------------------------------------------------- progress


def test_progress_without_and_with_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 6))
    monkeypatch.setattr('time.monotonic', lambda: next(now))
    steps = [(2, letter) for letter in 'abcde']
    file = io.StringIO()
    assert list(track(steps, 10, 'work', file=file)) == list('abcde')
    lines = file.getvalue().splitlines()
    assert lines == [
        'work: 4/10, 0:00:18 left, 0:00:12 gone',
        'work: 8/10, 0:00:06 left, 0:00:24 gone',
        'work: 10/10, 0:00:00 left, 0:00:30 gone',
    ]
    file = io.StringIO()
    file.isatty = lambda: True
    list(track(steps, 10, 'work', file=file))
    assert file.getvalue().count('\r') == 4 and file.getvalue().endswith('gone\n')
    monkeypatch.setattr('time.monotonic', lambda: 0)
    file = io.StringIO()
    list(track(steps, 10, 'work', file=file))
    assert file.getvalue() == ''


def test_import_of_the_apis_stays_light() -> None:
    import subprocess

    code = (
        'import sys, mergevq_mm.apis\n'
        'heavy = ["mmpretrain.models", "mmagic", "mmengine.infer", "matplotlib"]\n'
        'print([m for m in heavy if m in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stderr
