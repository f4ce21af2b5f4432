from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sightline.errors import SourceError
from sightline.images import PixelSpec
from sightline.sources import Record, open_source
from tests.pictures import flat
from tests.sightline.test_sources import read
from training.data import read_captioned, split_source

PNG, BLUE = flat("red"), flat("blue")


def pictures(root: Path) -> Path:
    (root / "p").mkdir()
    (root / "p" / "red.png").write_bytes(PNG)
    (root / "p" / "blue.png").write_bytes(BLUE)
    return root


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("column", ["image", "image_path", "path", "file", "FILE_NAME"])
def test_a_csv_of_paths(delimiter: str, column: str, tmp_path: Path) -> None:
    rows = [[column, "caption", "year", "code", "tags", ""], ["p/red.png", "a red one", "2024", "007", '"[""a""]"']]
    rows.append(["p/blue.png", "", "1.5", "", "", "x"])
    text = "\r\n".join(delimiter.join(row) for row in rows)
    (pictures(tmp_path) / "t.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    records, rejected = read(tmp_path / "t.csv")
    assert not rejected
    assert [(r.uri, r.image, r.captions, r.metadata) for r in records] == [
        ("p/red.png", PNG, ("a red one",), {"year": 2024, "code": "007", "tags": ["a"]}),
        ("p/blue.png", BLUE, (), {"year": 1.5}),
    ]


def test_captions_of_a_csv_may_be_lists(tmp_path: Path) -> None:
    cell = json.dumps(["one", "two", "one"]).replace('"', '""')
    (pictures(tmp_path) / "t.csv").write_text(f'file,captions,text\np/red.png,"{cell}",three\np/red.png,[sic],\n')
    assert [r.captions for r in read(tmp_path / "t.csv")[0]] == [("one", "two", "three"), ("[sic]",)]


def test_bad_rows_of_a_csv_are_rejected_one_by_one(tmp_path: Path) -> None:
    lines = [
        b"image,caption", b"p/red.png,good", b"p/gone.png,x", b"../out.png,x", b"/etc/passwd,x", b"p/red.png,a,b",
        b"p/red.png,a\0b", b"p/red.png,\xff\xfe", b",no name", b"http://a/b.png,x", b"pipe:cat x,x", b"p,folder",
        b"p/red.png," + b"y" * 200_000, b"p/red.png," + b"z" * 2_000_000, b"p/blue.png,good", b'p/red.png,"never ends',
        b"p/red.png,swallowed by the quote",
    ]  # fmt: skip
    (pictures(tmp_path) / "t.csv").write_bytes(b"\n".join(lines))
    records, rejected = read(tmp_path / "t.csv")
    assert [record.uri for record in records] == ["p/red.png", "p/blue.png"]
    assert rejected == {
        "p/gone.png": "missing_file", "t.csv:4": "path_outside", "t.csv:5": "path_outside", "t.csv:6": "bad_line",
        "t.csv:7": "bad_line", "t.csv:8": "bad_line", "t.csv:9": "no_image", "t.csv:10": "address",
        "t.csv:11": "address", "p": "not_a_file", "t.csv:13": "bad_line", "t.csv:14": "bad_line",
        "t.csv:17": "bad_line",
    }  # fmt: skip
    assert open_source(str(tmp_path / "t.csv")).num_inputs == len(records) + len(rejected)


@pytest.mark.parametrize(
    "content",
    [b"", b"a,b\n1,2\n", "image,caption\n".encode("utf-16"), b"\xff\xfeimage", b"x" * 2_000_000, b"embedding,id\n1,2"],
)
def test_a_csv_without_a_usable_header_is_refused_in_a_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(SourceError, match=r"columns|UTF-8") as caught:
        open_source(str(tmp_path / "t.csv"))
    assert len(caught.value.message) < 400


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_parquet_of_paths_bytes_and_hugging_face_structs(tmp_path: Path) -> None:
    pictures(tmp_path)
    structs = [{"bytes": PNG, "path": "r.png"}, {"bytes": None, "path": "p/blue.png"}, None]
    when = pa.array([1, 2, None], pa.timestamp("ns"))
    write(tmp_path / "a.parquet", {"image": structs, "captions": [["a", "b"], [], None], "when": when})
    write(tmp_path / "b.parquet", {"file": ["p/red.png", "../x.png", None], "text": ["a", None, "c"], "n": [1, 2, 3]})
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(8, np.float32)), 4)
    write(tmp_path / "c.parquet", {"image": [PNG, b""], "embedding": vectors, "raw": [b"x", b"y"], "f": [1.5, np.nan]})
    records, rejected = read(f"{tmp_path}/*.parquet")
    assert [(r.uri, r.image, r.captions, r.metadata) for r in records] == [
        ("a.parquet:1", PNG, ("a", "b"), {"path": "r.png", "when": "1970-01-01T00:00:00"}),
        ("p/blue.png", BLUE, (), {"when": "1970-01-01T00:00:00"}),
        ("p/red.png", PNG, ("a",), {"n": 1}),
        ("c.parquet:1", PNG, (), {"f": 1.5}),
        ("c.parquet:2", b"", (), {}),
    ]
    assert rejected == {"a.parquet:3": "no_image", "b.parquet:2": "path_outside", "b.parquet:3": "no_image"}


