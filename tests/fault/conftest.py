"""A small real collection for tests that run the service in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.running import command
from tests.pictures import encoded, textured


@pytest.fixture(scope="session")
def collection(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve captioned pictures, indexed with the tiny encoder."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        (folder / f"{number:02d}.jpg").write_bytes(encoded(textured((120, 90), number), "JPEG"))
        (folder / f"{number:02d}.txt").write_text(f"picture number {number}")
    out = tmp_path_factory.mktemp("collections") / "photos"
    built = command("index", "build", "--encoder", tiny_bundle, "--source", folder, "--out", out, "--json")
    assert built.code == 0, built.err
    return out
