"""Starting, draining, dying, hanging and reloading, as real processes do it."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fault.life import Process, add_generation, in_threads, living

pytestmark = pytest.mark.fault

MIB = 2**20


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small collection with two generations that disagree about every item."""
    path = tmp_path_factory.mktemp("collections") / "photos"
    add_generation(path, 16)
    add_generation(path, 16)
    return path


def inflight(process: Process) -> float:
    return process.metric("sightline_inflight_requests")


def test_a_signal_lets_everything_in_flight_finish(photos: Path, tmp_path: Path) -> None:
    """R11."""
    with living(photos, tmp_path / "home", "drain_delay_seconds=1.5", "max_batch_texts=4", "cache_bytes=0") as process:
        process.ready().order("slow 1.0")
        threads, answers = in_threads(*(lambda n=n: process.find(f"red {n}") for n in range(20)))
        process.until(lambda: inflight(process) >= 20)
        with httpx.Client(base_url=process.url) as probe:
            assert probe.get("/readyz").status_code == 200
            sent = process.term()
            while probe.get("/readyz").status_code != 503:
                pass
            assert time.monotonic() - sent < 0.1
        late = process.client.get(f"{process.url}/v1/collections")
        assert (late.status_code, late.headers["connection"]) == (200, "close"), "the listener is open for the delay"
        assert time.monotonic() - sent < 1.5
        for thread in threads:
            thread.join(20)
        assert [answer.status_code for answer in answers] == [200] * 20
        assert process.wait(10) == 0
        assert process.status("/livez") == 0
        assert "Traceback" not in process.log.read_text()


def test_what_does_not_end_gets_a_503_and_the_process_ends(photos: Path, tmp_path: Path) -> None:
    """R12: in a batch that hangs, behind it, and with half a body sent."""
    with living(photos, tmp_path / "home", "drain_delay_seconds=0", "drain_timeout_seconds=1") as process:
        process.ready().order("hang")
        threads, answers = in_threads(*(lambda n=n: process.find(f"red {n}") for n in range(4)))
        address = urlsplit(process.url)
        with socket.create_connection((address.hostname or "", address.port or 0)) as slow:
            slow.sendall(b"POST /v1/text-to-image HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
            process.until(lambda: inflight(process) >= 4)
            time.sleep(0.3)  # the half body is read, too
            sent = process.term()
            for thread in threads:
                thread.join(10)
            assert time.monotonic() - sent < 3.0
            slow.settimeout(5)
            head = b"".join(iter(lambda: slow.recv(65536), b"")).partition(b"\r\n\r\n")[0].lower()
        for answer in answers:
            assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
            assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
        assert len(answers) == 4
        assert head.startswith(b"http/1.1 503 ")
        assert b"\r\nretry-after: 1" in head
        assert b"\r\nconnection: close" in head
        assert process.wait(10) == 0
        assert time.monotonic() - sent < 7.0


@pytest.mark.parametrize("moment", ["load", "hang"])
def test_a_signal_while_it_starts_ends_it(photos: Path, tmp_path: Path, moment: str) -> None:
    """R13: while the encoder is loaded (load), and in its first batch (hang)."""
    before = sorted(str(one) for one in photos.rglob("*"))
    home = tmp_path / "home"
    home.mkdir()
    (home / "orders").write_text(moment)
    with living(photos, home) as process:
        process.until(lambda: "Opening the collection" in process.log.read_text())
        threads = Path(f"/proc/{process.process.pid}/task")
        process.until(lambda: len(list(threads.iterdir())) > 1 or moment == "load")
        time.sleep(4.0)  # torch is being imported, or the batch is stuck; either must end
        assert process.process.poll() is None
        sent = process.term()
        assert process.wait(5) == 128 + signal.SIGTERM
        assert time.monotonic() - sent < 5.0
        assert list(process.temporary.iterdir()) == []
        assert "Traceback" not in process.log.read_text()
    assert sorted(str(one) for one in photos.rglob("*")) == before


class Fleet:
    """Two processes behind a balancer that sends each request to one that was ready when it was last asked."""

    def __init__(self, photos: Path, home: Path) -> None:
        self._photos, self._home = photos, home
        self._everyone: list[Process] = []
        self.members = [self.start().ready(), self.start().ready()]
        self._ready = list(self.members)
        self._end = threading.Event()
        self.statuses: list[int] = []
        self._threads = [threading.Thread(target=work) for work in (self._check_health, self._load)]

    def __enter__(self) -> Fleet:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)
        for one in self._everyone:
            one.kill()

    def start(self) -> Process:
        self._everyone.append(Process(self._photos, self._home / str(len(self._everyone)), "drain_delay_seconds=1"))
        return self._everyone[-1]

    def _check_health(self) -> None:
        while not self._end.wait(0.1):
            self._ready = [one for one in list(self.members) if one.status("/readyz") == 200]

    def _load(self) -> None:
        started, asked = time.monotonic(), []
        for number in itertools.count():
            if self._end.wait(max(0.0, started + number / 50 - time.monotonic())):
                break
            asked.append(threading.Thread(target=self._ask, args=[number]))
            asked[-1].start()
        for thread in asked:
            thread.join(30)

    def _ask(self, number: int) -> None:
        ready = self._ready
        try:
            self.statuses.append(ready[number % len(ready)].find(f"red {number}").status_code)
        except httpx.HTTPError:
            self.statuses.append(0)


