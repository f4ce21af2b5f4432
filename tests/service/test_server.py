"""Ports, addresses, and stopping: in this process over a real socket, and once as the real command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service import commands, server
from service.edge.listener import bind, is_loopback, url_of
from service.server import DrainingServer
from sightline.errors import SettingError
from tests.fakes import FakeEncoder, build_fake_collection, picture_bytes
from tests.service.conftest import MakeService, Service
from tests.service.edge.test_middleware import WAIT_SECONDS, Gate

REPOSITORY = Path(__file__).parents[2]


class Live:
    """A service on a loopback port, in a thread."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.listener = bind("127.0.0.1", 0)
        self.url = url_of("127.0.0.1", self.listener.getsockname()[1])
        self.server = DrainingServer(service.engine, service.settings)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            threading.Event().wait(0.005)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(WAIT_SECONDS)
        assert not self.thread.is_alive()


@pytest.fixture
def live(make_service: MakeService) -> Iterator[Live]:
    one = Live(make_service(drain_delay_seconds=0.0))
    yield one
    one.stop()


def test_a_port_in_use_is_one_sentence() -> None:
    with bind("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(SettingError, match=f"Port {port} of 127.0.0.1 is in use by another program; .*--port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
def test_an_address_of_another_machine_is_one_sentence(host: str) -> None:
    with pytest.raises(SettingError, match="no address of this machine"):
        bind(host, 0)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.5", False),
        ("box", False),
    ],
)
def test_what_only_this_machine_can_reach(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_the_address_that_is_shown_can_be_typed() -> None:
    assert url_of("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert url_of("::1", 80) == "http://[::1]:80"


def test_every_form_of_a_picture_over_a_real_socket(live: Live) -> None:
    green = picture_bytes("green", (500, 400))
    with httpx.Client(base_url=live.url, timeout=WAIT_SECONDS) as client:
        raw = client.post("/v1/image-to-image?k=1", content=green, headers={"content-type": "image/png"})
        form = client.post("/v1/image-to-image", files={"image": green}, data={"k": "1"})
        assert raw.json()["results"][0]["id"] == form.json()["results"][0]["id"] == "001-green"
        assert client.get("/readyz").status_code == 200


def test_a_client_that_hangs_up_takes_its_work_along(make_service: MakeService) -> None:
    gate = Gate()
    service = make_service(encoder=FakeEncoder(before_encode=gate))
    gate.close()
    live = Live(service)
    try:
        with httpx.Client(base_url=live.url, timeout=0.05) as client, pytest.raises(httpx.ReadTimeout):
            client.post("/v1/text-to-image", json={"text": "red"})
        labels = {"route": "/v1/text-to-image", "method": "POST", "status": "499"}
        for _ in range(1000):
            if service.metric("sightline_http_requests_total", **labels):
                break
            threading.Event().wait(0.005)
        assert service.metric("sightline_http_requests_total", **labels) == 1
        assert service.metric("sightline_admitted_units") == 0
    finally:
        gate.opened.set()
        live.stop()


def test_a_signal_drains_and_what_is_in_flight_is_answered(make_service: MakeService) -> None:
    gate = Gate()
    service = make_service(encoder=FakeEncoder(before_encode=gate), drain_delay_seconds=0.5)
    gate.close()
    live = Live(service)
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(f"{live.url}/v1/text-to-image", json={"text": "red"}, timeout=WAIT_SECONDS))

    asker = threading.Thread(target=ask)
    asker.start()
    assert gate.entered.acquire(timeout=WAIT_SECONDS)
    live.server.handle_exit(signal.SIGTERM, None)
    assert service.engine.not_ready_reason() is not None
    assert httpx.get(f"{live.url}/readyz").status_code == 503, "probes see it before the listener closes"
    gate.opened.set()
    asker.join(WAIT_SECONDS)
    live.thread.join(WAIT_SECONDS)
    assert not live.thread.is_alive()
    assert [answer.status_code for answer in answers] == [200]


def test_what_does_not_end_in_the_drain_time_hears_not_ready(make_service: MakeService) -> None:
    gate = Gate()
    service = make_service(
        encoder=FakeEncoder(before_encode=gate), drain_delay_seconds=0.0, drain_timeout_seconds=0.02,
        default_timeout_seconds=20,
    )  # fmt: skip
    gate.close()
    live = Live(service)
    answers: list[httpx.Response] = []

    def ask(text: str) -> None:
        answers.append(httpx.post(f"{live.url}/v1/text-to-image", json={"text": text}, timeout=WAIT_SECONDS))

    askers = [threading.Thread(target=ask, args=[text]) for text in ("red", "blue")]
    askers[0].start()
    assert gate.entered.acquire(timeout=WAIT_SECONDS)
    askers[1].start()
    while service.metric("sightline_queue_items", modality="text", lane="interactive") < 1:
        threading.Event().wait(0.005)
    live.server.handle_exit(signal.SIGTERM, None)
    for asker in askers:
        asker.join(WAIT_SECONDS)
    assert [answer.status_code for answer in answers] == [503, 503], "also the one whose batch does not end"
    for answer in answers:
        assert answer.json()["code"] == "shutting_down"
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["connection"] == "close"
    gate.opened.set()
    live.thread.join(WAIT_SECONDS)
    assert not live.thread.is_alive()


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    build_fake_collection(tmp_path / "photos")
    program = (
        "import service.server, sightline.command.root as root; from tests.fakes import FakeEncoder; "
        "service.server._load_encoder = lambda settings, generation: FakeEncoder(); root.main()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", "--collection", str(tmp_path / "photos"), "--port", "0", "--json"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment | {"SIGHTLINE_DRAIN_DELAY_SECONDS": "0"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert (facts["collection"], facts["num_items"], facts["encoder"]) == ("photos", 8, "fake:colours")
        answer = httpx.post(f"{facts['url']}/v1/text-to-image", json={"text": "red", "k": 1}, timeout=WAIT_SECONDS)
        assert answer.json()["results"][0]["id"] == "000-red"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert "Stopped." in errors


def test_the_welcome_has_three_commands_to_copy(service: Service) -> None:
    text = commands._welcome(service.engine, "http://127.0.0.1:8000")
    assert text.count("  curl -s ") == 3
    assert "8 pictures, 8 captions" in text


def test_no_collection_is_a_setting_error() -> None:
    from service.settings import load_settings

    with pytest.raises(SettingError, match="--collection"):
        server.serve(load_settings(), lambda engine, url: None)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_curl_commands_work(live: Live, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(picture_bytes("green", (64, 64), "JPEG"))
    printed = commands._welcome(live.service.engine, live.url)
    for line in printed.splitlines():
        if line.startswith("  curl"):
            done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, check=True, timeout=30)
            assert "results" in json.loads(done.stdout), line
