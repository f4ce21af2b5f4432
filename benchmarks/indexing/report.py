"""From results to bars and a Markdown page: ratios first, absolute figures below, the machine above."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.indexing.run import Results
from benchmarks.serving.bars import Bar, Spread, ratios, spread, table

PEER, PEER_DEFAULTS = "clip-retrieval", "clip-retrieval with its defaults"
OURS_FP32, OURS_BF16, OURS_INT8 = "Sightline fp32", "Sightline bf16", "Sightline int8"
AS_IT_COMES = "Sightline as it comes"
QUIET_CORES = 0.1
_MIB = 2**20
_COSINES = {OURS_FP32: 0.9999, OURS_BF16: 0.999, OURS_INT8: 0.99}
"""What vectors of the same weights and pictures have to reach beside the peer's fp32."""
_TARGETS = {OURS_BF16: 2.8, OURS_INT8: 3.5}
_ROOFLINE = 0.9


def bars_of(results: Results) -> list[Bar]:
    """The targets, for the competitors that took part; without the peer its ratios count as missed."""
    found = []
    for name, target in _TARGETS.items():
        if name in results.figures:
            rates = results.values(name, "images_per_second")
            of_roofline = ratios(rates, results.ceiling(name, "roofline_images_per_second"))
            short = name.removeprefix("Sightline ")
            for peer in (PEER, PEER_DEFAULTS):
                if peer == PEER or peer in results.figures:
                    against = ratios(rates, results.values(peer, "images_per_second"))
                    found.append(Bar(f"images/s against {peer}, {short}", against, target, "at least"))
            found.append(Bar(f"images/s against the roofline, {short}", of_roofline, _ROOFLINE, "at least"))
    for name, target in _COSINES.items():
        if name in results.cosines:
            lowest = spread([results.cosines[name]])
            found.append(Bar(f"lowest cosine with clip-retrieval's vectors, {name}", lowest, target, "at least"))
    return found


def page(results: Results, bars: Sequence[Bar], machine: str, peer: str) -> str:
    """The Markdown page; ``peer`` says how clip-retrieval was run."""
    parts = ["## Indexing beside clip-retrieval", machine, bar_table(bars), _figures(results), _ceilings(results)]
    busiest = max((_others(entry) for entries in _all(results) for entry in entries), default=0.0)
    if busiest > QUIET_CORES:
        parts.append(
            f"**Not a quiet machine**: other work, or other machines on the same host, took up to {busiest:.2f} cores "
            "while something was measured. Repeat the run with nothing beside it."
        )
    parts.append(_explained(peer))
    if results.cosines:
        pairs = ", ".join(f"{name} {cosine}" for name, cosine in results.cosines.items())
        parts.append(f"Same weights, same pictures: the lowest cosine of a picture's two vectors is {pairs}.")
    return "\n\n".join(parts) + "\n"


def bar_table(bars: Sequence[Bar]) -> str:
    """As ``benchmarks.serving.bars.table``, but cosines with five decimals: their last ones are what matters."""
    text = table([bar for bar in bars if not bar.name.startswith("lowest cosine")])
    for bar in bars:
        if bar.name.startswith("lowest cosine") and bar.measured is not None:
            text += f"\n| {bar.name} | at least {bar.bound} | {bar.measured.median:.5f} | {bar.verdict()} |"
    return text


def _explained(peer: str) -> str:
    return (
        "**Counted** in images/s: reading, decoding, encoding, and for Sightline writing and fsyncing what a killed "
        "process keeps. It begins when the model is loaded. clip-retrieval's own count begins after its two warm-up "
        "batches and ends before it writes its vectors, both in its favour; Sightline's first batches count. Not "
        "counted: publication (ledger, near duplicates, index), which clip-retrieval's inference does not do. *Whole "
        "command* is everything from starting Python to its end, publication and warm-up batches included. "
        f"Thumbnails are off but in '{AS_IT_COMES}': clip-retrieval makes none, and the ceilings hold none. {peer} "
        "Ratios are taken within a repetition."
    )


def _all(results: Results) -> list[list[dict[str, float]]]:
    return [*results.figures.values(), *results.ceilings.values()]


def _others(entry: dict[str, float]) -> float:
    return entry["other_cores"] + entry["stolen_cores"]


def _figures(results: Results) -> str:
    lines = [
        "| | images/s, median (range) | whole command, images/s | whole command, s | peak RSS, first process, MiB "
        "| peak, all its processes, MiB | bound by | others' cores |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entries in results.figures.items():
        cells = [_cell(results, name, key) for key in ("images_per_second", "command_images_per_second")]
        cells.append(_cell(results, name, "command_seconds"))
        cells += [_cell(results, name, key, _MIB) for key in ("peak_rss_bytes", "peak_group_bytes")]
        bound = ", ".join(sorted({str(entry["bound_by"]) for entry in entries if "bound_by" in entry})) or "not said"
        others = max(map(_others, entries))
        lines.append(f"| {name} | {' | '.join(cells)} | {bound} | {others:.2f} |")
    return "\n".join(lines)


def _ceilings(results: Results) -> str:
    columns = {
        "decode alone, images/s": "decodes_per_second",
        "encoder alone, images/s": "encoder_images_per_second",
        "roofline, images/s": "roofline_images_per_second",
        "others' cores": "other_cores",
    }
    lines = ["| all cores, in this run | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name, entries in results.ceilings.items():
        cells = [str(_spread(results.ceiling(name, key))) for key in columns.values()]
        lines.append(f"| {name} ({entries[0]['precision']}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(results: Results, name: str, key: str, unit: int = 1) -> str:
    return str(_spread([None if value is None else value / unit for value in results.values(name, key)]))


def _spread(values: Sequence[float | None]) -> Spread | None:
    return spread([value for value in values if value is not None])
