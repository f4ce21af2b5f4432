"""The lowest versions that pyproject.toml allows hold together: they install and import. ``make test-floors``."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMPORTS = """
import sightline.command.root, sightline.encoder, sightline.index, sightline.collection, sightline.sources
import service.app, service.server, indexer.build, training.run
from sightline.command.root import build_app
build_app()
"""


def floors() -> list[str]:
    """``name==floor`` of every direct dependency of an installation on a CPU."""
    pins = []
    for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"]):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            lowest = next(spec.version for spec in requirement.specifier if spec.operator == ">=")
            pins.append(f"{requirement.name}=={lowest}")
    return pins


def test_every_direct_dependency_has_a_floor() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9.]+", pin) for pin in floors())
    assert len(floors()) >= len(PROJECT["dependencies"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_floors_install_and_import(tmp_path: Path) -> None:
    """torch at its floor and all it brings takes several GB and some minutes; the folder is removed by pytest."""
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = str(tmp_path / "venv" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *floors())
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", str(ROOT))
    run(python, "-c", IMPORTS)
    run(python, "-m", "pip", "check")


def run(*command: str) -> None:
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
