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
from typing import Any

import pytest
import typer.main

from service.edge.problems import problem_kinds
from service.metrics import Metrics
from service.settings import Settings, load_settings
from sightline.command.root import build_app
from tests.e2e.running import serving
from tests.pictures import encoded, textured
from tests.program import program

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
        path = os.pathsep.join([str(program().parent), str(Path(sys.executable).parent), os.environ["PATH"]])
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


def test_the_curl_commands_of_the_client_page(reader: Reader) -> None:
    (script,) = blocks(DOCS / "clients.md", "bash")
    answers = json_values(reader.shell(script))
    assert [len(answer["results"]) for answer in answers[:4]] == [3, 2, 3, 2]
    assert "max_text_chars" in json.dumps(answers[-1])


def json_values(text: str) -> list[Any]:
    """JSON documents one after the other."""
    found, at = [], 0
    while at < len(text):
        value, at = json.JSONDecoder().raw_decode(text, at)
        found.append(value)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def test_the_python_of_the_client_page(reader: Reader) -> None:
    search, vectors = blocks(DOCS / "clients.md", "python")
    (reader.home / "search.py").write_text(search.replace(ADDRESS, reader.url))
    (reader.home / "vectors.py").write_text(vectors.replace(ADDRESS, reader.url))
    lines = reader.shell("python search.py").splitlines()
    assert len(lines) == 5
    assert lines[-1] in ("a dog", "a cat")
    assert reader.shell("python vectors.py") == "2 True\n"


def test_the_javascript_of_the_client_page(reader: Reader) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (block,) = blocks(DOCS / "clients.md", "javascript")
    (reader.home / "clients.mjs").write_text(block.replace(ADDRESS, reader.url))
    lines = reader.shell("node clients.mjs").splitlines()
    assert lines[3:] == ["2 similar", "invalid_text"]


def test_the_backup_and_the_rollback_of_the_upgrade_page(reader: Reader) -> None:
    backup, rollback = blocks(DOCS / "upgrade.md", "bash")
    reader.shell(backup)
    shutil.copytree(reader.home / "photos", reader.home / "rolled" / "photos")
    reader.shell(f"cd rolled\n{rollback}")
    assert (reader.home / "rolled" / "photos" / "CURRENT").read_text() == "gen-000001\n"


def test_the_override_of_the_install_page_keeps_to_what_it_overrides() -> None:
    import yaml

    (block,) = blocks(DOCS / "install.md", "yaml")
    override, base = yaml.safe_load(block), yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert set(override) == {"services", "secrets"}
    for name, service in override["services"].items():
        assert name in base["services"]
        assert set(service["secrets"]) == set(override["secrets"])
        load_settings(environ=service["environment"])


def test_what_the_install_page_says_of_images_is_so() -> None:
    page, dockerfile = (DOCS / "install.md").read_text(), (ROOT / "Dockerfile").read_text()
    for target in re.findall(r"--target ([a-z]+)", page):
        assert f" AS {target}\n" in dockerfile
    for argument in re.findall(r"^ARG ([A-Z_]+)=", dockerfile, re.MULTILINE):
        assert f"`{argument}`" in page, argument


def test_every_command_that_pages_name_is_one() -> None:
    page = (DOCS / "capacity.md").read_text()
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    workflows = "".join(path.read_text() for path in (ROOT / ".github").rglob("*") if path.is_file())
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for target in re.findall(r"(?:`|run: |^)make ([a-z0-9-]+)", page + workflows + contributing, re.MULTILINE):
        assert target in targets, target
    for module in set(re.findall(r"python -m (benchmarks[a-z.]*)", page)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for test in re.findall(r"tests/[a-z_/]+\.py", page):
        assert (ROOT / test).is_file(), test


def test_the_commands_of_the_readme(reader: Reader, tmp_path: Path) -> None:
    demo, own, anywhere = blocks(ROOT / "README.md", "bash")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [line.split()[:2] for line in demo.splitlines()] == [["make", "demo"], ["make", "test"]]
    assert {"demo", "test", "check"} <= set(targets)
    build, serve = own.splitlines()
    reader.shell(build.replace("--out photos", f"--out {tmp_path}/photos"))
    assert serve == "sightline serve --collection photos"
    compose, doctor = anywhere.splitlines()
    assert compose.startswith("docker compose up ")
    assert "Nothing is wrong" in reader.shell(doctor)


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


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))],
    ids=lambda page: page.name,
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
