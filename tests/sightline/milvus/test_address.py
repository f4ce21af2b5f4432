"""Addresses, and what each kind of server is trusted with."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.errors import QueryError, SettingError
from sightline.milvus.address import is_address, name_for, parse_address
from sightline.milvus.capabilities import LITE, MILVUS_2_4, MILVUS_2_6, choose, kind_of


@pytest.mark.parametrize(
    ("text", "uri", "name"),
    [
        ("milvus://host:1234/photos", "http://host:1234", "photos"),
        ("milvus://host/photos", "http://host:19530", "photos"),
        ("milvus+https://host:443/photos", "https://host:443", "photos"),
        ("milvus://[::1]:19530/photos", "http://[::1]:19530", "photos"),
        ("milvus:/data/file.db/photos", "/data/file.db", "photos"),
        ("milvus:///data/file.db/photos", "/data/file.db", "photos"),
        ("milvus:file.db/photos", "file.db", "photos"),
    ],
)
def test_addresses(text: str, uri: str, name: str) -> None:
    address = parse_address(text)
    assert is_address(text)
    assert (address.uri, address.name) == (uri, name)
    assert parse_address(str(address)) == address


def test_a_name_may_be_given_beside() -> None:
    assert parse_address("http://host:19530", "photos").name == "photos"
    assert parse_address("file.db", "photos").uri == "file.db"
    assert not is_address("photos")
    assert name_for(Path("/data/my photos-2")) == "my_photos_2"
    assert name_for(Path("/data/2024")) == "c_2024"


@pytest.mark.parametrize(
    "text",
    [
        "milvus://host:19530", "milvus://host:19530/", "milvus://user:secret@host/photos", "milvus://host:99999/photos",
        "milvus:photos", "milvus://host/pho-tos", "milvus://host/photos_before", "milvus://host/photos_v000001",
        "milvus://host/a/b", "milvus://host/photos?token=x", "photos", "", "ftp://host/photos", "milvus://host/x\"y",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SettingError):
        parse_address(text)


def test_kinds_of_servers() -> None:
    assert kind_of("milvus_lite-3.2.2") is LITE
    assert kind_of("v2.4.15") is MILVUS_2_4
    assert kind_of("2.6.0") is MILVUS_2_6
    assert kind_of("v3.0.1") is MILVUS_2_6
    for version in ("v2.3.9", "", "master"):
        with pytest.raises(QueryError):
            kind_of(version)


@pytest.mark.parametrize(
    ("kind", "rows", "index_type"),
    [
        (LITE, 10**6, "FLAT"), (MILVUS_2_4, 1000, "FLAT"), (MILVUS_2_4, 10**6, "IVF_SQ8"),
        (MILVUS_2_4, 10**8, "DISKANN"), (MILVUS_2_6, 10**9, "IVF_RABITQ"), (MILVUS_2_6, 0, "FLAT"),
    ],
)  # fmt: skip
def test_plans_by_count(kind: object, rows: int, index_type: str) -> None:
    plan = choose(kind, rows)  # type: ignore[arg-type]
    assert plan.index_type == index_type
    assert (plan.vector_type == "FLOAT16_VECTOR") == (not plan.exact), "an exact index is asked in full precision"
    assert plan.build.get("nlist", 1) in range(1, 65_537)