def test_metadata_of_parquet_is_what_json_can_hold(tmp_path: Path) -> None:
    columns = {
        "image": [PNG], "day": [datetime.date(2024, 1, 2)], "nested": [{"a": [1, None], "b": "x"}],
        "kind": pa.array(["cat"]).dictionary_encode(), "took": [datetime.timedelta(1)], "floats": [[0.5]],
    }  # fmt: skip
    write(tmp_path / "t.parquet", columns)
    records, _ = read(tmp_path / "t.parquet")
    assert records[0].metadata == {"day": "2024-01-02", "nested": {"a": [1, None], "b": "x"}, "kind": "cat"}
    json.dumps(records[0].metadata)


def test_a_broken_row_group_is_counted_row_by_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.bytes(5000) for _ in range(40)]
    path = write(tmp_path / "t.parquet", {"image": noise}, row_group_size=20, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    second = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data[second : second + 4000] = bytes(4000)
    path.write_bytes(data)
    source = open_source(str(path))
    whole = list(source)
    assert [isinstance(entry, Record) for entry in whole] == [True] * 20 + [False] * 20
    assert {entry.reason for entry in whole[20:] if not isinstance(entry, Record)} == {"broken_table"}
    assert list(source.read(15, 25)) == whole[15:25]


@pytest.mark.parametrize("damage", ["cut", "footer", "empty", "text", "no_rows", "no_column", "numbers"])
def test_a_parquet_that_is_none_is_refused_in_a_sentence(damage: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"image": [PNG] * 5})
    data = path.read_bytes()
    if damage in ("no_rows", "no_column", "numbers"):
        columns = {"no_rows": {"image": pa.array([], pa.binary())}, "no_column": {"picture": [PNG]}}
        write(path, columns.get(damage, {"image": [1, 2]}))
    else:
        changed = data[:-8] + b"\xff\xff\xff\x7f" + data[-4:]
        path.write_bytes({"cut": data[:-20], "footer": changed, "empty": b"", "text": b"image\nx"}[damage])
    with pytest.raises(SourceError, match=r"\.$"):
        open_source(str(path))


def test_a_split_of_tables_is_found(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00002.parquet", {"image": [PNG], "text": ["one"]})
    write(tmp_path / "train-00001-of-00002.parquet", {"image": [BLUE], "text": ["two"]})
    (tmp_path / "dev.csv").write_text("image,text\n")
    assert [record.captions for record in read(split_source(str(tmp_path), "train"))[0]] == [("one",), ("two",)]
    assert split_source(str(tmp_path), "dev", required=True) == str(tmp_path / "dev.csv")


def test_tables_train_too(tmp_path: Path) -> None:
    captions = ["a red one", "a blue one"] * 3
    write(tmp_path / "t.parquet", {"image": [PNG, BLUE] * 3, "caption": captions, "n": list(range(6))})
    data = read_captioned(str(tmp_path / "t.parquet"), PixelSpec(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    assert [several[0] for several in data.captions] == captions
    assert [entry["n"] for entry in data.metadata] == list(range(6))
