"""The photos benchmark: what the peer is given, what is read of both logs, and when a bar is met."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.indexing.watch import CommandFailed
from benchmarks.training.photos import ours, peer
from benchmarks.training.photos.data import NUM_TARS, Photos, unpack, write_table, write_tars
from benchmarks.training.photos.peer import PeerJob, PeerSettings
from benchmarks.training.photos.plan import Plan, epochs_for, read_plan, steps_for, write_plan
from benchmarks.training.photos.report import bars_of, page
from benchmarks.training.photos.run import OURS, PEER, read_runs
from benchmarks.training.photos.score import R_AT_10
from sightline.sources import Record, open_source
from tests.pictures import encoded, textured
from training.recipe import read_recipe

SETTINGS = PeerSettings(batch_size=4)
PLAN = Plan(170.0, 100, 8, 2, SETTINGS)


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    pictures = tmp_path / "data" / "train"
    pictures.mkdir(parents=True)
    for number in range(3):
        (pictures / f"{number}.jpg").write_bytes(encoded(textured((24, 24), seed=number), "JPEG"))
        (pictures / f"{number}.txt").write_text(f"caption\tof {number}\n", encoding="utf-8")
    return unpack(str(tmp_path / "data"), tmp_path / "files")


def entry(side: str, number: int, rate: float, recall: float, seconds: float = 170.0) -> dict[str, Any]:
    return {
        "side": side, "round": number, "pairs": rate * seconds, "seconds": seconds, "pairs_per_second": rate,
        "loop_pairs_per_second": 1.1 * rate, "peak_group_bytes": 2**30, "other_cores": 0.0, "stolen_cores": 0.0,
        R_AT_10: recall, "any_text_to_image_recall_at_1": 0.01, "image_to_text_recall_at_10": 0.1,
    }  # fmt: skip


def test_pictures_are_unpacked_with_their_bytes_unchanged(photos: Photos, tmp_path: Path) -> None:
    assert photos.num_pictures == 3
    for number, (path, caption) in enumerate(photos.pairs):
        assert path.read_bytes() == (tmp_path / "data" / "train" / f"{number}.jpg").read_bytes()
        assert caption == f"caption of {number}"


def test_a_table_has_every_pair_as_often_as_it_fits_and_a_random_rest(photos: Photos) -> None:
    rows = photos.table_of(8, seed=1)
    assert sorted(rows.count(pair) for pair in photos.pairs) == [2, 3, 3]
    assert rows == photos.table_of(8, seed=1)


def test_the_peer_reads_a_table_with_tabs_and_tars_of_single_pairs(photos: Photos, tmp_path: Path) -> None:
    write_table(photos.pairs, tmp_path / "pairs.csv")
    with (tmp_path / "pairs.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file, delimiter="\t"))
    assert [(Path(row["filepath"]), row["title"]) for row in read] == list(photos.pairs)
    pattern = write_tars(photos.table_of(20, seed=0), tmp_path / "tars", seed=0)
    assert pattern.endswith(f"{{00000..{NUM_TARS - 1:05d}}}.tar")
    names: list[str] = []
    for path in sorted((tmp_path / "tars").iterdir()):
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert len(names) == 40 and len(set(names)) == 40
    found = [item for item in open_source(str(tmp_path / "tars" / "*.tar")) if isinstance(item, Record)]
    assert {caption for record in found for caption in record.captions} == {caption for _, caption in photos.pairs}


def test_the_peers_command_line_is_one_that_its_parser_takes(tmp_path: Path) -> None:
    params = pytest.importorskip("open_clip_train.params")
    recipe = read_recipe(str(ours.RECIPE))
    job = PeerJob("pairs.csv", 800, 3, 5, "name", 1)
    settings = replace(SETTINGS, crop_scale=0.5, learning_rate=2e-3)
    parsed = params.parse_args(peer.arguments(recipe, settings, job, tmp_path))
    assert (parsed.train_data, parsed.dataset_type, parsed.train_num_samples) == ("pairs.csv", "csv", 800)
    assert (parsed.epochs, parsed.seed, parsed.lr, parsed.batch_size) == (3, 5, 2e-3, 4)
    assert parsed.aug_cfg == {"scale": (0.5, 1.0)}
    assert parsed.image_mean == list(recipe.model.mean) and parsed.device == "cpu"
    assert parsed.save_frequency == 0  # one checkpoint, at the end


def test_the_peer_gets_the_recipes_architecture(tmp_path: Path) -> None:
    recipe = read_recipe(str(ours.RECIPE))
    peer.write_architecture(recipe, tmp_path)
    config = json.loads((tmp_path / f"{peer.MODEL_NAME}.json").read_text(encoding="utf-8"))
    assert config["embed_dim"] == recipe.model.embed_dim
    assert config["vision_cfg"].items() >= recipe.model.vision.items()
    assert config["text_cfg"].items() >= recipe.model.text.items()


def test_the_peers_rate_leaves_out_the_steps_in_which_its_workers_start() -> None:
    lines = [f"Train Epoch: 0 Data (t): 0.1 Batch (t): {seconds:.3f}, 9/s" for seconds in [9.0] * 6 + [0.5] * 9 + [4.0]]
    assert peer.pairs_per_second("\n".join(lines), 100) == pytest.approx(200)
    with pytest.raises(CommandFailed, match="too few steps"):
        peer.pairs_per_second("\n".join(lines[:5]), 100)


def test_our_rate_is_read_of_our_own_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        "".join(json.dumps({"step": n, "loss": 1.0, "seconds": 9.0 if n < 5 else 0.5}) + "\n" for n in range(20))
    )
    assert ours.pairs_per_second(log, 100) == pytest.approx(200)


def test_the_recipe_takes_steps_and_seed(tmp_path: Path) -> None:
    changed = read_recipe(str(ours.write_recipe(ours.RECIPE, tmp_path / "r.toml", num_steps=77, seed=5)))
    assert (changed.training.num_steps, changed.seed) == (77, 5)
    assert changed.model == read_recipe(str(ours.RECIPE)).model
    (tmp_path / "bad.toml").write_text("seed = 0\n")
    with pytest.raises(CommandFailed, match="num_steps"):
        ours.write_recipe(tmp_path / "bad.toml", tmp_path / "r.toml", num_steps=1, seed=0)


def test_steps_and_epochs_fill_the_seconds() -> None:
    assert steps_for(100.0, 20.0, 160.0, 128) == 100
    rows, epochs = epochs_for(2500, 1000, 100)
    assert (rows, epochs) == (1200, 2)
    assert epochs_for(500, 1000, 100) == (500, 1)  # less than an epoch is a shorter table
    assert PLAN.peer_pairs == 16


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_plan(tmp_path / "plan.json") is None
    write_plan(PLAN, tmp_path / "plan.json", {"peer": []})
    assert read_plan(tmp_path / "plan.json") == PLAN


def test_bars_compare_within_a_round() -> None:
    # The machine halves its speed in the second round, and each seed has its own level.
    runs = [
        entry(OURS, 0, 1400, 0.12),
        entry(PEER, 0, 1000, 0.10),
        entry(PEER, 1, 500, 0.08),
        entry(OURS, 1, 700, 0.09),
    ]
    assert [bar.met for bar in bars_of(runs)] == [True, True, True]
    slower = [entry(OURS, 0, 1200, 0.09, 200.0), entry(PEER, 0, 1000, 0.10)]
    assert [bar.met for bar in bars_of(slower)] == [False, False, False]


def test_the_page_names_the_peers_settings_and_says_when_others_were_at_work() -> None:
    runs = [entry(OURS, 0, 1400, 0.12), entry(PEER, 0, 1000, 0.10)]
    text = page(runs, bars_of(runs), PLAN, "Machine: x.", ["sightline train …"])
    assert "csv, 2 workers, amp_bf16" in text and "Not a quiet machine" not in text
    runs[0]["other_cores"] = 0.5
    assert "Not a quiet machine" in page(runs, bars_of(runs), PLAN, "Machine: x.", [])


def test_rounds_are_read_back(tmp_path: Path) -> None:
    assert read_runs(tmp_path / "runs.jsonl") == []
    buffer = io.StringIO()
    for one in (entry(OURS, 0, 1.0, 0.1), entry(PEER, 0, 1.0, 0.1)):
        buffer.write(json.dumps(one) + "\n")
    (tmp_path / "runs.jsonl").write_text(buffer.getvalue())
    assert [one["side"] for one in read_runs(tmp_path / "runs.jsonl")] == [OURS, PEER]
