"""Decoded pictures as they arrive: in memory up to a budget, beyond it in a file without a name."""

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


def memory_budget() -> int:
    """Half of the bytes that the machine can give now; 4 GiB where it does not say."""
    available = available_bytes()
    return _FALLBACK_BYTES if available is None else int(available * _SHARE_OF_MEMORY)


class PixelStore:
    """Pictures of one shape, uint8 [H, W, 3] each, appended one by one. One thread.

    Training draws a few hundred rows a step and never needs all of them in memory (20,000 pictures of 224 px are 3 GB):
    from ``budget_bytes`` on they go to a file in ``folder``, mapped read-only at the end. The file has no name: it
    needs no cleaning up and its space is free when the process ends, however it ends. With ``folder`` None everything
    stays in memory.
    """

    def __init__(self, budget_bytes: int, folder: Path | None) -> None:
        self._budget_bytes = budget_bytes
        self._folder = folder
        self._pictures: list[Pixels] = []
        self._num_bytes = 0
        self._shape: tuple[int, ...] = ()
        self._num_stored = 0
        self._file: BinaryIO | None = None

    def append(self, picture: Pixels) -> None:
        """Add a picture. Raises StorageError when the disk refuses it."""
        self._shape = picture.shape
        self._pictures.append(picture)
        self._num_bytes += picture.nbytes
        if self._folder is not None and self._num_bytes > self._budget_bytes:
            self._spill()

    def finish(self) -> Pixels:
        """All pictures, uint8 [N, H, W, 3] in the order of their coming; nothing can be added after."""
        if self._file is None:
            return np.stack(self._pictures)
        self._spill()
        with storage_errors(f"write the pictures to {self._folder}"):
            self._file.flush()
        shape = (self._num_stored, *self._shape)
        return np.memmap(self._file, np.uint8, "r", shape=shape)

    def _spill(self) -> None:
        """Move what is in memory to the file; from then on a few pictures at a time are."""
        with storage_errors(f"write the pictures to {self._folder}"):
            if self._file is None:
                # Kept open by the mapping that ``finish`` returns.
                self._file = cast(BinaryIO, tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115
            for picture in self._pictures:
                self._file.write(np.ascontiguousarray(picture).data)
        self._num_stored += len(self._pictures)
        self._pictures.clear()
        self._num_bytes = 0
        self._budget_bytes = min(self._budget_bytes, 16 * 2**20)
