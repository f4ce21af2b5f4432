"""Two processes behind a real nginx are replaced one by one while searches come in, and no search notices."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt install nginx-light)"),
]
RATE = 50
"""Requests a second."""

_CONFIG = """
worker_processes 1;
daemon off;
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  upstream sightline {{
{servers}
    keepalive 8;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://sightline;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_next_upstream off;  # a request that fails is not hidden by asking another process
    }}
  }}
}}
"""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """``sightline serve`` on a free port."""

    def __init__(self, collection: Path, log: Path) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sightline", "serve", "--collection", str(collection), "--port", "0", "--json",
                 "--set", "drain_delay_seconds=2", "--set", "log_level=warning"],
                stdout=subprocess.PIPE, stderr=errors, text=True, env=clean,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, log.read_text()
        self.url: str = json.loads(line)["url"]
        self.address = urlsplit(self.url).netloc

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Balancer:
    """nginx, and who tells it which processes are ready, as an endpoints controller does: four times a second."""

    def __init__(self, home: Path, members: list[Served]) -> None:
        self.members = members
        self.reloads = 0
        self._home = home
        self._port = free_port()
        self._listed: list[str] = []
        self._end = threading.Event()
        self.url = f"http://127.0.0.1:{self._port}"
        self._write([one.address for one in members])
        assert NGINX is not None
        self._command = [NGINX, "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
        self.process = subprocess.Popen(self._command)
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        self._thread.join(30)
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)

    def _follow(self) -> None:
        while not self._end.wait(0.25):
            ready = [one.address for one in list(self.members) if one.is_ready()]
            if ready and ready != self._listed:
                self._write(ready)
                subprocess.run([*self._command, "-s", "reload"], check=True)
                self.reloads += 1

    def _write(self, addresses: list[str]) -> None:
        servers = "\n".join(f"    server {one} max_fails=0;" for one in addresses)
        (self._home / "nginx.conf").write_text(_CONFIG.format(home=self._home, servers=servers, port=self._port))
        self._listed = addresses


class Load:
    """Searches at a steady rate whatever becomes of them: ``statuses`` has one for each, 0 for no answer."""

    def __init__(self, url: str) -> None:
        self.statuses: list[int] = []
        self._url = url
        self._client = httpx.Client(timeout=30, trust_env=False)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(60)
        self._client.close()

    def _run(self) -> None:
        started = time.monotonic()
        with ThreadPoolExecutor(32) as pool:
            for number in itertools.count():
                if self._end.wait(max(0.0, started + number / RATE - time.monotonic())):
                    return
                pool.submit(self._ask, number)

    def _ask(self, number: int) -> None:
        try:
            answer = self._client.post(f"{self._url}/v1/text-to-image", json={"text": f"picture {number}", "k": 1})
            self.statuses.append(answer.status_code if answer.json().get("results") else -answer.status_code)
        except (httpx.HTTPError, ValueError):
            self.statuses.append(0)


@contextmanager
def replaced(collection: Path, home: Path) -> Iterator[tuple[Balancer, list[Served], ExitStack]]:
    with ExitStack() as stack:
        members: list[Served] = []
        for number in range(2):
            members.append(_started(collection, home / f"{number}.log", stack))
        balancer = Balancer(home, members)
        stack.callback(balancer.close)
        deadline = time.monotonic() + 30
        while httpx.get(f"{balancer.url}/readyz", trust_env=False).status_code != 200:
            assert time.monotonic() < deadline
        yield balancer, members, stack


def test_a_rolling_replacement_behind_nginx_fails_no_request(collection: Path, tmp_path: Path) -> None:
    with replaced(collection, tmp_path) as (balancer, members, stack), Load(balancer.url) as load:
        time.sleep(2.0)
        for number, old in enumerate(list(members)):
            members.append(_started(collection, tmp_path / f"new-{number}.log", stack))
            time.sleep(1.0)  # nginx has been told
            assert old.end() == 0
            members.remove(old)
        time.sleep(2.0)
    assert balancer.reloads >= 4, "each start and each end reached nginx"
    assert len(load.statuses) > 5 * RATE
    assert set(load.statuses) == {200}


def test_a_process_that_is_killed_does_fail_requests(collection: Path, tmp_path: Path) -> None:
    """Without a drain the same arrangement loses requests: the test above can see them."""
    with replaced(collection, tmp_path) as (balancer, members, _), Load(balancer.url) as load:
        time.sleep(1.0)
        members[0].process.kill()
        time.sleep(1.0)
    assert set(load.statuses) > {200}


def _started(collection: Path, log: Path, stack: ExitStack) -> Served:
    one = Served(collection, log)
    stack.callback(one.kill)
    return one
