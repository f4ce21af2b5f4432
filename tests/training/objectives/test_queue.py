from __future__ import annotations

import torch

from tests.training.objectives import naive
from training.objectives import ObjectiveSettings, Pairs, Queue, QueueSettings, make_loss


def _pairs(size: int, seed: int, *, with_ids: bool = False) -> Pairs:
    given = naive.leaves(size, size, seed=seed)
    ids = torch.arange(size) + 100 * seed if with_ids else None
    return Pairs(**given, text_ids=ids)  # type: ignore[arg-type]


def test_an_empty_queue_changes_nothing() -> None:
    pairs = _pairs(4, 1)
    assert Queue(QueueSettings(size=8), 16).extend(pairs, 0) is pairs
    assert Queue(QueueSettings(size=0), 16).extend(pairs, 0) is pairs


def test_a_queue_of_no_size_stays_empty() -> None:
    queue = Queue(QueueSettings(size=0), 16)
    queue.push(_pairs(4, 1), 0)
    pairs = _pairs(4, 2)
    assert queue.extend(pairs, 1) is pairs


def test_the_last_batch_is_the_next_ones_extras() -> None:
    queue = Queue(QueueSettings(size=8), 16)
    before, now = _pairs(3, 1, with_ids=True), _pairs(3, 2, with_ids=True)
    queue.push(before, 0)
    extended = queue.extend(now, 1)
    assert extended.extra_texts is not None and extended.extra_images is not None and extended.extra_ids is not None
    assert torch.allclose(extended.extra_texts, before.texts.detach(), atol=1e-7)  # kept in float32
    assert torch.allclose(extended.extra_images, before.images.detach(), atol=1e-7)
    assert extended.extra_ids.tolist() == [100, 101, 102]
    assert not extended.extra_texts.requires_grad


def test_the_oldest_go_first() -> None:
    queue = Queue(QueueSettings(size=5), 16)
    for step in range(3):
        queue.push(_pairs(2, step, with_ids=True), step)
    extended = queue.extend(_pairs(2, 9, with_ids=True), 3)
    assert extended.extra_ids is not None
    assert sorted(extended.extra_ids.tolist()) == [1, 100, 101, 200, 201]


def test_of_a_batch_larger_than_the_queue_the_end_stays() -> None:
    queue = Queue(QueueSettings(size=2), 16)
    queue.push(_pairs(5, 1, with_ids=True), 0)
    extended = queue.extend(_pairs(2, 9, with_ids=True), 1)
    assert extended.extra_ids is not None
    assert sorted(extended.extra_ids.tolist()) == [103, 104]


def test_old_vectors_are_not_given() -> None:
    queue = Queue(QueueSettings(size=8, max_age_steps=2), 16)
    queue.push(_pairs(2, 1, with_ids=True), 0)
    queue.push(_pairs(2, 2, with_ids=True), 1)
    pairs = _pairs(2, 3, with_ids=True)
    young = queue.extend(pairs, 3)
    assert young.extra_ids is not None
    assert young.extra_ids.tolist() == [200, 201]
    assert queue.extend(pairs, 4) is pairs


def test_supplied_negatives_are_not_kept() -> None:
    given = naive.leaves(2, 5)
    queue = Queue(QueueSettings(size=8), 16)
    queue.push(Pairs(**given), 0)  # type: ignore[arg-type]
    extended = queue.extend(_pairs(2, 1), 1)
    assert extended.extra_texts is not None and len(extended.extra_texts) == 2


def test_a_resumed_queue_goes_on_alike() -> None:
    first, second = Queue(QueueSettings(size=5), 16), Queue(QueueSettings(size=5), 16)
    first.push(_pairs(3, 1, with_ids=True), 0)
    second.load_state_dict(first.state_dict())
    for queue in (first, second):
        queue.push(_pairs(3, 2, with_ids=True), 1)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first.buffers(), second.buffers(), strict=True))


def test_more_negatives_raise_the_loss() -> None:
    queue, loss = Queue(QueueSettings(size=64), 16), make_loss(ObjectiveSettings(), kind="softmax")
    queue.push(_pairs(32, 1), 0)
    pairs = _pairs(8, 2)
    assert float(loss(queue.extend(pairs, 1)).total) > float(loss(pairs).total)


def test_a_queue_of_this_very_step_is_the_other_half_of_the_batch() -> None:
    """Two halves, each with the other's vectors in its queue, together have the loss of the whole batch."""
    whole, loss = _pairs(8, 1), make_loss(ObjectiveSettings(), kind="softmax")
    halves = [Pairs(whole.images[part], whole.texts[part], whole.logit_scale) for part in (slice(4), slice(4, 8))]
    found = []
    for own, other in (halves, halves[::-1]):
        queue = Queue(QueueSettings(size=8, max_age_steps=1), 16).double()
        queue.push(other, 5)
        found.append(loss(queue.extend(own, 5)).total)
    assert torch.allclose(sum(found) / 2, loss(whole).total, rtol=1e-12, atol=0)
