"""An index on disk: written once, and read only when its SHA-256 is the one that the manifest promises.

FAISS's reader trusts what it reads: a damaged file can make it crash or allocate without bound. So nothing reaches it
that is not byte for byte what was written. A file can be lost without loss, for it can be made again from the vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sightline.collection.manifest import INDEX_FOLDER
from sightline.errors import IndexUnusable
from sightline.index.plans import Plan
from sightline.index.runtime import faiss, require_faiss
from sightline.storage import FileRecord, sha256_of, storage_errors


def file_name(which: str) -> str:
    """``index/images.faiss``: the place of an index within its generation."""
    return f"{INDEX_FOLDER}/{which}.faiss"


def write_index(index: Any, path: Path) -> None:
    """Write a FAISS index under its final name, in a directory that is not published yet. Raises StorageError."""
    with storage_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:  # FAISS's own writer reports a full disk in no usable way
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def read_index(plan: Plan, path: Path, record: FileRecord | None, dim: int, num_rows: int) -> Any:
    """Verify and read. Raises IndexUnusable (missing, changed, or not the index of these vectors)."""
    require_faiss()
    again = f"make it again with: sightline index optimise --collection {path.parents[2]} --plan {plan.name}."
    if record is None or not path.is_file():
        raise IndexUnusable(f"The index file {path} is missing; {again}")
    if path.stat().st_size != record.num_bytes or sha256_of(path) != record.sha256:
        raise IndexUnusable(f"The index file {path} has changed since it was written; {again}")
    flags = faiss.IO_FLAG_MMAP if plan.name == "ivf-disk" else 0
    try:
        index = faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise IndexUnusable(f"The index file {path} cannot be read by this FAISS; {again}") from error
    if index.d != dim or index.ntotal != num_rows:
        raise IndexUnusable(f"The index file {path} belongs to other vectors; {again}")
    return index
