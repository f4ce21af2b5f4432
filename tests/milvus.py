"""A Milvus in this process for tests: Milvus Lite, in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sightline.collection import Generation
from sightline.milvus import Address, MilvusGeneration, open_version
from sightline.milvus.client import MilvusServer
from sightline.milvus.pushing import push


def lite(folder: Path, name: str = "photos") -> MilvusServer:
    """A server; the test is skipped where Milvus Lite is not installed."""
    pytest.importorskip("pymilvus", reason="pymilvus is not installed (pip install 'sightline[milvus]')")
    pytest.importorskip("milvus_lite", reason="Milvus Lite is not installed (pip install milvus-lite)")
    return MilvusServer(Address(str(folder / "lite.db"), name))


def pushed(generation: Generation, folder: Path, **options: Any) -> MilvusGeneration:
    """The generation in a Milvus of its own."""
    server = lite(folder, generation.name)
    push(generation, server, **options)
    return open_version(server)
