"""Compaction as a program of its own, with the index that the generation had.

``sightline.collection.compaction`` copies rows; a generation whose manifest names an approximate plan also needs that
plan's files, trained and tuned on the rows that it has now. The service runs
``python -m sightline.compact COLLECTION GENERATION`` beside itself, so that a million rows are copied and an index is
trained without holding up its answers.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sightline.collection import CollectionManifest
from sightline.collection.compaction import Compaction, compact_collection
from sightline.collection.live_log import LiveLog, open_live_log
from sightline.errors import SightlineError

_WITHOUT_FILES = frozenset({"exact", "gpu-exact"})
_NICENESS = 10
_LOOK_SECONDS = 0.5


def compact(collection: Path, log: LiveLog, *, base: str = "") -> Compaction | None:
    """``compact_collection`` with indexes of the plans that the current generation has. Raises what that raises, and
    DependencyMissing."""
    return compact_collection(collection, log, base=base, build_index=_indexes)


def _indexes(directory: Path, old: CollectionManifest) -> dict[str, Any]:
    """Nothing is loaded where nothing is to be trained: exact plans, most collections, take a second less."""
    records = [old.index.get(which) for which in ("images", "captions")]
    if all(record.get("plan", "exact") in _WITHOUT_FILES for record in records if isinstance(record, dict)):
        return old.index
    from sightline.index.building import rebuild_indexes

    return rebuild_indexes(directory, old)


def _end_with(parent: int) -> None:
    """A service that has been killed starts again and compacts by itself: this process would only be in its way."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def main(arguments: Sequence[str]) -> int:
    """Compact and print the result, or the error, as one JSON object. Returns the exit code."""
    os.nice(_NICENESS)
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    collection = Path(arguments[0])
    try:
        log = open_live_log(collection)
        done = None if log is None else compact(collection, log, base=arguments[1])
    except SightlineError as error:
        sys.stdout.write(json.dumps({"error": {"code": error.code, "message": error.message}}) + "\n")
        return 1
    sys.stdout.write(json.dumps(None if done is None else asdict(done)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
