"""How an event loop hears of results."""

from __future__ import annotations

import asyncio
import functools
import threading

from service.encoding.wakeups import Wakeups


def test_calls_run_in_order_and_others_have_their_turn_between_them() -> None:
    async def run() -> list[str]:
        loop = asyncio.get_running_loop()
        wakeups = Wakeups(loop)
        seen: list[str] = []
        done = loop.create_future()

        def other() -> None:
            seen.append("other")
            if not done.done():
                loop.call_soon(other)

        def from_a_thread() -> None:
            for number in range(32):
                wakeups.soon(functools.partial(seen.append, str(number)))
            wakeups.soon(lambda: done.set_result(None))

        loop.call_soon(other)
        thread = threading.Thread(target=from_a_thread)
        thread.start()
        thread.join()  # so that all of them wait at once
        await done
        return seen

    seen = asyncio.run(run())
    assert [name for name in seen if name != "other"] == [str(number) for number in range(32)]
    first, last = seen.index("0"), seen.index("31")
    longest = max(len(part.split()) for part in " ".join(seen[first : last + 1]).split("other"))
    assert longest <= 4


def test_a_call_may_make_others_and_a_closed_loop_is_left_alone() -> None:
    async def run() -> tuple[Wakeups, list[int]]:
        loop = asyncio.get_running_loop()
        wakeups, seen = Wakeups(loop), list[int]()
        done = loop.create_future()

        def call(number: int) -> None:
            seen.append(number)
            if number < 20:
                wakeups.soon(lambda: call(number + 1))
            else:
                done.set_result(None)

        wakeups.soon(lambda: call(0))
        await done
        return wakeups, seen

    wakeups, seen = asyncio.run(run())
    assert seen == list(range(21))
    wakeups.soon(lambda: seen.append(99))
    assert 99 not in seen


def test_a_call_that_fails_holds_up_nobody() -> None:
    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        wakeups, seen = Wakeups(loop), list[int]()
        done = loop.create_future()

        def fail() -> None:
            raise ValueError("a call that fails")

        for number in range(6):
            wakeups.soon(fail)
            wakeups.soon(functools.partial(seen.append, number))
        wakeups.soon(lambda: done.set_result(None))
        await done
        return seen

    assert asyncio.run(run()) == list(range(6))
