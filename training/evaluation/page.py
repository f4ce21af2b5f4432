"""A report as one HTML file for people: plots, worst queries with their pictures, and what each number means.

Everything is inside: no script, font or picture is fetched, so the file can be mailed or kept beside a bundle. Captions
and class names are untrusted text and are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.images import Pixels
from training.evaluation.markup import Bar, bars, figure, part, picture, plate, quiet, table, words
from training.evaluation.meanings import meanings_of
from training.evaluation.missed import MissedCaption, MissedPicture
from training.evaluation.plots import distributions
from training.evaluation.report import Report
from training.evaluation.retrieval import RECALL_AT, Retrieval
from training.evaluation.typographic import TypographicAttack
from training.evaluation.zero_shot import ZeroShot

_STYLE = Path(__file__).with_name("page.css")
_MAX_CLASSES = 40
_MAX_MISTAKES = 12

_DIRECTIONS = {
    "text_to_image": "Words find their picture (first caption of each)",
    "any_text_to_image": "Words find their picture (every caption)",
    "image_to_text": "A picture finds its words",
}


@dataclass(frozen=True, slots=True)
class Heading:
    """What was measured on what: shown at the top of the page."""

    encoder: str
    data: str
    fingerprint: str = ""
    base: str = ""


def report_page(report: Report, pixels: Pixels, heading: Heading, *, explorer: str = "") -> str:
    """The whole page. ``pixels`` uint8 [N, H, W, 3] are the pictures measured; ``explorer`` is a fragment of HTML that
    is put in as it is (the alignment explorer of a training run)."""
    parts = [
        _retrieval(report),
        _similarities(report),
        _naming(report),
        _pairs(report),
        _typographic(report.typographic),
        _neighbours(report, heading.base),
        _missed_pictures(report.missed_pictures, pixels, report.num_captions),
        _missed_captions(report.missed_captions, pixels, report.num_images),
        f'<section class="part embedded">{explorer}</section>\n' if explorer else "",
        _meanings(report),
    ]
    title = f"{heading.encoder} on {heading.data}"
    name = Path(heading.encoder).name or heading.encoder
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{words(title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        f"<header><h1>{words(name)}</h1>{_facts(report, heading)}</header>\n"
        f"<main>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def _facts(report: Report, heading: Heading) -> str:
    facts = {
        "encoder": heading.encoder,
        "data": heading.data,
        "pictures": f"{report.num_images:,}",
        "captions": f"{report.num_captions:,}",
        "fingerprint": heading.fingerprint[:12],
    }
    items = "".join(f"<li>{name} <b>{words(value)}</b></li>" for name, value in facts.items() if value)
    return f'<ul class="facts">{items}</ul>'


def _retrieval(report: Report) -> str:
    plates = []
    for prefix, retrieval in report.measured.directions().items():
        if prefix == "any_text_to_image" and report.num_captions == report.num_images:
            continue  # every caption is the first one
        rows: list[Bar] = [
            (f"recall at {k}", retrieval.recall[k], retrieval.intervals.get(f"recall_at_{k}"), _chance(retrieval, k))
            for k in RECALL_AT
        ]
        rows.append(("mAP", retrieval.mean_average_precision, retrieval.intervals.get("map"), None))
        rows.append(("nDCG at 10", retrieval.ndcg_at_10, retrieval.intervals.get("ndcg_at_10"), None))
        ends = retrieval.intervals.get("median_rank")
        between = f" [{ends[0]:g}, {ends[1]:g}]" if ends else ""
        note = quiet(
            f"median rank {retrieval.median_rank:g}{between} among {retrieval.num_candidates:,}; "
            f"{retrieval.num_queries:,} queries"
        )
        plates.append(plate(_DIRECTIONS[prefix], bars(rows), note))
    return part("Retrieval", "Whiskers are 95 % bootstrap intervals over pictures; the dashed tick is chance.", *plates)


def _chance(retrieval: Retrieval, k: int) -> float:
    """Recall of a random order, from the mean number of answers a query has."""
    answers = max(1.0, retrieval.num_candidates / retrieval.num_queries)
    return float(1 - (1 - min(1.0, k / retrieval.num_candidates)) ** answers)


def _similarities(report: Report) -> str:
    found, geometry = report.measured.similarities, report.measured.geometry
    plot = distributions(
        found.matched_counts,
        found.unmatched_counts,
        f"Cosines: matched pairs around {found.matched_mean:.3f}, others around {found.unmatched_mean:.3f}",
    )
    figures = table(
        [],
        [
            ("cosine of matched pairs", f"{found.matched_mean:.3f} ± {found.matched_std:.3f}"),
            ("cosine of other pairs", f"{found.unmatched_mean:.3f} ± {found.unmatched_std:.3f}"),
            ("shared area (overlap)", f"{found.overlap:.3f}"),
            ("AUC", f"{found.auc:.4f}"),
            ("modality gap (means)", f"{geometry.modality_gap:.3f}"),
            ("distribution gap (means put together)", f"{geometry.distribution_gap:.3f}"),
            ("alignment", f"{geometry.alignment:.3f}"),
            ("uniformity of pictures, of texts", f"{geometry.image_uniformity:.2f}, {geometry.text_uniformity:.2f}"),
        ],
    )
    lead = (
        "These describe the space; they are no marks. A matched cosine of 0.25 is as good as one of 0.8 if the others "
        "lie lower, and a gap between the modalities is normal: never set a threshold on either."
    )
    return part("Matched and unmatched pairs", lead, plate("Cosines", plot), plate("Figures", figures))


def _naming(report: Report) -> str:
    if not report.named:
        return ""
    plates = [one for named in report.named for one in _named(named)]
    return part("Naming without training (zero-shot)", "The dashed tick is chance.", *plates)


def _named(one: ZeroShot) -> list[str]:
    order = sorted(
        (float(share), name) for name, share in zip(one.classes, one.per_class, strict=True) if math.isfinite(share)
    )
    shown = order[:_MAX_CLASSES]
    rows: list[Bar] = [("all", one.accuracy, one.interval, 1 / len(one.classes))]
    rows += [(name, share, None, None) for share, name in shown]
    left_out = f"; the best {len(order) - len(shown):,} are left out" if len(order) > len(shown) else ""
    note = quiet(
        f"{one.num_pictures:,} pictures, {len(one.classes):,} classes, worst class first{left_out}; "
        f"mean per class {one.mean_per_class:.3f}"
    )
    plates = [plate(f"By {one.name}", bars(rows), note)]
    mistakes = one.mistakes(_MAX_MISTAKES)
    if mistakes:
        lines = [(true, named, f"{times:,} of {pictures:,}") for true, named, times, pictures in mistakes]
        plates.append(plate(f"Commonest mistakes by {one.name}", table(["true", "named as", "pictures"], lines)))
    return plates


def _pairs(report: Report) -> str:
    suites = [suite for suite in (report.swaps, *report.suites) if suite is not None]
    if not suites:
        return ""
    rows: list[Bar] = [
        (suite.name, suite.ranked_rightly, suite.interval, 0.5) for suite in suites if suite.ranked_rightly is not None
    ]
    lines = [
        (suite.name, f"{suite.num_pairs:,}", f"{suite.text_cosine:.3f}", f"{suite.unrelated_cosine:.3f}")
        for suite in suites
    ]
    plates = [plate("Ranked rightly", bars(rows))] if rows else []
    plates.append(
        plate(
            "Cosine of the two sentences",
            table(["suite", "pairs", "true and false", "unrelated"], lines),
            quiet("Where it is near 1 the text tower does not see the difference, and no picture can help."),
        )
    )
    lead = "A picture, its caption, and a false sentence of almost the same words; chance is 0.5."
    return part("Word order and other text pairs", lead, *plates)


def _typographic(found: TypographicAttack | None) -> str:
    if found is None:
        return ""
    rows: list[Bar] = [
        ("named rightly", found.accuracy, None, None),
        ("with a wrong word", found.attacked_accuracy, None, None),
        ("flipped by the word", found.flip_rate, None, None),
        ("flipped by no word", found.control_flip_rate, None, None),
    ]
    plates = [plate("What writing does", bars(rows))]
    if found.example is not None:
        before, after, name, word = found.example
        shots = figure(before, f"named “{name}”") + figure(after, f"named “{word}”")
        plates.append(plate("One that was flipped", f'<div class="shots">{shots}</div>'))
    lead = f"{found.num_pictures:,} pictures with the name of another class written on them."
    return part("Typographic attack", lead, *plates)


def _neighbours(report: Report, base: str) -> str:
    found = report.neighbours
    if found is None or not found.k:
        return ""
    rows: list[Bar] = [
        ("pictures of a picture", found.images, None, found.chance),
        ("pictures of a caption", found.texts, None, found.chance),
    ]
    lead = f"The share of the {found.k} nearest pictures that are the same under {base or 'the base encoder'}."
    return part("What was kept of the base encoder", lead, plate("Overlap", bars(rows)))


def _missed_pictures(examples: Sequence[MissedPicture], pixels: Pixels, num_captions: int) -> str:
    if not examples:
        return ""
    items = []
    for one in examples:
        shots = [figure(pixels[one.row], f"place {one.rank:g}, {one.score:.3f}", "right")]
        shots += [
            figure(pixels[row], f"{place}. {score:.3f}", "right" if row == one.row else "")
            for place, (row, score) in enumerate(zip(one.found, one.found_scores, strict=True), start=1)
        ]
        items.append(f'<li class="plate"><q>{words(one.caption)}</q><div class="shots">{"".join(shots)}</div></li>')
    lead = f"Of {num_captions:,} captions, these found their picture (outlined) last; beside it what they found first."
    return _list("Words that went furthest astray", lead, items)


def _missed_captions(examples: Sequence[MissedCaption], pixels: Pixels, num_images: int) -> str:
    if not examples:
        return ""
    items = []
    for one in examples:
        found = "".join(
            f'<li>{words(caption)} <span class="quiet">{score:.3f}</span></li>'
            for caption, score in zip(one.found, one.found_scores, strict=True)
        )
        items.append(
            f'<li class="plate"><span class="own">{words(one.caption)}</span>'
            f'<span class="quiet">its own best, place {one.rank:g}, {one.score:.3f}</span>'
            f'<div class="beside">{picture(pixels[one.row])}<div>found first<ol>{found}</ol></div></div></li>'
        )
    lead = f"Of {num_images:,} pictures, these found one of their own captions last."
    return _list("Pictures that went furthest astray", lead, items)


def _list(title: str, lead: str, items: Sequence[str]) -> str:
    inside = f'<ul class="misses">{"".join(items)}</ul>'
    return f'<section class="part"><h2>{words(title)}</h2>{quiet(lead)}{inside}</section>\n'


def _meanings(report: Report) -> str:
    values, intervals = report.values(), report.intervals()
    rows = "".join(
        f"<tr><th>{words(one.title)}</th><td>{words(one.text)}</td>"
        f'<td><span class="{"yes" if one.gate else "no"}">{"yes" if one.gate else "no"}</span> '
        f"{words(one.advice)}</td></tr>"
        for one in meanings_of(values)
    )
    meanings = (
        '<div class="scroll"><table class="meanings"><thead><tr><th>figure</th><th>what it says</th>'
        f"<th>as a threshold</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
    lines = [
        (name, f"{value:g}", "{:g} to {:g}".format(*intervals[name]) if name in intervals else "")
        for name, value in values.items()
    ]
    figures = table(["name", "value", "95 % interval"], lines)
    return (
        f'<section class="part"><h2>What the numbers mean</h2>{meanings}'
        f"<details><summary>All figures by the names of --json</summary>{figures}</details></section>\n"
    )
