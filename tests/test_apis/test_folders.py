"""Folders of images as people have them: bad files, hidden ones, names, results."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tiny_mergevq as tiny
import torch
from PIL import Image

from mergevq_mm import apis
from mergevq_mm.apis import image_inputs
from mergevq_mm.apis.image_inputs import list_inputs
from mergevq_mm.apis.outputs import write_outputs
from mergevq_mm.models import MergeVQ

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
KINDS = ('ReconstructionInferencer', 'EncodingInferencer', 'FeatureInferencer')


@pytest.fixture(scope='module')
def model() -> MergeVQ:
    torch.manual_seed(0)
    return tiny.build_model().eval()


def _quiet(kind: str, model: object) -> object:
    return getattr(apis, kind)(model, device='cpu', show_progress=False)


def _save(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(folder / name)
    return folder


# ------------------------------------------------------------------------- what counts


def test_endings_and_hidden_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _save(tmp_path, 'a.JPG', 'b.webp', 'c.tiff', 'd.gif', 'sub/f.png', '.g/h.png')
    Image.fromarray(PIXELS).save(tmp_path / 'e.jfif', 'JPEG')
    (tmp_path / '._a.jpg').write_bytes(bytes(120))
    (tmp_path / 'notes.txt').touch()
    (tmp_path / 'i.heic').touch()
    with caplog.at_level(logging.WARNING, 'mergevq_mm'):
        listed = list_inputs(tmp_path)
    assert [name for name, _ in listed] == ['a', 'b', 'c', 'd', 'e', 'sub_f']
    assert caplog.messages == [
        f'"{tmp_path}" holds files that are not read (1 .heic, 1 .txt): '
        'i.heic, notes.txt'
    ]
    # Who names a hidden file means it.
    assert list_inputs(_save(tmp_path, '.x.png') / '.x.png')[0][0] == '.x'


@pytest.mark.parametrize('nothing', ['', [''], ['a.png', '']])
def test_an_empty_name_is_not_this_folder(
    nothing: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(_save(tmp_path, 'a.png'))
    with pytest.raises(FileNotFoundError, match='^"" does not exist; give a file or'):
        list_inputs(nothing)


def test_names_differ_on_any_file_system() -> None:
    image = Image.fromarray(PIXELS)
    names = ('Cat', 'cat', 'CAT', 'Ae\u0301', 'A\u00e9', 'cat_2')
    inputs = [f'http://localhost/{name}.png' for name in names]
    found = [name for name, _ in list_inputs([*inputs, image, image])]
    assert found == [
        'Cat', 'cat_2', 'CAT_3', 'Ae\u0301', 'A\u00e9_2', 'cat_2_2',
        'image00006', 'image00007',
    ]  # fmt: skip


# --------------------------------------------------------------------------- bad files


@pytest.mark.parametrize('kind', KINDS)
def test_bad_files_of_a_folder_are_named_and_passed_over(
    model: MergeVQ, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    _save(tmp_path, 'a.png', 'b.png', 'z.png')
    whole = (tmp_path / 'b.png').read_bytes()
    (tmp_path / 'b.png').write_bytes(whole[:200])
    (tmp_path / 'c.png').touch()
    (tmp_path / 'd.png').symlink_to('nowhere')
    Image.new('RGB', (1000, 1)).save(tmp_path / 'long.png')
    infer = _quiet(kind, model)
    with caplog.at_level(logging.WARNING, 'mergevq_mm'):
        results = infer(tmp_path, max_positions=300, fit='whole')
    assert [result['name'] for result in results] == ['a', 'z']
    assert len(infer.failed) == 4 and len(caplog.messages) == 4
    for name, message in zip(('b', 'c', 'd'), caplog.messages):
        assert f'"{tmp_path}/{name}.png" cannot be read as an image' in message
    text = f'"{tmp_path}/long.png": an image of 1000×1 pixels makes 16,000 positions'
    assert text in caplog.messages[3]
    # One that somebody names himself is an error.
    for item in (tmp_path / 'b.png', [tmp_path, tmp_path / 'b.png']):
        with pytest.raises(ValueError, match='b.png" cannot be read as an image'):
            infer(item)
    assert len(infer(tmp_path / 'a.png')) == 1 and infer.failed == []


@pytest.mark.parametrize('kind', [*KINDS, 'DecodingInferencer'])
def test_a_folder_of_bad_files_alone_is_an_error(
    model: MergeVQ, tmp_path: Path, kind: str
) -> None:
    for name in ('a', 'b'):
        (tmp_path / f'{name}.png').write_text('no image')
        (tmp_path / f'{name}.mvq').write_text('no tokens')
    infer = _quiet(kind, model)
    with pytest.raises(ValueError, match='nothing could be read; the first: .*/a.'):
        infer(tmp_path)
    assert len(infer.failed) == 2


def test_bad_token_files_are_passed_over(model: MergeVQ, tmp_path: Path) -> None:
    _quiet('EncodingInferencer', model)([PIXELS] * 3, out_dir=tmp_path)
    damaged = tmp_path / 'image00001.mvq'
    damaged.write_bytes(damaged.read_bytes()[:-1])
    infer = _quiet('DecodingInferencer', model)
    assert [r['name'] for r in infer(tmp_path)] == ['image00000', 'image00002']
    assert len(infer.failed) == 1 and 'image00001.mvq" is damaged' in infer.failed[0]


# ----------------------------------------------------------------------------- results


def test_results_never_share_a_file(model: MergeVQ, tmp_path: Path) -> None:
    names = ('cat.png', 'cat_merge.png', 'cat_K16.png', 'cat_strip.png', 'cat.jpg')
    images = _save(
        tmp_path / 'in', *names, 'sub/cat.png', 'sub_cat.png', 'CAT_MERGE.gif'
    )
    infer = _quiet('ReconstructionInferencer', model)
    options = dict(keep=[16, 9], fit='crop', predict_source=True, draw=True)
    results = infer(images, **options, out_dir=tmp_path / 'out')
    files = [file.casefold() for result in results for file in result['files']]
    assert len(files) == len(set(files)) == 8 * 7
    kinds = 'K16 K16_predicted K9 K9_predicted merge_K16 merge_K9 strip'.split()
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == kinds
    assert all(len(list((tmp_path / 'out' / kind).iterdir())) == 8 for kind in kinds)
    for result in results:
        path = tmp_path / 'out' / 'K9' / f'{result["name"]}.png'
        assert np.array_equal(Image.open(path), result['reconstructions'][9]['image'])
        path = tmp_path / 'out' / 'merge_K9' / f'{result["name"]}.png'
        assert np.array_equal(Image.open(path), result['pictures']['merge_K9'])
    infer(images / 'cat.png', **options, out_dir=tmp_path / 'one')  # side by side
    named = sorted(p.name for p in (tmp_path / 'one').iterdir())
    assert named == [f'cat_{kind}.png' for kind in kinds]


def test_results_are_not_inputs_of_the_next_time(
    model: MergeVQ, tmp_path: Path
) -> None:
    images = _save(tmp_path / 'in', 'cat.png', 'sub/dog.png')
    infer = _quiet('ReconstructionInferencer', model)
    (tmp_path / 'link').symlink_to(images / 'pictures')
    for out_dir in (images / 'pictures', images / 'sub/../pictures', tmp_path / 'link'):
        results = infer([str(images)], out_dir=out_dir)
        assert [result['name'] for result in results] == ['cat', 'sub_dog']
    with pytest.raises(ValueError, match=r'out_dir="\S+" is a folder of inputs'):
        infer(images, out_dir=f'{images}/.')
    # Token files do not become inputs.
    encode = _quiet('EncodingInferencer', model)
    assert len(encode(images / 'sub', out_dir=images / 'sub')) == 1
    assert (images / 'sub' / 'dog.mvq').is_file()


def test_originals_are_not_replaced(model: MergeVQ, tmp_path: Path) -> None:
    _save(tmp_path, 'cat.png')
    before = (tmp_path / 'cat.png').read_bytes()
    encode = _quiet('EncodingInferencer', model)
    decode = _quiet('DecodingInferencer', model)
    encode(tmp_path / 'cat.png', keep=9, out_dir=tmp_path)
    with pytest.raises(
        ValueError, match=r'cat.png" is there already and is no earlier'
    ):
        decode(tmp_path / 'cat.mvq', out_dir=tmp_path)
    assert (tmp_path / 'cat.png').read_bytes() == before
    # A command can be repeated; another one's results are originals, too.
    for _ in range(2):
        decode(tmp_path, out_dir=tmp_path / 'decoded')
    write_outputs(tmp_path / 'samples', {'cat.png': PIXELS}, 'generate')
    with pytest.raises(ValueError, match='is no earlier result of decode'):
        decode(tmp_path / 'cat.mvq', out_dir=tmp_path / 'samples')
    # A reconstruction does not replace an input, not even an earlier reconstruction.
    infer = _quiet('ReconstructionInferencer', model)
    made = infer(tmp_path / 'cat.png', keep=9, out_dir=tmp_path / 'r')[0]['files']
    (tmp_path / 'r' / 'cat.png').write_bytes(before)
    inputs = [tmp_path / 'r' / 'cat.png', made[0]]
    made = infer(inputs, keep=9, out_dir=tmp_path / 'r')[0]['files']
    with pytest.raises(ValueError, match='K9/cat.png" is there already'):
        infer([made[0], inputs[1]], keep=9, out_dir=tmp_path / 'r')


# ----------------------------------------------------------------------------- the rest


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_models(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny.build_model().eval().to(dtype)
    with torch.no_grad():
        merged, quantized = model.encode(torch.zeros(1, 3, 8, 8, dtype=dtype), 9)
        image, _ = model.decode(quantized.codes, merged.group, merged.grid)
        assert image.dtype == dtype and image.isfinite().all()
    made = _quiet('ReconstructionInferencer', model)(
        PIXELS, keep=[9, 24], predict_source=True, draw=True
    )[0]['reconstructions'][9]
    features = _quiet('FeatureInferencer', model)(PIXELS, keep=9)[0]
    assert all(np.isfinite(features[n]).all() for n in ('cls', 'avg', 'codes'))
    for with_map, name in ((True, 'image'), (False, 'predicted_image')):
        encode = _quiet('EncodingInferencer', model)
        content = encode(PIXELS, keep=9, with_map=with_map)[0]['content']
        back = _quiet('DecodingInferencer', model)(content)[0]
        assert back['index'].tolist() == made['index'].tolist()
        assert np.abs(back['image'].astype(int) - made[name]).max() <= 1


@pytest.mark.parametrize(
    'keep', [True, -3, 0, 0.0, 1.5, float('nan'), '9', [], {}, 999]
)
@pytest.mark.parametrize('kind', KINDS)
def test_bad_keeps_are_one_sentence(model: MergeVQ, kind: str, keep: object) -> None:
    with pytest.raises(ValueError, match='^keep='):
        _quiet(kind, model)(PIXELS, keep=keep)
    whole = _quiet(kind, model)(PIXELS, keep=np.int64(9))[0]
    assert whole['name'] == 'image00000'


def test_sizes_and_empty_paths_are_one_sentence(model: MergeVQ) -> None:
    infer = _quiet('ReconstructionInferencer', model)
    for size in (0, -8, 5, True, 8.0, '8'):
        with pytest.raises(ValueError, match=f'^size={size!r} is no multiple'):
            infer(PIXELS, size=size)
    with pytest.raises(ValueError, match="pretrained='' names nothing"):
        apis.ReconstructionInferencer(model, '')
    with pytest.raises(ValueError, match="model='' names nothing"):
        apis.ReconstructionInferencer('')


def test_large_images_make_small_batches(model: MergeVQ) -> None:
    infer = _quiet('ReconstructionInferencer', model)  # 24 positions an image
    listed = infer._inputs_to_list([PIXELS] * 9)
    sizes = [len(b) for b in infer.preprocess(listed, 8, max_positions=48)]
    assert sizes == [4, 4, 1]


def test_bfloat16_tensors_are_images(model: MergeVQ) -> None:
    tensor = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1) / 255
    pixels = image_inputs.read_pixels(tensor.bfloat16())
    assert np.abs(pixels.astype(int) - PIXELS).max() <= 1


def test_a_file_is_no_folder_to_write_to(tmp_path: Path) -> None:
    (tmp_path / 'results').write_text('mine')
    with pytest.raises(ValueError, match='results" is a file; give a folder'):
        write_outputs(tmp_path / 'results', {'a.mvq': b'1'}, 'encode')
    assert (tmp_path / 'results').read_text() == 'mine'
