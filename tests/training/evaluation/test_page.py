from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.training.evaluation.vectors import captioned
from training.evaluation import Bootstrap, Heading, Report, measure_vectors, report_page
from training.evaluation.meanings import MEANINGS, meaning_of
from training.evaluation.missed import MissedCaption, MissedPicture
from training.evaluation.neighbours import NeighbourOverlap
from training.evaluation.plots import bar, distributions
from training.evaluation.text_pairs import PairScore
from training.evaluation.typographic import TypographicAttack
from training.evaluation.zero_shot import zero_shot

DOCS = Path(__file__).parents[3] / "docs" / "evaluation.md"
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
VOID = {"meta", "img", "br"}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def report(pixels: np.ndarray) -> Report:
    """A report in which every part is filled and every text is hostile."""
    images, texts, rows = captioned(np.random.default_rng(1), 30, 4, noise=1.0)
    measured = measure_vectors(images, texts, rows, bootstrap=Bootstrap(num_resamples=50))
    named = zero_shot("class", [f"{EVIL}{n}" for n in range(8)], images, texts[:8], rows[:30] % 8)
    return Report(
        num_images=30,
        num_captions=len(texts),
        measured=measured,
        named=(named,),
        swaps=PairScore("drawn swaps", 9, 0.5, (0.4, 0.6), 0.9, 0.1),
        suites=(PairScore(EVIL, 3, None, None, 0.9, 0.1),),
        typographic=TypographicAttack(30, 0.9, 0.4, 0.5, 0.05, (pixels[0], pixels[1], EVIL, "square")),
        neighbours=NeighbourOverlap(10, 0.8, 0.7, 0.6, 0.1),
        missed_pictures=(MissedPicture(EVIL, 0, 17.5, 0.1, (3, 4, 0), (0.5, 0.4, 0.1)),),
        missed_captions=(MissedCaption(2, EVIL, 9, 0.2, (EVIL, "b", "c"), (0.5, 0.4, 0.3)),),
    )


class Nesting(HTMLParser):
    """Fails where tags do not nest; keeps the tags and the attributes that could fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def parse(page: str) -> Nesting:
    parsed = Nesting()
    parsed.feed(page)
    assert not parsed.open
    return parsed


def test_the_page_stands_alone(report: Report, pixels: np.ndarray) -> None:
    page = report_page(report, pixels, Heading("runs/my-encoder", EVIL, "f" * 64, base="ViT-B-32:openai"))
    parsed = parse(page)
    assert "script" not in parsed.tags and "link" not in parsed.tags and "iframe" not in parsed.tags
    assert parsed.addresses and all(one.startswith("data:image/jpeg;base64,") for one in parsed.addresses)
    assert not re.search(r"url\(|@import|https?://", page)
    assert parsed.words.count(EVIL) >= 5
    for heading in ("Retrieval", "Typographic attack", "What was kept of the base encoder", "What the numbers mean"):
        assert f"<h2>{heading}</h2>" in page


def test_the_page_of_plain_data_leaves_out_what_is_not_there(pixels: np.ndarray) -> None:
    images, texts, rows = captioned(np.random.default_rng(1), 30, 1)
    found = Report(30, 30, measure_vectors(images, texts, rows))
    page = report_page(found, pixels, Heading("e", "d"))
    parse(page)
    for heading in ("Typographic", "zero-shot", "furthest astray", "(every caption)"):
        assert heading not in page
    assert "<section>EXPLORER</section>" in report_page(
        found, pixels, Heading("e", "d"), explorer="<section>EXPLORER</section>"
    )


def test_every_figure_has_a_meaning(report: Report) -> None:
    for name in report.values():
        assert meaning_of(name) is not None, name


def test_every_figure_is_documented(report: Report) -> None:
    page = DOCS.read_text(encoding="utf-8")
    for one in MEANINGS:
        for pattern in one.patterns:
            assert f"`{pattern}`" in page, pattern


def test_figures_and_details_are_plain(report: Report) -> None:
    values, intervals = report.values(), report.intervals()
    assert values["swaps_ranked_rightly"] == 0.5 and intervals["swaps_ranked_rightly"] == (0.4, 0.6)
    assert intervals.keys() <= values.keys()
    assert set(report.details()) == {"intervals", "per_class", "mistakes"}


def test_plots_are_drawings() -> None:
    root = ET.fromstring(bar(0.5, (0.4, 1.0), 0.1))
    assert [one.get("width") for one in root.iter("rect")] == ["100%", "50.00%"]
    counts = np.zeros(2000, np.int64)
    counts[1200] = 5
    found = ET.fromstring(distributions(counts, counts, "<cosines>"))
    assert len(list(found.iter("polygon"))) == 2
    # All of the mass at one place: ticks still have distinct labels within the plot.
    labels = [one.text for one in found.iter("span")]
    assert len(set(labels)) == len(labels) > 1
    for one in found.iter("span"):
        assert 0 <= float((one.get("style") or "")[5:-1]) <= 100
