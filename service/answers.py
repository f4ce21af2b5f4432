"""Hits to answers: plain dictionaries, built in a pool so that a thousand results do not hold up the event loop."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from service.snapshot import Snapshot
from sightline.collection import Item
from sightline.errors import NotFound
from sightline.index import Hits


def envelope(snapshot: Snapshot) -> dict[str, str]:
    """What every answer says of its origin."""
    generation = snapshot.generation
    return {"collection": generation.name, "generation": generation.generation, "encoder": snapshot.encoder}


def image_results(snapshot: Snapshot, hits: Hits, min_score: float | None) -> list[list[dict[str, Any]]]:
    """For each query the pictures found; ``caption`` is the picture's first."""
    item_at = functools.cache(snapshot.item)  # several queries find the same pictures
    return [
        [_result(item := item_at(row), score, item.captions[0] if item.captions else None) for score, row in found]
        for found in _above(hits, min_score)
    ]


def caption_results(snapshot: Snapshot, hits: Hits, min_score: float | None) -> list[list[dict[str, Any]]]:
    """For each query the captions found, each with its picture."""
    item_at = functools.cache(snapshot.item)
    answers = []
    for found in _above(hits, min_score):
        results = []
        for score, row in found:
            caption, item_row = snapshot.caption(row)
            results.append(_result(item_at(item_row), score, caption))
        answers.append(results)
    return answers


def knn_results(snapshot: Snapshot, hits: Hits, *, captions: bool) -> list[dict[str, Any]]:
    """The first query's hits in clip-retrieval's shape; the item's metadata must not hide the keys of the shape."""
    results = []
    for score, row in _above(hits, None)[0]:
        caption, item_row = snapshot.caption(row) if captions else (None, row)
        known = _knn_metadata(snapshot.item(item_row))
        own_caption = {"caption": caption} if captions else {}
        results.append({**known, **own_caption, "id": item_row, "similarity": score})
    return results


def row_metadata(snapshot: Snapshot, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Items by their rows, in clip-retrieval's shape. Raises NotFound."""
    if not all(map(snapshot.shows, rows)):
        raise NotFound("There is no row with one of these ids; take ids from POST /knn-service.")
    return [{"id": row, "metadata": _knn_metadata(snapshot.item(row))} for row in rows]


def _knn_metadata(item: Item) -> dict[str, Any]:
    caption = item.captions[0] if item.captions else None
    return {**item.metadata, "url": item.uri, "caption": caption, "item_id": item.item_id}


def item_details(item: Item) -> dict[str, Any]:
    """An item as ``GET /v1/items/{id}`` shows it."""
    return {
        "id": item.item_id,
        "uri": item.uri,
        "captions": list(item.captions),
        "width_px": item.width_px,
        "height_px": item.height_px,
        "metadata": item.metadata,
        "thumbnail": thumbnail_path(item.item_id),
    }


def thumbnail_path(item_id: str) -> str:
    return f"/v1/items/{quote(item_id, safe='')}/thumbnail"


def _result(item: Item, score: float, caption: str | None) -> dict[str, Any]:
    return {
        "id": item.item_id,
        "score": score,
        "caption": caption,
        "uri": item.uri,
        "metadata": item.metadata,
        "thumbnail": thumbnail_path(item.item_id),
    }


def _above(hits: Hits, min_score: float | None) -> list[Sequence[tuple[float, int]]]:
    """Hits as lists of (score, row). Half-precision vectors may give 1.0004 for themselves: scores end at ±1."""
    scores = np.clip(hits.scores, -1.0, 1.0)
    return [
        [
            (score, row)
            for score, row in zip(line.tolist(), rows.tolist(), strict=True)
            if min_score is None or score >= min_score
        ]
        for line, rows in zip(scores, hits.rows, strict=True)
    ]
