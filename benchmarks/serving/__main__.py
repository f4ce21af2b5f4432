"""``python -m benchmarks.serving --out DIR``: Sightline, Infinity and the machine's ceilings in one interleaved run.

Writes ``serving.json`` and ``serving.md`` and prints them. Exit codes: 0 every bar is met (or ``--quick``, which only
proves the path), 1 a bar is missed, 2 there is no GPU, 3 something could not be started.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine
from benchmarks.serving.bars import Bar
from benchmarks.serving.clip_folder import write_clip_folder
from benchmarks.serving.generator import GeneratorFailed
from benchmarks.serving.infinity import ensure_environment
from benchmarks.serving.pictures import NUM_PICTURES, open_pool, write_source
from benchmarks.serving.report import OURS, OURS_INT8, PEER, cpu_bars, gpu_bars, page
from benchmarks.serving.run import Schedule, run
from benchmarks.serving.servers import ServerFailed, build_collection, end_servers_on_sigterm
from benchmarks.serving.variants import Variant
from sightline.encoder import load_encoder

DEFAULT_MODEL = "ViT-B-32"
MISSED, NO_GPU, FAILED = 1, 2, 3


def main() -> int:
    options = _parser().parse_args()
    end_servers_on_sigterm()
    try:
        return _benchmark(options)
    except (ServerFailed, GeneratorFailed) as error:
        print(error, file=sys.stderr)
        return FAILED


def _benchmark(options: argparse.Namespace) -> int:
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("This machine has no GPU that torch can use; run it where there is one, or with --device cpu.")
        return NO_GPU
    out: Path = options.out
    (out / "logs").mkdir(parents=True, exist_ok=True)
    data = os.environ.get("SIGHTLINE_TEST_DATA")
    num_pictures = 64 if options.quick else NUM_PICTURES
    pool = open_pool(out / f"pool-{num_pictures}", Path(data) if data else None, num_pictures)
    write_source(pool, out / "source")
    machine = describe_machine()
    described = "Machine: " + ", ".join(f"{key} {value}" for key, value in machine.items())
    described += (
        f". Pictures: {len(pool.pictures)} {pool.origin}, 640x480 JPEG, {pool.mean_picture_bytes:,} bytes each."
    )
    schedule = _schedule(options)
    pages: list[str] = []
    all_bars: list[Bar] = []
    raw: dict[str, Any] = {"machine": machine, "schedule": vars(schedule), "models": {}}
    for model in options.model or [DEFAULT_MODEL]:
        variants = _variants(model, options, out)
        results = run(variants, schedule, out / f"pool-{num_pictures}", out / "logs", _say)
        bars = gpu_bars(results, model) if (options.bars or schedule.device) in ("gpu", "cuda") else cpu_bars(results)
        pages.append(page(results, bars, variants, f"{model}, {schedule.clients} clients", described))
        raw["models"][model] = {**results.as_json(), "bars": [bar.as_json() for bar in bars]}
        all_bars += bars
        (out / "serving.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
        (out / "serving.md").write_text("\n".join(pages), encoding="utf-8")
    print("\n".join(pages))
    print(f"{sum(bar.met for bar in all_bars)} of {len(all_bars)} bars met. Figures: {out / 'serving.json'}")
    return 0 if options.quick or all(bar.met for bar in all_bars) else MISSED


def _variants(model: str, options: argparse.Namespace, out: Path) -> list[Variant]:
    """Competitors in the order in which they take turns, with what they serve made ready."""
    spec = f"{model}:random"
    settings = tuple((name, value) for name, _, value in (pair.partition("=") for pair in options.set))
    collection = _collection(spec, model, options, out)
    found = [Variant(OURS, "sightline", collection, options.precision, spec, settings=settings)]
    if options.int8_bundle is not None:
        bundle = str(options.int8_bundle)
        collection = _collection(bundle, "int8", options, out)
        found.append(Variant(OURS_INT8, "sightline", collection, "auto", bundle, settings=settings))
    if not options.no_infinity:
        environment: Path = options.infinity_env or out / "infinity-env"
        ensure_environment(environment)
        folder = out / f"{model}-clip"
        if not (folder / "tokenizer_config.json").is_file():
            write_clip_folder(folder, load_encoder(spec, device="cpu", precision="fp32").checkpoint)
        found.append(Variant(PEER, "infinity", folder, "auto", environment=environment))
        if options.infinity_bf16:
            found.append(Variant(f"{PEER} bf16", "infinity", folder, "bfloat16", environment=environment))
    return found


def _collection(spec: str, name: str, options: argparse.Namespace, out: Path) -> Path:
    collection = out / f"{name}-collection"
    build_collection(spec, out / "source", collection, options.device, out / "logs" / f"{name}-index.log")
    return collection


def _schedule(options: argparse.Namespace) -> Schedule:
    if options.quick:
        return Schedule(1, 3.0, 1.0, 0.5, options.clients, options.device)
    return Schedule(options.repetitions, options.seconds, 4.0, 2.0, options.clients, options.device)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for figures, logs and what is served")
    parser.add_argument("--quick", action="store_true", help="one short repetition: proves the path, not the speed")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load, after 4 s of warm-up")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--bars", choices=("cpu", "gpu"), help="whose targets to judge by [by the device]")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--model", action="append", help="architecture, may be given again [ViT-B-32]")
    parser.add_argument("--int8-bundle", type=Path, help="bundle of the int8 engine")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of Sightline, as its own --set"
    )
    parser.add_argument("--no-infinity", action="store_true", help="leave the peer out")
    parser.add_argument("--infinity-env", type=Path, help="virtual environment with infinity_emb; made when missing")
    parser.add_argument("--infinity-bf16", action="store_true", help="measure Infinity's bf16 option too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
