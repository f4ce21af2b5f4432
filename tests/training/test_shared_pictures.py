from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from sightline.errors import SightlineError, StorageError, TrainingStopped
from sightline.images import PixelSpec
from sightline.sources import open_source
from tests.training.conftest import TINY_RECIPE
from tests.training.data.test_reading import write_data
from training import distributed, preparation
from training.data import Captioned, reading
from training.recipe import parse_recipe
from training.shared_pictures import read_once

SPEC = PixelSpec(height_px=16, width_px=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CAPTIONS = [[f"picture {number}", "a picture"] if number != 4 else [" "] for number in range(30)]


class Cut(Exception):
    """Stands for a fault of ours."""


def read(data: str, folder: Path) -> tuple[Captioned, Captioned | None]:
    """What a run reads: training and held-out pictures."""
    checkpoint: Any = SimpleNamespace(pixels=SPEC)
    recipe = parse_recipe(TINY_RECIPE, "tiny.toml")
    return preparation.read_data(recipe, checkpoint, data, None, folder, on_data=None)


def described(read: tuple[Captioned | None, ...]) -> list[Any]:
    """All of it as JSON has it, with a SHA-256 in place of the pixels."""
    described: list[Any] = []
    for data in read:
        if data is not None:
            said = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
            whole = np.ascontiguousarray(data.pixels)
            said["pixels"] = [str(whole.dtype), whole.shape, hashlib.sha256(whole.data).hexdigest()]
            described.append(json.loads(json.dumps(said)))
    return described


def sentence(act: Callable[[], Any]) -> str:
    """What an act is refused with."""
    try:
        act()
    except SightlineError as error:
        return f"{type(error).__name__}: {error.message}"
    return "nothing was wrong"


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_with_small_files(*given: Any, **named: Any) -> Captioned:
    """As on a full disk: a file of more than 2,048 bytes cannot be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        return reading.read_captioned(*given, **named)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def last_only(act: Callable[[], Any]) -> Any:
    return act() if distributed.rank() == distributed.world() - 1 else None


def fail() -> None:
    raise StorageError("The last one cannot.")


def cut() -> None:
    raise Cut


def worker(rank: int, world: int, folder: str, data: str, listed: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    opened: list[str] = []

    def counted(source: str) -> Any:
        opened.append(source)
        return open_source(source)

    pytest.MonkeyPatch().setattr(reading, "open_source", counted)
    run, elsewhere = Path(folder, "run"), Path(folder, "elsewhere")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    try:
        pairs = (read(data, run), read(listed, run))
        found: dict[str, Any] = {"data": described(pairs[0]), "listed": described(pairs[1]), "opened": opened.copy()}
        found["mapped"] = distributed.in_all(lambda: [files_of(run), mapped_files(run)])
        del pairs
        found["missing"] = sentence(lambda: read(str(elsewhere / "none"), run))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(preparation, "read_captioned", read_with_small_files)
            found["full"] = sentence(lambda: read(data, run))
        found["not shared"] = sentence(lambda: read(data, last_only(lambda: elsewhere) or run))
        found["files"] = distributed.in_all(lambda: [*files_of(run), *files_of(elsewhere)])
        found["one fails"] = sentence(lambda: distributed.in_all(lambda: last_only(fail)))
        found["first"] = distributed.from_first(lambda: rank)
        try:
            found["lost"] = sentence(lambda: distributed.from_first(cut))
        except Cut:
            found["lost"] = "cut"
        Path(folder, f"{rank}.json").write_text(json.dumps(found))
    finally:
        dist.destroy_process_group()


def mapped_files(folder: Path) -> list[str]:
    """The files of a folder that this process maps, by their inodes and rights; those without a name too."""
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    return sorted(f"{part[4]} {part[1]}" for part in lines if len(part) == 6 and part[5].startswith(str(folder)))


@pytest.fixture(scope="module", params=[2, 3])
def found(
    request: pytest.FixtureRequest, world: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], list[Any], list[Any]]:
    """What each of several processes says, and what one process reads."""
    folder = tmp_path_factory.mktemp("shared")
    for name in ("run", "elsewhere", "alone"):
        (folder / name).mkdir()
    (folder / "run" / "pictures-0123456789abcdef.bin").write_bytes(b"of a run that was killed while it read")
    listed = write_data(folder / "listed", CAPTIONS)
    multiprocessing.set_forkserver_preload([__name__])  # one import of torch for all processes
    start_processes(  # type: ignore[no-untyped-call]
        worker, (request.param, str(folder), str(world), str(listed)), nprocs=request.param, start_method="forkserver"
    )
    said = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]
    alone = folder / "alone"
    return said, described(read(str(world), alone)), described(read(str(listed), alone))


Found = tuple[list[dict[str, Any]], list[Any], list[Any]]


def test_every_process_has_what_one_reads(found: Found) -> None:
    said, data, listed = found
    assert data[0]["pixels"][1] == [40, 16, 16, 3]
    assert data[1]["pixels"][1] == [24, 16, 16, 3]
    assert listed[0]["rejected"] == {"no_caption": 1}
    assert len(listed) == 1  # nothing is held out
    for process in said:
        assert process["data"] == data
        assert process["listed"] == listed


def test_only_the_first_process_opens_a_source(found: Found) -> None:
    assert [len(process["opened"]) for process in found[0]] == [3, *[0] * (len(found[0]) - 1)]


def test_all_map_the_same_files_which_have_no_names(found: Found) -> None:
    names, mapped = found[0][0]["mapped"]
    assert names == []
    assert len(mapped) == 3 and all(rights == "r--s" for _, rights in map(str.split, mapped))
    assert all(process["mapped"] == [names, mapped] for process in found[0])


def test_an_error_of_the_first_process_ends_all(found: Found) -> None:
    for process in found[0]:
        assert process["missing"].startswith("SourceError: There is nothing at")
        assert process["full"].startswith("StorageError: Could not write the pictures to")
        assert "the file is larger than the system allows" in process["full"]


def test_a_folder_that_is_not_shared_is_said_everywhere(found: Found) -> None:
    for process in found[0]:
        assert process["not shared"].startswith("StorageError: ")
        assert process["not shared"].endswith("--out must lie on a file system that all nodes share.")


def test_nothing_is_left(found: Found) -> None:
    assert all(process["files"] == [] for process in found[0])


def test_what_one_process_cannot_do_ends_all(found: Found) -> None:
    assert all(process["one fails"] == "StorageError: The last one cannot." for process in found[0])


def test_the_first_process_speaks_for_all(found: Found) -> None:
    assert all(process["first"] == 0 for process in found[0])


def test_a_first_process_that_is_gone_is_not_waited_for(found: Found) -> None:
    first, *others = (process["lost"] for process in found[0])
    assert first == "cut"
    assert all(lost.startswith(f"{TrainingStopped.__name__}: One of the processes") for lost in others)


def test_one_process_writes_no_file(tmp_path: Path) -> None:
    left = tmp_path / "pictures-0123456789abcdef.bin"
    left.write_bytes(b"of a run that was killed while it read")
    given: list[Path | None] = []

    def nothing(path: Path | None) -> Captioned:
        given.append(path)
        return Captioned(np.zeros((1, 2, 2, 3), np.uint8), (("a",),), ({},), {}, "")

    assert read_once(nothing, tmp_path).captions == (("a",),)
    assert given == [None]
    assert files_of(tmp_path) == []
