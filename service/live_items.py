"""Items from requests: checked, decoded and encoded as every search is, then written."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np

from service.context import RequestContext, deadline_exceeded
from service.encoding.decoding import DecodePool
from service.encoding.lanes import Vectors
from service.encoding.single_flight import Input
from service.live import Live, Written
from sightline.collection.live_log import LiveChange
from sightline.errors import QueryError
from sightline.texts import TextLimits, check_text

MAX_METADATA_BYTES = 64 * 1024
MAX_ITEM_ID_CHARS = 200
THUMBNAIL_PX = 256
_ID = re.compile(r"[A-Za-z0-9._~:@+=,/-]{1,200}")
_NO_SEGMENTS = frozenset({"", ".", ".."})

T = TypeVar("T")
Embed = Callable[[Sequence[Input], RequestContext], Awaitable[Vectors]]


class LiveItems:
    """Puts items and deletes them. Its methods belong to one event loop."""

    def __init__(self, live: Live, embed: Embed, decoder: DecodePool, fingerprint: str, texts: TextLimits) -> None:
        self._live = live
        self._embed = embed
        self._decoder = decoder
        self._fingerprint = fingerprint
        self._texts = texts

    async def put(
        self, item_id: str, image: bytes, captions: Sequence[str], metadata: dict[str, Any], uri: str,
        context: RequestContext,
    ) -> Written:  # fmt: skip
        """Encode an item and write it; when this returns it is on the disk and is found.

        A request that ends early may have been carried out all the same: sent again, it changes nothing.
        Raises what checking, decoding, encoding and ``Live.submit`` raise.
        """
        self._live.check_writable()
        check_item_id(item_id)
        text = json.dumps(metadata, ensure_ascii=True)
        if len(text) > MAX_METADATA_BYTES:
            raise QueryError(
                f"The metadata has {len(text):,} bytes as JSON and the limit is {MAX_METADATA_BYTES:,}; keep less.",
                limit_bytes=MAX_METADATA_BYTES,
            )
        checked = tuple(check_text(caption, self._texts) for caption in captions)
        vectors = (await self._embed([image, *checked], context)).astype(np.float16)  # [1 + C, D]
        with context.stage("thumbnail"):
            thumbnail = await self._in_time(self._decoder.thumbnail(image, THUMBNAIL_PX), context)
        change = LiveChange(
            item_id, "put", self._fingerprint, "", _now(), _storable(uri or item_id), checked, metadata,
            hashlib.sha256(image).hexdigest(), thumbnail.width_px, thumbnail.height_px, vectors[0], vectors[1:],
            thumbnail.data,
        )  # fmt: skip
        return await self._write(change, context)

    async def delete(self, item_id: str, context: RequestContext) -> Written:
        """Write that an item is gone. Raises NotFound where there is none, and what ``Live.submit`` raises."""
        self._live.check_usable()
        return await self._write(LiveChange(item_id, "delete", self._fingerprint, "", _now()), context)

    async def _write(self, change: LiveChange, context: RequestContext) -> Written:
        context.check_deadline()
        with context.stage("write"):
            return await self._in_time(asyncio.wrap_future(self._live.submit(change)), context)

    @staticmethod
    async def _in_time(work: Awaitable[T], context: RequestContext) -> T:
        try:
            async with asyncio.timeout_at(context.deadline):
                return await work
        except TimeoutError:
            raise deadline_exceeded() from None


def check_item_id(item_id: str) -> None:
    """Raise QueryError unless an item may be put under this id: a path of plain letters that every file system and
    address can hold, and that no other route takes for its own."""
    segments = item_id.split("/")
    if not _ID.fullmatch(item_id) or not _NO_SEGMENTS.isdisjoint(segments) or segments[-1] == "thumbnail":
        raise QueryError(
            f"An id to put has at most {MAX_ITEM_ID_CHARS} letters, digits and . _ ~ : @ + = , - in parts divided by "
            "slashes, and does not end with /thumbnail; choose another.",
            limit_chars=MAX_ITEM_ID_CHARS,
        )


def _storable(text: str) -> str:
    """Without lone surrogates, which no file can hold: one of them would fail everybody's write."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
