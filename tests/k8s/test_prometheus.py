"""A real Prometheus scrapes a running service that asks for keys, and the chart's `helm test` passes on it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.metrics import Metrics
from tests.fault.life import Process, add_generation, living
from tests.k8s.chart import ALERTS, CHART, HOW

PROMETHEUS = shutil.which("prometheus")
KEY = "scrape-key-of-the-test-0123456789"
WAIT_SECONDS = 60.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A process whose every path but the probes needs a key."""
    home = tmp_path_factory.mktemp("service")
    add_generation(home / "photos", 8)
    (home / "api.keys").write_text(f"prometheus: {KEY}\n")
    with living(home / "photos", home / "home", f"api_keys_file={home / 'api.keys'}") as process:
        process.ready()
        process.client.headers["Authorization"] = f"Bearer {KEY}"
        assert process.find("red").status_code == 200
        yield process


@pytest.mark.skipif(shutil.which("promtool") is None, reason=f"promtool (Debian: apt install prometheus) is {HOW}")
def test_promtool_has_nothing_to_say_about_the_metrics() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=Metrics("0").render(), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason=f"prometheus (Debian: apt install prometheus) is {HOW}")
def test_a_real_prometheus_scrapes_the_service_and_loads_the_alerts(service: Process, tmp_path: Path) -> None:
    assert PROMETHEUS is not None
    (tmp_path / "key").write_text(KEY)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {
                "job_name": "sightline",
                "authorization": {"credentials_file": str(tmp_path / "key")},
                "static_configs": [{"targets": [service.url.removeprefix("http://")]}],
            }
        ],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = _free_port()
    prometheus = subprocess.Popen(
        [PROMETHEUS, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}",
         f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=(tmp_path / "log").open("w"),
    )  # fmt: skip
    try:
        asked = f"http://127.0.0.1:{port}/api/v1"
        assert _until(lambda: _value(asked, 'sightline_ready{job="sightline"}') == 1), (tmp_path / "log").read_text()
        (target,) = _json(f"{asked}/targets")["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        assert _value(asked, "sum(sightline_http_requests_total{route='/v1/text-to-image',status='200'})") >= 1
        assert _value(asked, "sum(sightline_index_vectors)") == 16
        groups: Any = _json(f"{asked}/rules")["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
        firing = [alert for alert in _json(f"{asked}/alerts")["alerts"] if alert["state"] == "firing"]
        assert firing == []
    finally:
        prometheus.terminate()
        prometheus.wait(30)


@pytest.mark.slow
def test_what_helm_test_runs_passes_and_fails_when_it_should(service: Process, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    told = {"CHECK_URL": service.url, "CHECK_NEEDS_KEY": "yes", "CHECK_KEY_FILE": str(tmp_path / "key")}
    assert _check(told) == (0, "ready, and a search was answered\n")
    (tmp_path / "key").write_text("another-key-that-nobody-knows\n")
    code, said = _check(told)
    assert (code, "a search gets 401" in said) == (1, True)
    assert _check({"CHECK_URL": service.url, "CHECK_NEEDS_KEY": "yes"})[1].startswith("ready; there was no search")
    assert _check({"CHECK_URL": service.url, "CHECK_NEEDS_KEY": "no"})[0] == 1


def _check(told: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", (CHART / "files" / "check.py").read_text()],
        env={"PATH": os.environ["PATH"]} | told, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _json(url: str, **parameters: str) -> dict[str, Any]:
    answer = httpx.get(url, params=parameters, trust_env=False)
    data: dict[str, Any] = answer.json()["data"]
    return data


def _value(asked: str, query: str) -> float:
    try:
        answer = httpx.get(f"{asked}/query", params={"query": query}, trust_env=False).json()
        return float(answer["data"]["result"][0]["value"][1])
    except (httpx.HTTPError, KeyError, IndexError, ValueError):
        return float("nan")


def _until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
