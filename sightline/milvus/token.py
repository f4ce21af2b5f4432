"""The token that a Milvus server asks for, from a file: in an address or on a command line it would be seen."""

from __future__ import annotations

from pathlib import Path

from sightline.errors import SettingError


def read_token(path: Path | None) -> str:
    """The token, empty without a file. Raises SettingError."""
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"The file {path} of Milvus's token cannot be read; check its path and rights.") from error
