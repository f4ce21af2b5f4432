"""The documentation is true: its commands and snippets run, its tables are complete, its links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main

from service.edge.problems import problem_kinds
from service.metrics import Metrics
from service.settings import Settings
from sightline.command.root import build_app
from tests.e2e.running import serving
from tests.pictures import encoded, textured

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ADDRESS = "http://127.0.0.1:8000"
DEFAULT_ENCODER = "ViT-B-32-SigLIP2-256:webli"


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of a page whose opening line is exactly ``kind``."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Reader:
    """Somebody following the guide: a home with pictures, the commands run so far, a service."""

    home: Path
    bundle: Path
    url: str = ""

    def shell(self, script: str) -> str:
        """Run a block as it is written, on the small encoder and the service's own port."""
        script = script.replace(DEFAULT_ENCODER, str(self.bundle)).replace(ADDRESS, self.url)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {"HOME": str(self.home), "PATH": path, "NO_COLOR": "1"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.home,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def reader(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """After steps 2 to 4 of the guide: pulled, indexed, searched, serving."""
    home = tmp_path_factory.mktemp("home")
    (home / "Pictures" / "2024").mkdir(parents=True)
    for number in range(6):
        (home / "Pictures" / "2024" / f"{number}.jpg").write_bytes(encoded(textured((90, 60), number), "JPEG"))
        (home / "Pictures" / "2024" / f"{number}.txt").write_text(f"picture {number}")
    shutil.copy(home / "Pictures" / "2024" / "0.jpg", home / "photo.jpg")
    unserved = Reader(home, tiny_bundle)
    for block in blocks(DOCS / "guide.md", "bash"):
        unserved.shell(block)
    with serving(home / "photos") as url:
        yield Reader(home, tiny_bundle, url)


def test_the_guide_serves_what_it_built() -> None:
    assert blocks(DOCS / "guide.md", "bash serve") == ["sightline serve --collection photos\n"]


def test_the_curl_commands_of_the_guide(reader: Reader) -> None:
    commands = blocks(DOCS / "guide.md", "bash curl")
    assert len(commands) == 3
    for block in commands:
        assert len(json.loads(reader.shell(block))["results"]) == 3


def test_the_javascript_of_the_guide(reader: Reader) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (block,) = blocks(DOCS / "guide.md", "javascript")
    (reader.home / "guide.mjs").write_text(block.replace(ADDRESS, reader.url))
    lines = reader.shell("node guide.mjs").splitlines()
    assert len(lines) == 7
    assert lines[-1].startswith("a ")


def test_the_python_of_the_guide(reader: Reader) -> None:
    (block,) = blocks(DOCS / "guide.md", "python")
    (reader.home / "guide.py").write_text(block.replace(ADDRESS, reader.url))
    assert reader.shell("python guide.py") == "2 32\n"


def test_the_commands_of_the_readme(reader: Reader, tmp_path: Path) -> None:
    demo, own = blocks(ROOT / "README.md", "bash")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [line.split()[:2] for line in demo.splitlines()] == [["make", "demo"], ["make", "test"]]
    assert {"demo", "test", "check"} <= set(targets)
    build, serve = own.splitlines()
    reader.shell(build.replace("--out photos", f"--out {tmp_path}/photos"))
    assert serve == "sightline serve --collection photos"


def test_the_recipe_in_the_docs_is_valid() -> None:
    from training.recipe import parse_recipe

    (block,) = blocks(DOCS / "commands.md", "toml")
    assert parse_recipe(block, "docs").model.encoder == DEFAULT_ENCODER


def test_every_command_is_documented() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    root = typer.main.get_command(build_app())
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        for path in [f"{name} {sub}" for sub in getattr(command, "commands", {})] or [name]:
            assert f"`sightline {path}`" in page, path


def test_every_command_has_help_with_an_example() -> None:
    root = typer.main.get_command(build_app())
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        for sub in getattr(command, "commands", {}).values() or [command]:
            assert "`sightline" in (sub.help or "") or "`SIGHTLINE" in (sub.help or ""), name
            assert any("--json" in option.opts for option in sub.params), name


def test_every_setting_is_documented() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    for name, info in Settings.model_fields.items():
        assert f"| `{name}` | {'' if info.default is None else info.default} | {info.description} |" in page


def test_every_metric_is_documented() -> None:
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    names = {sample.split("{")[0].split(" ")[0] for sample in Metrics("0").render().decode().splitlines()}
    families = [line.split()[2] for line in Metrics("0").render().decode().splitlines() if line.startswith("# TYPE")]
    assert names
    for family in families:
        if family.startswith("sightline_") and not family.endswith("_created"):
            assert f"`{family}" in page, family


def test_every_error_is_documented() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    for kind in problem_kinds():
        if kind.__module__.split(".")[0] != "tests":
            assert f"| `{kind.code}` |" in page, kind


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
