"""The pixel budget: bounded, in order, and never lost when a waiter leaves."""

from __future__ import annotations

import asyncio

import pytest

from service.encoding.decoding import DecodePool, PixelBudget
from service.metrics import Metrics
from sightline.errors import ImageCorrupt
from sightline.images import ImageLimits
from tests.fakes import FakeEncoder, picture_bytes


def test_pixels_beyond_the_budget_wait_their_turn() -> None:
    async def scenario() -> list[str]:
        budget = PixelBudget(100, Metrics("0"))
        order: list[str] = []
        await budget.acquire(80)

        async def take(name: str, pixels: int) -> None:
            await budget.acquire(pixels)
            order.append(name)

        tasks = [asyncio.ensure_future(take(name, pixels)) for name, pixels in (("large", 90), ("small", 10))]
        await asyncio.sleep(0)
        assert order == []  # the small one fits and waits all the same: it must not pass the large one for ever
        budget.release(80)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(scenario()) == ["large", "small"]


def test_a_picture_larger_than_the_budget_runs_alone() -> None:
    async def scenario() -> None:
        budget = PixelBudget(100, Metrics("0"))
        await budget.acquire(1000)
        waiting = asyncio.ensure_future(budget.acquire(1))
        await asyncio.sleep(0)
        assert not waiting.done()
        budget.release(1000)
        await waiting

    asyncio.run(scenario())


@pytest.mark.parametrize("granted", [False, True])
def test_a_waiter_that_leaves_gives_its_place_back(granted: bool) -> None:
    async def scenario() -> None:
        budget = PixelBudget(100, Metrics("0"))
        await budget.acquire(100)
        leaver = asyncio.ensure_future(budget.acquire(60))
        other = asyncio.ensure_future(budget.acquire(60))
        await asyncio.sleep(0)
        if granted:
            budget.release(100)  # the leaver's turn has come, and it leaves before it runs
        leaver.cancel()
        await asyncio.sleep(0)
        if not granted:
            budget.release(100)
        await asyncio.wait_for(other, 5)
        budget.release(60)
        await asyncio.wait_for(budget.acquire(100), 5)

    asyncio.run(scenario())


def test_pixels_are_given_back_after_good_and_bad_pictures() -> None:
    async def scenario() -> None:
        metrics = Metrics("0")
        pool = DecodePool(FakeEncoder().preprocess, ImageLimits(), 1000, metrics)
        good = picture_bytes("green")
        for _ in range(3):
            assert (await pool.decode(good)).shape == (8, 8, 3)
            with pytest.raises(ImageCorrupt):
                await pool.decode(good[:-30])
        await asyncio.sleep(0.01)
        assert metrics.registry.get_sample_value("sightline_inflight_pixels") == 0
        pool.close()

    asyncio.run(scenario())
