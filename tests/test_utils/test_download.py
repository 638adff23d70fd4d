"""Servers that are silent, slow, endless or break off, and good ones."""

from __future__ import annotations

import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mergevq_mm.utils import download as module
from mergevq_mm.utils.download import download, read_address

CONTENT = bytes(range(256)) * 64
ended = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the path says."""

    def log_message(self, *args: object) -> None:
        pass

    def head(self, length: int | None) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header('Content-Length', str(length))
        self.end_headers()

    def do_GET(self) -> None:  # noqa: N802
        kind = self.path.strip('/')
        if kind == 'silent':
            ended.wait(20)
        elif kind == 'stops':
            self.head(len(CONTENT))
            self.wfile.write(CONTENT[:100])
            self.wfile.flush()
            ended.wait(20)
        elif kind == 'drips':
            self.head(None)
            while not ended.wait(0.05):
                self.wfile.write(b'x')
                self.wfile.flush()
        elif kind == 'endless':
            self.head(None)
            while not ended.is_set():
                self.wfile.write(CONTENT)
        elif kind == 'boasts':
            self.head(10**12)
            self.wfile.write(CONTENT)
        elif kind == 'breaks':
            self.head(len(CONTENT))
            self.wfile.write(CONTENT[:100])
        elif kind == 'elsewhere':
            self.send_response(302)
            self.send_header('Location', 'file:///etc/passwd')
            self.end_headers()
        else:
            self.head(len(CONTENT))
            self.wfile.write(CONTENT)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setattr(module, 'PATIENCE', 0.5)
    ended.clear()
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{running.server_port}'
        ended.set()
        running.shutdown()


def test_a_good_server(address: str, tmp_path: Path) -> None:
    assert b''.join(read_address(f'{address}/good', len(CONTENT))) == CONTENT
    digits = hashlib.sha256(CONTENT).hexdigest()[:8]
    path = tmp_path / 'new' / 'file'
    download(f'{address}/good', path, digits)
    assert path.read_bytes() == CONTENT and [path] == list(path.parent.iterdir())


@pytest.mark.parametrize('kind', ['silent', 'stops', 'drips', 'breaks', 'elsewhere'])
def test_servers_that_do_not_serve(address: str, tmp_path: Path, kind: str) -> None:
    """It ends within seconds, and no half file stays."""
    begin = time.monotonic()
    with pytest.raises(OSError):
        download(f'{address}/{kind}', tmp_path / 'file')
    assert time.monotonic() - begin < 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('kind', ['endless', 'boasts', 'good'])
def test_answers_that_are_too_large(
    address: str, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = len(CONTENT) - 1
    with pytest.raises(ValueError, match=f'more than {limit:,} bytes'):
        list(read_address(f'{address}/{kind}', limit))
    monkeypatch.setattr(module, 'LARGEST', limit)
    with pytest.raises(ValueError, match='more than .* give the path of a local file'):
        download(f'{address}/{kind}', tmp_path / 'file')
    assert not list(tmp_path.iterdir())


def test_other_digits_and_other_addresses(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='SHA-256 begins with [0-9a-f]{8}, not 01234'):
        download(f'{address}/good', tmp_path / 'file', '01234567')
    assert not list(tmp_path.iterdir())
    for wrong in ('file:///etc/passwd', '/etc/passwd', 'ftp://a/b', ''):
        with pytest.raises(ValueError, match='must begin with http'):
            list(read_address(wrong, 10))
