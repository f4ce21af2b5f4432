"""``sightline index push`` and ``rollback`` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sightline.command.root import main
from tests.fakes import build_fake_collection

pytest.importorskip("milvus_lite", reason="Milvus Lite is not installed (pip install milvus-lite)")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json"])
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


def test_push_twice_and_roll_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, to = tmp_path / "my photos", tmp_path / "lite.db"
    build_fake_collection(photos, ["red"])
    code, first = run(capsys, "index", "push", "--collection", photos, "--to", to)
    assert (code, first["version"], first["num_items"]) == (0, "my_photos_v000001", 1)
    build_fake_collection(photos, ["red", "green"])
    _, second = run(
        capsys, "index", "push", "--collection", photos, "--to", f"milvus:{to}/my_photos", "--no-thumbnails"
    )
    assert (second["before"], second["version"]) == ("my_photos_v000001", "my_photos_v000002")
    code, told = run(capsys, "index", "rollback", "--to", to, "--name", "my_photos")
    assert (code, told["now"]) == (0, "my_photos_v000001")


@pytest.mark.parametrize(
    ("options", "code", "kind"),
    [
        (["--to", "nowhere"], 78, "invalid_setting"),
        (["--to", "{}/no/such/folder/lite.db"], 1, "milvus_unreachable"),
        (["--to", "{}/lite.db", "--index", "GPU_CAGRA"], 2, "invalid_query"),
        (["--to", "{}/lite.db", "--token-file", "{}/none"], 78, "invalid_setting"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, kind: str
) -> None:
    build_fake_collection(tmp_path / "photos", ["red"])
    told = run(capsys, "index", "push", "--collection", tmp_path / "photos", *(one.format(tmp_path) for one in options))
    assert (told[0], told[1]["error"]["code"]) == (code, kind)
