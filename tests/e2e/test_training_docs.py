"""The guides to training are true: every command of docs/training.md runs, every recipe that pages show is one."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from sightline.command.root import main
from tests.e2e.test_docs import DEFAULT_ENCODER, DOCS, blocks
from tests.pictures import encoded, textured
from training.recipe import RECIPES, parse_recipe
from training.watching import read_log, read_trace

GUIDE, RECIPES_PAGE = DOCS / "training.md", DOCS / "recipes.md"
NUM = 40
SMALLER = {
    "num_steps = 300": "num_steps = 6",
    "batch_size = 64": "batch_size = 16",
    "warmup_steps = 30": "warmup_steps = 2",
}


def follow(script: str, bundle: Path) -> None:
    """Run a block where we stand; our own command in this process, which has torch loaded already."""
    for line in script.replace(DEFAULT_ENCODER, str(bundle)).replace("\\\n", " ").splitlines():
        name, *arguments = shlex.split(line)
        if name == "sightline":
            try:
                main(arguments)
            except SystemExit as ended:
                assert not ended.code, line
        else:
            subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=True)


@pytest.fixture(scope="module")
def home(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After all commands of the guide, on forty pictures and a small encoder."""
    home = tmp_path_factory.mktemp("home")
    (home / "my-data" / "pictures").mkdir(parents=True)
    lines = []
    for number in range(NUM):
        name = f"pictures/{number:04}.jpg"
        (home / "my-data" / name).write_bytes(encoded(textured((64, 64), number), "JPEG"))
        lines.append(json.dumps({"image": name, "captions": [f"picture {number}", f"number {number}"]}))
    (home / "my-data" / "captions.jsonl").write_text("\n".join(lines) + "\n")
    recipe = blocks(GUIDE, "toml")[0].replace(DEFAULT_ENCODER, str(tiny_bundle))
    for old, new in SMALLER.items():
        assert old in recipe
        recipe = recipe.replace(old, new)
    (home / "my-photos.toml").write_text(recipe)
    with contextlib.chdir(home):
        for block in blocks(GUIDE, "bash"):
            follow(block, tiny_bundle)
    return home


def test_the_guide_trains_measures_mixes_and_indexes(home: Path) -> None:
    assert len((home / "my-data" / "held-out.jsonl").read_text().splitlines()) == NUM // 10
    for name in ("my-encoder", "my-encoder-between"):
        assert (home / name / "sightline.json").is_file()
    assert (home / "my-collection" / "CURRENT").is_file()
    assert (home / "before.html").stat().st_size > 1000
    assert "alignment-explorer" in (home / "after.html").read_text()
    assert blocks(GUIDE, "bash serve") == ["sightline serve --collection my-collection\n"]


def test_the_files_and_the_keys_of_the_log_are_those_of_the_page(home: Path) -> None:
    page, folder = GUIDE.read_text(), home / "my-encoder.training"
    for name in ("log.jsonl", "explorer.html", "trace.jsonl", "tensorboard"):
        assert (folder / name).exists(), name
        assert f"`{name}" in page
    assert not (folder / "checkpoint.pt").exists()
    written = {key for line in read_log(folder) for key in line}
    told = page[page.index("## What is watched") :]
    for key in written:
        group = re.sub(r"^(loss)_.*", r"\1_…", re.sub(r"^canary_.*_recall_at_.*", "canary_…_recall_at_…", key))
        assert f"`{group}`" in told, key
    assert len(read_trace(folder / "trace.jsonl").captions) == NUM // 10


def test_the_watch_table_of_the_page_holds_the_defaults() -> None:
    recipe, watch = blocks(GUIDE, "toml")
    asked = parse_recipe(recipe + watch, "docs").watch
    assert asked == parse_recipe(recipe, "docs").watch


@pytest.mark.parametrize("block", blocks(RECIPES_PAGE, "toml"))
def test_every_table_of_the_recipes_page_is_valid(block: str) -> None:
    steps = "" if "[[stages]]" in block else "num_steps = 10\n"
    head = f'name = "x"\n[model]\nencoder = "a:b"\n[training]\n{steps}batch_size = 8\nlearning_rate = 1e-5\n'
    assert parse_recipe(head + block, "docs").model_dump(exclude_unset=True, exclude={"name", "model", "training"})


def test_the_recipes_page_tells_of_every_recipe_and_of_no_other() -> None:
    page = RECIPES_PAGE.read_text()
    table = page[: page.index("## ")]
    told = set(re.findall(r"\| \[?`([a-z-]+)`", table))
    assert told == {path.stem for path in RECIPES.glob("*.toml")}
    anchors = {re.sub(r"[^a-z -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^## (.*)", page, re.M)}
    assert set(re.findall(r"\(#([a-z-]+)\)", page)) <= anchors
