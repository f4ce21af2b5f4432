"""A version in Milvus, read as a generation on disk is read."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from sightline.collection import CollectionManifest, Generation, Item
from sightline.columns import MetadataColumns
from sightline.errors import GenerationUnknown, ManifestInvalid, ManifestMissing, NotFound, QueryError, SightlineError
from sightline.filters import Filter
from sightline.index.hits import Hits, Scores
from sightline.milvus import layout
from sightline.milvus.capabilities import IndexPlan
from sightline.milvus.client import MilvusServer
from sightline.milvus.expressions import EVERY, expression_of, has_any, one_of, unsure
from sightline.milvus.vector_set import VectorSet

logger = logging.getLogger(__name__)

_COUNT_SECONDS = 10.0

T = TypeVar("T")

MAX_EVALUATED_ROWS = 16_000
"""Rows whose metadata is fetched and compared here, where Milvus cannot."""
_ROWS_AT_ONCE = 4000
_KEPT = 20_000
"""Items and captions remembered. Rows are never used again, so that what is remembered stays true."""


class MilvusGeneration(Generation):
    """The same methods as a generation on disk, each a question to the server. Thread-safe.

    What needs every row at once (``columns``, ``caption_items``) is not there: filters go to the server.
    """

    def __init__(
        self, server: MilvusServer, version: str, manifest: CollectionManifest, plans: dict[str, IndexPlan]
    ) -> None:
        self.server = server
        self.version = version
        self.manifest = manifest
        self.name = server.address.name
        self.generation = manifest.generation
        self.directory = Path(self.name) / version
        dim = manifest.encoder.dim
        self.images = VectorSet(server, layout.images_of(version), dim, manifest.num_items, plans["images"])
        self.captions = VectorSet(server, layout.captions_of(version), dim, manifest.num_captions, plans["captions"])
        self._counts = _Counts(
            lambda: (self.count_items(), self.count_captions()), (manifest.num_items, manifest.num_captions)
        )
        self._kept_items: _Kept[Item] = _Kept(self._read_items)
        self._kept_captions: _Kept[tuple[str, int]] = _Kept(self._read_captions)

    def __del__(self) -> None:
        """Nothing is open."""

    # Reading

    @property
    def num_items(self) -> int:
        """How many pictures there were some seconds ago; does not wait."""
        return self._counts.now()[0]

    @property
    def num_captions(self) -> int:
        """How many captions there were some seconds ago; does not wait."""
        return self._counts.now()[1]

    def samples(self) -> tuple[Item, Item]:
        """Two pictures that are there."""
        found = self.server.query(self.images.name, EVERY, layout.ITEM_FIELDS, 2)
        if not found:
            raise NotFound(f"The collection {self.name} in Milvus has no pictures; push one that has.")
        return layout.item_of(found[0]), layout.item_of(found[-1])

    def item(self, row: int) -> Item:
        """The picture at a row. Raises NotFound where it is gone."""
        found = self._kept_items.get([row]).get(row)
        if found is None:
            raise NotFound("There is no item at this row any more; search again.")
        return found

    def caption(self, row: int) -> tuple[str, int]:
        """The text of a caption row and the row of its picture. Raises NotFound where it is gone."""
        found = self._kept_captions.get([row]).get(row)
        if found is None:
            raise NotFound("There is no caption at this row any more; search again.")
        return found

    def find_row(self, item_id: str) -> int | None:
        """The row of an item id, None where it has none. The newest, where a change was interrupted."""
        return max(self.rows_of(item_id), default=None)

    def rows_of(self, item_id: str) -> list[int]:
        """Every row of an item id: one, but for a moment."""
        found = self.server.query(self.images.name, f'item_key == "{layout.item_key(item_id)}"', ("row",))
        return [int(one["row"]) for one in found]

    def has_row(self, row: int) -> bool:
        """Whether there is a picture at a row at this moment."""
        return 0 <= row < 2**63 and bool(self.server.query(self.images.name, f"row == {int(row)}", ("row",)))

    def thumbnail(self, row: int) -> bytes | None:
        """The WebP thumbnail of a row, None where it was pushed without."""
        found = self.server.query(self.images.name, f"row == {int(row)}", ("row", "thumbnail"))
        return base64.b64decode(found[0]["thumbnail"]) or None if found else None

    def count_items(self) -> int:
        """How many pictures there are at this moment."""
        return self.server.count(self.images.name)

    def count_captions(self) -> int:
        """How many captions there are at this moment."""
        return self.server.count(self.captions.name)

    def image_vectors(self) -> npt.NDArray[np.float16]:
        """float16 ``[N, D]`` of every picture, fetched: for sets that fit into memory."""
        blocks = [vectors.astype(np.float16) for _, vectors in self.images.vectors()]
        return np.concatenate(blocks) if blocks else np.empty((0, self.images.dim), np.float16)

    def caption_vectors(self) -> npt.NDArray[np.float16]:
        """float16 ``[M, D]`` of every caption, fetched."""
        blocks = [vectors.astype(np.float16) for _, vectors in self.captions.vectors()]
        return np.concatenate(blocks) if blocks else np.empty((0, self.captions.dim), np.float16)

    # Search

    def search_images(self, queries: Scores, k: int, where: Filter | None) -> Hits:
        """float32 ``[B, D]`` → the nearest pictures that the filter keeps, remembered for ``item``.

        Raises QueryError, MilvusFailed, and NotFound when what is found keeps vanishing.
        """
        return self._living(
            lambda without: self._search_images(queries, k, where, without),
            lambda rows: self._kept_items.get(rows).keys(),
        )

    def search_captions(self, queries: Scores, k: int, where: Filter | None) -> Hits:
        """float32 ``[B, D]`` → the nearest captions of pictures that the filter keeps, remembered for ``caption``."""
        return self._living(lambda without: self._search_captions(queries, k, where, without), self._whole_captions)

    def _search_images(self, queries: Scores, k: int, where: Filter | None, without: str) -> Hits:
        return self.images.matching(queries, k, _both(self._expression(where, "row"), without))

    def _search_captions(self, queries: Scores, k: int, where: Filter | None, without: str) -> Hits:
        return self.captions.matching(queries, k, _both(self._expression(where, "item_row"), without))

    def _expression(self, where: Filter | None, field: str) -> str:
        """The filter in Milvus's words; rows that it cannot be sure of are evaluated here and named by ``field``.

        Raises QueryError where they are too many.
        """
        if where is None:
            return EVERY
        expression, doubtful = expression_of(where), has_any(unsure(where))
        found = self.server.query(self.images.name, doubtful, ("row", "metadata"), MAX_EVALUATED_ROWS + 1)
        if len(found) > MAX_EVALUATED_ROWS:
            raise QueryError(
                f"This filter compares numbers that Milvus cannot compare (lists of them, or larger than 2^53) in more "
                f"than {MAX_EVALUATED_ROWS:,} rows; use match or any, or keep one number in each row.",
                limit_rows=MAX_EVALUATED_ROWS,
            )
        if not found:
            return expression
        kept = where.mask(MetadataColumns.from_json(one["metadata"] for one in found))  # [E]
        sure = f"({expression}) and not {doubtful}"
        named = one_of(field, (int(one["row"]) for one, keep in zip(found, kept, strict=True) if keep))
        return f"({sure}) or ({named})" if kept.any() else sure

    @staticmethod
    def _living(search: Callable[[str], Hits], present: Callable[[list[int]], Iterable[int]]) -> Hits:
        """Search, and again without what a change took away between finding and reading it."""
        gone: set[int] = set()
        for _ in range(4):
            hits = search(f"not ({one_of('row', sorted(gone))})" if gone else EVERY)
            rows = np.unique(hits.rows).tolist()
            missing = set(rows) - set(present(rows))
            if not missing:
                return hits
            gone |= missing
        raise NotFound("What was found was taken away before it could be read, several times; search again.")

    def _whole_captions(self, rows: list[int]) -> set[int]:
        """Caption rows that are there and have their pictures."""
        captions = self._kept_captions.get(rows)
        items = self._kept_items.get(sorted({item_row for _, item_row in captions.values()}))
        return {row for row, (_, item_row) in captions.items() if item_row in items}

    def _read_items(self, rows: list[int]) -> dict[int, Item]:
        found = self.server.query(self.images.name, one_of("row", rows), layout.ITEM_FIELDS)
        return {int(one["row"]): layout.item_of(one) for one in found}

    def _read_captions(self, rows: list[int]) -> dict[int, tuple[str, int]]:
        found = self.server.query(self.captions.name, one_of("row", rows), layout.CAPTION_FIELDS)
        return {int(one["row"]): (one["caption"], int(one["item_row"])) for one in found}


class _Counts:
    """Two counts, counted again in a thread of its own when somebody looks and they are old."""

    def __init__(self, count: Callable[[], tuple[int, int]], first: tuple[int, int]) -> None:
        self._count = count
        self._last = first
        self._due = 0.0
        self._busy = threading.Lock()

    def now(self) -> tuple[int, int]:
        """The last counts. Does not wait."""
        if time.monotonic() >= self._due and self._busy.acquire(blocking=False):
            self._due = time.monotonic() + _COUNT_SECONDS
            threading.Thread(target=self._look, name="milvus-count", daemon=True).start()
        return self._last

    def _look(self) -> None:
        try:
            self._last = self._count()
        except SightlineError:
            logger.warning("The rows of a collection in Milvus could not be counted; the last counts stand.")
        finally:
            self._busy.release()


class _Kept(Generic[T]):
    """The last rows read, and reading of those that are not among them."""

    def __init__(self, read: Callable[[list[int]], dict[int, T]]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._rows: OrderedDict[int, T] = OrderedDict()

    def get(self, rows: list[int]) -> dict[int, T]:
        with self._lock:
            found = {row: self._rows[row] for row in rows if row in self._rows}
            for row in found:
                self._rows.move_to_end(row)
        missing = [row for row in rows if row not in found]
        fresh: dict[int, T] = {}
        for start in range(0, len(missing), _ROWS_AT_ONCE):
            fresh |= self._read(missing[start : start + _ROWS_AT_ONCE])
        with self._lock:
            self._rows.update(fresh)
            while len(self._rows) > _KEPT:
                self._rows.popitem(last=False)
        return found | fresh


def open_version(server: MilvusServer, version: str | None = None) -> MilvusGeneration:
    """The version that is served, or one by its name. Raises GenerationUnknown, ManifestMissing, ManifestInvalid."""
    name = server.address.name
    version = version or served_version(server)
    if version is None:
        raise GenerationUnknown(
            f"Milvus holds no collection {name}; push one: sightline index push --collection C --to …"
        )
    if layout.about_of(version) not in server.collections(version):
        raise ManifestMissing(f"Milvus holds no description of {version}; push the generation again.")
    for one in (layout.images_of(version), layout.captions_of(version)):
        server.load(one)
    told = read_about(server, version)
    try:
        manifest = CollectionManifest.model_validate(told["manifest"])
        plans = {which: IndexPlan(**told["plans"][which]) for which in ("images", "captions")}
    except (ValidationError, KeyError, TypeError) as error:
        raise ManifestInvalid(
            f"The description of {version} in Milvus is damaged; push the generation again."
        ) from error
    return MilvusGeneration(server, version, manifest, plans)


def served_version(server: MilvusServer) -> str | None:
    """The version that the alias names."""
    return _version_of(server.aliased(server.address.name))


def version_before(server: MilvusServer) -> str | None:
    """The version that was served before."""
    return _version_of(server.aliased(layout.before(server.address.name)))


def read_about(server: MilvusServer, version: str) -> dict[str, Any]:
    """What a version says of itself. Raises ManifestInvalid."""
    server.load(layout.about_of(version))  # a server that was started anew has nothing loaded
    parts = server.query(layout.about_of(version), EVERY, layout.ABOUT_FIELDS)
    text = "".join(one["text"] for one in sorted(parts, key=lambda one: int(one["row"])))
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise ManifestInvalid(f"The description of {version} in Milvus is damaged; push the generation again.")
    return told


def _version_of(images: str | None) -> str | None:
    return None if images is None else images.removesuffix("_images")


def _both(one: str, other: str) -> str:
    if EVERY in (one, other):
        return other if one == EVERY else one
    return f"({one}) and ({other})"
