"""Under torchrun pictures are read once: the first process decodes them into a file, and every process maps it."""

from __future__ import annotations

import dataclasses
import platform
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightline.errors import StorageError
from sightline.storage import storage_errors
from training import distributed
from training.data import Captioned

_NAMES = "pictures-*.bin"


def read_once(read: Callable[[Path | None], Captioned], folder: Path) -> Captioned:
    """Captioned pictures that the first process reads, in every process.

    ``read`` takes the new file that decoded pictures are to go to; None, where there is one process, leaves that to it.
    The file lies in ``folder``, which all processes share, and the system keeps one copy of it in the memory of each
    machine. It has a name only until every process has mapped it: after that its space is free when the last of
    them ends, however it ends. What goes with the pictures is small beside them and travels from process to process.

    Raises what ``read`` raises, in every process, and StorageError where a process cannot map the file.
    """
    if distributed.world() == 1:
        _remove_left(folder)
        return read(None)
    path = folder / _NAMES.replace("*", secrets.token_hex(8))  # the name that counts is the first process's
    try:
        written = distributed.from_first(lambda: _write(read, path))
        return distributed.in_all(lambda: written.mapped(folder))
    finally:
        path.unlink(missing_ok=True)  # over NFS too: the first machine's mappings keep the file for the others


@dataclass(frozen=True, slots=True)
class _Written:
    """Captioned pictures without their pixels [N, H, W, 3], which are in the file ``name``."""

    captioned: Captioned
    shape: tuple[int, ...]
    name: str

    def mapped(self, folder: Path) -> Captioned:
        """With their pixels, read-only."""
        with storage_errors(f"read the pictures in {folder}"):
            try:
                pixels = np.memmap(folder / self.name, np.uint8, "r", shape=self.shape)
            except (FileNotFoundError, ValueError) as error:  # not there, or a part of it
                raise StorageError(
                    f"{platform.node()} does not see the pictures that the first process wrote to {folder}; "
                    "--out must lie on a file system that all nodes share."
                ) from error
        return dataclasses.replace(self.captioned, pixels=pixels)


def _remove_left(folder: Path) -> None:
    """Remove what a run that was killed while it read has left."""
    with storage_errors(f"write {folder}"):
        for left in folder.glob(_NAMES):
            left.unlink()


def _write(read: Callable[[Path | None], Captioned], path: Path) -> _Written:
    _remove_left(path.parent)
    captioned = read(path)
    shape = captioned.pixels.shape
    return _Written(dataclasses.replace(captioned, pixels=np.empty((0, *shape[1:]), np.uint8)), shape, path.name)
