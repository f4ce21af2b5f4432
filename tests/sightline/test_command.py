from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.command.console import Console
from sightline.command.demo import _Steps
from sightline.command.root import build_app
from sightline.errors import StorageError


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys; from sightline.command.root import build_app; build_app();"
        "heavy = {'torch', 'open_clip', 'faiss', 'fastapi', 'transformers'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["-m", "sightline"], [str(Path(sys.executable).with_name("sightline"))]])
def test_the_module_and_the_installed_script_are_the_command(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *words, "index", "inspect", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "is not a collection" in done.stderr) == (2, True), done.stderr


def test_every_package_adds_its_commands() -> None:
    names = {command.name for command in build_app().registered_commands} | {
        group.name for group in build_app().registered_groups
    }
    assert {"demo", "encoder", "search", "index", "serve", "config", "train", "evaluate", "world"} <= names


def test_a_package_left_out_only_takes_its_commands_along(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "training"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "training", None)
    names = {command.name for command in build_app().registered_commands}
    assert "train" not in names
    assert "serve" in names


def test_results_go_to_stdout_and_words_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        console = Console(as_json=as_json)
        console.say("working …")
        console.warn("look out")
        with console.progress("counting", 3) as advance:
            advance(3)
        console.result({"answer": 42, "[red]": "é"}, "The answer is 42 [red].")
        out, err = capsys.readouterr()
        assert "working …" in err
        assert "warning: look out" in err
        assert (json.loads(out) == {"answer": 42, "[red]": "é"}) if as_json else (out == "The answer is 42 [red].\n")


def test_the_demo_remembers_finished_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[list[str]] = []

    def run(arguments: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        runs.append(arguments)
        return subprocess.CompletedProcess(arguments, 0, stdout=b'{"value": 1}')

    monkeypatch.setattr("sightline.command.demo.subprocess.run", run)
    for _ in range(2):
        assert _Steps(tmp_path, Console()).run("draw", "world", "draw") == {"value": 1}
    assert len(runs) == 1
    assert runs[0][1:] == ["-m", "sightline", "world", "draw", "--json"]
    with pytest.raises(StorageError, match="other options"):
        _Steps(tmp_path, Console()).run("draw", "world", "draw", "--seed", "1")


def test_a_step_that_fails_ends_the_demo_with_its_code(tmp_path: Path) -> None:
    steps = _Steps(tmp_path, Console())
    with pytest.raises(SystemExit) as ended:
        steps.run("index", "index", "verify", str(tmp_path / "nothing"))
    assert ended.value.code == 2
    assert list((tmp_path / "steps").iterdir()) == []


def test_the_demo_with_half_of_an_own_collection_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    from sightline.command.root import main

    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--encoder", "ViT-B-32:random"])
    assert "--encoder and --source go together" in capsys.readouterr().err


def test_output_is_plain_where_it_is_not_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    Console().result({}, "plain")
    assert stream.getvalue() == "plain\n"
