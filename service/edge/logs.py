"""Log lines on stderr: one object of JSON for each event, or a line for people. Set up by the command, never at import.

Lines are written by a thread of their own: whoever reads our stderr too slowly loses lines, and stops no request.
Control bytes never reach the output as they are (uvicorn CVE-2020-7694: escape sequences in a log).
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO, Literal

_MAX_WAITING_LINES = 10_000
_LAST_LINES_SECONDS = 2.0
_FOREIGN = {"uvicorn": "ERROR"}
"""uvicorn warns of each bad request; ours are counted and recorded."""
_OURS = ("service", "sightline")


class JsonFormatter(logging.Formatter):
    """``ts`` (UTC), ``level``, ``logger``, ``message``, the record's fields, and ``exception`` with a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class ConsoleFormatter(logging.Formatter):
    """Time, level, message and the fields that are short; a traceback's lines are indented."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        shown = "".join(f" {name}={fields[name]}" for name in ("request_id", "error", "key") if name in fields)
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        line = printable(f"{time} {record.levelname.lower():<7} {record.getMessage()}{shown}")
        if record.exc_info:
            line += "".join(f"\n    {printable(one)}" for one in self.formatException(record.exc_info).splitlines())
        return line


def printable(text: str) -> str:
    """Text whose control and other unprintable characters are written as escapes."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


class _Waiting(logging.Handler):
    """Puts records into a queue, and drops them when too many wait."""

    def __init__(self, waiting: queue.Queue[logging.LogRecord | None]) -> None:
        super().__init__()
        self._queue = waiting

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(record)


@contextlib.contextmanager
def logging_to(
    stream: IO[str], style: Literal["auto", "console", "json"], level: Literal["debug", "info", "warning", "error"]
) -> Iterator[None]:
    """Log to a stream until the end of the block; then what waits is written, if it can be within 2 s."""
    people = style == "console" or (style == "auto" and stream.isatty())
    formatter = ConsoleFormatter() if people else JsonFormatter()
    waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(_MAX_WAITING_LINES)

    def write() -> None:
        while (record := waiting.get()) is not None:
            with contextlib.suppress(Exception):  # a line that cannot be made or written is no reason to stop
                stream.write(formatter.format(record) + "\n")
                stream.flush()

    writer = threading.Thread(target=write, name="log", daemon=True)
    levels = {**dict.fromkeys(_OURS, level.upper()), **_FOREIGN}
    before = {name: logging.getLogger(name).level for name in levels}
    for name, least in levels.items():
        logging.getLogger(name).setLevel(least)
    handler = _Waiting(waiting)
    logging.getLogger().addHandler(handler)
    writer.start()
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for name, earlier in before.items():
            logging.getLogger(name).setLevel(earlier)
        with contextlib.suppress(queue.Full):
            waiting.put(None, timeout=_LAST_LINES_SECONDS)
        writer.join(_LAST_LINES_SECONDS)
