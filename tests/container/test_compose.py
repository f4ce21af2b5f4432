"""The compose file: hardened throughout, open to this machine only, and every command line and health check runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from service.settings import load_settings
from sightline.command.root import build_app
from tests.container.compose import ROOT, compose_file, interpolated, variables_of
from tests.pictures import encoded, textured
from tests.program import program
from tests.training.conftest import TINY_RECIPE
from training.world.shards import World, draw_world

FILE = compose_file()
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("sightline-")}


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] <= 1024
    assert service["mem_limit"]
    assert service["tmpfs"][0].startswith("/tmp:size=")
    assert not service.get("privileged")
    assert service.get("network_mode") != "host"


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


def test_no_two_services_want_the_same_port() -> None:
    ports = [port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports)) == 4


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_a_version(name: str) -> None:
    tag = SERVICES[name]["image"].rpartition(":")[2]
    assert any(letter.isdigit() for letter in tag), tag


@pytest.mark.parametrize("name", OURS)
def test_every_image_is_a_stage_of_the_dockerfile(name: str) -> None:
    build = OURS[name]["build"]
    text = (ROOT / "Dockerfile").read_text()
    assert f" AS {build['target']}\n" in text
    for argument in build["args"]:
        assert f"\nARG {argument}=" in text, argument


@pytest.mark.parametrize("name", OURS)
def test_every_command_line_is_one_of_ours(name: str) -> None:
    command: Any = typer.main.get_command(build_app())
    arguments = list(OURS[name]["command"])
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context(name, arguments)


@pytest.mark.parametrize("name", ["service", "service-gpu"])
def test_the_services_settings_are_settings_and_leave_time_to_drain(name: str) -> None:
    service = SERVICES[name]
    settings = load_settings(environ=service["environment"])
    grace = float(service["stop_grace_period"].removesuffix("s"))
    assert grace > settings.drain_delay_seconds + settings.drain_timeout_seconds + 5


def test_the_service_waits_for_the_demo_and_serves_it() -> None:
    service = SERVICES["service"]
    assert service["depends_on"]["demo"]["condition"] == "service_completed_successfully"
    workdir = SERVICES["demo"]["command"][-1]
    assert service["command"][-1] == f"{workdir}/collection"


def test_nothing_but_demo_and_service_starts_by_itself() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {"demo", "service"}
    assert {profile for service in SERVICES.values() for profile in service.get("profiles", [])} == {
        "gpu", "index", "train", "observability",
    }  # fmt: skip


def test_the_gpu_is_asked_for_as_the_specification_wants() -> None:
    (device,) = SERVICES["service-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_volumes_and_configs_exist() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in FILE["volumes"] or source.startswith("./"), (name, volume)
        for config in service.get("configs", []):
            entry = FILE["configs"][config["source"]]
            assert "content" in entry or (ROOT / entry["file"]).is_file(), config


def test_every_variable_is_in_the_example_and_means_the_same() -> None:
    assert variables_of("docker-compose.yml") == variables_of(".env.example")
    text = (ROOT / ".env.example").read_text()
    example = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert compose_file(example) == FILE
    assert not any(name.startswith("SIGHTLINE_") for name in variables_of(".env.example"))


def test_interpolation() -> None:
    assert interpolated("a${B:-c}$$", {}) == "ac$"
    assert interpolated("a${B:-c}", {"B": "d"}) == "ad"
    with pytest.raises(AssertionError):
        interpolated("$HOME", {})


@pytest.fixture(scope="module")
def volumes(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the containers would have mounted: /pictures, /collections, /models and /data."""
    root = tmp_path_factory.mktemp("volumes")
    for name in ("pictures", "collections", "models", "data"):
        (root / name).mkdir()
    for number in range(4):
        (root / "pictures" / f"{number}.jpg").write_bytes(encoded(textured((60, 40), number), "JPEG"))
    shutil.copytree(tiny_bundle, root / "models" / "tiny")
    return root


def run_as_written(name: str, volumes: Path, **variables: str) -> tuple[list[str], dict[str, str]]:
    """A service's command line and environment, its mount points replaced by folders of this machine."""
    service = compose_file(variables)["services"][name]
    arguments = [_here(argument, volumes) for argument in service["command"]]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SIGHTLINE_")}
    return [str(program()), *arguments], inherited | service.get("environment", {})


def _here(text: str, volumes: Path) -> str:
    for mount in ("/pictures", "/collections", "/models", "/data"):
        if text == mount or text.startswith(mount + "/"):
            return f"{volumes}{text}"
    return text


@pytest.fixture(scope="module")
def indexed(volumes: Path) -> Path:
    command, env = run_as_written("index", volumes, ENCODER=f"{volumes}/models/tiny")
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return volumes


@pytest.fixture
def port() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    yield str(number)


def test_index_then_serve_then_healthy_then_stopped(indexed: Path, port: str) -> None:
    command, env = run_as_written("service", indexed, COLLECTION="photos")
    check = SERVICES["service"]["healthcheck"]["test"]
    assert check[:2] == ["CMD", "python3"]
    check = [sys.executable, *(part.replace(":8000/", f":{port}/") for part in check[2:])]
    assert subprocess.run(check, stderr=subprocess.DEVNULL, check=False).returncode != 0
    process = subprocess.Popen([*command, "--port", port], env=env, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if subprocess.run(check, stderr=subprocess.DEVNULL, check=False).returncode == 0:
                break
            assert process.poll() is None
            time.sleep(0.2)
        else:
            pytest.fail("the health check never said healthy")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=45) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_train_as_written(volumes: Path) -> None:
    draw_world(World(seed=1, num_train=40, num_held_out=24), volumes / "data", num_processes=1)
    (volumes / "data" / "recipe.toml").write_text(TINY_RECIPE)
    command, env = run_as_written("train", volumes, RECIPE="/data/recipe.toml")
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (volumes / "models" / "my-encoder" / "sightline.json").is_file()
