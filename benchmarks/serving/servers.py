"""Starting a server for a measurement, alone on the machine, and ending it again with everything it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.settings import Settings

START_TIMEOUT_SECONDS = 240.0
_STOP_TIMEOUT_SECONDS = 30.0
_WITHOUT_CACHE = {"cache_bytes": "0"}
"""Settings that keep the service from answering out of its memory; those that this version lacks are left out."""


class ServerFailed(Exception):
    """A server did not start; the text has the end of its log."""


def end_servers_on_sigterm() -> None:
    """Make SIGTERM unwind this process, so that it ends the server it has started; by default it would leave it."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


@dataclass(frozen=True)
class Server:
    """A server that answers. ``pid`` is the leader of its process group."""

    host: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@contextlib.contextmanager
def sightline_server(
    collection: Path, log: Path, *, device: str = "auto", precision: str = "auto", encoder: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Server]:  # fmt: skip
    """``sightline serve`` on a free port with its vector cache off."""
    given = {**_WITHOUT_CACHE, "drain_delay_seconds": "0", **(settings or {})}
    known = [f"{name}={value}" for name, value in given.items() if name in Settings.model_fields]
    command = [
        sys.executable, "-m", "sightline", "serve", "--collection", str(collection), "--port", str(port := free_port()),
        "--device", device, "--precision", precision, "--json",
        *(["--encoder", encoder] if encoder else []),
        *(part for pair in known for part in ("--set", pair)),
    ]  # fmt: skip
    with running(command, port, "/readyz", log, _clean_environment()) as server:
        yield server


@contextlib.contextmanager
def running(
    command: Sequence[str], port: int, ready_path: str, log: Path, environment: Mapping[str, str]
) -> Iterator[Server]:
    """Run a command in its own process group until it answers ``ready_path`` with 200; end the group afterwards.

    Raises ServerFailed when it ends before or takes longer than ``START_TIMEOUT_SECONDS``.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command), stdout=output, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}{ready_path}"
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise ServerFailed(f"{command[0]} did not become ready at {url}; its log {log} ends:\n{tail}")
            time.sleep(0.25)
        yield Server("127.0.0.1", port, process.pid)
    finally:
        _end(process)


def build_collection(encoder: str, source: Path, out: Path, device: str, log: Path) -> None:
    """``sightline index build``, unless the collection is there. Raises ServerFailed."""
    if (out / "CURRENT").exists():
        return
    command = [
        sys.executable, "-m", "sightline", "index", "build", "--encoder", encoder, "--source", str(source),
        "--out", str(out), "--device", device, "--json",
    ]  # fmt: skip
    with log.open("wb") as output:
        code = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, env=_clean_environment(), check=False
        ).returncode
    if code:
        raise ServerFailed(f"sightline index build ended with {code}; see {log}.")


def fetch_json(url: str) -> dict[str, object]:
    """A GET that must be answered with a JSON object."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        parsed: dict[str, object] = json.load(answer)
    return parsed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the leader, which drains; then SIGKILL to what is left of its group."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
