"""The alignment explorer: a trace as one interactive piece of HTML, with everything in it and nothing fetched.

A slider moves through the run: pairs as joined dots, their similarity matrix, recall, loss and modality gap. It works
from a file, with the keyboard, in light and dark, and does not move by itself where motion is unwanted.
"""

from __future__ import annotations

import html
import json
from itertools import chain
from pathlib import Path
from typing import Any

from sightline.storage import replace_file
from training.watching.trace import Moment, Trace

EXPLORER_NAME = "explorer.html"

_FRAGMENT = Path(__file__).with_name("explorer.html")
_PLACE = "__TRACE__"


def explorer_html(trace: Trace) -> str:
    """The explorer as a fragment, a ``<section>`` with its own style and script, to stand in any page.

    Several may stand in one page. A trace without a moment gives a sentence that says so.
    """
    if not trace.moments:
        return '<section class="alignment-explorer"><p>The trace holds no moment yet.</p></section>'
    data = {
        "captions": trace.captions,
        "thumbnails": trace.thumbnails,
        "moments": [_compact(moment) for moment in trace.moments],
    }
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    # A caption may hold "</script>": inside a script only "<" can end it.
    return _FRAGMENT.read_text(encoding="utf-8").replace(_PLACE, text.replace("<", "\\u003c"))


def explorer_page(trace: Trace, title: str = "Alignment explorer") -> str:
    """The explorer as a page of its own."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n"
        "<style>body { margin: 1.5rem 1rem 3rem; background: #ffffff; }\n"
        "@media (prefers-color-scheme: dark) { body { background: #12161c; } }</style>\n"
        f"</head>\n<body>\n{explorer_html(trace)}\n</body>\n</html>\n"
    )


def write_explorer(folder: Path, trace: Trace, title: str = "Alignment explorer") -> Path:
    """Write ``explorer.html`` beside the trace, whole or not at all. Raises StorageError."""
    path = folder / EXPLORER_NAME
    replace_file(path, explorer_page(trace, title).encode())
    return path


def _compact(moment: Moment) -> dict[str, Any]:
    """A moment with flat lists, cosines in thousandths: half the size."""
    return {
        "step": moment.step,
        "epoch": moment.epoch,
        "loss": moment.loss,
        "recall": moment.recall_at_1,
        "gap": moment.modality_gap,
        "images": list(chain.from_iterable(moment.images)),
        "texts": list(chain.from_iterable(moment.texts)),
        "similarity": [round(1000 * value) for value in chain.from_iterable(moment.similarity)],
    }
