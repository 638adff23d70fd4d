"""Which requests reach the page."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mergevq_mm.web import guard, uploads
from mergevq_mm.web.guard import Guard, is_known, known_hosts

BOUNDARY = 'b'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(uploads, 'temporary_folder', lambda: tmp_path.resolve())
    return tmp_path


class Page:
    """An application that keeps what reaches it."""

    def __init__(self, **options: Any) -> None:
        self.seen: list[bytes] = []
        self.guard = Guard(self._serve, **{'host': '127.0.0.1', **options})

    async def _serve(self, scope: dict, receive: Any, send: Any) -> None:
        self.seen.append((await receive()).get('body', b''))
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': b'page'})

    def ask(
        self,
        path: str,
        method: str = 'GET',
        body: bytes | list[bytes] = b'',
        host: str | None = 'localhost:7860',
        **headers: str,
    ) -> tuple[int, str]:
        """Status and text of the answer."""
        named = {k.replace('_', '-'): v for k, v in headers.items()}
        named |= {} if host is None else {'host': host}
        scope = {
            'type': 'http',
            'method': method,
            'path': path,
            'query_string': b'',
            'headers': [(k.encode(), v.encode()) for k, v in named.items()],
        }
        return asyncio.run(self._ask(scope, body))

    async def _ask(self, scope: dict, body: bytes | list[bytes]) -> tuple[int, str]:
        parts = [body] if isinstance(body, bytes) else list(body)
        sent: list[dict] = []

        async def receive() -> dict:
            part = parts.pop(0)
            if part is None:
                return {'type': 'http.disconnect'}
            more = bool(parts)
            return {'type': 'http.request', 'body': part, 'more_body': more}

        async def send(message: dict) -> None:
            sent.append(message)

        await self.guard(scope, receive, send)
        return sent[0]['status'], sent[1]['body'].decode()


@pytest.mark.parametrize(
    ('netloc', 'host', 'known'),
    [
        ('127.0.0.1:7860', '127.0.0.1', True),
        ('LOCALHOST', '127.0.0.1', True),
        ('[::1]:7860', '127.0.0.1', True),
        ('evil.example', '127.0.0.1', False),
        ('localhost.evil.example', '127.0.0.1', False),
        ('127.0.0.1.evil.example', '127.0.0.1', False),
        ('user@evil.example', '127.0.0.1', False),
        ('1.2.3.4', '127.0.0.1', False),
        ('', '127.0.0.1', False),
        ('[::1', '127.0.0.1', False),
        ('box.lan:80', 'box.lan', True),
        ('192.168.0.7', '192.168.0.7', True),
        ('192.168.0.8', '192.168.0.7', False),
        ('192.168.0.8', '0.0.0.0', True),
        ('[fe80::1]', '::', True),
        ('evil.example', '0.0.0.0', False),
    ],
)
def test_names_of_the_page(netloc: str, host: str, known: bool) -> None:
    assert is_known(netloc, known_hosts(host)) is known


def test_other_names_are_refused() -> None:
    page = Page()
    assert page.ask('/') == (200, 'page')
    for host in ('evil.example', '127.0.0.1.evil.example:7860', '', None):
        status, text = page.ask('/', host=host)
        assert status == 403 and 'not served under this name' in text
    evil = 'http://evil.example'
    for origin in (evil, 'null', 'http://localhost.evil.example', 'http://[::1'):
        path = '/gradio_api/queue/join'
        assert page.ask(path, 'POST', b'{}', origin=origin)[0] == 403
    assert page.ask(path, 'POST', b'{}', origin='http://localhost:7860')[0] == 200
    assert len(page.seen) == 2


@pytest.mark.parametrize(
    ('method', 'path'),
    [
        ('GET', '/gradio_api/proxy=http://example.com'),
        ('GET', '/gradio_api/file=/etc/passwd'),
        ('GET', '/gradio_api/file=http://example.com/x'),
        ('GET', '/gradio_api/info'),
        ('GET', '/gradio_api/app_id'),
        ('GET', '/monitoring'),
        ('GET', '/docs'),
        ('GET', '/assets'),
        ('POST', '/gradio_api/run/predict'),
        ('POST', '/gradio_api/api/view'),
        ('POST', '/gradio_api/call/view'),
        ('POST', '/gradio_api/component_server'),
        ('POST', '/login'),
        ('POST', '/'),
        ('PUT', '/gradio_api/queue/join'),
        ('OPTIONS', '/gradio_api/upload'),
    ],
)
def test_what_the_page_does_not_ask_is_not_answered(method: str, path: str) -> None:
    page = Page()
    assert page.ask(path, method, b'{}')[0] == 404 and not page.seen


def test_files_of_the_page_alone(folder: Path) -> None:
    page = Page()
    stored = uploads.store_upload(b'x', 'a.png')
    secret = folder.parent / 'secret.png'
    secret.write_bytes(b'x')
    assert page.ask(f'/gradio_api/file={stored}')[0] == 200
    refused = {
        page.ask(f'/gradio_api/file={path}')
        for path in (secret, folder / '..' / 'secret.png', '/none', folder, '..', '')
    }
    assert refused == {(404, 'There is no such file.')}


@pytest.mark.parametrize(
    ('body', 'status'),
    [
        (b'{"data": [{"path": "/tmp/x", "meta": {}}, 5]}', 200),
        (b'', 200),
        (b'{"data": [{"path": "http://127.0.0.1:9/x.png"}]}', 400),
        (b'{"data": [[{"a": {"path": "HTTPS://x"}}]]}', 400),
        (b'{"data": [{"path": "file:///etc/passwd"}]}', 400),
        (b'{"data": [{"path": 5}]}', 400),
        (b'{"event_data": {"x": {"path": "ftp://x"}}}', 400),
        (b'{', 400),
        (b'\xff', 400),
        (b'[' * 60_000, 400),
        (b'1' * 60_000, 400),
        (bytes(guard.MAX_EVENT + 1), 413),
        ([bytes(2**15)] * 3, 413),
        ([b'{}', None], 400),  # who breaks off
    ],
)
def test_events(body: bytes | list, status: int) -> None:
    page = Page()
    assert page.ask('/gradio_api/queue/join', 'POST', body)[0] == status
    assert page.seen == ([body] if status == 200 else [])


def _form(*files: tuple[str, bytes], field: str = 'files') -> bytes:
    lines = []
    for name, content in files:
        about = f'form-data; name="{field}"; filename="{name}"'
        lines += [b'--b', b'Content-Disposition: ' + about.encode(), b'', content]
    return b'\r\n'.join([*lines, b'--b--', b''])


def _upload(page: Page, body: bytes | list, **headers: str) -> tuple[int, str]:
    headers = {'content-type': f'multipart/form-data; boundary={BOUNDARY}', **headers}
    return page.ask('/gradio_api/upload', 'POST', body, **headers)


def test_an_upload_is_stored(folder: Path) -> None:
    pytest.importorskip('python_multipart', reason='needs gradio, the extra web')
    page = Page()
    status, text = _upload(page, _form(('../cat.PNG', b'content')))
    (stored,) = json.loads(text)
    assert status == 200 and Path(stored).read_bytes() == b'content'
    assert Path(stored).parent.parent == folder.resolve()
    assert not page.seen  # gradio sees its path alone


def test_uploads_that_are_refused(folder: Path) -> None:
    pytest.importorskip('python_multipart', reason='needs gradio, the extra web')
    page = Page()
    large = 400 * 2**20
    assert _upload(page, b'x', content_length=str(large))[0] == 413
    assert _upload(page, b'x', content_length='9' * 5000)[0] == 413
    assert _upload(page, b'x', content_length='-1')[0] == 413
    part = bytes(2**20)
    assert _upload(page, [part] * 50)[0] == 413
    assert _upload(page, _form(('a', b'1'), ('b', b'2')))[0] == 400
    assert _upload(page, _form(('a', b'1'), field='other'))[0] == 400
    assert _upload(page, b'--b\r\nContent-Disposition: form-data\r\n\r\nx')[0] == 400
    assert _upload(page, _form(('a', b'1')), content_type='text/plain')[0] == 400
    assert _upload(page, [b'--b', None])[0] == 400
    assert not page.seen and not list(folder.iterdir()) and page.guard.uploads == 0
    page.guard.uploads = guard.MAX_UPLOADS
    assert _upload(page, _form(('a', b'1')))[0] == 503


def test_a_slow_upload_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, 'TIMEOUT', 0.05)

    async def never() -> dict:
        await asyncio.sleep(60)
        return {}

    with pytest.raises(guard.Refused, match='takes too long'):
        asyncio.run(guard._read(never, {}, 10))


def test_the_folder_is_never_full(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('python_multipart', reason='needs gradio, the extra web')
    monkeypatch.setattr('mergevq_mm.web.uploads.make_room.__defaults__', ((), 5000))
    example = uploads.store_upload(bytes(10**6), 'example.png')
    page = Page(fixed={example})
    for _ in range(20):
        assert _upload(page, _form(('a.png', bytes(1000))))[0] == 200
        size = sum(p.stat().st_size for p in uploads.files_of_page())
        assert size <= 10**6 + 5000
    assert example.exists()


def test_sockets_get_no_answer() -> None:
    page = Page()
    asyncio.run(page.guard({'type': 'websocket'}, None, None))
    assert not page.seen
