"""Installed versions are at or above the floors below which a known hole is open, and the pins hold together."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]

FLOORS = {
    "pillow": (
        "12.3.0",
        "out-of-bounds writes in crop and paste (CVE-2026-59197 to -59199), EPS, PSD and FITS parsers",
    ),
    "python-multipart": (
        "0.0.31",
        "unbounded part headers, quadratic query strings (CVE-2026-42561, -53538 to -53540)",
    ),
    "starlette": ("1.3.1", "form limits ignored (CVE-2026-54283), quadratic Range header (CVE-2025-62727)"),
    "torch": ("2.10.0", "code execution through weights_only loading (CVE-2025-32434, CVE-2026-24747)"),
    "h11": ("0.16.0", "lenient chunked parsing (CVE-2025-43859)"),
    "faiss-cpu": ("1.15.0", "hardened deserialisation"),
    "open_clip_torch": ("3.3", "older wheels install a top-level package named training"),
}


@pytest.mark.parametrize("name", FLOORS)
def test_no_version_below_its_security_floor(name: str) -> None:
    floor, why = FLOORS[name]
    assert Version(importlib.metadata.version(name)) >= Version(floor), why


def test_the_floors_are_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {}
    for line in project["dependencies"] + project["optional-dependencies"]["cpu"]:
        requirement = Requirement(line)
        asked[requirement.name.lower()] = requirement.specifier
    for name, (floor, _) in FLOORS.items():
        lowest = min(Version(spec.version) for spec in asked[name.lower()] if spec.operator == ">=")
        assert lowest >= Version(floor), name


def test_constraints_pin_everything_and_hold_no_addresses() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for line in project["dependencies"] + extras["cpu"] + extras["gpu"] + extras["otel"] + extras["dev"]:
        assert Requirement(line).name.lower().replace("_", "-") in pinned, line


def test_the_two_faiss_extras_exclude_each_other() -> None:
    installed = {dist.metadata["Name"].lower() for dist in importlib.metadata.distributions()}
    assert len(installed & {"faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs"}) == 1
