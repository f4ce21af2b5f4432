"""A report as one HTML file for people: plots, worst queries with their pictures, and what each number means.

Everything is inside: no script, font or picture is fetched, so the file can be mailed or kept beside a bundle. Captions
and class names are untrusted text and are escaped.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sightline.images import Pixels
from training.evaluation.meanings import meanings_of
from training.evaluation.missed import MissedCaption, MissedPicture
from training.evaluation.plots import bar, distributions
from training.evaluation.report import Report
from training.evaluation.retrieval import RECALL_AT, Interval, Retrieval
from training.evaluation.typographic import TypographicAttack
from training.evaluation.zero_shot import ZeroShot

_STYLE = Path(__file__).with_name("page.css")
_SIDE_PX = 128
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
        _part("How the pairs came together", explorer) if explorer else "",
        _meanings(report),
    ]
    title = f"{heading.encoder} on {heading.data}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        f"<header><h1>{_text(Path(heading.encoder).name or heading.encoder)}</h1>{_facts(report, heading)}</header>\n"
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
    items = "".join(f"<li>{name} <b>{_text(value)}</b></li>" for name, value in facts.items() if value)
    return f'<ul class="facts">{items}</ul>'


def _retrieval(report: Report) -> str:
    plates = []
    for prefix, retrieval in report.measured.directions().items():
        if prefix == "any_text_to_image" and report.num_captions == report.num_images:
            continue  # every caption is the first one
        rows = [
            (f"recall at {k}", retrieval.recall[k], retrieval.intervals.get(f"recall_at_{k}"), _chance(retrieval, k))
            for k in RECALL_AT
        ]
        rows += [
            ("mAP", retrieval.mean_average_precision, retrieval.intervals.get("map"), None),
            ("nDCG at 10", retrieval.ndcg_at_10, retrieval.intervals.get("ndcg_at_10"), None),
        ]
        ends = retrieval.intervals.get("median_rank")
        between = f" [{ends[0]:g}, {ends[1]:g}]" if ends else ""
        note = (
            f'<p class="quiet">median rank {retrieval.median_rank:g}{between} among '
            f"{retrieval.num_candidates:,}; {retrieval.num_queries:,} queries</p>"
        )
        plates.append(_plate(_DIRECTIONS[prefix], _bars(rows) + note))
    lead = "Whiskers are 95 % bootstrap intervals over pictures; the dashed tick is chance."
    return _part("Retrieval", f'<p class="quiet">{lead}</p><div class="plates">{"".join(plates)}</div>')


def _chance(retrieval: Retrieval, k: int) -> float:
    """Recall of a random order, from the mean number of answers a query has."""
    answers = max(1.0, retrieval.num_candidates / retrieval.num_queries)
    return 1 - (1 - min(1.0, k / retrieval.num_candidates)) ** answers


def _similarities(report: Report) -> str:
    similarities, geometry = report.measured.similarities, report.measured.geometry
    plot = distributions(
        similarities.matched_counts,
        similarities.unmatched_counts,
        f"Cosines: matched pairs around {similarities.matched_mean:.3f}, others around "
        f"{similarities.unmatched_mean:.3f}",
    )
    rows = [
        ("cosine of matched pairs", f"{similarities.matched_mean:.3f} ± {similarities.matched_std:.3f}"),
        ("cosine of other pairs", f"{similarities.unmatched_mean:.3f} ± {similarities.unmatched_std:.3f}"),
        ("shared area (overlap)", f"{similarities.overlap:.3f}"),
        ("AUC", f"{similarities.auc:.4f}"),
        ("modality gap (means)", f"{geometry.modality_gap:.3f}"),
        ("distribution gap (means put together)", f"{geometry.distribution_gap:.3f}"),
        ("alignment", f"{geometry.alignment:.3f}"),
        ("uniformity of pictures, of texts", f"{geometry.image_uniformity:.2f}, {geometry.text_uniformity:.2f}"),
    ]
    table = _table([], [(name, value) for name, value in rows])
    lead = (
        "These describe the space; they are no marks. A matched cosine of 0.25 is as good as one of 0.8 if the others "
        "lie lower, and a gap between the modalities is normal: never set a threshold on either."
    )
    return _part(
        "Matched and unmatched pairs",
        f'<p class="quiet">{lead}</p><div class="plates">{_plate("Cosines", plot)}{_plate("Figures", table)}</div>',
    )


def _naming(report: Report) -> str:
    if not report.named:
        return ""
    plates = [_named(one) for one in report.named]
    return _part("Naming without training (zero-shot)", f'<div class="plates">{"".join(plates)}</div>')


def _named(one: ZeroShot) -> str:
    order = sorted(
        (float(share), name) for name, share in zip(one.classes, one.per_class, strict=True) if math.isfinite(share)
    )
    shown = order[:_MAX_CLASSES]
    rows: list[tuple[str, float, Interval | None, float | None]] = [
        ("all", one.accuracy, one.interval, 1 / len(one.classes))
    ]
    rows += [(name, share, None, None) for share, name in shown]
    note = f"<p class='quiet'>{one.num_pictures:,} pictures, {len(one.classes)} classes, worst class first"
    note += f"; the best {len(order) - len(shown)} are left out" if len(order) > len(shown) else ""
    note += f"; mean per class {one.mean_per_class:.3f}</p>"
    mistakes = one.mistakes(_MAX_MISTAKES)
    table = ""
    if mistakes:
        table = _table(
            ["true", "named as", "pictures"],
            [(true, named, f"{times:,} of {pictures:,}") for true, named, times, pictures in mistakes],
        )
        table = f"<details open><summary>Commonest mistakes</summary>{table}</details>"
    return _plate(f"By {one.name}", _bars(rows) + note + table)


def _pairs(report: Report) -> str:
    suites = [suite for suite in (report.swaps, *report.suites) if suite is not None]
    if not suites:
        return ""
    scored = [suite for suite in suites if suite.ranked_rightly is not None]
    bars = _bars([(suite.name, suite.ranked_rightly or 0.0, suite.interval, 0.5) for suite in scored])
    table = _table(
        ["suite", "pairs", "right", "text cosine", "unrelated texts"],
        [
            (
                suite.name,
                f"{suite.num_pairs:,}",
                "" if suite.ranked_rightly is None else f"{suite.ranked_rightly:.3f}",
                f"{suite.text_cosine:.3f}",
                f"{suite.unrelated_cosine:.3f}",
            )
            for suite in suites
        ],
    )
    lead = "A picture, its caption, and a false sentence of almost the same words. Chance is 0.5."
    plates = (_plate("Pairs ranked rightly", bars) if scored else "") + _plate("Suites", table)
    return _part("Word order and other text pairs", f'<p class="quiet">{lead}</p><div class="plates">{plates}</div>')


def _typographic(found: TypographicAttack | None) -> str:
    if found is None:
        return ""
    bars = _bars(
        [
            ("named rightly", found.accuracy, None, None),
            ("with a wrong word", found.attacked_accuracy, None, None),
            ("flipped by the word", found.flip_rate, None, None),
            ("flipped by no word", found.control_flip_rate, None, None),
        ]
    )
    note = f'<p class="quiet">{found.num_pictures:,} pictures with the name of another class written on them</p>'
    plates = _plate("What writing does", bars + note)
    if found.example is not None:
        before, after, name, word = found.example
        shots = (
            f"<figure>{_image(before, name)}<figcaption>named “{_text(name)}”</figcaption></figure>"
            f"<figure>{_image(after, word)}<figcaption>named “{_text(word)}”</figcaption></figure>"
        )
        plates += _plate("One that was flipped", f'<div class="shots">{shots}</div>')
    return _part("Typographic attack", f'<div class="plates">{plates}</div>')


def _neighbours(report: Report, base: str) -> str:
    found = report.neighbours
    if found is None or not found.k:
        return ""
    bars = _bars(
        [
            ("pictures of a picture", found.images, None, found.chance),
            ("pictures of a caption", found.texts, None, found.chance),
        ]
    )
    lead = f"The share of the {found.k} nearest pictures that are the same under {base or 'the base encoder'}."
    return _part("What was kept of the base encoder", f'<p class="quiet">{_text(lead)}</p>{_plate("Overlap", bars)}')


def _missed_pictures(examples: Sequence[MissedPicture], pixels: Pixels, num_captions: int) -> str:
    if not examples:
        return ""
    items = []
    for one in examples:
        shots = [(one.row, f"its picture, place {one.rank:g}, {one.score:.3f}", "right")]
        shots += [
            (row, f"{place}. {score:.3f}", "right" if row == one.row else "")
            for place, (row, score) in enumerate(zip(one.found, one.found_scores, strict=True), start=1)
        ]
        figures = "".join(
            f'<figure class="{kind}">{_image(pixels[row], "")}<figcaption>{label}</figcaption></figure>'
            for row, label, kind in shots
        )
        items.append(f'<li class="plate"><q>{_text(one.caption)}</q><div class="shots">{figures}</div></li>')
    lead = f"Of {num_captions:,} captions, these found their picture (outlined) last; beside it what they found first."
    return _part(
        "Words that went furthest astray", f'<p class="quiet">{lead}</p><ul class="misses">{"".join(items)}</ul>'
    )


def _missed_captions(examples: Sequence[MissedCaption], pixels: Pixels, num_images: int) -> str:
    if not examples:
        return ""
    items = []
    for one in examples:
        found = "".join(
            f"<li>{_text(caption)} <span class='quiet'>{score:.3f}</span></li>"
            for caption, score in zip(one.found, one.found_scores, strict=True)
        )
        items.append(
            f'<li class="plate"><span class="own">{_text(one.caption)}</span>'
            f'<span class="quiet">its own best, place {one.rank:g}, {one.score:.3f}</span>'
            f'<div class="beside">{_image(pixels[one.row], "")}<div>found first<ol>{found}</ol></div></div></li>'
        )
    lead = f"Of {num_images:,} pictures, these found one of their own captions last."
    return _part(
        "Pictures that went furthest astray", f'<p class="quiet">{lead}</p><ul class="misses">{"".join(items)}</ul>'
    )


def _meanings(report: Report) -> str:
    values = report.values()
    rows = "".join(
        f"<tr><th>{_text(one.title)}</th><td>{_text(one.text)}</td>"
        f'<td><span class="{"yes" if one.gate else "no"}">{"gate" if one.gate else "do not gate"}</span> '
        f"{_text(one.advice)}</td></tr>"
        for one in meanings_of(values)
    )
    table = (
        '<div class="scroll"><table><thead><tr><th>figure</th><th>what it says</th><th>as a threshold</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    intervals = report.intervals()
    figures = _table(
        ["name", "value", "95 % interval"],
        [
            (name, f"{value:g}", "" if name not in intervals else "{:g} to {:g}".format(*intervals[name]))
            for name, value in values.items()
        ],
    )
    return _part(
        "What the numbers mean",
        f"{table}<details><summary>All figures by the names of --json</summary>{figures}</details>",
    )


def _part(title: str, inside: str) -> str:
    return f'<section class="part"><h2>{_text(title)}</h2>{inside}</section>\n'


def _plate(title: str, inside: str) -> str:
    return f'<div class="plate"><h3>{_text(title)}</h3>{inside}</div>'


def _bars(rows: Sequence[tuple[str, float, Interval | None, float | None]]) -> str:
    parts = []
    for name, value, interval, chance in rows:
        between = f" <small>[{interval[0]:.3f}, {interval[1]:.3f}]</small>" if interval else ""
        parts.append(
            f'<dt>{_text(name)}</dt><dd>{bar(value, interval, chance)}</dd><dd class="number">{value:.3f}{between}</dd>'
        )
    return f'<dl class="bars">{"".join(parts)}</dl>'


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th{' class=number' if place else ''}>{_text(name)}</th>" for place, name in enumerate(columns))
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=number' if place else ''}>{_text(v)}</td>" for place, v in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table>{f"<thead><tr>{head}</tr></thead>" if head else ""}<tbody>{body}</tbody></table>'
        "</div>"
    )


def _image(pixels: Pixels, alternative: str) -> str:
    """A picture uint8 [H, W, 3] as a small JPEG inside the page."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE_PX, _SIDE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{html.escape(alternative)}">'


def _text(words: str) -> str:
    return html.escape(words, quote=False)
