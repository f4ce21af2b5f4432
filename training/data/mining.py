"""Hard neighbours found with our own index: pictures that an encoder takes for a caption although they are not its own.

For each caption the nearest pictures are looked up; those that score less than the caption's own picture by a margin
are hard negatives (ANCE, Xiong et al. 2021, arXiv 2007.00808), those that score higher are more likely right answers
that nobody wrote down and are left alone. Neighbours come into one batch (``training.data.orders``), where the loss
makes them each other's negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sightline.encoder import load_encoder
from sightline.errors import SourceError
from sightline.images import Pixels, PixelSpec
from sightline.index import VectorIndex
from training.data.captioned import Captioned, caption_key, content_hashes, numbered
from training.data.neighbours import MiningSettings, Neighbours, load_neighbours, save_neighbours
from training.data.reading import Progress, read_captioned

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
_IMAGES_AT_ONCE = 64
_TEXTS_AT_ONCE = 256
_QUERIES_AT_ONCE = 1024


class EncodesPairs(Protocol):
    """What mining needs of an encoder; ``sightline.encoder.Encoder`` has it."""

    @property
    def fingerprint(self) -> str:
        """What tells this encoder from any other."""
        ...

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        """uint8 [B, H, W, 3] to unit vectors float32 [B, D]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts to unit vectors float32 [B, D]."""
        ...


def mine(
    encoder: EncodesPairs, data: Captioned, settings: MiningSettings, *, progress: Progress | None = None
) -> Neighbours:
    """The hard neighbours of every picture. Deterministic for a deterministic encoder.

    A picture equal to the caption's own, or with a caption equal to it, is never a negative of it. The pictures of
    ``data`` must have the encoder's own pixels.
    """
    images = _encoded(encoder.encode_pixels, data.pixels, _IMAGES_AT_ONCE, progress)  # [N, D]
    captions = [text for several in data.captions for text in several]
    texts = _encoded(encoder.encode_texts, captions, _TEXTS_AT_ONCE, progress)  # [T, D]
    return Neighbours(find_neighbours(images, texts, data, settings), encoder.fingerprint, data.digest, settings.margin)


def neighbours_for(
    spec: str,
    source: str,
    data: Captioned,
    pixels: PixelSpec,
    settings: MiningSettings,
    folder: Path,
    *,
    device: str = "auto",
    accept_licence: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Neighbours:
    """The hard neighbours of ``data`` (read from ``source`` as ``pixels``) that the encoder ``spec`` finds, kept in
    ``folder``; a resumed run takes those that lie there.

    Where the encoder sees pictures differently, they are read once more as it does. Raises SourceError, StorageError
    and what ``sightline.encoder.load_encoder`` raises.
    """
    found = _kept(folder, data, settings) if resume else None
    if found is not None:
        return found
    encoder = load_encoder(spec, device=device, accept_licence=accept_licence)
    seen = data
    if encoder.identity.pixels != pixels:
        seen = read_captioned(source, encoder.identity.pixels, folder=folder, progress=progress)
        if seen.captions != data.captions:
            raise SourceError(f"{source} changed while it was read; start again when nothing writes to it.")
    mined = mine(encoder, seen, settings, progress=progress)
    neighbours = Neighbours(mined.rows, mined.encoder, data.digest, mined.margin)
    save_neighbours(neighbours, folder)
    return neighbours


def find_neighbours(images: Vectors, texts: Vectors, data: Captioned, settings: MiningSettings) -> Rows:
    """``Neighbours.rows`` from unit vectors [N, D] of the pictures and [T, D] of their captions."""
    index = VectorIndex(images)
    owners = data.caption_rows()  # [T]
    contents = numbered(content_hashes(data.pixels))  # [N]
    sayings = numbered([caption_key(text) for several in data.captions for text in several])  # [T]
    said_of = _sayings_by_picture(sayings, owners, len(data))
    own = np.einsum("td,td->t", texts, images[owners])  # [T]
    best: list[dict[int, float]] = [{} for _ in range(len(data))]
    # The own picture, pictures above the margin and equal ones come up too, and are passed over.
    wanted = 4 * settings.num_neighbours + 1
    for start in range(0, len(texts), _QUERIES_AT_ONCE):
        hits = index.search(texts[start : start + _QUERIES_AT_ONCE], wanted)
        for caption, (scores, rows) in enumerate(zip(hits.scores, hits.rows, strict=True), start=start):
            owner = int(owners[caption])
            limit = float(own[caption]) - settings.margin
            found = best[owner]
            kept = 0
            for score, row in zip(scores.tolist(), rows.tolist(), strict=True):
                if score > limit or contents[row] == contents[owner] or int(sayings[caption]) in said_of[row]:
                    continue
                found[row] = max(found.get(row, -2.0), score)
                kept += 1
                if kept == settings.num_neighbours:
                    break
    table = np.full((len(data), settings.num_neighbours), -1, np.int64)  # [N, K]
    for row, found in enumerate(best):
        hardest = sorted(found, key=lambda other: (-found[other], other))[: settings.num_neighbours]
        table[row, : len(hardest)] = hardest
    return table


def _encoded(
    encode: Callable[..., Vectors], inputs: Pixels | Sequence[str], at_once: int, progress: Progress | None
) -> Vectors:
    parts: list[Vectors] = []
    for start in range(0, len(inputs), at_once):
        parts.append(encode(inputs[start : start + at_once]))
        if progress is not None:
            progress(len(parts[-1]))
    return np.concatenate(parts)


def _kept(folder: Path, data: Captioned, settings: MiningSettings) -> Neighbours | None:
    """The table that a run which was cut off left, where it is what would be mined again."""
    try:
        found = load_neighbours(folder, data.digest)
    except SourceError:
        return None
    same = (found.margin, found.rows.shape[1]) == (settings.margin, settings.num_neighbours)
    return found if same else None


def _sayings_by_picture(sayings: Rows, owners: Rows, num_rows: int) -> list[set[int]]:
    said: list[set[int]] = [set() for _ in range(num_rows)]
    for saying, owner in zip(sayings.tolist(), owners.tolist(), strict=True):
        said[owner].add(saying)
    return said
