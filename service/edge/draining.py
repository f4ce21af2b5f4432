"""The last requests of a process: their connections end with them, and those that cannot end get their 503."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sightline.errors import ShuttingDown


class Drain:
    """While the service drains, every answer says ``Connection: close``, so that clients go elsewhere with the next
    request before the listener is gone; a request that the server cancels at the end of the drain time raises
    ShuttingDown (left to itself, uvicorn would answer 500)."""

    def __init__(self, app: ASGIApp, draining: Callable[[], bool]) -> None:
        self.app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def closing_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self._draining():
                    headers = MutableHeaders(raw=message["headers"])
                    headers["Connection"] = "close"
                    message["headers"] = headers.raw
            await send(message)

        try:
            await self.app(scope, receive, closing_send)
        except asyncio.CancelledError:
            if started or not self._draining():
                raise
            raise ShuttingDown("The service is shutting down; send the request to another replica.") from None
