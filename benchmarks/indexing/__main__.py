"""``python -m benchmarks.indexing --out DIR``: Sightline's index build beside clip-retrieval's inference in one run.

Writes ``indexing.json`` and ``indexing.md`` (with ``--memory``: ``memory.json`` and ``memory.md``) and prints the page.
Exit codes: 0 every bar is met (or ``--quick``, which only proves the path), 1 a bar is missed, 3 something failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.indexing.builds import BuildOptions
from benchmarks.indexing.memory import SIZES, measure_memory, memory_bars, memory_page, write_repeated
from benchmarks.indexing.peer import DEFAULT_BATCH_SIZE, DEFAULT_WORKERS, PeerOptions, ensure_environment
from benchmarks.indexing.report import AS_IT_COMES, OURS_BF16, OURS_FP32, OURS_INT8, PEER, PEER_DEFAULTS, bars_of, page
from benchmarks.indexing.run import Competitor, run
from benchmarks.indexing.watch import CommandFailed
from benchmarks.machine import describe_machine
from benchmarks.serving.bars import Bar
from benchmarks.serving.generator import GeneratorFailed
from benchmarks.serving.pictures import NUM_PICTURES, Pool, open_pool
from benchmarks.serving.servers import end_servers_on_sigterm
from sightline.encoder import load_encoder

ARCHITECTURE = "ViT-B-32"
NUM_FILES = 1024
"""On two cores eight seconds of work in bf16: enough for what happens once to weigh little."""
MISSED, FAILED = 1, 3


def main() -> int:
    options = _parser().parse_args()
    end_servers_on_sigterm()
    out: Path = options.out.resolve()
    (out / "logs").mkdir(parents=True, exist_ok=True)
    num = 24 if options.quick else NUM_PICTURES
    data = os.environ.get("SIGHTLINE_TEST_DATA")
    folder = out / f"pool-{num}"
    pool = open_pool(folder, Path(data) if data else None, num)
    try:
        bars = _memory(options, pool, out) if options.memory else _speed(options, pool, folder, out)
    except (CommandFailed, GeneratorFailed) as error:
        print(error, file=sys.stderr)
        return FAILED
    print(f"{sum(bar.met for bar in bars)} of {len(bars)} bars met. Figures: {out}")
    return 0 if options.quick or all(bar.met for bar in bars) else MISSED


def _speed(options: argparse.Namespace, pool: Pool, folder: Path, out: Path) -> list[Bar]:
    competitors = _competitors(options, out)
    repetitions, seconds = (1, 0.2) if options.quick else (options.repetitions, options.ceiling_seconds)
    num = 2 * len(pool.pictures) if options.quick else options.pictures
    source = out / f"source-{num}"
    if not source.is_dir():
        write_repeated(pool.pictures, num, source)
    results = run(competitors, repetitions, seconds, folder, source, out, _say)
    bars = bars_of(results)
    machine = describe_machine()
    described = f"{_described(machine)} Pictures: {num} files of {len(pool.pictures)} {pool.origin}, 640x480 JPEG, "
    described += f"{pool.mean_picture_bytes:,} bytes each; {ARCHITECTURE}, untrained, the same weights for all."
    peer = (
        f"clip-retrieval runs with batches of {options.peer_batch_size} and {options.peer_workers} decoding processes, "
        f"and once with its defaults ({DEFAULT_BATCH_SIZE} and {DEFAULT_WORKERS})."
    )
    text = page(results, bars, described, peer)
    raw = {
        "machine": machine, "repetitions": repetitions, "num_pictures": num,
        "peer": {"batch_size": options.peer_batch_size, "num_workers": options.peer_workers}, **results.as_json(),
    }  # fmt: skip
    _write(out, "indexing", raw, bars, text)
    return bars


def _memory(options: argparse.Namespace, pool: Pool, out: Path) -> list[Bar]:
    sizes = (100, 400) if options.quick else tuple(options.sizes or SIZES)
    peaks = measure_memory(pool, sizes, out, _say)
    bars = memory_bars(peaks)
    machine = describe_machine()
    raw = {"machine": machine, "peaks": [peak.as_json() for peak in peaks]}
    _write(out, "memory", raw, bars, memory_page(peaks, bars, _described(machine)))
    return bars


def _competitors(options: argparse.Namespace, out: Path) -> list[Competitor]:
    """In the order in which they take turns."""
    spec = f"{ARCHITECTURE}:random"
    found = []
    if not options.no_peer:
        environment: Path = (options.peer_env or out / "peer-env").absolute()
        ensure_environment(environment)
        weights = _peer_weights(spec, out)
        settings = (
            (PEER, options.peer_batch_size, options.peer_workers),
            (PEER_DEFAULTS, DEFAULT_BATCH_SIZE, DEFAULT_WORKERS),
        )
        for name, batch_size, num_workers in settings:
            if name == PEER or not options.quick:
                peer = PeerOptions(environment, weights, ARCHITECTURE, batch_size, num_workers)
                found.append(Competitor(name, peer, every_time=name == PEER))
    found.append(Competitor(OURS_BF16, BuildOptions(spec, "bf16", 0), ceilings=True))
    if options.int8_bundle is not None:
        bundle = str(options.int8_bundle.absolute())
        found.append(Competitor(OURS_INT8, BuildOptions(bundle, thumbnail_px=0), ceilings=True))
    found.append(Competitor(AS_IT_COMES, BuildOptions(spec)))
    found.append(Competitor(OURS_FP32, BuildOptions(spec, "fp32", 0), ceilings=True, every_time=False))
    return found


def _peer_weights(spec: str, out: Path) -> Path:
    """The weights that the spec stands for, as the state dict that the peer loads."""
    path = out / f"{ARCHITECTURE}.pt"
    if not path.is_file():
        state = load_encoder(spec, device="cpu", precision="fp32").checkpoint.model.state_dict()
        torch.save(dict(state), path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    return path


def _write(out: Path, name: str, raw: dict[str, Any], bars: Sequence[Bar], text: str) -> None:
    figures = {**raw, "bars": [bar.as_json() for bar in bars]}
    (out / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def _described(machine: dict[str, str | int]) -> str:
    text = "Machine: " + ", ".join(f"{key} {value}" for key, value in machine.items()) + "."
    threads = os.environ.get("OMP_NUM_THREADS")
    return text + (f" **OMP_NUM_THREADS={threads}** held everything back." if threads else "")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for figures, logs and what is built")
    parser.add_argument("--quick", action="store_true", help="one short repetition: proves the path, not the speed")
    parser.add_argument("--memory", action="store_true", help="measure peak memory by the number of inputs instead")
    parser.add_argument("--sizes", type=int, action="append", help="of --memory, may be given again")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=NUM_FILES, help="files in the source")
    parser.add_argument("--ceiling-seconds", type=float, default=1.0, help="for each figure of the ceilings")
    parser.add_argument("--int8-bundle", type=Path, help=f"bundle of the int8 engine, made of {ARCHITECTURE}:random")
    parser.add_argument("--no-peer", action="store_true", help="leave clip-retrieval out")
    parser.add_argument("--peer-env", type=Path, help="virtual environment with clip-retrieval; made when missing")
    parser.add_argument("--peer-batch-size", type=int, default=64)
    parser.add_argument("--peer-workers", type=int, default=os.cpu_count() or 1, help="[one for each core]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
