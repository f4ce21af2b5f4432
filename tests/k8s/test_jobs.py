"""The Jobs' containers, run as they are written: shards and who publishes them, a sync, a training taken over."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sightline.collection import open_collection
from tests.k8s.chart import manifests_of, of_kind, pods
from tests.pictures import encoded, textured
from tests.program import program


class Node:
    """Where containers run: their folders are under ``home``, their command is ours or a stand-in."""

    def __init__(self, home: Path, command: str) -> None:
        self.home = home
        self._bin = home / "bin"
        self._bin.mkdir()
        program = self._bin / "sightline"
        program.write_text(f"#!/bin/sh\n{command}\n")
        program.chmod(0o755)

    def start(self, container: dict[str, Any], **variables: str) -> subprocess.Popen[str]:
        words = [self._place(str(word)) for word in [*container["command"], *container["args"]]]
        given = {one["name"]: self._place(one.get("value", "")) for one in container["env"]}
        for name, value in variables.items():
            words = [word.replace(f"$({name})", value) for word in words]
        path = f"{self._bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            words, env={**given, **variables, "PATH": path, "HOME": str(self.home)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, container: dict[str, Any], **variables: str) -> str:
        process = self.start(container, **variables)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        return out

    def _place(self, word: str) -> str:
        """A word with the node's folders for the container's, a folder for a source of tars, and no long wait."""
        word = word.replace("/source/{00000..00099}.tar", "/source").replace("sleep 20", "sleep 1")
        for folder in ("/source", "/collection", "/encoder/siglip2", "/output"):
            word = word.replace(folder, f"{self.home}{folder}")
        return word


def containers(name: str) -> dict[str, dict[str, Any]]:
    """Containers of the Jobs of a values file, by name."""
    objects = manifests_of(name)
    found = pods([*of_kind(objects, "Job"), *of_kind(objects, "CronJob")])
    return {one["name"]: one for pod in found for one in pod.spec["containers"]}


@pytest.fixture
def node(tiny_bundle: Path, tmp_path: Path) -> Iterator[Node]:
    """A node with eight captioned pictures and the tiny encoder."""
    (tmp_path / "source").mkdir()
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "siglip2").symlink_to(tiny_bundle)
    for number in range(8):
        add_picture(tmp_path, number)
    yield Node(tmp_path, f'exec {program()} "$@"')


def add_picture(home: Path, number: int) -> None:
    (home / "source" / f"{number}.jpg").write_bytes(encoded(textured((90, 60), number), "JPEG"))
    (home / "source" / f"{number}.txt").write_text(f"picture {number}")


@pytest.mark.slow
def test_shards_are_published_when_the_last_one_is_done(node: Node) -> None:
    jobs = containers("index-job.yaml")
    publisher = node.start(jobs["publisher"])  # it comes first, and waits
    for shard in (1, 2, 3, 0):  # so few pictures are one chunk, which is shard 0's: it is the last one to be done
        assert publisher.poll() is None, "it waits for every shard"
        node.run(jobs["indexer"], SHARD_INDEX=str(shard))
    publisher.communicate(timeout=240)
    assert publisher.returncode == 0
    generation = open_collection(node.home / "collection" / "photos")
    assert generation.manifest.counts.indexed == 8


@pytest.mark.slow
def test_a_nightly_sync_builds_first_and_then_only_when_there_is_something_new(node: Node) -> None:
    indexer = containers("index-cron.yaml")["indexer"]
    collection = node.home / "collection" / "photos"

    def generations() -> list[str]:
        return sorted(path.name for path in collection.glob("gen-*"))

    node.run(indexer)
    assert len(generations()) == 1
    node.run(indexer)
    assert len(generations()) == 1, "nothing is new"
    add_picture(node.home, 8)
    node.run(indexer)
    assert len(generations()) == 2
    assert open_collection(collection).manifest.counts.indexed == 9


def test_a_training_that_is_taken_over_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    node = Node(tmp_path, 'printf "%s\\n" "$@"')
    trainer = containers("train.yaml")["trainer"]
    out = tmp_path / "output" / "my-photos"
    plain = ["train", "/etc/sightline/recipe/recipe.toml", "--data=/data", "--json", "--out", str(out)]
    assert node.run(trainer).splitlines() == plain
    checkpoint = Path(f"{out}.training/checkpoint.pt")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert node.run(trainer).splitlines() == [*plain[:-2], "--resume", *plain[-2:]]


def test_a_publisher_gives_up_when_waiting_does_not_help(tmp_path: Path) -> None:
    node = Node(tmp_path, "exit 5")
    process = node.start(containers("index-job.yaml")["publisher"])
    process.communicate(timeout=30)
    assert process.returncode == 5
