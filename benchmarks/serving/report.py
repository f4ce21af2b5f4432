"""From results to bars and a Markdown page: ratios first, absolute figures below, the machine above."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.serving.bars import Bar, Spread, ratios, spread, table
from benchmarks.serving.run import Results, agreement, loads_of
from benchmarks.serving.variants import Variant

IMAGES, TEXTS, IMAGE_ONE, TEXT_ONE = (load.name for load in loads_of(1)[:4])
OURS, OURS_INT8, PEER = "Sightline", "Sightline int8", "Infinity"
_RATE = ("throughput_per_second",)
QUIET_CORES = 0.1
_P50 = ("latency", "p50_ms")


def cpu_bars(results: Results) -> list[Bar]:
    """The targets of a machine without a GPU, for the variants that took part."""
    bars = [
        Bar("images/s against Infinity", _against_peer(results, OURS, IMAGES), 2.5, "at least"),
        Bar("images/s against the roofline", _against_roofline(results, OURS), 0.85, "at least"),
    ]
    if OURS_INT8 in results.figures:
        bars += [
            Bar("images/s against Infinity, int8", _against_peer(results, OURS_INT8, IMAGES), 3.5, "at least"),
            Bar("images/s against the roofline, int8", _against_roofline(results, OURS_INT8), 0.85, "at least"),
        ]
    return [
        *bars,
        Bar("texts/s against Infinity", _against_peer(results, OURS, TEXTS), 2.5, "at least"),
        Bar("p50 of one image client against decode + encode alone", _one_image(results, OURS), 1.15, "at most"),
        Bar("p50 of one text client against tokenize + encode alone", _one_text(results, OURS), 1.15, "at most"),
    ]


def gpu_bars(results: Results, model: str) -> list[Bar]:
    """The targets of one H200, for ViT-B-32 or a larger tower."""
    bars = [
        Bar("one text, p50", spread(_known(results.values(OURS, TEXT_ONE, *_P50))), 4, "at most", " ms"),
        Bar("one text, p99", spread(_known(results.values(OURS, TEXT_ONE, "latency", "p99_ms"))), 10, "at most", " ms"),
    ]
    rates = results.values(OURS, IMAGES, *_RATE)
    if model == "ViT-B-32":
        return [Bar("images/s end to end", spread(_known(rates)), 2500, "at least"), *bars]
    alone = results.ceiling(OURS, "encoder_images_per_second")
    return [Bar("images/s against the encoder alone", ratios(rates, alone), 0.8, "at least"), *bars]


def page(results: Results, bars: Sequence[Bar], variants: Sequence[Variant], title: str, machine: str) -> str:
    """The Markdown page of one model."""
    names = [variant.name for variant in variants if variant.name in results.figures]
    parts = [f"## {title}", machine, table(bars), _figures(results, names), _ceilings(results, names)]
    busiest = _busiest_neighbour(results)
    if busiest > QUIET_CORES:
        parts.append(
            f"**Not a quiet machine**: other work, or other machines on the same host, took up to {busiest:.2f} cores "
            "while something was measured. Repeat the run with nothing beside it."
        )
    if PEER in results.vectors and OURS in results.vectors:
        agreed = agreement(results, OURS, PEER)
        parts.append(
            f"Same weights in both servers: the lowest cosine between {OURS}'s and {PEER}'s vectors is "
            f"{agreed['images']} for pictures and {agreed['texts']} for texts."
        )
    return "\n\n".join(parts) + "\n"


def _busiest_neighbour(results: Results) -> float:
    loads = [entry for by_load in results.figures.values() for entries in by_load.values() for entry in entries]
    ceilings = [entry for entries in results.ceilings.values() for entry in entries]
    return max((entry["other_cores"] + entry["stolen_cores"] for entry in [*loads, *ceilings]), default=0.0)


def _figures(results: Results, names: Sequence[str]) -> str:
    lines = [
        "| load | server | answers/s, median (range) | p50 ms | p99 ms | failed | generator's cores | others' cores |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for load in loads_of(1):
        for name in names:
            entries = results.figures[name].get(load.name)
            if not entries:
                continue
            cells = [
                spread(_known(results.values(name, load.name, *path))) for path in (_RATE, _P50, ("latency", "p99_ms"))
            ]
            failed = sum(entry["num_due"] - entry["num_ok"] for entry in entries)
            cores = max(entry["generator_cores"] for entry in entries)
            others = max(entry["other_cores"] + entry["stolen_cores"] for entry in entries)
            shown = " | ".join("not measured" if cell is None else str(cell) for cell in cells)
            lines.append(f"| {load.name} | {name} | {shown} | {failed} | {cores:.2f} | {others:.2f} |")
    return "\n".join(lines)


def _ceilings(results: Results, names: Sequence[str]) -> str:
    columns = {
        "decode alone, images/s": "decodes_per_second",
        "encoder alone, images/s": "encoder_images_per_second",
        "roofline, images/s": "roofline_images_per_second",
        "text encoder alone, texts/s": "encoder_texts_per_second",
        "others' cores": "other_cores",
    }
    lines = ["| all cores, in this run | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name in names:
        if name in results.ceilings:
            cells = [spread(_known(results.ceiling(name, key))) for key in columns.values()]
            precision = results.ceilings[name][0]["precision"]
            lines.append(f"| {name} ({precision}) | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _against_peer(results: Results, ours: str, load: str) -> Spread | None:
    return ratios(results.values(ours, load, *_RATE), results.values(PEER, load, *_RATE))


def _against_roofline(results: Results, ours: str) -> Spread | None:
    return ratios(results.values(ours, IMAGES, *_RATE), results.ceiling(ours, "roofline_images_per_second"))


def _one_image(results: Results, ours: str) -> Spread | None:
    decode, encode = results.ceiling(ours, "decode_one_seconds"), results.ceiling(ours, "encode_one_seconds")
    alone = [1000 * (one + other) for one, other in zip(_known(decode), _known(encode), strict=True)]
    return ratios(results.values(ours, IMAGE_ONE, *_P50), alone)


def _one_text(results: Results, ours: str) -> Spread | None:
    alone = [1000 * one for one in _known(results.ceiling(ours, "text_one_seconds"))]
    return ratios(results.values(ours, TEXT_ONE, *_P50), alone)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
