"""Files of keys, and a service that asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.conftest import MakeService, Service

API_KEY = "api-key-0123456789"
ADMIN_KEY = "admin-key-0123456789"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A file with one API key, whose holder is the shop, and one with one admin key."""
    (tmp_path / "api").write_text(f"# keys\n\nshop: {API_KEY}\n")
    (tmp_path / "admin").write_text(f"{ADMIN_KEY}\n")
    return {"api_keys_file": tmp_path / "api", "admin_keys_file": tmp_path / "admin"}


@pytest.fixture
def locked(make_service: MakeService, files: dict[str, Path]) -> Service:
    return make_service(**files)
