"""The loop from pictures to answers through the command line and HTTP, on a tiny encoder."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from tests.e2e.running import command, serving
from tests.pictures import encoded, textured


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve captioned pictures and one that is broken."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        (folder / f"{number:02d}.jpg").write_bytes(encoded(textured((120, 90), number), "JPEG"))
        (folder / f"{number:02d}.txt").write_text(f"picture number {number}")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much more")
    return folder


@pytest.fixture(scope="module")
def collection(folder: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("collections") / "photos"
    built = command(
        "index",
        "build",
        "--encoder",
        tiny_bundle,
        "--source",
        folder,
        "--out",
        out,
        "--max-error-rate",
        "0.5",
        "--json",
    )
    assert built.code == 0, built.err
    assert built.json["counts"]["indexed"] == 12
    assert built.json["counts"]["failed"] == 1
    return out


def test_index_verify_and_inspect(collection: Path) -> None:
    assert command("index", "verify", collection, "--json").json["verified"] is True
    seen = command("index", "inspect", collection, "--json").json
    assert (seen["num_items"], seen["num_captions"], seen["generations"]) == (12, 12, ["gen-000001"])


def test_search_without_a_server_finds_the_picture_itself(collection: Path, folder: Path) -> None:
    found = command("search", "--collection", collection, "--image", folder / "07.jpg", "-k", "3", "--json")
    assert found.json["results"][0]["uri"] == "07.jpg"
    assert found.json["results"][0]["score"] == pytest.approx(1, abs=1e-3)
    texts = command("search", "--collection", collection, "picture number 4", "--captions", "-k", "1", "--json")
    assert texts.json["results"][0]["caption"] == "picture number 4"


def test_the_service_answers_like_the_library(collection: Path, folder: Path) -> None:
    picture = (folder / "05.jpg").read_bytes()
    with serving(collection) as url, httpx.Client(base_url=url, timeout=30) as client:
        assert client.get("/readyz").status_code == 200
        raw = client.post("/v1/image-to-image?k=2", content=picture, headers={"content-type": "image/jpeg"}).json()
        form = client.post("/v1/image-to-image", files={"image": picture}, data={"k": "2"}).json()
        body = {"image": base64.b64encode(picture).decode(), "k": 2}
        coded = client.post("/v1/image-to-image", json=body).json()
        assert raw["results"] == form["results"] == coded["results"]
        assert raw["results"][0]["uri"] == "05.jpg"
        assert raw["generation"] == "gen-000001"

        words = client.post("/v1/text-to-image", json={"text": "picture number 3", "k": 5}).json()
        offline = command("search", "--collection", collection, "picture number 3", "-k", "5", "--json").json
        assert [r["id"] for r in words["results"]] == [r["id"] for r in offline["results"]]
        thumbnail = client.get(words["results"][0]["thumbnail"])
        assert Image.open(io.BytesIO(thumbnail.content)).format == "WEBP"

        named = client.post("/v1/zero-shot", files={"image": picture}, data={"labels": ["cat", "dog"]}).json()
        assert sum(result["probability"] for result in named["results"]) == pytest.approx(1, abs=1e-5)

        vectors = openai.OpenAI(base_url=f"{url}/v1", api_key="none").embeddings.create(
            model=client.get("/v1/models").json()["data"][0]["id"], input=["picture number 3", "a dog"]
        )
        assert np.linalg.norm([item.embedding for item in vectors.data], axis=1) == pytest.approx(1, abs=1e-5)
        assert "sightline_" in client.get("/metrics").text
        assert "<title>" in client.get("/").text


def test_a_collection_of_another_encoder_is_refused(collection: Path, tmp_path: Path) -> None:
    other = command("serve", "--collection", collection, "--encoder", "RN50:random", "--port", "0")
    assert other.code == 78
    assert "tiny" in other.err
    assert "Traceback" not in other.err
