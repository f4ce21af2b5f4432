"""The real ``sightline`` command in processes that start at once.

Most of a short command's time goes into loading torch and its like. One process loads them, and each command is a fork
of it: a process of its own, with its own arguments, folder, environment, streams, signals and exit code. The program
that tests start is a small one that asks for the fork and stands in for it. Where there are no pidfds, as on macOS, it
is the plain command.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_HEAVY = (
    "faiss", "open_clip", "pyarrow.parquet", "torch", "transformers", "indexer.build", "indexer.sync",
    "service.server", "sightline.encoder", "sightline.index.opening", "sightline.command.machine_findings",
)  # fmt: skip

_STAND_IN = """#!{python} -IS
import json, os, signal, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect({address!r})
said = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(asked, [len(said).to_bytes(4, "big")], [0, 1, 2])
asked.sendall(said)
pid = int.from_bytes(asked.recv(4), "big")
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
ended = asked.recv(4)
status = int.from_bytes(ended, "big") if ended else signal.SIGKILL
if os.WIFSIGNALED(status):
    signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
    os.kill(os.getpid(), os.WTERMSIG(status))
os._exit(os.waitstatus_to_exitcode(status))
"""


@functools.cache
def program() -> Path:
    """A file ``sightline`` to run, in a folder of its own that may come first in a PATH."""
    folder = Path(tempfile.mkdtemp(prefix="sightline-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path, address = folder / "sightline", folder / "forks"
    if hasattr(os, "pidfd_open"):
        forks = subprocess.Popen(
            [sys.executable, "-m", "tests.program", str(address)], cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert forks.stdout is not None
        assert forks.stdout.readline() == b"ready\n", "the process that commands are forked from did not start"
        atexit.register(forks.wait)
        assert forks.stdin is not None
        atexit.register(forks.stdin.close)  # comes first: it ends when its input does
        path.write_text(_STAND_IN.format(python=sys.executable, address=str(address)))
    else:
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -m sightline "$@"\n')
    path.chmod(0o755)
    return path


def _serve(address: str) -> list[str]:
    """Fork for everybody who asks. Returns in each fork, with its arguments; ends with its own input."""
    for name in _HEAVY:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all that is shared
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    os.write(1, b"ready\n")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the attendants
    while True:
        readable, _, _ = select.select([listener.fileno(), 0], [], [])
        if 0 in readable:
            os._exit(0)
        asked, _ = listener.accept()
        if os.fork():
            asked.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        return _attend(asked)


def _attend(asked: socket.socket) -> list[str]:
    """Fork the command, tell its process id and how it ended; kill it when its stand-in is gone."""
    head, streams, _, _ = socket.recv_fds(asked, 4, 3)
    said = b""
    while len(said) < int.from_bytes(head, "big"):
        said += asked.recv(2**16)
    arguments, folder, environment = json.loads(said)
    pid = os.fork()
    if not pid:
        asked.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _become(folder, environment)
        return list(arguments)
    for number in (0, 1, 2, *streams):
        os.close(number)
    asked.sendall(pid.to_bytes(4, "big"))
    ended = os.pidfd_open(pid)
    readable, _, _ = select.select([ended, asked.fileno()], [], [])
    if ended not in readable:
        signal.pidfd_send_signal(ended, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if ended in readable:
        asked.sendall(status.to_bytes(4, "big"))
    os._exit(0)


def _become(folder: str, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


def _main() -> Any:
    arguments = _serve(sys.argv[1])
    sys.argv = ["sightline", *arguments]
    from sightline.command.root import main

    main(arguments)


if __name__ == "__main__":
    _main()
