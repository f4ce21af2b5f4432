"""Which pictures are each other's hard negatives: a table beside the run, and the settings that made it."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from sightline.errors import SourceError
from sightline.storage import replace_file

Rows = npt.NDArray[np.int64]

FILE_NAME = "neighbours.json"
_ROWS_NAME = "neighbours.npy"


class MiningSettings(BaseModel):
    """The [data.mining] table.

    Up to ``group_size`` neighbours come together. ``num_neighbours`` are kept of each picture. A picture is a hard
    negative of a caption when its inner product is at least ``margin`` below that of the caption's own picture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    group_size: int = Field(default=4, ge=2)
    num_neighbours: int = Field(default=16, ge=1, le=256)
    margin: float = Field(default=0.02, ge=0, le=1)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """``rows`` int64 [N, K]: for each picture its hardest neighbours, hardest first, -1 for none.

    ``encoder`` is the fingerprint of the encoder that found them, ``data`` the digest of the data they belong to.
    """

    rows: Rows
    encoder: str
    data: str
    margin: float

    @property
    def num_found(self) -> int:
        """How many pictures have at least one."""
        return int((self.rows[:, 0] >= 0).sum())


def save_neighbours(neighbours: Neighbours, folder: Path) -> None:
    """Keep the table in ``folder`` (which must exist). Raises StorageError."""
    buffer = io.BytesIO()
    np.save(buffer, neighbours.rows.astype(np.int32), allow_pickle=False)
    replace_file(folder / _ROWS_NAME, buffer.getvalue())
    said = {"encoder": neighbours.encoder, "data": neighbours.data, "margin": neighbours.margin}
    replace_file(folder / FILE_NAME, json.dumps(said).encode())


def load_neighbours(folder: Path, data_sha256: str) -> Neighbours:
    """Read the table of ``folder``. Raises SourceError where there is none, or one of other data."""
    try:
        said = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        rows = np.load(folder / _ROWS_NAME, allow_pickle=False).astype(np.int64)
        found = Neighbours(rows, str(said["encoder"]), str(said["data"]), float(said["margin"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{folder} holds no table of hard neighbours; mine them again.") from error
    if found.data != data_sha256 or rows.ndim != 2:
        raise SourceError(f"The hard neighbours in {folder} belong to other data; mine them again.")
    return found
