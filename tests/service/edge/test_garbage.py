"""Requests leave nothing to the garbage collector, however they end: its walks stop the event loop."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import Any

import pytest

from tests.service.conftest import MakeService

BODY = b'{"text": "red"}'


@pytest.mark.parametrize("end", ["answered", "wrong", "too slow", "gone"])
def test_a_request_leaves_no_cycle(make_service: MakeService, end: str) -> None:
    service = make_service(receive_timeout_seconds=0.05)
    whole = end in ("answered", "wrong")

    async def ask() -> None:
        messages = [{"type": "http.request", "body": b"{" if end == "wrong" else BODY, "more_body": not whole}]
        if end == "gone":
            messages.insert(0, {"type": "http.disconnect"})

        async def receive() -> Any:
            if messages:
                return messages.pop()
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            pass

        await service.app(
            {
                "type": "http", "method": "POST", "path": "/v1/text-to-image", "raw_path": b"/", "query_string": b"",
                "headers": [(b"content-type", b"application/json"), (b"content-length", b"15")],
                "http_version": "1.1", "scheme": "http", "server": ("test", 80), "client": ("test", 1),
                "root_path": "", "asgi": {"version": "3.0"},
            },
            receive, send,
        )  # fmt: skip

    async def scenario() -> Counter[str]:
        await asyncio.gather(*(ask() for _ in range(3)))
        gc.collect()
        gc.disable()
        try:
            await asyncio.gather(*(ask() for _ in range(20)))
            await asyncio.sleep(0.01)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            return Counter(type(one).__name__ for one in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.enable()
            gc.garbage.clear()

    left = asyncio.run(scenario())
    assert sum(left.values()) < 20, left.most_common(10)
