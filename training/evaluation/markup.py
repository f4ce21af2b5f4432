"""Pieces of the report's HTML: parts, plates, bars, tables and pictures. Texts are escaped, markup is not."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

from sightline.images import Pixels
from training.evaluation.plots import bar
from training.evaluation.retrieval import Interval

SIDE_PX = 128

Bar = tuple[str, float, Interval | None, float | None]
"""A name, a share in [0, 1], its interval and chance."""


def part(title: str, lead: str, *plates: str) -> str:
    """A part of the page: a heading, a sentence and plates side by side."""
    sentence = quiet(lead) if lead else ""
    beside = f'<div class="plates">{"".join(plates)}</div>'
    return f'<section class="part"><h2>{words(title)}</h2>{sentence}{beside}</section>\n'


def plate(title: str, *inside: str) -> str:
    """A box with a title; ``inside`` is markup."""
    return f'<div class="plate"><h3>{words(title)}</h3>{"".join(inside)}</div>'


def quiet(sentence: str) -> str:
    """A paragraph in a softer colour."""
    return f'<p class="quiet">{words(sentence)}</p>'


def bars(rows: Sequence[Bar]) -> str:
    """Shares as bars with their figures."""
    parts = []
    for name, value, interval, chance in rows:
        between = f" <small>[{interval[0]:.3f}, {interval[1]:.3f}]</small>" if interval else ""
        parts.append(
            f'<dt>{words(name)}</dt><dd>{bar(value, interval, chance)}</dd><dd class="number">{value:.3f}{between}</dd>'
        )
    return f'<dl class="bars">{"".join(parts)}</dl>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column holds names and whose others hold figures; it scrolls by itself where it is wide."""
    head = "".join(_cell("th", name, place) for place, name in enumerate(columns))
    body = "".join(f"<tr>{''.join(_cell('td', cell, place) for place, cell in enumerate(row))}</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def picture(pixels: Pixels, alternative: str = "") -> str:
    """A picture uint8 [H, W, 3] as a small JPEG inside the page."""
    small = Image.fromarray(pixels)
    small.thumbnail((SIDE_PX, SIDE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{html.escape(alternative)}">'


def figure(pixels: Pixels, caption: str, kind: str = "") -> str:
    """A picture with a line beneath it."""
    return f'<figure class="{kind}">{picture(pixels)}<figcaption>{words(caption)}</figcaption></figure>'


def words(text: str) -> str:
    """Text as markup that shows it."""
    return html.escape(text, quote=False)


def _cell(tag: str, text: str, place: int) -> str:
    return f"<{tag}{' class=number' if place else ''}>{words(text)}</{tag}>"
