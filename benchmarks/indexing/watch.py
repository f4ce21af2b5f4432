"""Running a command to its end while watching its clock and its memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.neighbours import Neighbours, Usage, group_and_ticks

_LEADER_EVERY_SECONDS = 0.05
_GROUP_EVERY_SECONDS = 1.0


class CommandFailed(Exception):
    """A command that was to be measured ended with an error or took too long; the text has the end of its log."""


@dataclass(frozen=True)
class Watched:
    """What a command took and said.

    ``peak_rss_bytes`` is the largest resident size of its first process as the kernel keeps it, mapped files included;
    ``peak_own_bytes`` the largest sample of that process's anonymous memory, which cannot be dropped as mapped files
    can; ``peak_group_bytes`` the largest sample of what all its processes held together, pages shared between them
    counted once.
    """

    stdout: str
    seconds: float
    peak_rss_bytes: int
    peak_own_bytes: int
    peak_group_bytes: int
    usage: Usage


def watch(
    command: Sequence[str], log: Path, environment: Mapping[str, str], timeout_seconds: float = 3600.0
) -> Watched:
    """Run a command in a process group of its own, standard error and output in ``log`` and beside it.

    Memory is sampled: of the first process 20 times a second, which costs next to nothing; of all together once a
    second. Whatever the command started is ended with it. Raises CommandFailed.
    """
    output = log.with_suffix(".out")
    neighbours = Neighbours()
    started = time.monotonic()
    with log.open("wb") as errors, output.open("wb") as out:
        process = subprocess.Popen(
            list(command), stdout=out, stderr=errors, stdin=subprocess.DEVNULL, env=dict(environment),
            start_new_session=True,
        )  # fmt: skip
    rss = own = group = 0
    next_group = started
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LEADER_EVERY_SECONDS)
                break
            now = time.monotonic()
            leader = leader_memory(process.pid)
            rss, own = max(rss, leader[0]), max(own, leader[1])
            if now >= next_group:
                group = max(group, group_memory(process.pid))
                next_group = now + _GROUP_EVERY_SECONDS
            if now - started > timeout_seconds:
                raise CommandFailed(f"{command[0]} took longer than {timeout_seconds:.0f} s; see {log}.")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    seconds = time.monotonic() - started
    if process.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise CommandFailed(f"{' '.join(command[:4])} … ended with {process.returncode}; its log {log} ends:\n{tail}")
    said = output.read_text(encoding="utf-8", errors="replace")
    return Watched(said, seconds, rss, own, max(group, own), neighbours.usage())


def leader_memory(pid: int) -> tuple[int, int]:
    """Peak resident and present anonymous bytes of a process; zeros when it has ended."""
    try:
        fields = status_fields(Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    return fields.get("VmHWM", 0), fields.get("RssAnon", 0)


def group_memory(group: int) -> int:
    """Bytes that the processes of a group hold together: each page divided by the number of its users (PSS)."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                if group_and_ticks(stat)[0] == group:
                    total += status_fields((entry / "smaps_rollup").read_text(encoding="ascii")).get("Pss", 0)
    return total


def status_fields(text: str) -> dict[str, int]:
    """The sizes in a text of ``/proc/PID/status`` or ``smaps_rollup``, in bytes."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0]) * 1024
    return found
