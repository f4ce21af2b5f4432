"""Other tools read our files as they are, and what they write comes back.

``make test-interchange`` installs them into an environment of their own; SIGHTLINE_INTERCHANGE_PYTHON is its Python.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.exporting import export_parquet
from sightline.collection import Generation, verify_collection
from tests.fakes import COLOURS, DIM, build_fake_collection
from tests.indexer.test_exchange import bring_in, same

PYTHON = os.environ.get("SIGHTLINE_INTERCHANGE_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="run make test-interchange: it installs autofaiss, datasets, …")


@pytest.fixture
def ours(tmp_path: Path) -> Generation:
    return build_fake_collection(tmp_path / "ours", [*COLOURS] * 20, captions_per_item=2, thumbnails=False)


def run(code: str, folder: Path, *arguments: object) -> Any:
    """What a script in the other environment prints as its last line, as JSON."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
    }
    done = subprocess.run(
        [PYTHON, "-c", code, *map(str, arguments)], env=environment, cwd=folder, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


AUTOFAISS = """
import json, sys, faiss, numpy as np
from autofaiss import build_index
folder, first = sys.argv[1], np.load(sys.argv[2])[:5].astype("float32")
build_index(folder, index_path="knn.index", index_infos_path="infos.json", max_index_memory_usage="1G",
            current_memory_available="4G", file_format=sys.argv[3], metric_type="ip", verbose=50, nb_cores=1)
index = faiss.read_index("knn.index")
scores, rows = index.search(first, 3)
print(json.dumps({"rows": index.ntotal, "dim": index.d, "scores": scores[:, 0].tolist()}))
"""


def test_autofaiss_builds_an_index_from_our_shards(ours: Generation, tmp_path: Path) -> None:
    first = ours.directory / "img_emb" / "img_emb_0.npy"
    found = run(AUTOFAISS, tmp_path, ours.directory / "img_emb", first, "npy")
    assert (found["rows"], found["dim"]) == (ours.num_items, DIM)
    assert found["scores"] == pytest.approx([1.0] * 5, abs=2e-3)


def test_autofaiss_builds_an_index_from_our_export(ours: Generation, tmp_path: Path) -> None:
    export_parquet(tmp_path / "ours", tmp_path / "parquet")
    found = run(AUTOFAISS, tmp_path, tmp_path / "parquet", ours.directory / "img_emb" / "img_emb_0.npy", "parquet")
    assert (found["rows"], found["dim"]) == (ours.num_items, DIM)
    assert found["scores"] == pytest.approx([1.0] * 5, abs=2e-3)


EMBEDDING_READER = """
import json, os, sys, numpy as np, pandas as pd
from embedding_reader import EmbeddingReader
root = sys.argv[1]
reader = EmbeddingReader(root + "/img_emb", file_format="parquet_npy", metadata_folder=root + "/metadata",
                         meta_columns=["item_id", "image_path", "sha256", "width_px", "height_px", "metadata"])
vectors, tables = zip(*reader(batch_size=50))
os.makedirs("back/img_emb"); os.makedirs("back/metadata")
for number, (block, table) in enumerate(zip(vectors, tables)):
    np.save(f"back/img_emb/img_emb_{number}.npy", block)
    table.to_parquet(f"back/metadata/metadata_{number}.parquet")
print(json.dumps({"rows": int(reader.count), "dim": int(reader.dimension)}))
"""


def test_embedding_reader_reads_our_shards_and_what_it_gives_comes_back(ours: Generation, tmp_path: Path) -> None:
    found = run(EMBEDDING_READER, tmp_path, ours.directory)
    assert found == {"rows": ours.num_items, "dim": DIM}
    bring_in(tmp_path / "back", tmp_path / "again")
    again = verify_collection(tmp_path / "again")
    np.testing.assert_array_equal(again.image_vectors(), ours.image_vectors())
    rows = range(ours.num_items)
    assert [again.item(row).uri for row in rows] == [ours.item(row).uri for row in rows]
    assert [again.item(row).item_id for row in rows] == [ours.item(row).item_id for row in rows]


DATASETS = """
import json, sys
from datasets import load_dataset
metadata = load_dataset("parquet", data_files=sys.argv[1] + "/metadata/*.parquet", split="train")
export = load_dataset("parquet", data_files=sys.argv[2] + "/*.parquet", split="train")
export.to_parquet("back.parquet")
print(json.dumps({"uris": metadata["image_path"][:3], "rows": export.num_rows,
                  "dim": export.with_format("numpy")[0]["embedding"].shape[0], "captions": export[0]["captions"]}))
"""

PANDAS = """
import json, sys, pandas as pd
metadata = pd.read_parquet(sys.argv[1] + "/metadata")
export = pd.read_parquet(sys.argv[2])
export.to_parquet("back.parquet")
print(json.dumps({"uris": metadata["image_path"].tolist()[:3], "rows": len(export),
                  "dim": len(export["embedding"][0]), "captions": list(export["captions"][0])}))
"""


@pytest.mark.parametrize("code", [DATASETS, PANDAS], ids=["datasets", "pandas"])
def test_tables_are_read_and_what_is_written_of_them_comes_back(code: str, ours: Generation, tmp_path: Path) -> None:
    export_parquet(tmp_path / "ours", tmp_path / "parquet")
    found = run(code, tmp_path, ours.directory, tmp_path / "parquet")
    assert found == {
        "uris": [ours.item(row).uri for row in range(3)], "rows": ours.num_items, "dim": DIM,
        "captions": list(ours.item(0).captions),
    }  # fmt: skip
    bring_in(tmp_path / "back.parquet", tmp_path / "again")
    assert same(ours, verify_collection(tmp_path / "again"))
