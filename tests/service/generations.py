"""A collection of two generations that disagree, what serves it, and ways to damage it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.metrics import Metrics
from service.served import Served
from service.snapshot import index_generation
from sightline.collection import open_collection
from sightline.storage import record_files
from tests.fakes import DIM, FINGERPRINT, build_fake_collection

FIRST = ("red", "green", "blue", "yellow")
SECOND = ("blue", "red", "yellow", "green", "cyan")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A collection of two generations: the same rows show other colours in the second, which CURRENT names."""
    build_fake_collection(tmp_path / "photos", FIRST)
    build_fake_collection(tmp_path / "photos", SECOND)
    return tmp_path / "photos"


MakeServed = Callable[..., Served]


@pytest.fixture
def make_served(photos: Path) -> MakeServed:
    def make(**options: Any) -> Served:
        snapshot = index_generation(open_collection(photos, "gen-000001"), FINGERPRINT)
        return Served(snapshot, dim=DIM, metrics=Metrics("0"), **{"free_bytes": lambda: None, **options})

    return make


def reloads(served: Served, result: str) -> float:
    return served._metrics.registry.get_sample_value("sightline_reloads_total", {"result": result}) or 0.0


def damage_manifest(**changes: Any) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        path = directory / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        (directory / "manifest.sha256").unlink(missing_ok=True)

    return damage


def reseal(directory: Path) -> None:
    """Make the manifest's hashes true again: what is wrong must be found by looking, not by hashing."""
    files = {name: one.model_dump() for name, one in record_files(directory, leave_out="manifest.json").items()}
    files.pop("manifest.sha256", None)
    damage_manifest(files=files)(directory)


def scale_vectors(directory: Path) -> None:
    path = directory / "img_emb" / "img_emb_0.npy"
    np.save(path, (2 * np.load(path)).astype(np.float16))
    reseal(directory)


def cut_rows(directory: Path) -> None:
    path = directory / "img_emb" / "img_emb_0.npy"
    np.save(path, np.load(path)[:-1])
    reseal(directory)


def cut_dimensions(directory: Path) -> None:
    path = directory / "img_emb" / "img_emb_0.npy"
    np.save(path, np.load(path)[:, :-1])
    reseal(directory)


def truncate(share: float) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        path = directory / "img_emb" / "img_emb_0.npy"
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return damage


def repeat_id(directory: Path) -> None:
    path = directory / "metadata" / "metadata_0.parquet"
    table = pq.read_table(path)
    ids = ["same"] * table.num_rows
    pq.write_table(table.set_column(0, "item_id", pa.array(ids)), path)
    reseal(directory)


def other_encoder(directory: Path) -> None:
    encoder = json.loads((directory / "manifest.json").read_text())["encoder"]
    damage_manifest(encoder=encoder | {"fingerprint": "0" * 64, "name": "another"})(directory)
