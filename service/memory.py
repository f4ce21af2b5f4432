"""How much memory a generation may take; the library counts it, for its own commands too."""

from __future__ import annotations

from sightline.memory import available_bytes

__all__ = ["available_bytes"]
