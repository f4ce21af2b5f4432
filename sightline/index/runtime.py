"""FAISS, or a clear sentence where it is missing."""

from __future__ import annotations

from sightline.errors import DependencyMissing

try:
    import faiss
except ImportError:  # said clearly by require_faiss, where it can reach the user
    faiss = None  # type: ignore[assignment]

__all__ = ["faiss", "require_faiss"]


def require_faiss() -> None:
    """Raise DependencyMissing with the command to type when no FAISS is installed."""
    if faiss is None:
        raise DependencyMissing(
            "FAISS is not installed; install Sightline with one of its two extras: "
            "pip install 'sightline[cpu]' or pip install 'sightline[gpu]' (not both)."
        )
