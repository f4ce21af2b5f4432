"""Fixtures shared by all packages' tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sightline.encoder import Encoder, load_encoder, write_bundle
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the tiny model; read-only, copy it to change it."""
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    write_bundle(tiny_checkpoint(), path)
    return path


@pytest.fixture(scope="session")
def tiny_encoder(tiny_bundle: Path) -> Encoder:
    """The tiny model loaded from its bundle, fp32 on the CPU."""
    return load_encoder(str(tiny_bundle), device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photos and vectors; tests that need it are skipped without it."""
    folder = os.environ.get("SIGHTLINE_TEST_DATA")
    if not folder:
        pytest.skip("SIGHTLINE_TEST_DATA does not name the folder of real data")
    return Path(folder)
