"""Encoding under a real Ray: the same bytes as a local run, also when workers are killed. One command runs them:
``pytest -m fault tests/fault/test_ray.py``, with the extra ``ray`` installed."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from indexer.build import BuildReport
from indexer.ray_executor import ChunkWork, RayOptions, encode_with_ray
from sightline.errors import EncodingFailed
from tests.indexer.plain import CREATED, PlainEncoder, build_plain, digests, draw_folder, plain_options

pytestmark = pytest.mark.fault
ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Four logical CPUs, whatever the machine has."""
    repository = str(Path(__file__).parents[2])
    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": repository, "OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    yield
    ray.shutdown()


class SlowEncoder(PlainEncoder):
    """Takes long enough for somebody to kill it."""

    def __init__(self) -> None:
        super().__init__(lambda modality, batch: time.sleep(0.05))


class DyingEncoder(PlainEncoder):
    """Ends its process at the first picture."""

    def __init__(self) -> None:
        super().__init__(lambda modality, batch: os.kill(os.getpid(), signal.SIGKILL))


class RefusingEncoder(PlainEncoder):
    def __init__(self) -> None:
        super().__init__(refuse)


def refuse(modality: str, batch: Any) -> None:
    raise EncodingFailed("this batch is refused")


def build(source: Path, out: Path, encoder: Any, started: Any = lambda workers: None, **options: Any) -> BuildReport:
    from indexer.build import build_collection
    from sightline.sources import open_source

    work = ChunkWork(encoder, str(source), out, plain_options())
    listing = open_source(str(source), listing=out / "building" / "listing.db")
    return build_collection(
        PlainEncoder(),  # type: ignore[arg-type]
        "plain", listing, "pictures", out, plain_options(), clock=lambda: CREATED,
        executor=lambda store: encode_with_ray(work, store, RayOptions(**options), started=started),
    )  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return draw_folder(tmp_path / "pictures", 75)


def test_ray_gives_the_bytes_of_a_local_run(source: Path, tmp_path: Path) -> None:
    build_plain(source, tmp_path / "local")
    build(source, tmp_path / "ray", PlainEncoder)
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")


def test_killed_workers_cost_no_byte(source: Path, tmp_path: Path) -> None:
    build_plain(source, tmp_path / "local")
    killed: list[int] = []

    def kill_some(workers: list[Any]) -> None:
        def kill() -> None:
            for worker in workers[:2]:
                process = ray.get(worker.process_id.remote())
                time.sleep(0.1)
                os.kill(process, signal.SIGKILL)
                killed.append(process)

        threading.Thread(target=kill, daemon=True).start()

    build(source, tmp_path / "ray", SlowEncoder, started=kill_some, num_workers=3)
    assert killed
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")


def test_a_chunk_that_always_kills_its_worker_ends_the_run(source: Path, tmp_path: Path) -> None:
    with pytest.raises(EncodingFailed, match="has ended its worker 2 times"):
        build(source, tmp_path / "ray", DyingEncoder, num_workers=1, max_attempts=2)


def test_an_error_of_a_worker_arrives_as_it_is(source: Path, tmp_path: Path) -> None:
    with pytest.raises(EncodingFailed, match="this batch is refused"):
        build(source, tmp_path / "ray", functools.partial(RefusingEncoder), num_workers=2)
    build_plain(source, tmp_path / "ray")
    build_plain(source, tmp_path / "local")
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
