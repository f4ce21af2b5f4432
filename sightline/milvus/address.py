"""Where a collection in Milvus is: a server, or a file of Milvus Lite, and a name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sightline.errors import SettingError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_SCHEMES = {"milvus": "http", "milvus+https": "https", "http": "http", "https": "https"}
_HELP = "write it like milvus://host:19530/photos, or milvus:file.db/photos for Milvus Lite"


@dataclass(frozen=True)
class Address:
    """``uri`` is what pymilvus connects to: http(s)://host:port or the path of a ``.db`` file. No secret is in it."""

    uri: str
    name: str

    @property
    def is_lite(self) -> bool:
        return not self.uri.startswith(("http://", "https://"))

    def __str__(self) -> str:
        if self.is_lite:
            return f"milvus:{self.uri}/{self.name}"
        scheme, _, rest = self.uri.partition("://")
        return f"{'milvus' if scheme == 'http' else 'milvus+https'}://{rest}/{self.name}"


def is_address(text: str) -> bool:
    """Whether this names a collection in Milvus and not a folder."""
    return text.startswith(("milvus:", "milvus+https:"))


def parse_address(text: str, name: str | None = None) -> Address:
    """``milvus://host:19530/photos``, ``milvus+https://…``, ``milvus:/path/file.db/photos``; with ``name`` also
    ``http://host:19530`` and ``file.db``. Raises SettingError: what is wrong and what would be right.
    """
    scheme, colon, rest = text.partition(":")
    if rest.startswith("//") and scheme in _SCHEMES and not rest.startswith("///"):
        return _of_server(text, _SCHEMES[scheme], name)
    path = rest.removeprefix("//") if colon and scheme == "milvus" else text
    file, own = _split_file(path)
    if file is None:
        raise SettingError(f"'{text}' names no Milvus; {_HELP}.")
    return Address(file, _checked_name(own or name, text))


def _of_server(text: str, scheme: str, name: str | None) -> Address:
    try:
        parts = urlsplit(text)
        port = parts.port or 19530
    except ValueError:
        raise SettingError(f"'{text}' is no address; {_HELP}.") from None
    if not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
        raise SettingError(f"An address of Milvus is a host, a port and a name; keep tokens in a file and {_HELP}.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(f"{scheme}://{host}:{port}", _checked_name(parts.path.strip("/") or name, text))


def _split_file(path: str) -> tuple[str | None, str | None]:
    """``/path/file.db/photos`` → the file and the name; the name may be missing."""
    if path.endswith(".db"):
        return path, None
    parent, _, name = path.rpartition("/")
    return (parent, name) if parent.endswith(".db") else (None, None)


def _checked_name(name: str | None, text: str) -> str:
    if not name:
        raise SettingError(f"'{text}' names no collection; {_HELP}.")
    if not _NAME.fullmatch(name) or re.search(r"_v[0-9]{6}(_|$)|_before$", name):
        raise SettingError(
            f"'{name[:80]}' cannot be the name of a collection in Milvus; take at most 64 letters, digits and "
            "underscores, the first a letter, and neither _before nor _v000001 at its end."
        )
    return name


def name_for(collection: Path) -> str:
    """The name that a collection's folder suggests."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", collection.resolve().name).strip("_")[:64]
    return name if name[:1].isalpha() else f"c_{name}"[:64]
