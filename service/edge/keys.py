"""API keys: a file of them, what a request presents, and who may pass. Deny by default.

A file holds one key a line, blank lines and lines that start with ``#`` aside; ``name: key`` names its holder in the
log. Only SHA-256 digests are kept in memory, so a key's length and its letters cannot be learnt from how long a
comparison takes, and bytes that are no text are just a wrong key (``hmac.compare_digest`` raises on non-ASCII str).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from service.edge.listener import is_loopback
from service.edge.problems import Forbidden, Unauthenticated
from service.settings import Settings
from sightline.errors import SettingError

ADMIN_PREFIX = "/v1/admin/"
ITEMS_PREFIX = "/v1/items/"
_WRITING = frozenset({"PUT", "DELETE"})
MIN_KEY_CHARS = 16
_MAX_FILE_BYTES = 1024 * 1024
_RECHECK_SECONDS = 1.0
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]+")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """One key: its holder's name and the SHA-256 of its bytes, never the key."""

    name: str
    digest: bytes = field(repr=False)


def parse_keys(text: str, path: Path) -> tuple[Key, ...]:
    """The keys of a file's text. Raises SettingError, which names the line and never quotes it."""
    keys: list[Key] = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        name, value = (name.strip(), value.strip()) if colon else (f"line-{number}", line)
        if not _NAME.fullmatch(name) or not _KEY.fullmatch(value):
            raise SettingError(
                f"Line {number} of the keys file {path} is not a key; write 'name: key' or a key alone, of letters, "
                "digits and . _ ~ + / = -."
            )
        if len(value) < MIN_KEY_CHARS:
            raise SettingError(
                f"The key in line {number} of {path} is shorter than {MIN_KEY_CHARS} characters; make one with: "
                "openssl rand -base64 32."
            )
        keys.append(Key(name, hashlib.sha256(value.encode("ascii")).digest()))
    if not keys:
        raise SettingError(f"The keys file {path} holds no key; add a line made with: openssl rand -base64 32.")
    return tuple(keys)


class KeyFile:
    """The keys of one file, read again when it changes. For one event loop; reading a changed file takes about 1 ms.

    A changed file that is broken or gone keeps the keys that were good, and is logged once. Raises SettingError when
    the first reading fails.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._version = self._look()
        self.keys = self._read()
        self._checked = clock()

    def find(self, presented: Iterable[bytes]) -> Key | None:
        """The key that was presented, or None. Compares with every key, whatever was found before."""
        self._refresh()
        found = None
        for digest in [hashlib.sha256(one).digest() for one in presented]:
            for key in self.keys:
                if hmac.compare_digest(digest, key.digest):
                    found = key
        return found

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._checked < _RECHECK_SECONDS:
            return
        self._checked = now
        version = self._look()
        if version == self._version:
            return
        self._version = version
        try:
            self.keys = self._read()
        except SettingError as error:
            logger.error("%s Until then the keys read before stay valid.", error.message)
        else:
            logger.warning("Read %d keys from %s, which has changed.", len(self.keys), self.path)

    def _look(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> tuple[Key, ...]:
        try:
            with self.path.open("rb") as file:
                data = file.read(_MAX_FILE_BYTES + 1)
        except OSError as error:
            raise SettingError(f"The keys file {self.path} cannot be read; check its path and rights.") from error
        if len(data) > _MAX_FILE_BYTES:
            raise SettingError(f"The keys file {self.path} is larger than 1 MiB; give a file of keys.")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SettingError(f"The keys file {self.path} is not UTF-8 text; write one key a line.") from error
        return parse_keys(text, self.path)


class Gate:
    """Decides about requests. An admin key opens everything; with keys of any kind nothing is open but the probes."""

    def __init__(self, settings: Settings) -> None:
        self.api = KeyFile(settings.api_keys_file) if settings.api_keys_file is not None else None
        self.admin = KeyFile(settings.admin_keys_file) if settings.admin_keys_file is not None else None
        self._cors_origins = frozenset(settings.cors_origins)
        self._loopback = is_loopback(settings.host)
        self.needs_key = needs_key(settings)

    def check(self, scope: Scope) -> str | None:
        """The name of the key that lets a request pass, None where it needs none.

        Raises Unauthenticated (no key, or a wrong one) or Forbidden (a key, but not one for this path).
        """
        headers = Headers(scope=scope)
        presented = credentials(headers)
        is_admin_path = is_for_admins(scope["path"], scope.get("method", "GET"))
        admin = self.admin.find(presented) if self.admin is not None else None
        key = admin or (self.api.find(presented) if self.api is not None else None)
        if key is None and (self.needs_key or (is_admin_path and self.admin is not None)):
            raise Unauthenticated(
                "This needs a key; send it as Authorization: Bearer KEY or as X-API-Key: KEY."
                if not presented
                else "The key is not valid; send a current one as Authorization: Bearer KEY or as X-API-Key: KEY."
            )
        if is_admin_path:
            self._check_admin(admin, headers)
        return key.name if key is not None else None

    def _check_admin(self, admin: Key | None, headers: Headers) -> None:
        if self.admin is None and (self.api is not None or not self._loopback):
            raise Forbidden("No admin keys are set up; name a file of them in the setting admin_keys_file.")
        if self.admin is not None and admin is None:
            raise Forbidden("This key may not change the service; send one from the file of admin keys.")
        origin = headers.get("origin")
        if origin is not None and origin not in self._cors_origins and not self._is_own(origin, headers):
            raise Forbidden("A page of another origin may not do this; list its origin in the setting cors_origins.")

    def _is_own(self, origin: str, headers: Headers) -> bool:
        """A browser sends the key it knows with any page's request: for admin routes only our own page counts.

        Where no key is asked, the name must be this machine's, lest a foreign name that was pointed here pass.
        """
        try:
            address = urlsplit(origin)
            name = address.hostname or ""
        except ValueError:
            return False
        return address.netloc == headers.get("host") and (self.admin is not None or is_loopback(name))


def is_for_admins(path: str, method: str) -> bool:
    """Whether a request changes what is served: such requests need an admin's key where there are keys."""
    return (path + "/").startswith(ADMIN_PREFIX) or (method in _WRITING and path.startswith(ITEMS_PREFIX))


def needs_key(settings: Settings) -> bool:
    """Whether every path but the probes needs a key.

    Admin keys alone mean that too, unless ``allow_unauthenticated`` says that searching is for everyone.
    """
    only_admin = settings.admin_keys_file is not None and not settings.allow_unauthenticated
    return settings.api_keys_file is not None or only_admin


def check_exposure(settings: Settings) -> None:
    """Raise SettingError when others than this machine could use the service without a key."""
    if not (is_loopback(settings.host) or needs_key(settings) or settings.allow_unauthenticated):
        raise SettingError(
            f"Whoever reaches {settings.host} could use the service without a key; name a file of keys with "
            "--set api_keys_file=FILE, or allow it with --set allow_unauthenticated=true."
        )


def credentials(headers: Headers) -> Sequence[bytes]:
    """What a request presents as keys: ``X-API-Key``, a bearer token, or the password of ``Basic`` (any user name).

    Never from the query string: addresses end up in logs and histories.
    """
    found: list[bytes] = []
    direct = headers.get("x-api-key")
    if direct is not None:
        found.append(direct.strip().encode("latin-1"))
    scheme, _, value = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        found.append(value.strip().encode("latin-1"))
    elif scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(value.strip().encode("latin-1"), validate=True)
        except (binascii.Error, ValueError):
            decoded = b""
        found.append(decoded.partition(b":")[2])
    return found