def test_processes_are_replaced_one_by_one_without_a_failed_request(photos: Path, tmp_path: Path) -> None:
    """R15: at 50 requests a second."""
    with Fleet(photos, tmp_path) as fleet:
        for old in list(fleet.members):
            fleet.members.append(fleet.start().ready())
            time.sleep(0.5)  # the balancer has seen it
            old.term()
            assert old.wait(20) == 0
            fleet.members.remove(old)
        time.sleep(0.5)
    assert len(fleet.statuses) > 200
    assert set(fleet.statuses) == {200}


def test_an_encoder_thread_that_dies_leaves_nobody_waiting(photos: Path, tmp_path: Path) -> None:
    """R16."""
    with living(photos, tmp_path / "home", "cache_bytes=0") as process:
        process.ready().order("die")
        started = time.monotonic()
        threads, answers = in_threads(*(lambda n=n: process.find(f"red {n}") for n in range(10)))
        for thread in threads:
            thread.join(10)
        assert time.monotonic() - started < 5.0
        assert {answer.status_code for answer in answers} == {503}
        assert process.metric('sightline_worker_restarts_total{stage="encode"}') >= 1
        process.order("")
        assert process.until(lambda: process.status("/readyz") == 200, 30) < 5.0
        assert process.find("red").status_code == 200
        assert process.status("/livez") == 200
        process.term()
        assert process.wait(20) == 0


def test_an_encoder_that_hangs_is_seen_by_the_probes_in_time(photos: Path, tmp_path: Path) -> None:
    """R17: not ready after 5 s, not alive after 30 s, and nobody waits in between."""
    with living(photos, tmp_path / "home", "drain_delay_seconds=0", "default_timeout_seconds=8") as process:
        process.ready().order("hang")
        started = time.monotonic()
        threads, answers = in_threads(*(lambda n=n: process.find(f"red {n}") for n in range(10)))
        process.until(lambda: process.status("/readyz") == 503, 20)
        assert time.monotonic() - started < 6.0
        for thread in threads:
            thread.join(10)
        assert time.monotonic() - started < 9.0
        assert len(answers) == 10
        assert {answer.status_code for answer in answers} <= {503, 504}
        refused = time.monotonic()
        assert process.find("another red").status_code == 503
        assert time.monotonic() - refused < 0.5
        assert process.status("/livez") == 200
        process.until(lambda: process.status("/livez") == 503, 40)
        assert 29.0 < time.monotonic() - started < 36.0
        sent = process.term()
        assert process.wait(10) == 0, "an orchestrator's SIGTERM ends it although the thread hangs"
        assert time.monotonic() - sent < 8.0


def test_the_canary_finds_a_hang_that_no_request_has_met(photos: Path, tmp_path: Path) -> None:
    """R17, idle."""
    with living(photos, tmp_path / "home", "canary_interval_seconds=0.5") as process:
        process.ready().order("hang")
        assert process.until(lambda: process.status("/readyz") == 503, 20) < 8.0


def test_a_lost_device_ends_the_process_for_another_to_begin(photos: Path, tmp_path: Path) -> None:
    """R22."""
    with living(photos, tmp_path / "home") as process:
        process.ready().order("cuda")
        started = time.monotonic()
        threads, answers = in_threads(*(lambda n=n: process.find(f"red {n}") for n in range(5)))
        assert process.wait(10) == 1
        assert time.monotonic() - started < 10.0
        for thread in threads:
            thread.join(5)
        assert {answer.status_code for answer in answers} == {503}
        assert "The accelerator cannot be used by this process" in process.log.read_text()


def test_a_hang_up_reloads_and_a_watch_reloads_by_itself(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos"
    shutil.copytree(photos, path)
    (path / "CURRENT").write_text("gen-000001\n")

    def served(process: Process) -> str:
        name: str = process.find("red").json()["generation"]
        return name

    with (
        living(path, tmp_path / "one") as process,
        living(path, tmp_path / "two", "watch_collection_seconds=0.2") as other,
    ):
        process.ready()
        other.ready()
        assert served(process) == served(other) == "gen-000001"
        (path / "CURRENT").write_text("gen-000002\n")
        other.until(lambda: served(other) == "gen-000002", 20)
        assert served(process) == "gen-000001"
        process.process.send_signal(signal.SIGHUP)
        process.until(lambda: served(process) == "gen-000002", 20)
        for one in (process, other):
            one.term()
        assert (process.wait(20), other.wait(20)) == (0, 0)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_a_read_only_volume_is_served_and_reloaded(photos: Path, tmp_path: Path) -> None:
    """R36."""
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && ! touch "$0"/x 2>/dev/null && exec "$@"'
    with living(photos, tmp_path / "home", prefix=["unshare", "-m", "sh", "-c", mount, str(photos)]) as process:
        process.ready()
        assert process.find("red").status_code == 200
        answer = process.reload("gen-000001")
        assert (answer.status_code, answer.json()["changed"]) == (200, True)
        process.term()
        assert process.wait(20) == 0
