"""A real process with an encoder that can be told to fail, and a collection whose generations disagree on purpose."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from sightline.collection import Counts, EncoderRecord, GenerationWriter, NewItem
from tests.fakes import COLOURS, SPEC, FakeEncoder

REPOSITORY = Path(__file__).parents[2]
COLOUR_NAMES = tuple(COLOURS)
_PROGRAM = """
import service.server, sightline.command.root as root
from tests.fault.life import FaultyEncoder
service.server._load_encoder = lambda settings, generation: FaultyEncoder()
root.main()
"""
_ORDERS_VARIABLE = "FAULT_ORDERS"
_WAIT_SECONDS = 60.0


class Died(BaseException):
    """Kills the thread it is raised in."""


class FaultyEncoder(FakeEncoder):
    """Does before each batch what the file named by FAULT_ORDERS says at that moment: ``slow SECONDS``, ``hang``,
    ``die``, ``cuda`` (an error that loses the device) or nothing; ``load`` hangs before there is an encoder at all."""

    def __init__(self) -> None:
        super().__init__(before_encode=self._obey)
        self._orders = Path(os.environ[_ORDERS_VARIABLE])
        if self._orders.read_text() == "load":
            threading.Event().wait()

    def _obey(self, modality: str, batch: Any) -> None:
        order, _, number = self._orders.read_text().partition(" ")
        if order == "slow":
            time.sleep(float(number))
        elif order == "hang":
            threading.Event().wait()
        elif order == "die":
            raise Died
        elif order == "cuda":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


class Process:
    """``sightline serve`` with the faulty encoder."""

    def __init__(self, collection: Path, home: Path, *settings: str, prefix: Sequence[str] = ()) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.orders = home / "orders"
        self.orders.touch()
        self.temporary = home / "tmp"
        self.temporary.mkdir()
        self.log = home / "log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
        environment = clean | {_ORDERS_VARIABLE: str(self.orders), "TMPDIR": str(self.temporary)}
        options = [part for one in ("log_level=warning", *settings) for part in ("--set", one)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-c", _PROGRAM, "serve", "--collection", str(collection), "--port", "0",
                 "--json", *options],
                cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
            )  # fmt: skip
        self.url = ""
        lone = httpx.Limits(max_keepalive_connections=0)  # every request on a connection of its own
        self.client = httpx.Client(timeout=_WAIT_SECONDS, limits=lone, trust_env=False)

    def ready(self) -> Process:
        """Wait until it listens."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.url = json.loads(line)["url"]
        return self

    def order(self, order: str) -> None:
        """What every batch from now on meets."""
        draft = self.orders.with_suffix(".new")
        draft.write_text(order)
        draft.replace(self.orders)

    def term(self) -> float:
        """Send SIGTERM; returns the moment."""
        self.process.send_signal(signal.SIGTERM)
        return time.monotonic()

    def wait(self, seconds: float = _WAIT_SECONDS) -> int:
        return self.process.wait(seconds)

    def status(self, path: str) -> int:
        """The status of a GET on a connection of its own, 0 when there is none."""
        try:
            return self.client.get(f"{self.url}{path}", timeout=5.0).status_code
        except httpx.HTTPError:
            return 0

    def find(self, text: str) -> httpx.Response:
        return self.client.post(f"{self.url}/v1/text-to-image", json={"text": text, "k": 1})

    def reload(self, generation: str) -> httpx.Response:
        return self.client.post(f"{self.url}/v1/admin/reload", json={"generation": generation})

    def metric(self, line: str) -> float:
        """The value of a series by its whole name with labels, 0 where there is none."""
        for one in self.client.get(f"{self.url}/metrics").text.splitlines():
            if one.startswith(line + " "):
                return float(one.rpartition(" ")[2])
        return 0.0

    def resident_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.client.close()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def until(self, condition: Callable[[], bool], seconds: float = _WAIT_SECONDS) -> float:
        """Wait for a condition; returns how long it took."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < seconds, self.log.read_text()[-4000:]
            time.sleep(0.01)
        return time.monotonic() - started


@contextlib.contextmanager
def living(collection: Path, home: Path, *settings: str, prefix: Sequence[str] = ()) -> Iterator[Process]:
    """A process that is killed at the end of the block if it still lives."""
    one = Process(collection, home, *settings, prefix=prefix)
    try:
        yield one
    finally:
        one.kill()


def in_threads(*calls: Callable[[], Any]) -> tuple[list[threading.Thread], list[Any]]:
    """Start every call in a thread of its own; results are added as they come."""
    results: list[Any] = []
    threads = [threading.Thread(target=lambda call=call: results.append(call()), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    return threads, results


def colour_of(generation: str, number: int) -> str:
    """What an item shows: the same id shows something else in each generation."""
    return COLOUR_NAMES[(number + int(generation[-6:])) % len(COLOUR_NAMES)]


def add_generation(path: Path, num_items: int) -> str:
    """Publish a generation of the items ``item-0``, ``item-1``, … and return its name."""
    encoder = FakeEncoder()
    identity = encoder.identity
    record = EncoderRecord(
        spec=SPEC, name=identity.name, fingerprint=identity.fingerprint, dim=identity.dim,
        precision=identity.precision, licence=identity.licence, untrained=identity.untrained,
    )  # fmt: skip
    vectors = dict(zip(COLOUR_NAMES, encoder.encode_texts(COLOUR_NAMES), strict=True))
    with GenerationWriter(path, record) as writer:
        for number in range(num_items):
            colour = colour_of(writer.generation, number)
            writer.add(
                NewItem(
                    item_id=f"item-{number}",
                    uri=f"{writer.generation}/{number}.png",
                    sha256=f"{number:064x}",
                    width_px=32,
                    height_px=24,
                    vector=vectors[colour],
                    captions=(f"a {colour} picture",),
                    caption_vectors=np.stack([vectors[colour]]),
                    metadata={"colour": colour, "number": number},
                )
            )
        counts = Counts(
            seen=num_items, indexed=num_items, duplicates=0, skipped=0, failed=0,
            captions_seen=num_items, captions_indexed=num_items, captions_skipped=0, reasons={},
        )  # fmt: skip
        writer.publish(counts, source="fake", index={})
        return writer.generation
