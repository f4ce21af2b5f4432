"""Which batch comes next, decided by hand-made arrival times."""

from __future__ import annotations

from service.encoding.lanes import Ceiling, Item, Lane, Lanes, Modality

PATIENCE_SECONDS = 10.0
CEILINGS = {Modality.TEXT: Ceiling(2), Modality.IMAGE: Ceiling(2)}


def lanes_with(*entries: tuple[Modality, Lane, str, float]) -> Lanes:
    lanes = Lanes(Modality, PATIENCE_SECONDS)
    for modality, lane, payload, arrived in entries:
        lanes.put(modality, [Item(payload, float("inf"), arrived, lane)])
    return lanes


def order_of(lanes: Lanes, now: float) -> list[list[str]]:
    batches = []
    while lanes:
        batches.append([item.payload for item in lanes.take(now, CEILINGS).items])
    return batches


def test_a_batch_is_of_one_modality_and_the_oldest_goes_first() -> None:
    lanes = lanes_with(
        (Modality.IMAGE, Lane.INTERACTIVE, "picture 1", 1.0),
        (Modality.TEXT, Lane.INTERACTIVE, "text 1", 2.0),
        (Modality.IMAGE, Lane.INTERACTIVE, "picture 2", 3.0),
    )
    assert order_of(lanes, now=4.0) == [["picture 1", "picture 2"], ["text 1"]]


def test_interactive_work_overtakes_bulk_work_that_came_before() -> None:
    lanes = lanes_with(
        (Modality.TEXT, Lane.BULK, "bulk", 1.0),
        (Modality.TEXT, Lane.INTERACTIVE, "interactive", 2.0),
        (Modality.IMAGE, Lane.INTERACTIVE, "picture", 3.0),
    )
    assert order_of(lanes, now=4.0) == [["interactive"], ["picture"], ["bulk"]]


def test_bulk_work_that_has_waited_long_enough_gets_one_batch_and_no_more() -> None:
    lanes = lanes_with(
        *((Modality.TEXT, Lane.BULK, f"bulk {n}", 1.0) for n in range(4)),
        (Modality.TEXT, Lane.INTERACTIVE, "interactive", 2.0),
    )
    assert order_of(lanes, now=1.0 + PATIENCE_SECONDS) == [["bulk 0", "bulk 1"], ["interactive"], ["bulk 2", "bulk 3"]]


def test_bulk_work_is_served_again_after_another_wait_while_interactive_work_never_ends() -> None:
    lanes = lanes_with(*((Modality.TEXT, Lane.BULK, f"bulk {n}", 0.0) for n in range(4)))
    served = []
    for second in range(25):
        lanes.put(Modality.TEXT, [Item("interactive", float("inf"), float(second), Lane.INTERACTIVE)])
        batch = lanes.take(float(second), CEILINGS)
        if batch.lane is Lane.BULK:
            served.append((second, [item.payload for item in batch.items]))
    assert served == [(10, ["bulk 0", "bulk 1"]), (20, ["bulk 2", "bulk 3"])]


def test_cancelled_and_expired_items_take_no_place_in_a_batch() -> None:
    lanes = Lanes(Modality, PATIENCE_SECONDS)
    items = [Item(name, deadline, 0.0, Lane.INTERACTIVE) for name, deadline in (("gone", 9.0), ("late", 1.0))]
    fresh = [Item(f"fresh {n}", 9.0, 0.0, Lane.INTERACTIVE) for n in range(2)]
    lanes.put(Modality.TEXT, [*items, *fresh])
    items[0].future.cancel()
    batch = lanes.take(2.0, CEILINGS)
    assert batch.items == fresh
    assert batch.expired == [items[1]]
    assert batch.num_cancelled == 1


def test_purging_drops_cancelled_items_and_keeps_the_order_of_the_rest() -> None:
    lanes = Lanes(Modality, PATIENCE_SECONDS)
    items = [Item(n, 9.0, 0.0, Lane.BULK) for n in range(4)]
    lanes.put(Modality.TEXT, items)
    items[1].future.cancel()
    assert lanes.purge(Modality.TEXT) == 1
    assert lanes.take_all() == [items[0], items[2], items[3]]


def test_a_ceiling_falls_below_what_failed_and_grows_back_after_clean_batches() -> None:
    ceiling = Ceiling(64)
    ceiling.lower(16)
    assert ceiling.now == 8
    ceiling.lower(1)
    assert ceiling.now == 1
    while ceiling.now == 1:
        ceiling.note_clean()
    assert ceiling.now == 2
    for _ in range(1000):
        ceiling.note_clean()
    assert ceiling.now == 64
