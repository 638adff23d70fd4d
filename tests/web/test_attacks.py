"""The served page, asked by programs that are no browser."""

from __future__ import annotations

import io
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

META = {'_type': 'gradio.FileData'}
VIEW, WATCH = 1, 3  # numbers of the functions of the page
FOREIGN = 'This is no image of this page; upload it again.'


@pytest.fixture(scope='module')
def client(address: str) -> Any:
    httpx = pytest.importorskip('httpx', reason='needs gradio, the extra web')
    with httpx.Client(base_url=address, timeout=60) as opened:
        yield opened


@pytest.fixture
def event(client: Any) -> Callable[[int, list], dict]:
    """Send an event and wait for its end, as the page does."""

    def send(function: int, data: list) -> dict:
        session = uuid.uuid4().hex
        asked = {'data': data, 'fn_index': function, 'session_hash': session}
        joined = client.post('/gradio_api/queue/join', json=asked)
        assert joined.status_code == 200, joined.text
        query = {'session_hash': session}
        with client.stream('GET', '/gradio_api/queue/data', params=query) as answer:
            for line in answer.iter_lines():
                if line.startswith('data:'):
                    message = json.loads(line[5:])
                    if message['msg'] == 'process_completed':
                        return message['output']
        raise AssertionError('no answer')

    return send


def _upload(client: Any, content: bytes, name: str = 'cat.png') -> dict:
    answer = client.post('/gradio_api/upload', files={'files': (name, content)})
    assert answer.status_code == 200, answer.text
    return {'path': answer.json()[0], 'meta': META}


def _file(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, 'PNG')
    return content.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_files_of_the_server_are_not_shown(
    event: Callable, client: Any, tmp_path: Path
) -> None:
    secret, pipe = tmp_path / 'secret.png', tmp_path / 'pipe.png'
    secret.write_bytes(_file(Image.new('RGB', (8, 8))))
    os.mkfifo(pipe)
    for more in ({}, {'meta': META}, {'url': 'data:image/png;base64,AAAA'}):
        said = {
            json.dumps(event(VIEW, [{'path': str(path), **more}, 5])['error'])
            for path in (secret, pipe, tmp_path / 'none.png', tmp_path, '/dev/zero')
        }
        # What gradio itself has refused gets no text at all.
        assert said in ({json.dumps(FOREIGN)}, {'null'}), said
        assert more or said == {json.dumps(FOREIGN)}
    at = {'path': 'http://127.0.0.1:9/x.png', 'meta': META}
    asked = {'data': [at, 5], 'fn_index': VIEW, 'session_hash': 'x'}
    assert client.post('/gradio_api/queue/join', json=asked).status_code == 400
    for path in (secret, pipe, '/etc/passwd', tmp_path / 'none.png'):
        assert client.get(f'/gradio_api/file={path}').text == 'There is no such file.'


@pytest.mark.slow
def test_what_is_not_decoded(event: Callable, client: Any) -> None:
    program = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n{} loop\n'
    for content, match in (
        (program, 'it is none of JPEG, PNG'),
        (b'', 'the file is empty'),
        (_file(Image.new('1', (9000, 9000))), '9000×9000 pixels'),
        (_file(Image.new('1', (2**24, 1))), 'pixels on the way, more than'),
    ):
        *pictures, text = event(VIEW, [_upload(client, content, 'cat.jpg'), 5])['data']
        assert match in text and pictures == [None] * 3


@pytest.mark.slow
def test_numbers_out_of_range(event: Callable, client: Any) -> None:
    grey = np.random.default_rng(0).integers(0, 2**16, (8, 8)).astype(np.uint16)
    image = _upload(client, _file(Image.fromarray(grey)))
    *pictures, text = event(VIEW, [image, 5])['data']
    assert '**5** of 16' in text and None not in pictures
    for keep in (0, 17, -1, 4.5, 1e300, '5', None, [5]):
        *pictures, text = event(VIEW, [image, keep])['data']
        assert text.startswith('K = ') and pictures == [None] * 3
    right = [0, 6, 0, 1.5, 'compressed', 0]
    assert 'tokens a second' in event(WATCH, right)['data'][1]
    for place, value, name in (
        (0, 4, 'Class'),
        (1, 7, 'K'),
        (2, -1, 'Seed'),
        (3, 1e9, 'Guidance'),
        (4, 'half', 'Cache'),
        (5, 1e9, 'Pause'),
        (5, -1, 'Pause'),
        (5, None, 'Pause'),
    ):
        wrong = [value if i == place else one for i, one in enumerate(right)]
        picture, text = event(WATCH, wrong)['data']
        assert picture is None and text.startswith(f'{name} = ')


@pytest.mark.slow
def test_other_names_and_large_requests(client: Any, address: str) -> None:
    assert client.get('/').status_code == 200
    assert client.get('/', headers={'Host': 'evil.example'}).status_code == 403
    pretends = {'Origin': 'http://evil.example'}
    path = '/gradio_api/queue/join'
    assert client.post(path, json={}, headers=pretends).status_code == 403
    large = {'files': ('a.png', bytes(40 * 2**20))}
    assert client.post('/gradio_api/upload', files=large).status_code == 413
    assert client.get('/config').json()['max_file_size'] == 2**25
