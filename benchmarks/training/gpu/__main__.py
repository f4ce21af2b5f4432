"""``python -m benchmarks.training.gpu --out DIR``: pairs/s and model FLOP utilisation beside open_clip's trainer.

Both train the same architectures in bf16 with the same batch on one GPU, on synthetic data. Writes ``gpu.json`` and
``gpu.md``. Exit codes: 0 every bar is met (or ``--quick``), 1 a bar is missed, 3 something failed or there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.indexing.watch import CommandFailed
from benchmarks.machine import describe_machine
from benchmarks.serving.bars import Bar, Spread, ratios, short, spread, table
from benchmarks.training.gpu import ours, theirs

BATCH_SIZES = {"ViT-B-32": 2048, "ViT-B-16": 1024, "ViT-L-14": 512}
SPEED, UTILISATION = 1.2, 0.40
MISSED, FAILED = 1, 3


def main() -> int:
    options = _parser().parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU that torch can use; run this on a machine with one.", file=sys.stderr)
        return FAILED
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        measured = {model: _measure(model, options, out) for model in options.model}
    except CommandFailed as error:
        print(error, file=sys.stderr)
        return FAILED
    peak = ours.peak_flops(torch.cuda.get_device_name()) or options.peak_flops
    bars = [bar for model, figures in measured.items() for bar in bars_of(model, figures, peak)]
    machine = describe_machine()
    text = page(measured, bars, machine, peak)
    raw = {"machine": machine, "peak_flops": peak, "measured": measured, "bars": [bar.as_json() for bar in bars]}
    (out / "gpu.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"{sum(bar.met for bar in bars)} of {len(bars)} bars met. Figures: {out}")
    return 0 if options.quick or all(bar.met for bar in bars) else MISSED


def _measure(model: str, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Both sides in turns; the peer's fastest options are found in the first round."""
    batch_size = 32 if options.quick else options.batch_size or BATCH_SIZES.get(model, 512)
    steps = 20 if options.quick else options.steps
    tried = theirs.candidates(len(os.sched_getaffinity(0)))[: 1 if options.quick else None]
    rates = {one: theirs.measure_theirs(model, batch_size, steps, one, out) for one in tried}
    best = max(rates, key=lambda one: rates[one])
    found: dict[str, Any] = {
        "batch_size": batch_size, "peer": best.name(), "ours": [], "theirs": [rates[best]],
        "tried": {one.name(): rate for one, rate in rates.items()},
    }  # fmt: skip
    for number in range(1 if options.quick else options.rounds):
        speed = ours.measure_ours(model, batch_size, options.micro_batch, steps, 10, torch.device("cuda"))
        found["ours"].append(speed.as_json())
        torch.cuda.empty_cache()
        if number:
            found["theirs"].append(theirs.measure_theirs(model, batch_size, steps, best, out))
        print(f"{model}: {found['ours'][-1]['pairs_per_second']:.0f} pairs/s", file=sys.stderr, flush=True)
    return found


def bars_of(model: str, figures: dict[str, Any], peak_flops: float | None) -> list[Bar]:
    """Speed beside the peer, and the share of the GPU's arithmetic in use."""
    rates = [one["pairs_per_second"] for one in figures["ours"]]
    used: Spread | None = None
    if peak_flops:
        used = spread([one["pairs_per_second"] * one["flops_per_pair"] / peak_flops for one in figures["ours"]])
    return [
        Bar(f"{model}: pairs/s against open_clip's trainer", ratios(rates, figures["theirs"]), SPEED, "at least"),
        Bar(f"{model}: model FLOP utilisation", used, UTILISATION, "at least"),
    ]


def page(measured: dict[str, Any], bars: list[Bar], machine: dict[str, Any], peak_flops: float | None) -> str:
    """The Markdown page."""
    described = ", ".join(f"{key} {value}" for key, value in machine.items())
    lines = ["| | batch | pairs/s | open_clip, pairs/s | GFLOP a pair | peak GPU memory, GiB | open_clip ran with |"]
    lines.append("|---|---|---|---|---|---|---|")
    for model, figures in measured.items():
        rate = spread([one["pairs_per_second"] for one in figures["ours"]])
        flops, peak = figures["ours"][0]["flops_per_pair"] / 1e9, figures["ours"][0]["peak_bytes"] / 2**30
        lines.append(
            f"| {model} | {figures['batch_size']} | {rate} | {spread(figures['theirs'])} | {short(flops)} | {peak:.1f} "
            f"| {figures['peer']} |"
        )
    said = f"{peak_flops / 1e12:.0f} TFLOP/s" if peak_flops else "unknown (give --peak-flops)"
    note = (
        f"bf16, one GPU, whose peak is {said}. Sightline's texts have 5 to 32 tokens and are cut to the longest of the "
        "batch, as in real captions; open_clip's are always padded to the context. GFLOP a pair are those of "
        "Sightline's own steps, forward and backward, without what is computed twice."
    )
    parts = ["## Training on a GPU beside open_clip's trainer", f"Machine: {described}.", table(bars)]
    return "\n\n".join([*parts, "\n".join(lines), note]) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="everything is written below this folder")
    parser.add_argument("--model", nargs="+", default=list(BATCH_SIZES), help="architectures of open_clip")
    parser.add_argument("--batch-size", type=int, help="by default what an 80 GB GPU holds")
    parser.add_argument("--micro-batch", type=int, help="gradient caching, for a GPU that does not hold the batch")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak-flops", type=float, help="of the GPU in bf16, where it is not in the table")
    parser.add_argument("--quick", action="store_true", help="a few small steps: proves the path, says nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
