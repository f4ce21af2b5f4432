"""Decoded pictures as they arrive: in memory up to a budget, beyond it in a file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from sightline.images import Pixels
from sightline.memory import available_bytes
from sightline.storage import storage_errors

_SHARE_OF_MEMORY = 0.5
_FALLBACK_BYTES = 4 * 2**30
_FIRST = 256
_GROWTH = 1.25


def memory_budget() -> int:
    """Half of the bytes that the machine can give now; 4 GiB where it does not say."""
    available = available_bytes()
    return _FALLBACK_BYTES if available is None else int(available * _SHARE_OF_MEMORY)


class PixelStore:
    """Pictures of one shape, uint8 [H, W, 3] each, appended one by one. One thread.

    Training draws a few hundred rows a step and never needs all of them in memory (20,000 pictures of 224 px are 3 GB):
    from ``budget_bytes`` on they go to a file in ``folder``, mapped read-only at the end. The file has no name: it
    needs no cleaning up and its space is free when the process ends, however it ends. With ``folder`` None everything
    stays in memory. With ``path`` everything goes to that new file instead, for other processes to map: it is written
    to its end when ``finish`` returns, and the caller removes it.
    """

    def __init__(self, budget_bytes: int, folder: Path | None, path: Path | None = None) -> None:
        self._budget_bytes = 0 if path is not None else budget_bytes
        self._folder = folder if path is None else path.parent
        self._path = path
        self._held = np.empty((0, 0, 0, 3), np.uint8)  # [capacity, H, W, 3], the first num_held of them are pictures
        self._num_held = 0
        self._num_stored = 0
        self._file: BinaryIO | None = None

    def append(self, picture: Pixels) -> None:
        """Add a picture. Raises StorageError when the disk refuses it."""
        if self._num_held == len(self._held):
            self._make_room(picture)
        self._held[self._num_held] = picture
        self._num_held += 1

    def finish(self) -> Pixels:
        """All pictures, uint8 [N, H, W, 3] in the order of their coming; nothing can be added after."""
        if self._file is None:
            self._held.resize((self._num_held, *self._held.shape[1:]), refcheck=False)
            return self._held
        self._store()
        shape = (self._num_stored, *self._held.shape[1:])
        with storage_errors(f"write the pictures to {self._folder}"):
            self._file.flush()
            if self._path is not None:
                self._file.close()  # network file systems show other machines what was written before this
        return np.memmap(self._path or self._file, np.uint8, "r", shape=shape)

    def _make_room(self, picture: Pixels) -> None:
        capacity = max(_FIRST, int(len(self._held) * _GROWTH))
        if self._folder is not None and capacity * picture.nbytes > self._budget_bytes:
            if self._file is None:
                with storage_errors(f"write the pictures to {self._folder}"):
                    self._file = self._open()
            self._store()
            capacity = _FIRST
        # In place where the system can move pages: joining a list of pictures would need twice the memory.
        self._held.resize((capacity, *picture.shape), refcheck=False)

    def _open(self) -> BinaryIO:
        if self._path is not None:
            return self._path.open("xb")
        return cast(BinaryIO, tempfile.TemporaryFile(dir=self._folder))  # kept open by the mapping of ``finish``

    def _store(self) -> None:
        assert self._file is not None
        with storage_errors(f"write the pictures to {self._folder}"):
            self._file.write(self._held[: self._num_held].data)
        self._num_stored += self._num_held
        self._num_held = 0
