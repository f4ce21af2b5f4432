"""The Dockerfile: what linters do not know of. ``make image-check`` builds it for real."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from sightline import __version__
from tests.container.compose import ROOT

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LINES = re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
TOOLS = ROOT / ".venv-policy" / "bin"


def stages() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    name = ""
    for line in LINES:
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = match[2]
            found[name] = []
        if name:
            found[name].append(line)
    return found


@pytest.mark.parametrize("name", ["service", "indexer", "training", "all"])
def test_every_image_has_its_packages_and_no_others(name: str) -> None:
    copied = {line.split()[1] for line in stages()[f"{name}-code"] if line.startswith("COPY ")}
    assert copied == ({"service", "indexer", "training"} if name == "all" else {name})
    assert stages()[name][:2] == [f"FROM runtime AS {name}", f"COPY --from={name}-code /opt/code /opt/code"]


def test_the_last_image_is_the_service() -> None:
    assert list(stages())[-1] == "service"


def test_dependencies_come_before_the_code() -> None:
    copied = [line for line in stages()["dependencies"] if line.startswith("COPY ")]
    assert copied == ["COPY pyproject.toml constraints.txt ./"]


def test_images_run_as_a_number_that_is_not_root_and_start_without_a_shell() -> None:
    runtime = stages()["runtime"]
    assert "USER 10001:10001" in runtime
    assert 'ENTRYPOINT ["sightline"]' in runtime
    assert "STOPSIGNAL SIGTERM" in runtime
    assert not any(line.startswith(("USER", "ENTRYPOINT")) for name in ("service", "all") for line in stages()[name])


def test_the_service_checks_its_own_health_as_compose_does() -> None:
    (line,) = [line for line in stages()["service"] if line.startswith("HEALTHCHECK")]
    test = json.loads(line.partition(" CMD ")[2])
    assert test[:2] == ["python3", "-c"]
    compile(test[2], "healthcheck", "exec")
    assert "/readyz" in test[2]


def test_the_version_is_the_projects() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version == __version__
    assert f"ARG VERSION={version}" in LINES
    assert f"VERSION: {version}" in (ROOT / "docker-compose.yml").read_text()


def test_what_the_build_copies_is_let_through() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in LINES:
        if line.startswith("COPY ") and "--from=" not in line:
            for source in line.split()[1:-1]:
                assert source in allowed, source
                assert (ROOT / source).exists()


def tool(name: str) -> str:
    found = shutil.which(name, path=str(TOOLS)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; make check-policy installs it")
    return found


def passes(*command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing() -> None:
    passes(tool("hadolint"), "Dockerfile")


def test_compose_keeps_to_its_specification() -> None:
    passes(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


@pytest.mark.parametrize("page", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda page: page.name)
def test_workflows_keep_to_their_schema(page: Path) -> None:
    passes(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", page)


@pytest.mark.slow
def test_checkov_finds_nothing() -> None:
    passes(
        tool("checkov"), "--file", "Dockerfile", "--framework", "dockerfile", "--compact", "--quiet", "--skip-download"
    )
