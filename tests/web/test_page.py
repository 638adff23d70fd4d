"""The page in a real browser, without a network. Skipped where either is absent."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_mergevq as tiny
from PIL import Image

from mergevq_mm.apis import ReconstructionInferencer
from mergevq_mm.apis.known_images import known_images
from mergevq_mm.web import build_page, offline
from mergevq_mm.web.page import view_tokens
from mergevq_mm.web.parts import import_gradio, words_of

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
WAIT = 30_000  # ms, for busy machines


@pytest.fixture
def tab(address: str) -> Iterator[Any]:
    """A browser that can reach this machine alone, and what it asked others for."""
    if CHROMIUM is None:
        pytest.skip('needs chromium: apt-get install chromium')
    pytest.importorskip('playwright', reason='needs playwright')
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu']
        )
        opened = browser.new_page(viewport={'width': 1280, 'height': 860})
        opened.set_default_timeout(WAIT)
        answered: list[str] = []
        opened.on('response', lambda response: answered.append(response.url))
        opened.goto(address)
        opened.wait_for_selector('#shown2 img')
        yield opened
        strangers = [
            url for url in answered if not url.startswith((address, 'data:', 'blob:'))
        ]
        assert strangers == []
        browser.close()


def _wait(tab: Any, name: str, text: str) -> str:
    tab.wait_for_function(
        '([name, text]) => document.querySelector(name).innerText.includes(text)',
        arg=[name, text],
    )
    return tab.inner_text(name)


@pytest.mark.slow
def test_merge_and_upload(tab: Any, tmp_path: Path) -> None:
    assert '9 of 16' in _wait(tab, '#numbers', '9 of 16')  # the model's own K
    before = tab.get_attribute('#shown2 img', 'src')
    number = tab.locator('#keep input[type=number]')
    number.fill('4')
    number.blur()
    text = _wait(tab, '#numbers', '4 of 16')
    assert f'{4 * tiny.BITS} + ' in text and 'dB' in text and 'ms' in text
    assert tab.get_attribute('#shown2 img', 'src') != before
    merged = tab.get_attribute('#shown1 img', 'src')
    tab.locator('#examples .grid-container button').nth(2).click()
    tab.wait_for_function(
        "old => document.querySelector('#shown1 img').src != old",
        arg=tab.evaluate('src => new URL(src, location).href', merged),
    )
    # An image of our own, larger than the model's.
    rng = np.random.default_rng(5)
    path = tmp_path / 'mine.png'
    Image.fromarray(rng.integers(0, 256, (40, 64, 3), dtype=np.uint8)).save(path)
    tab.locator('#image .icon-button-wrapper button').last.click()
    _wait(tab, '#numbers', 'Upload an image')
    tab.set_input_files('#image input[type=file]', str(path))
    _wait(tab, '#numbers', '4 of 16')


@pytest.mark.slow
def test_what_cannot_be_read_clears_the_pictures(tab: Any, tmp_path: Path) -> None:
    _wait(tab, '#numbers', 'of 16')
    tab.locator('#image .icon-button-wrapper button').last.click()
    _wait(tab, '#numbers', 'Upload an image')
    path = tmp_path / 'cat.jpg'
    path.write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\nshowpage\n')
    tab.set_input_files('#image input[type=file]', str(path))
    assert 'it is none of JPEG' in _wait(tab, '#numbers', 'cannot be read')
    assert tab.locator('#shown2 img').count() == 0


@pytest.mark.slow
def test_watch_a_sample(tab: Any) -> None:
    tab.get_by_role('tab', name='Generate').click()
    tab.click('#draw')
    _wait(tab, '#note', 'Drawing class 0')
    tab.wait_for_selector('#drawn img')
    text = _wait(tab, '#note', 'tokens a second')
    assert 'in 16 tokens' in text
    # The last picture, once the browser has loaded it.
    tab.wait_for_function("document.querySelector('#drawn img').naturalWidth > 3 * 320")


@pytest.mark.slow
def test_paint_and_draw_anew(tab: Any) -> None:
    tab.get_by_role('tab', name='Edit').click()
    _wait(tab, '#edit_note', 'say what is to be drawn anew')
    if words_of(import_gradio()).paints:
        canvas = tab.locator('#canvas canvas').first
        canvas.wait_for()
        tab.wait_for_function("!document.querySelector('#canvas .loading')")
        tab.click('#redraw')
        _wait(tab, '#edit_note', 'Nothing is painted')
        box = canvas.bounding_box()
        x, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
        tab.mouse.move(x - 30, y)  # a stroke over the middle
        tab.mouse.down()
        tab.mouse.move(x + 30, y, steps=8)
        tab.mouse.up()
        tab.click('#redraw')
        text = _wait(tab, '#edit_note', 'of the tokens drawn anew')
        assert '4 times' in text and 0 < int(text.split('%')[0]) < 100
    tab.get_by_label('right half').check()
    tab.click('#redraw')
    _wait(tab, '#edit_note', '50% of the tokens drawn anew')
    tab.wait_for_function("document.querySelector('#edited img').naturalWidth > 480")


def test_a_page_where_a_loop_has_ended(reconstruct: ReconstructionInferencer) -> None:
    pytest.importorskip('gradio', reason='needs gradio, the extra web')
    asyncio.run(asyncio.sleep(0))
    assert build_page(reconstruct)._queue.pending_message_lock is not None


def test_what_the_first_tab_shows(reconstruct: ReconstructionInferencer) -> None:
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    *pictures, numbers = view_tokens(reconstruct, image, 5)
    one = reconstruct(image, keep=5)[0]['reconstructions'][5]
    scale = pictures[2].shape[0] // 8
    assert np.array_equal(pictures[2][::scale, ::scale], one['image'])
    assert all(picture.shape == (8 * scale, 8 * scale, 3) for picture in pictures)
    total = one['code_bits'] + one['map_bits']
    assert f'{one["code_bits"]} + {one["map_bits"]} = **{total}**' in numbers
    assert f'1/{8 * 8 * 24 / total:.0f} ' in numbers


def test_an_image_that_the_model_does_not_know(
    reconstruct: ReconstructionInferencer, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    numbers = view_tokens(reconstruct, noise, 16)[-1]
    assert 'Little of it comes back' in numbers and 'images of another kind' in numbers
    assert 'Little' not in view_tokens(reconstruct, noise, 4)[-1]  # that is the small K
    said = {'metadata': {'images': '[digits](http://a.b), **28x28** <img src=x>'}}
    monkeypatch.setattr(reconstruct, 'cfg', said)
    assert known_images(reconstruct) == 'digits (http   a.b),   28x28    img src x'
    assert known_images(reconstruct) in view_tokens(reconstruct, noise, 16)[-1]
    monkeypatch.setattr(reconstruct, 'cfg', {'metadata': {'images': 7}})
    assert known_images(reconstruct) is None


def test_policy_names_this_machine_alone() -> None:
    sent = []

    async def app(scope: dict, receive: Any, send: Any) -> None:
        await send({'type': 'http.response.start', 'headers': [(b'a', b'b')]})
        await send({'type': 'http.response.body', 'body': b'x'})

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(offline.StayHere(app)({}, None, send))
    assert sent[0]['headers'][0] == (b'a', b'b') and sent[1]['body'] == b'x'
    assert sent[0]['headers'][1] == (
        b'content-security-policy',
        offline.POLICY.encode(),
    )
    assert 'http' not in offline.POLICY and '*' not in offline.POLICY
