"""Looking at a run while it goes on: log, curves, collapse, a retrieval canary, and a trace for the explorer."""

from training.watching.explorer import EXPLORER_NAME, explorer_html, explorer_page
from training.watching.held_out import Encode, HeldOut
from training.watching.log import LOG_NAME, read_log
from training.watching.settings import WatchSettings
from training.watching.trace import TRACE_NAME, Trace, read_trace
from training.watching.watch import Watch

__all__ = [
    "EXPLORER_NAME",
    "LOG_NAME",
    "TRACE_NAME",
    "Encode",
    "HeldOut",
    "Trace",
    "Watch",
    "WatchSettings",
    "explorer_html",
    "explorer_page",
    "read_log",
    "read_trace",
]
