"""Duplicates across a whole collection: exact ones by hash, in a table on disk, and near ones by cosine."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import StorageError
from sightline.storage import storage_errors

MAX_NEAR_DUPLICATE_ROWS = 200_000
"""Comparing every picture with every other costs N² · D: at 200,000 rows of 512 dimensions about five minutes on two
cores, a twentieth of what encoding them takes there; at a million it would be over two hours."""
_BLOCK_ROWS = 2048

Vectors = npt.NDArray[np.float16]


class FirstCopies:
    """Which position holds the first copy of each hash. A private SQLite file: memory does not grow with it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _sqlite_errors(path):
            path.unlink(missing_ok=True)
            self._connection = sqlite3.connect(path)
            self._connection.execute("PRAGMA journal_mode = OFF")
            self._connection.execute("PRAGMA synchronous = OFF")  # it is made again by every publication
            self._connection.execute(
                "CREATE TABLE copies (sha256 BLOB PRIMARY KEY, position INTEGER, uri TEXT) WITHOUT ROWID"
            )

    def close(self) -> None:
        """Remove the file."""
        self._connection.close()
        self._path.unlink(missing_ok=True)

    def add(self, copies: Iterable[tuple[int, str, str]]) -> None:
        """Position, hex SHA-256 and uri of pictures, in order of position. Raises StorageError."""
        rows = ((bytes.fromhex(sha256), position, uri) for position, sha256, uri in copies)
        with _sqlite_errors(self._path), self._connection:
            self._connection.executemany("INSERT OR IGNORE INTO copies VALUES (?, ?, ?)", rows)

    def first(self, sha256: str) -> tuple[int, str]:
        """Position and uri of the first copy."""
        found: Any = self._connection.execute(
            "SELECT position, uri FROM copies WHERE sha256 = ?", (bytes.fromhex(sha256),)
        ).fetchone()
        return int(found[0]), str(found[1])


@contextlib.contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        with storage_errors(f"write {path}"):
            yield
    except sqlite3.Error as error:  # says no more than that the disk is full or cannot be written
        raise StorageError(f"Could not write {path}; free some space and run the command again.") from error


def near_duplicates(vectors: Vectors, threshold: float) -> dict[int, int]:
    """For each row that is nearly the same as an earlier one, the row that leads its group.

    ``vectors`` is float16 ``[N, D]`` of unit length, in memory or mapped. In order, a row joins the first leader with a
    cosine of at least ``threshold``, else it leads a group itself: so each row is compared with leaders alone, and no
    chain of small steps joins what lies far apart. Memory holds the vectors of two blocks.
    """
    leaders: list[int] = []
    groups: dict[int, int] = {}
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = np.asarray(vectors[start : start + _BLOCK_ROWS], dtype=np.float32)  # [B, D]
        leader_of = _first_leader(block, vectors, leaders, threshold)
        inside = block @ block.T >= threshold  # [B, B]
        for row in range(len(block)):
            earlier = leader_of[row]
            if earlier < 0:
                mates = np.flatnonzero(inside[row, :row] & (leader_of[:row] == start + np.arange(row)))
                earlier = start + int(mates[0]) if len(mates) else start + row
                leader_of[row] = earlier
            if earlier == start + row:
                leaders.append(start + row)
            else:
                groups[start + row] = int(earlier)
    return groups


def _first_leader(
    block: npt.NDArray[np.float32], vectors: Vectors, leaders: list[int], threshold: float
) -> npt.NDArray[np.int64]:
    """For each row of the block the first leader of earlier blocks that is near enough, -1 for none: int64 ``[B]``."""
    found = np.full(len(block), -1, dtype=np.int64)  # [B]
    for start in range(0, len(leaders), _BLOCK_ROWS):
        rows = np.array(leaders[start : start + _BLOCK_ROWS])
        near = block @ np.asarray(vectors[rows], dtype=np.float32).T >= threshold  # [B, L]
        hits = near.any(axis=1) & (found < 0)
        found[hits] = rows[near.argmax(axis=1)[hits]]
    return found
