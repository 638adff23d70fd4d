"""Answers what the page itself asks for, to those who asked it by its own name.

Gradio serves more than a page needs: files, addresses, functions for programs, history.
And a page of elsewhere can send requests here, through the browser of a visitor. So
there is a list of what is answered, and everything else ends here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .uploads import MAX_BYTES, is_of_page, make_room, store_upload

FILE, UPLOAD = '/gradio_api/file=', '/gradio_api/upload'
ASKED_BELOW = ('/assets/', '/static/', '/gradio_api/heartbeat/', FILE)
ASKED = (
    '/',
    '/config',
    '/favicon.ico',
    '/theme.css',
    '/gradio_api/queue/data',
    '/gradio_api/startup-events',
    '/gradio_api/theme.css',
)
SENT = ('/gradio_api/queue/join', '/gradio_api/cancel', '/gradio_api/reset')
MAX_EVENT = 2**16  # bytes of what is not an image: some numbers and paths
MAX_UPLOADS = 8  # at a time; an edit is three
TIMEOUT = 60.0  # seconds for all bytes of a request


class Refused(Exception):  # noqa: N818  no error of ours
    """A request that is not answered: its status, and why."""


def known_hosts(host: str) -> frozenset[str]:
    """Names that the page is served under.

    Args:
        host (str): Address that it listens on.

    Returns:
        frozenset[str]: In lower case. With '*' every number, for a page that listens on
        all addresses of the machine: only a name can be pointed here by somebody else.
    """
    names = {host.lower().strip('[]'), 'localhost', '127.0.0.1', '::1'}
    if host in ('0.0.0.0', '::', ''):
        names |= {'*', socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names)


def is_known(netloc: str, hosts: Collection[str]) -> bool:
    """Whether the page is served under this name.

    Args:
        netloc (str): Of a ``Host`` or an address: a name, perhaps with a port.
        hosts (Collection[str]): Of :func:`known_hosts`.

    Returns:
        bool: Whether it is.
    """
    try:
        name = urlsplit(f'//{netloc}').hostname or ''
    except ValueError:
        return False
    if name in hosts:
        return True
    try:
        return '*' in hosts and bool(ipaddress.ip_address(name))
    except ValueError:
        return False


class Guard:
    """ASGI middleware that answers the requests of the page and no others.

    Args:
        app (Any): The application behind it.
        host (str): Address that the page listens on.
        fixed (Collection[Path]): Files that are there for all, such as the examples.
    """

    def __init__(self, app: Any, host: str, fixed: Collection[Path] = ()) -> None:
        self.app = app
        self.hosts = known_hosts(host)
        self.fixed = frozenset(fixed)
        self.uploads = 0

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Pass a request on, answer it, or refuse it."""
        if scope['type'] == 'lifespan':
            await self.app(scope, receive, send)
        elif scope['type'] == 'http':
            try:
                await self._answer(scope, receive, send)
            except Refused as refused:
                await _reply(send, *refused.args)
        # A websocket, which the page never opens, is closed where nobody answers.

    async def _answer(self, scope: dict, receive: Any, send: Any) -> None:
        headers = {k.lower(): v.decode('latin-1') for k, v in scope['headers']}
        path, method = scope['path'].rstrip('/') or '/', scope['method']
        self._check_names(headers, method)
        if method in ('GET', 'HEAD'):
            if path not in ASKED and not path.startswith(ASKED_BELOW):
                raise Refused(404, 'There is no such page.')
            if path.startswith(FILE) and not is_of_page(path[len(FILE) :]):
                raise Refused(404, 'There is no such file.')
        elif method == 'POST' and path == UPLOAD:
            await self._upload(scope, receive, send, headers)
            return
        elif method == 'POST' and path in SENT:
            content = await _read(receive, headers, MAX_EVENT)
            _check_event(content)
            await asyncio.to_thread(make_room, self.fixed)
            receive = _again(content, receive)
        else:
            raise Refused(404, 'There is no such page.')
        await self.app(scope, receive, send)

    def _check_names(self, headers: dict[bytes, str], method: str) -> None:
        if not is_known(headers.get(b'host', ''), self.hosts):
            raise Refused(
                403, 'The page is not served under this name; start it with --host.'
            )
        origin = headers.get(b'origin')
        if method not in ('GET', 'HEAD') and origin is not None:
            if not is_known(origin.partition('://')[2], self.hosts):
                raise Refused(403, 'Another page has sent this.')

    async def _upload(
        self, scope: dict, receive: Any, send: Any, headers: dict[bytes, str]
    ) -> None:
        """Take an image, as gradio would, but no more than there is room for.

        Gradio writes what comes to files, and leaves those of a broken upload behind.
        """
        from starlette.formparsers import MultiPartException, MultiPartParser
        from starlette.requests import Request

        if self.uploads >= MAX_UPLOADS:
            raise Refused(503, 'Others upload images just now; try again.')
        self.uploads += 1
        try:
            content = await _read(receive, headers, MAX_BYTES + MAX_EVENT)
            request = Request(scope, _again(content, receive))
            parser = MultiPartParser(
                request.headers, request.stream(), max_files=1, max_fields=1
            )
            file = (await parser.parse())['files']
            stored = store_upload(await file.read(), file.filename or '')
        except (MultiPartException, KeyError, AttributeError) as error:
            raise Refused(400, 'This is no upload of one file.') from error
        finally:
            self.uploads -= 1
        await asyncio.to_thread(make_room, self.fixed)
        answer = json.dumps([str(stored)])
        await _reply(send, 200, answer, b'application/json')


def _check_event(content: bytes) -> None:
    """Refuse an event that names a file at an address, which gradio would fetch."""
    try:
        left = [json.loads(content or b'{}')]
    except (ValueError, RecursionError) as error:
        raise Refused(400, 'This is no event of the page.') from error
    while left:
        value = left.pop()
        if isinstance(value, dict):
            path = value.get('path', '')
            if not isinstance(path, str) or '://' in path:
                raise Refused(400, 'Images come from the page, not from addresses.')
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


async def _read(receive: Any, headers: dict[bytes, str], limit: int) -> bytes:
    """The body of a request, of no more than so many bytes."""
    too_much = Refused(413, f'This has more than {limit >> 10:,} KiB; send less.')
    length = headers.get(b'content-length', '0')
    if not length.isdecimal() or len(length) > 12 or int(length) > limit:
        raise too_much
    content = bytearray()

    async def read() -> None:
        while True:
            message = await receive()
            if message['type'] != 'http.request':
                raise Refused(400, 'The connection has ended.')
            content.extend(message.get('body', b''))
            if len(content) > limit:
                raise too_much
            if not message.get('more_body'):
                return

    try:
        await asyncio.wait_for(read(), TIMEOUT)
    except asyncio.TimeoutError:
        raise Refused(408, 'This takes too long; try again.') from None
    return bytes(content)


def _again(content: bytes, receive: Any) -> Any:
    """A ``receive`` that gives a body that was read already."""
    left = [{'type': 'http.request', 'body': content, 'more_body': False}]

    async def give() -> dict:
        return left.pop() if left else await receive()

    return give


async def _reply(
    send: Any, status: int, text: str, kind: bytes = b'text/plain; charset=utf-8'
) -> None:
    body = text.encode()
    headers = [(b'content-type', kind), (b'content-length', b'%d' % len(body))]
    if status == 413:  # nobody reads the rest
        headers.append((b'connection', b'close'))
    await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body})
