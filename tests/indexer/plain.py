"""An encoder that needs no torch, pictures to index with it, and the comparison of what came of them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.build import BuildOptions, BuildReport, build_collection
from sightline.images import Pixels, PixelSpec
from sightline.sources import open_source
from tests.pictures import encoded, textured

CREATED = "2026-01-02T03:04:05+00:00"
Vectors = npt.NDArray[np.float32]


class PlainEncoder:
    """``encode_pixels`` and ``encode_texts`` as the real ones, from pixels and letters; ``before(modality, batch)`` is
    called before each batch. A batch leaves a trace in its vectors, as float arithmetic does: were batches formed in
    another way, the bytes would differ."""

    def __init__(
        self,
        before: Callable[[str, Any], None] = lambda modality, batch: None,
        name: str = "plain",
        same_images_as: tuple[str, ...] = (),
    ) -> None:
        self.identity: Any = SimpleNamespace(
            name=name, fingerprint=hashlib.sha256(name.encode()).hexdigest(), dim=8, precision="fp32", licence="mit",
            untrained=False, same_images_as=same_images_as, pixels=PixelSpec(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        )  # fmt: skip
        self.dim = 8
        self.fingerprint = self.identity.fingerprint
        self.before = before
        self.num_pictures = 0
        self.num_texts = 0
        self._counting = threading.Lock()

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        self.before("image", pixels)
        with self._counting:
            self.num_pictures += len(pixels)
        flat = pixels.reshape(len(pixels), -1).astype(np.float32)  # [B, 192]
        return _unit(flat.reshape(len(pixels), 8, -1).mean(axis=2) - 128.0, len(pixels))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        self.before("text", texts)
        with self._counting:
            self.num_texts += len(texts)
        digests = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
        rows = np.array([list(digest) for digest in digests], dtype=np.float32)  # [T, 8]
        return _unit(rows - 127.5, len(texts))


def _unit(rows: Vectors, batch: int) -> Vectors:
    rows = rows + 0.05 * batch
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def draw_folder(folder: Path, num_pictures: int = 40) -> Path:
    """Captioned pictures, every seventh a copy of an earlier one with another caption, and some that are none."""
    folder.mkdir(parents=True)
    for number in range(num_pictures):
        name = folder / f"{number:03d}.png"
        if number % 7 == 6:
            name.write_bytes((folder / f"{number - 5:03d}.png").read_bytes())
        elif number % 11 == 10:
            name.write_bytes(b"no picture")
        else:
            name.write_bytes(encoded(textured((24, 18), number)))
        if number % 3:
            name.with_suffix(".txt").write_text(f"picture {number}\nseen on day {number % 5}")
    return folder


def build_plain(source: Path, out: Path, encoder: PlainEncoder | None = None, **options: Any) -> BuildReport:
    """Build with small chunks and batches; ``stopping`` and ``created`` may be given beside the options."""
    keywords = {name: options.pop(name) for name in ("stopping", "advance") if name in options}
    created = options.pop("created", CREATED)
    return build_collection(
        encoder or PlainEncoder(),  # type: ignore[arg-type]
        "plain", open_source(str(source), listing=out / "building" / "listing.db"), "pictures", out,
        plain_options(**options), clock=lambda: created, **keywords,
    )  # fmt: skip


def plain_options(**options: Any) -> BuildOptions:
    """Chunks of 16, batches of 3."""
    return BuildOptions(**{"batch_size": 3, "chunk_inputs": 16, "thumbnail_px": 8, "num_decode_threads": 2, **options})


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def ledger(generation: Path) -> dict[str, str]:
    """The reason of each input that is not indexed."""
    lines = (generation / "ledger.jsonl").read_text().splitlines()
    return {entry["uri"]: entry["reason"] for entry in map(json.loads, lines)}
