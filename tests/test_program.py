"""A forked command is a process like any other."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.fakes import build_fake_collection
from tests.program import program


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **variables}
    return subprocess.run([program(), *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_it_has_its_own_folder_environment_streams_and_exit_code(tmp_path: Path) -> None:
    build_fake_collection(tmp_path / "photos")
    good, bad = run(tmp_path, "index", "verify", "photos"), run(tmp_path, "index", "verify", "nothing")
    assert (good.returncode, good.stdout.split()[:2], good.stderr) == (0, ["photos", "gen-000001"], "")
    assert (bad.returncode, bad.stdout, "nothing is not a collection" in bad.stderr) == (2, "", True)
    wrong = run(tmp_path, "config", SIGHTLINE_PROT="9000")
    assert (wrong.returncode, "SIGHTLINE_PORT" in wrong.stderr) == (78, True)
    assert run(tmp_path, "config").returncode == 0, "what one was given is gone for the next"


def test_a_signal_ends_it_and_it_ends_with_what_stands_in_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "settings.toml")  # who opens it to read waits for a writer
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen([program(), "config", "--settings", tmp_path / "settings.toml"])
        writer = os.open(tmp_path / "settings.toml", os.O_WRONLY)  # returns when the command reads
        process.send_signal(number)
        assert process.wait(60) == -number
        deadline = time.monotonic() + 60
        while _is_read(writer):
            assert time.monotonic() < deadline, "the command outlived its stand-in"
            time.sleep(0.01)
        os.close(writer)


def _is_read(writer: int) -> bool:
    try:
        os.write(writer, b"#")
    except BrokenPipeError:
        return False
    return True
