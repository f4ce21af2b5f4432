"""What takes part in a run: Sightline in one or two precisions, Infinity in one or two, each with its way to start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.serving.infinity import infinity_server
from benchmarks.serving.servers import Server, sightline_server

Kind = Literal["sightline", "infinity"]


@dataclass(frozen=True)
class Variant:
    """One competitor. ``place`` is Sightline's collection or Infinity's Clip folder; ``precision`` its own word for it;
    ``encoder`` the spec behind a Sightline variant, which the ceilings load too."""

    name: str
    kind: Kind
    place: Path
    precision: str = "auto"
    encoder: str | None = None
    environment: Path | None = None
    settings: tuple[tuple[str, str], ...] = ()

    @contextlib.contextmanager
    def serve(self, log: Path, device: str) -> Iterator[Server]:
        """Start it alone; raises ServerFailed."""
        if self.kind == "sightline":
            with sightline_server(
                self.place, log, device=device, precision=self.precision, encoder=self.encoder,
                settings=dict(self.settings),
            ) as server:  # fmt: skip
                yield server
        else:
            assert self.environment is not None
            with infinity_server(self.environment, self.place, log, device=device, dtype=self.precision) as server:
                yield server
