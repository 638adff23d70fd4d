"""Keeps the page on the machine that serves it."""

from __future__ import annotations

from typing import Any

# Gradio's page asks a server far away for a script that only embedded pages need. The
# browser is told to ask nobody but us.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; media-src 'self' data: blob:; worker-src 'self' blob:"
)


class StayHere:
    """ASGI middleware that adds a content security policy to each answer.

    Args:
        app (Any): The application behind it.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Pass a request on, and the answer back with the policy."""

        async def answer(message: dict) -> None:
            if message['type'] == 'http.response.start':
                policy = (b'content-security-policy', POLICY.encode())
                message = {**message, 'headers': [*message['headers'], policy]}
            await send(message)

        await self.app(scope, receive, answer)


def middleware() -> list:
    """For ``app_kwargs`` of gradio's ``launch``."""
    from starlette.middleware import Middleware

    return [Middleware(StayHere)]
