"""Deadlines do not follow the clock on the wall (R37)."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.service.conftest import MakeService
from tests.service.edge.test_middleware import gated


@pytest.mark.parametrize("jump_seconds", [3600.0, -3600.0])
def test_a_clock_that_jumps_moves_no_deadline(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, jump_seconds: float
) -> None:
    """R37: the clock jumps by an hour while a request is in the encoder; it is answered all the same."""
    service, gate = gated(make_service)
    true_time, true_ns = time.time, time.time_ns

    async def scenario() -> int:
        async with service.client() as client:
            asked = asyncio.create_task(client.post("/v1/text-to-image", json={"text": "red"}))
            await gate.busy()
            monkeypatch.setattr(time, "time", lambda: true_time() + jump_seconds)
            monkeypatch.setattr(time, "time_ns", lambda: true_ns() + int(jump_seconds * 1e9))
            gate.opened.set()
            return (await asked).status_code

    assert asyncio.run(scenario()) == 200
    assert service.get("/readyz").status_code == 200
    assert service.post("/v1/text-to-image", json={"text": "blue"}).status_code == 200
