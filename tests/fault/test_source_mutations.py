"""Sources whose bytes were changed at random: each input is a record or a ledger line."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexer.vector_sources import open_vectors
from sightline.errors import SourceError
from sightline.sources import Rejected, open_source
from tests.indexer.test_exchange import clip_folder
from tests.mutations import mutated
from tests.sightline.test_source_positions import make_csv, make_gzipped, make_list, make_parquet, make_tars

pytestmark = pytest.mark.fault
NUM_MUTATIONS = 150


@pytest.mark.parametrize("make", [make_tars, make_gzipped, make_list, make_csv, make_parquet])
def test_mutated_sources_give_records_and_ledger_lines(make: Callable[[Path], Path], tmp_path: Path) -> None:
    made = make(tmp_path / "source")
    files = [path for path in [made, *made.rglob("*")] if path.is_file() and path.suffix != ".png"]
    rng = random.Random(7)
    for number in range(NUM_MUTATIONS):
        path = rng.choice(files)
        whole = path.read_bytes()
        path.write_bytes(next(mutated([whole], 1, seed=number)))
        try:
            source = open_source(str(made))
            entries = list(source)
            assert source.num_inputs in (None, len(entries)), number
            start = rng.randrange(len(entries) + 1)
            assert list(source.read(start, start + 3)) == entries[start : start + 3], number
            for entry in entries:
                assert entry.uri.encode(), number
                assert not isinstance(entry, Rejected) or entry.reason.isidentifier(), number
        except SourceError as error:
            assert error.message.endswith("."), number
        finally:
            path.write_bytes(whole)


def test_mutated_vectors_are_read_or_refused(tmp_path: Path) -> None:
    root = clip_folder(tmp_path / "theirs", (30, 30))
    files = [path for path in root.rglob("*") if path.is_file()]
    rng = random.Random(8)
    for number in range(NUM_MUTATIONS):
        path = rng.choice(files)
        whole = path.read_bytes()
        path.write_bytes(next(mutated([whole], 1, seed=number)))
        try:
            blocks = list(open_vectors(root).blocks())
            assert sum(len(block.rows) for block in blocks) == sum(len(block.images) for block in blocks), number
            assert all(block.images.dtype == np.float32 for block in blocks), number
        except SourceError as error:
            assert error.message.endswith("."), number
        finally:
            path.write_bytes(whole)
