"""The doctor says what is there, and for everything that is not right what to do."""

from __future__ import annotations

import json
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.command import collection_findings, machine_findings
from sightline.command.doctor import examine
from sightline.command.root import main
from tests.e2e.running import command
from tests.pictures import encoded, textured


@pytest.fixture(scope="module")
def collection(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    (folder / "pictures").mkdir()
    for number in range(3):
        (folder / "pictures" / f"{number}.jpg").write_bytes(encoded(textured((60, 40), number), "JPEG"))
    source, out = folder / "pictures", folder / "photos"
    built = command("index", "build", "--encoder", tiny_bundle, "--source", source, "--out", out, "--json")
    assert built.code == 0, built.err
    return out


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_this_machine_has_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    main_ended(["doctor", "--port", "65432", "--json"], 0)
    answer = json.loads(capsys.readouterr().out)
    assert answer["healthy"]
    assert [one["about"] for one in answer["findings"]] == [
        "python", "torch", "cores", "arithmetic", "faiss", "extras", "memory", "decoding", "files", "environment",
        "port",
    ]  # fmt: skip
    for one in answer["findings"]:
        assert bool(one["fix"]) == (one["level"] != "ok")
    figures = {one["about"]: one["facts"] for one in answer["findings"]}
    assert figures["decoding"]["photos_per_second"] > 0
    assert figures["faiss"]["distribution"].startswith("faiss-")


def main_ended(arguments: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == code


def test_people_get_a_table_with_fixes(capsys: pytest.CaptureFixture[str], taken_port: int, tmp_path: Path) -> None:
    main_ended(["doctor", "--port", str(taken_port), "--collection", str(tmp_path / "nothing")], 2)
    out = capsys.readouterr().out
    assert f"port         127.0.0.1:{taken_port} is in use." in out
    assert "→ Take another one (sightline serve --port 8001)" in out
    assert "1 thing is wrong;" in out


def test_warnings_alone_end_with_0_unless_strict(taken_port: int) -> None:
    main_ended(["doctor", "--port", str(taken_port)], 0)
    main_ended(["doctor", "--port", str(taken_port), "--strict"], 1)


def test_a_sound_collection_and_its_encoder(collection: Path, tiny_bundle: Path) -> None:
    found = {one.about: one for one in examine(collection, None, "127.0.0.1", 65432)}
    assert found["collection"].facts == {"generation": "gen-000001", "num_items": 3, "num_captions": 0}
    assert "every file as its manifest says" in found["encoder"].says
    assert found["room"].facts["needed_bytes"] > 0
    assert {one.level for one in found.values()} <= {"ok", "warning"}


def test_a_damaged_collection_has_the_code_of_damage(collection: Path, tmp_path: Path) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(collection, copy)
    vectors = copy / "gen-000001" / "img_emb" / "img_emb_0.npy"
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"?")
    done = command("doctor", "--collection", copy, "--json")
    assert done.code == 5, done.err
    (fault,) = [one for one in done.json["findings"] if one["level"] == "wrong"]
    assert (fault["about"], fault["facts"]["code"]) == ("collection", "file_changed")
    assert "img_emb_0.npy" in fault["says"]
    assert fault["fix"]


def test_another_encoder_than_the_collections(collection: Path, tiny_bundle: Path) -> None:
    (mismatch,) = collection_findings.encoder_findings(str(tiny_bundle), "0" * 64)
    assert (mismatch.level, mismatch.exit_code) == ("wrong", 78)


@pytest.mark.parametrize(
    ("spec", "level", "code"),
    [("ViT-B-32:laion2b", "warning", 0), ("ViT-B-32:random", "warning", 0), ("nothing", "wrong", 78)],
)
def test_encoders_that_are_no_bundles(spec: str, level: str, code: int) -> None:
    (found,) = collection_findings.encoder_findings(spec, None)
    assert (found.level, found.exit_code) == (level, code)


def test_a_damaged_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    weights = next(copy.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (found,) = collection_findings.encoder_findings(str(copy), None)
    assert (found.level, found.exit_code) == ("wrong", 5)


def test_no_room_for_a_collection() -> None:
    assert collection_findings._memory(100, 50).exit_code == 4
    assert collection_findings._memory(100, 150).level == "warning"
    assert collection_findings._memory(100, 250).level == "ok"
    assert collection_findings._memory(100, None).level == "ok"


def test_a_disk_without_room_for_another_generation(tmp_path: Path) -> None:
    assert collection_findings.disk(tmp_path, 0).level == "ok"
    assert collection_findings.disk(tmp_path, 2**70).level == "warning"


def test_interpreters() -> None:
    assert machine_findings.python((3, 11, 2), is_64_bit=True).level == "ok"
    assert machine_findings.python((3, 15, 0), is_64_bit=True).level == "warning"
    assert machine_findings.python((3, 12, 0), is_64_bit=False).level == "wrong"


def test_an_idle_gpu_is_told(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine's GPU is used")
    assert machine_findings.torch(tmp_path / "none").level == "ok"
    (tmp_path / "version").touch()
    assert machine_findings.torch(tmp_path / "version").level == "warning"


def test_cores_that_are_not_used_or_not_there(tmp_path: Path) -> None:
    assert machine_findings.threads({}, 8, tmp_path).level == "ok"
    assert machine_findings.threads({"OMP_NUM_THREADS": "1"}, 8, tmp_path).level == "warning"
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("200000 100000\n")
    limited = machine_findings.threads({}, 8, tmp_path)
    assert (limited.level, limited.facts["quota_cores"]) == ("warning", 2.0)
    assert machine_findings.threads({"OMP_NUM_THREADS": "2"}, 8, tmp_path).level == "ok"
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    assert machine_findings.threads({}, 8, tmp_path).level == "ok"


def test_faiss_missing_twice_or_of_the_wrong_kind() -> None:
    assert machine_findings.faiss(False, []).level == "wrong"
    both = machine_findings.faiss(False, ["faiss-cpu", "faiss-gpu"])
    assert (both.level, both.exit_code) == ("wrong", 78)
    assert "pip uninstall faiss-cpu faiss-gpu" in both.fix
    assert machine_findings.faiss(False).level == "ok"


def test_search_that_gives_wrong_rows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.index import VectorIndex

    right = VectorIndex.search
    monkeypatch.setattr(VectorIndex, "search", lambda self, queries, k, allowed=None: right(self, queries, k))
    found = machine_findings.faiss(False)
    assert (found.level, "filter" in found.says) == ("wrong", True)


def test_arithmetic_of_old_and_new_cpus(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("flags : avx2 avx512f avx512_bf16 amx_bf16 amx_int8\n")
    (tmp_path / "old").write_text("flags : sse2 avx2\n")
    assert machine_findings.arithmetic(tmp_path / "new").facts["bf16"] is True
    old = machine_findings.arithmetic(tmp_path / "old")
    assert (old.level, old.facts["units"]) == ("warning", ["avx2"])
    assert machine_findings.arithmetic(tmp_path / "none").level == "warning"


def test_little_memory(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 1000000 kB\n")
    assert machine_findings.memory(tmp_path).level == "warning"
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 16000000 kB\n")
    assert machine_findings.memory(tmp_path).level == "ok"


def test_slow_decoding() -> None:
    assert machine_findings.decoding(slow=0).level == "ok"
    assert machine_findings.decoding(slow=1e9).level == "warning"


def test_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 524288))
    assert "ulimit -n" in machine_findings.files().fix
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (65536, 524288))
    assert machine_findings.files().level == "ok"


def test_addresses_that_are_not_ours() -> None:
    assert machine_findings.port("192.0.2.1", 8000).level == "wrong"
    assert machine_findings.port("no-such-host.invalid", 8000).level == "wrong"


def test_what_kubernetes_puts_into_the_environment() -> None:
    assert machine_findings.environment({"SIGHTLINE_DEVICE": "cpu", "PATH": "/bin"}).says == "SIGHTLINE_DEVICE"
    links = {"SIGHTLINE_PORT": "tcp://10.0.0.1:8000", "SIGHTLINE_SERVICE_HOST": "10.0.0.1"}
    found = machine_findings.environment(links)
    assert (found.level, "enableServiceLinks" in found.fix) == ("wrong", True)
