from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from sightline.encoder import load_encoder
from tests.training.tiny import RESNET, gradients, objective_of, random_batch, tiny_model, worst_difference
from training import distributed
from training.batch import Batch
from training.gradient_cache import backward

CASES: tuple[dict[str, Any], ...] = (
    {"bias": None, "micro_batch": None},
    {"bias": -2.0, "micro_batch": None},
    {"bias": None, "micro_batch": 2},
    {"bias": None, "micro_batch": 2, "settings": {"label_smoothing": 0.1}},
    {"bias": -2.0, "micro_batch": 2, "settings": {"adversary": {"strength": 0.5}, "queue": {"size": 16}}},
)


def batch_with_everything(step: int) -> Batch:
    """9 pictures and 11 texts, which no number of processes divides; one text belongs to two pictures."""
    plain = random_batch(9, 11, step=step)
    positives = np.eye(9, 11, dtype=bool)
    positives[3, 9] = positives[4, 3] = True
    return Batch(**{**{name: getattr(plain, name) for name in plain.__slots__}, "positives": positives})


def two_steps(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The gradients of a second batch, whose loss sees the first one's vectors where there is a queue."""
    torch.manual_seed(0)  # an adversary's first weights
    model = tiny_model(bias=case["bias"])
    objective = objective_of(model, **case.get("settings", {})).double()
    for step in range(2):
        objective.zero_grad()
        loss = backward(objective, batch_with_everything(step), case["micro_batch"])
        objective.remember(loss)
    distributed.average_gradients(objective.parameters())
    return gradients(objective)


def worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world)
    try:
        found = {
            "gradients": [two_steps(case) for case in CASES],
            "shares": [(distributed.share(n).start, distributed.share(n).stop) for n in (9, 11, world)],
        }
        norms: Any = tiny_model(vision=RESNET)
        norms.visual.bn1.running_mean.fill_(float(rank))
        distributed.average_statistics(norms)
        found["mean"] = norms.visual.bn1.running_mean.unique().tolist()
        norms.visual.bn1.weight.data.fill_(float(rank + 7))
        distributed.copy_from_first(norms)
        found["copied"] = norms.visual.bn1.weight.unique().tolist()
        torch.save(found, f"{folder}/{world}-{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 4])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of several processes gives."""
    world = request.param
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.set_forkserver_preload([__name__])  # one import of torch for all processes
    start_processes(  # type: ignore[no-untyped-call]
        worker, (world, str(folder)), nprocs=world, start_method="forkserver"
    )
    return [torch.load(folder / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_several_processes_have_the_gradients_of_one(found: list[dict[str, Any]], number: int) -> None:
    expected = two_steps(CASES[number])
    for process in found:
        assert worst_difference(expected, process["gradients"][number]) <= 1e-10


def test_every_row_has_one_process(found: list[dict[str, Any]]) -> None:
    for place, count in enumerate((9, 11, len(found))):
        rows = [row for process in found for row in range(*process["shares"][place])]
        assert rows == list(range(count))


def test_what_is_shared(found: list[dict[str, Any]]) -> None:
    for process in found:
        assert process["mean"] == [sum(range(len(found))) / len(found)]
        assert process["copied"] == [7.0]


def test_all_gather_alone_has_no_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap that ``gather`` is there for."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        vectors = torch.ones(2, 3, requires_grad=True)
        pieces = [torch.empty(2, 3)]
        dist.all_gather(pieces, vectors)
        assert not pieces[0].requires_grad
    finally:
        dist.destroy_process_group()


def test_one_process_needs_nothing_of_this() -> None:
    vectors = torch.ones(2, 3)
    assert distributed.gather(vectors, 2) is vectors
    assert distributed.share(7) == slice(0, 7)
    assert (distributed.rank(), distributed.world()) == (0, 1)
    with distributed.processes(torch.device("cpu")) as device:
        assert device.type == "cpu"
        assert not dist.is_initialized()


@pytest.mark.slow
def test_torchrun_ends_with_one_sentence(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "sightline", "train",
         "drawn-world", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "two"), "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode != 0
    assert ended.stderr.count("error: There is nothing at") == 1
    assert "RuntimeError" not in ended.stderr


@pytest.mark.slow
def test_torchrun_trains_the_same_encoder_as_one_process(world: Path, tmp_path: Path) -> None:
    from tests.training.conftest import TINY_RECIPE

    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY_RECIPE.replace(", patch_dropout = 0.25", ""))  # each process draws its own dropout
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    arguments = ["train", str(recipe), "--data", str(world), "--device", "cpu", "--json", "--out"]
    together = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "sightline", *arguments,
         str(tmp_path / "two")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert together.returncode == 0, together.stderr
    assert together.stdout.count('"fingerprint"') == 1  # only the first process speaks
    assert together.stderr.count("Training tiny") == 1
    subprocess.run(
        [sys.executable, "-m", "sightline", *arguments, str(tmp_path / "one")],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    one, two = (
        [json.loads(line)["loss"] for line in (tmp_path / f"{name}.training" / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(two) == 8
    assert not list((tmp_path / "two.training").glob("pictures-*"))
    assert two == pytest.approx(one, rel=1e-5)
    assert load_encoder(str(tmp_path / "two"), device="cpu", precision="fp32").dim == 16
