"""What goes wrong at the command line: one sentence with the fix, the documented exit code, nothing half-written."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from sightline.command.root import main
from tests.pictures import flat


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """The exit code and the last line on stderr of a command run in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    err = capsys.readouterr().err
    assert "Traceback" not in err
    code = ended.value.code
    return (code if isinstance(code, int) else 0), err


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "red.png").write_bytes(flat("red"))
    return folder


def test_a_missing_path_and_an_empty_folder(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path
) -> None:
    build = ("index", "build", "--encoder", tiny_bundle, "--out", tmp_path / "out", "--source")
    assert run(capsys, *build, tmp_path / "missing") == (
        2,
        f"error: There is nothing at {tmp_path}/missing; give a folder, a captions.jsonl, a CSV or Parquet table, or "
        "tars ({00000..00009} and globs work).\n",
    )
    (tmp_path / "empty").mkdir()
    code, said = run(capsys, *build, tmp_path / "empty")
    assert (code, "holds no pictures" in said) == (2, True)
    assert not (tmp_path / "out").exists()


def test_an_unknown_encoder(capsys: pytest.CaptureFixture[str], pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said = run(capsys, "index", "build", "--encoder", "ViT-B-31:random", "--source", pictures, "--out", out)
    assert (code, "did you mean ViT-B-32" in said) == (78, True)
    assert not out.exists()


def test_a_bundle_with_a_changed_byte(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    weights = copy / "open_clip_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-9] ^= 4
    weights.write_bytes(data)
    code, said = run(capsys, "index", "build", "--encoder", copy, "--source", pictures, "--out", tmp_path / "out")
    assert (code, "open_clip_model.safetensors has changed" in said) == (5, True)
    assert not (tmp_path / "out").exists()


def test_only_unreadable_pictures(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"words")
    code, said = run(capsys, "index", "build", "--encoder", tiny_bundle, "--source", folder, "--out", tmp_path / "out")
    assert (code, "None of the 1 inputs" in said) == (2, True)
    assert list((tmp_path / "out").iterdir()) == []


def test_too_many_bad_inputs_exit_3_and_keep_the_good_ones(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    for number in range(55):
        (folder / f"{number}-good.png").write_bytes(flat((number, 2 * number, 100)))
        (folder / f"{number}-bad.png").write_bytes(b"words")
    out = tmp_path / "out"
    code, said = run(capsys, "index", "build", "--encoder", tiny_bundle, "--source", folder, "--out", out)
    assert (code, "55 of 110" in said) == (3, True)
    with pytest.raises(SystemExit, match="0"):
        main(["index", "verify", str(out)])


def test_a_damaged_collection(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(capsys, "index", "build", "--encoder", tiny_bundle, "--source", pictures, "--out", out)
    vectors = out / "gen-000001" / "img_emb" / "img_emb_0.npy"
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.write_bytes(data)
    for command in (("index", "verify", out), ("serve", "--collection", out, "--port", "0")):
        code, said = run(capsys, *command)
        assert (code, "img_emb_0.npy has changed" in said) == (5, True)


def test_an_output_that_is_a_file(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("mine")
    code, said = run(
        capsys, "index", "build", "--encoder", tiny_bundle, "--source", pictures, "--out", tmp_path / "out"
    )
    assert (code, "Could not write" in said) == (4, True)
    assert (tmp_path / "out").read_text() == "mine"


def test_an_unknown_recipe_key(capsys: pytest.CaptureFixture[str], pictures: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "x"\nlerning_rate = 1\n')
    code, said = run(capsys, "train", recipe, "--data", pictures, "--out", tmp_path / "out")
    assert (code, "unknown key 'lerning_rate'" in said) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_misspelt_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SIGHTLINE_PROT", "9000")
    code, said = run(capsys, "serve", "--collection", tmp_path)
    assert (code, "did you mean SIGHTLINE_PORT?" in said) == (78, True)


def test_a_port_in_use(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = run(capsys, "serve", "--collection", tmp_path, "--port", str(port))
    assert code == 78
    assert str(port) in said
    assert "--port" in said


def test_no_collection_to_serve(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = run(capsys, "serve", "--collection", tmp_path / "none", "--port", "0")
    assert (code, "sightline index build" in said) == (2, True)


def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "index", "build", "--nonsense")[0] == 2
    assert run(capsys, "nonsense")[0] == 2


def test_errors_are_json_for_machines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["index", "verify", str(tmp_path), "--json"])
    out = capsys.readouterr().out
    assert out.startswith('{"error": {"code": "invalid_source", "message": ')
