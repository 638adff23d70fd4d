"""Models of the package by name; a folder of that name where one works."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

import mergevq_mm
from mergevq_mm.apis import hub
from mergevq_mm.cli.commands import model_arguments
from mergevq_mm.cli.main import parse_args
from mergevq_mm.utils import shipped
from mergevq_mm.utils.model_card import model_card
from mergevq_mm.utils.shipped import FOLDER, find_model


def test_a_folder_of_a_model_goes_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger('mergevq_mm')
    monkeypatch.setattr(logger, 'propagate', True)
    assert find_model('digits') == find_model('Digits') == FOLDER / 'digits'
    assert find_model('nowhere') == 'nowhere' and find_model('') == ''
    assert find_model(Path('digits')) == Path('digits')
    assert find_model('./digits') == './digits'
    Path('digits').mkdir()  # of pictures, perhaps
    assert find_model('digits') == FOLDER / 'digits' and not caplog.messages
    Path('digits', 'config.json').write_text('{}')
    assert find_model('digits') == Path('digits')
    assert f'"{tmp_path / "digits"}", not the shipped one' in caplog.messages[0]


def test_names_with_weights(tmp_path: Path) -> None:
    names = mergevq_mm.list_models(pretrained=True)
    assert names == shipped.shipped_models() == ['digits', 'photos']
    assert set(names) < set(mergevq_mm.list_models())
    info = hub.model_info('digits')
    assert Path(info.weights).parent == Path(info.config).parent == FOLDER / 'digits'
    assert 'MNIST' in info.metadata.data['Training Data']
    with pytest.raises(ValueError, match=r'"digitz" is not known \(did you mean digit'):
        mergevq_mm.get_model('digitz')
    with pytest.raises(FileNotFoundError, match='with the package: digits, photos'):
        mergevq_mm.from_pretrained('digitz')
    args = parse_args(['reconstruct', 'digits', 'a.png', '--random-weights'])
    with pytest.raises(ValueError, match='no effect on .*"digits"'):
        model_arguments(args)
    assert parse_args(['web']).model == 'digits'


def test_digits_are_small_and_draw_a_digit() -> None:
    """In half precision on the disk, in single precision at work."""
    files = [path for path in (FOLDER / 'digits').rglob('*') if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_600_000
    model = mergevq_mm.get_model('digits')
    assert {parameter.dtype.itemsize for parameter in model.parameters()} == {4}
    generate = mergevq_mm.GenerationInferencer(model, device='cpu', show_progress=False)
    one = generate([1], seed=0)[0]
    assert one['image'].shape == (32, 32, 3)
    # A one: a bright upright stroke in the middle, dark at both sides.
    columns = one['image'].mean((0, 2))
    assert columns[12:20].max() > 60 > 10 > max(columns[:6].max(), columns[-6:].max())
    encoder = mergevq_mm.models.published_encoder('digits', keep=16)
    assert encoder.grid == (8, 8)


def test_photographs_are_small_and_come_back() -> None:
    """One that the model has not seen, in its colours, at three K."""
    data = pytest.importorskip('skimage.data', reason='needs scikit-image')
    files = [path for path in (FOLDER / 'photos').rglob('*') if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    reconstruct = mergevq_mm.ReconstructionInferencer('photos', device='cpu')
    cat = data.chelsea()
    card = model_card({'type': 'mergevq_mm.MergeVQ'}, {'parts': {}, 'parameters': 0})
    assert card.count('- mergevq\n') == 1  # a tag
    asked = {1.0: 27.9, 0.5625: 26.8, 0.25: 25.5}  # dB, as measured
    one = reconstruct(cat, keep=list(asked), size=96)[0]
    assert one['original'].shape == (96, 144, 3)
    made = one['reconstructions']
    assert [*made] == [864, 486, 216]
    for found, right in zip(made.values(), asked.values(), strict=True):
        assert found['psnr'] == pytest.approx(right, abs=0.3)
        bias = found['image'].mean((0, 1)) - one['original'].mean((0, 1))
        assert np.abs(bias).max() < 8  # grey values: no orange cat
    own = reconstruct(cat, size=96)[0]['reconstructions']
    assert [*own] == [216]  # a quarter, unless somebody asks for another
