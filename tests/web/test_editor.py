"""What the page does with what is painted, without the page; and with bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_streaming import build_mergear

from mergevq_mm.apis import EditingInferencer
from mergevq_mm.apis.editing_inferencer import REGIONS, Edit
from mergevq_mm.apis.preparation import Preparation
from mergevq_mm.web.editor import canvas_of, draw_anew, painted, regions_of
from mergevq_mm.web.uploads import ForeignFileError, store_upload, temporary_folder

IMAGE = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
BRUSH = (99, 102, 241, 255)


def layer(marks: np.ndarray) -> dict:
    """What a browser sends of a layer with these pixels painted."""
    picture = np.zeros((*marks.shape, 4), dtype=np.uint8)
    picture[marks] = BRUSH
    folder = temporary_folder()
    Image.fromarray(picture).save(folder / 'layer.png')
    stored = store_upload((folder / 'layer.png').read_bytes(), 'layer_0.png')
    return {'path': str(stored), 'orig_name': 'layer_0.png'}


def test_what_is_painted_is_drawn(edit: EditingInferencer) -> None:
    canvas = canvas_of(edit, IMAGE)
    assert canvas.shape == (320, 320, 3)
    assert np.array_equal(canvas[::40, ::40], IMAGE)
    marks = np.zeros((320, 320), dtype=bool)
    marks[170, 250] = True  # one pixel of the canvas, of the image's (4, 6)
    payload = {'background': None, 'layers': [layer(marks)], 'composite': None}
    assert np.array_equal(painted(payload, canvas.shape), marks)
    page, note = draw_anew(edit, IMAGE, payload, 'painted', 2, 16, 3, 1.5)
    assert note.startswith('**6% of the tokens** drawn anew, 4 times')  # 1 of 16
    mask = np.zeros((8, 8), dtype=bool)
    mask[4, 6] = True
    made = edit(IMAGE, mask=mask, label=2, num=4, keep=16, seed=3, guidance=1.5)
    seen = {tuple(one) for one in page.reshape(-1, 3).tolist()}
    for one in made:
        assert {tuple(pixel) for pixel in one['image'].reshape(-1, 3).tolist()} <= seen
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, 4:] = True
    _, note = draw_anew(edit, IMAGE, None, 'right half', 'none', 16, 0, 1)
    assert note.startswith('**50% of the tokens**')


def test_no_region_is_offered_that_is_refused(
    edit: EditingInferencer, tmp_path: Path
) -> None:
    assert regions_of(edit.model, True) == ['painted', *REGIONS]
    assert regions_of(edit.model, False) == list(REGIONS)
    in_order = EditingInferencer(build_mergear(tmp_path), device='cpu')
    offered = regions_of(in_order.model, True)
    for region in REGIONS:
        arguments = (in_order, IMAGE, None, region, 'none', 9, 0, 1)
        if region in offered:
            assert draw_anew(*arguments)[1].startswith('**50% of the tokens**')
        else:
            with pytest.raises(ValueError, match='behind it in raster order'):
                draw_anew(*arguments)
    assert offered == ['lower half']


def test_what_is_painted_is_prepared_once(
    edit: EditingInferencer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many a validation resizes to more than it crops."""
    pipeline = [
        dict(type='mergevq_mm.LoadImage'),
        dict(type='mmpretrain.ResizeEdge', scale=16, edge='short'),
        dict(type='mmpretrain.CenterCrop', crop_size=8),
    ]
    monkeypatch.setattr(edit, 'preparation', Preparation(pipeline, 8, 2))
    image = IMAGE.repeat(2, 0).repeat(2, 1)
    canvas = canvas_of(edit, image)
    assert np.array_equal(canvas[::40, ::40], image[4:12, 4:12])
    page, note = draw_anew(edit, image, None, 'right half', 'none', 16, 0, 1)
    assert note.startswith('**50% of the tokens**')
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, 4:] = True
    seen = {tuple(one) for one in page.reshape(-1, 3).tolist()}
    (made,) = edit.forward([Edit('', '', image[4:12, 4:12], mask, 0)], keep=16, seed=0)
    for shown in (made['original'], made['image']):
        assert {tuple(pixel) for pixel in shown.reshape(-1, 3).tolist()} <= seen


@pytest.mark.parametrize(
    ('position', 'value', 'message'),
    [
        (0, None, 'Nothing is painted; paint over'),
        (0, {'layers': 'x'}, 'Nothing is painted'),
        (0, {'layers': []}, 'Nothing is painted'),
        (0, {'layers': [None] * 9}, 'Nothing is painted'),
        (0, {'layers': [{'path': '/etc/passwd'}]}, 'no image of this page'),
        (1, 'everything', "Region = 'everything' is none of painted, lower half"),
        (1, ['painted'], 'Region = '),
        (2, 4, 'Class = 4 lies outside of 0 to 3'),
        (2, None, 'Class = None'),
        (3, 7, 'K = 7 is none of 9, 16'),
        (4, -1, 'Seed = -1'),
        (5, 99, 'Guidance = 99'),
    ],
)
def test_what_anybody_may_send(
    edit: EditingInferencer, position: int, value: Any, message: str
) -> None:
    values: list[Any] = [{'layers': []}, 'painted', 1, 16, 0, 1.5]
    values[position] = value
    with pytest.raises(ValueError, match=message):
        draw_anew(edit, IMAGE, *values)


def test_layers_of_another_size(edit: EditingInferencer) -> None:
    payload = {'layers': [layer(np.ones((5, 7), dtype=bool))]}
    with pytest.raises(ValueError, match='What is painted has 7×5 pixels, not the 320'):
        draw_anew(edit, IMAGE, payload, 'painted', 1, 16, 0, 1.5)
    with pytest.raises(ForeignFileError):
        painted({'layers': [{'path': 'layer.png'}]}, (320, 320))
    whole = {'layers': [layer(np.ones((320, 320), dtype=bool))]}
    with pytest.raises(ValueError, match='covers all 16 tokens'):
        draw_anew(edit, IMAGE, whole, 'painted', 1, 16, 0, 1.5)
