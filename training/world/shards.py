"""Write drawn scenes as WebDataset tars: ``train-00000.tar``, … and ``held-out-00000.tar``, ….

A sample is ``KEY.png``, ``KEY.txt`` (its first caption) and ``KEY.json``:
``{"captions": [...], "scene": {...}, "swap": {"true": ..., "swapped": ...} | null}``. Times, owners and
modes in the tars are fixed, so the same seed gives the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sightline.errors import SourceError
from training.world.compose import chance, held_out_scenes, training_scene
from training.world.grammar import HELD_OUT_DETAILS, TRAINING_DETAILS, Detail, captions_of, swap_of
from training.world.paint import Painter
from training.world.scene import Scene, Split, to_record

SHARD_SIZE = 2500
DETAILS: dict[Split, tuple[Detail, ...]] = {"train": TRAINING_DETAILS, "held-out": HELD_OUT_DETAILS}

Progress = Callable[[int, int], None]
"""Called with (scenes written, scenes in all)."""


@dataclass(frozen=True, slots=True)
class World:
    """How much of which world to draw."""

    seed: int = 0
    num_train: int = 20_000
    num_held_out: int = 1_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One scene with its words, not yet drawn."""

    key: str
    number: int
    scene: Scene
    captions: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """The sample's ``.json``."""
        swap = swap_of(self.scene)
        return {
            "captions": list(self.captions),
            "scene": to_record(self.scene),
            "swap": None if swap is None else {"true": swap[0], "swapped": swap[1]},
        }


def samples_of(world: World, split: Split, start: int, stop: int) -> Iterator[Sample]:
    """Samples ``start`` to ``stop`` of a split, in order and without pictures."""
    if split == "train":
        scenes: Iterator[Scene] = (training_scene(world.seed, number) for number in range(start, stop))
    else:
        scenes = (scene for number, scene in enumerate(held_out_scenes(world.seed, stop)) if number >= start)
    for number, scene in enumerate(scenes, start=start):
        yield Sample(
            key=f"{split}-{number:06d}",
            number=number,
            scene=scene,
            captions=captions_of(scene, DETAILS[split], chance(world.seed, split, number, "words")),
        )


def draw_world(
    world: World, out: Path, *, num_processes: int | None = None, progress: Progress | None = None
) -> list[Path]:
    """Write both splits under ``out`` and return the shards' paths in order.

    Shards appear under their final names only when complete. Shards of the same names are replaced; others in
    ``out`` are left alone. ``num_processes`` is by default one for each core, eight at most.
    """
    if world.num_train < 0 or world.num_held_out < 0:
        raise SourceError("A world cannot have fewer than no scenes; give counts of 0 or more.")
    out.mkdir(parents=True, exist_ok=True)
    jobs: list[tuple[Split, int, int]] = []
    counts: tuple[tuple[Split, int], ...] = (("train", world.num_train), ("held-out", world.num_held_out))
    for split, count in counts:
        for start in range(0, count, SHARD_SIZE):
            jobs.append((split, start, min(start + SHARD_SIZE, count)))
    total = world.num_train + world.num_held_out
    written = 0
    paths: dict[tuple[Split, int, int], Path] = {}
    workers = num_processes or min(len(os.sched_getaffinity(0)), 8)
    if workers == 1 or len(jobs) <= 1:
        for job in jobs:
            paths[job] = write_shard(world, out, *job)
            written += job[2] - job[1]
            if progress is not None:
                progress(written, total)
    else:
        # Spawned, because a fork of a process that has threads (torch) may hang.
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(write_shard, world, out, *job): job for job in jobs}
            for future in as_completed(futures):
                job = futures[future]
                paths[job] = future.result()
                written += job[2] - job[1]
                if progress is not None:
                    progress(written, total)
    return [paths[job] for job in jobs]


def write_shard(world: World, out: Path, split: Split, start: int, stop: int) -> Path:
    """Write samples ``start`` to ``stop`` of a split as one tar and return its path."""
    final = out / f"{split}-{start // SHARD_SIZE:05d}.tar"
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    painter = Painter()
    try:
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples_of(world, split, start, stop):
                png = painter.png(sample.scene, chance(world.seed, split, sample.number, "inks"))
                record = json.dumps(sample.record(), separators=(",", ":")).encode()
                _add(tar, f"{sample.key}.png", png)
                _add(tar, f"{sample.key}.txt", sample.captions[0].encode())
                _add(tar, f"{sample.key}.json", record)
        partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)
    return final


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mtime = 0
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(content))
