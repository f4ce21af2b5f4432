"""A snapshot refuses another encoder's collection."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.server import serve
from service.settings import load_settings
from service.snapshot import index_generation
from sightline.collection import open_collection
from sightline.errors import EncoderMismatch
from tests.fakes import FINGERPRINT, FakeEncoder, build_fake_collection


def test_another_encoders_collection_is_refused(tmp_path: Path) -> None:
    build_fake_collection(tmp_path / "photos")
    with pytest.raises(EncoderMismatch, match="another encoder"):
        index_generation(open_collection(tmp_path / "photos"), "0" * 64)
    assert index_generation(open_collection(tmp_path / "photos"), FINGERPRINT).encoder == FINGERPRINT


def test_the_server_does_not_start_with_another_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_fake_collection(tmp_path / "photos")
    other = FakeEncoder(fingerprint="0" * 64)
    monkeypatch.setattr("service.server._load_encoder", lambda settings, generation: other)
    with pytest.raises(EncoderMismatch):
        serve(load_settings({"collection": tmp_path / "photos", "port": 0}), lambda engine, url: None)
