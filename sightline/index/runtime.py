"""FAISS, or a clear sentence where it is missing."""

from __future__ import annotations

from typing import Any

from sightline.errors import DependencyMissing

try:
    import faiss as _module
except ImportError:  # said clearly by require_faiss, where it can reach the user
    _module = None  # type: ignore[assignment]

faiss: Any = _module
"""Untyped: FAISS's stubs know less than half of what its Python wrapper has."""

__all__ = ["faiss", "require_faiss"]


def require_faiss() -> None:
    """Raise DependencyMissing with the command to type when no FAISS is installed."""
    if faiss is None:
        raise DependencyMissing(
            "FAISS is not installed; install Sightline with one of its two extras: "
            "pip install 'sightline[cpu]' or pip install 'sightline[gpu]' (not both)."
        )
