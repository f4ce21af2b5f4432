"""Calls to a Milvus server, with its errors in our words. Thread-safe, as pymilvus's client is."""

from __future__ import annotations

import importlib
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sightline.errors import DependencyMissing, MilvusFailed, MilvusUnreachable
from sightline.milvus.address import Address
from sightline.milvus.capabilities import ServerKind, kind_of

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_SECONDS = 10.0
_BATCH_TIMEOUT_SECONDS = 300.0
_FIRST_LOOK_SECONDS = 0.01
_LOOK_SECONDS = 0.5
_ALIAS_UNKNOWN = 1600


def require_pymilvus() -> Any:
    """The library. Raises DependencyMissing."""
    try:
        return importlib.import_module("pymilvus")
    except ImportError as error:
        raise DependencyMissing(
            "pymilvus is not installed; install it with: pip install 'sightline[milvus]'."
        ) from error


class MilvusServer:
    """One connection. Raises MilvusUnreachable when nothing answers, MilvusFailed when the server refuses."""

    def __init__(self, address: Address, token: str = "", *, timeout_seconds: float = 30.0) -> None:
        """``timeout_seconds``: how long a search or a read may take."""
        self._timeout_seconds = timeout_seconds
        self._pymilvus = require_pymilvus()
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # what it logs is raised here, and read by somebody
        self.address = address
        if address.is_lite:
            _require_lite(address)
        options: dict[str, Any] = {"uri": address.uri, "timeout": _CONNECT_TIMEOUT_SECONDS}
        if address.is_lite:  # its server takes pymilvus's keepalive for an attack, and hangs up
            options["grpc_options"] = {
                "grpc.keepalive_time_ms": 2**31 - 1,
                "grpc.keepalive_permit_without_calls": False,
            }
        if token:
            options["token"] = token
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._client = self._pymilvus.MilvusClient(**options)
            self.version = str(self._client.get_server_version())
        except Exception as error:
            logger.debug("Connecting to %s failed.", address.uri, exc_info=True)
            raise MilvusUnreachable(
                f"There is no Milvus at {address.uri}, or it does not let this process in; check the address, the "
                "token, and that no other process has the file open."
            ) from error
        self.kind: ServerKind = kind_of(self.version)

    def close(self) -> None:
        """Hang up; for Milvus Lite also end its server, which lets another process open the file."""
        with self._said("close"):
            self._client.close()
            if self.address.is_lite:
                manager = importlib.import_module("milvus_lite.server_manager")
                manager.server_manager_instance.release_server(self.address.uri)

    # Collections and aliases

    def collections(self, prefix: str) -> list[str]:
        with self._said("list collections"):
            return sorted(name for name in self._client.list_collections() if name.startswith(prefix))

    def aliased(self, alias: str) -> str | None:
        """The collection that an alias names, None where there is no such alias."""
        with self._said("look up an alias"):
            try:
                return str(self._client.describe_alias(alias)["collection_name"])
            except self._pymilvus.MilvusException as error:
                if error.code == _ALIAS_UNKNOWN or "not exist" in str(error) or "not found" in str(error):
                    return None
                raise  # taken for a missing alias, what it names would be dropped as nobody's

    def point(self, alias: str, collection: str) -> None:
        """Let an alias name a collection, in one step."""
        known = self.aliased(alias)
        if known == collection:
            return
        with self._said("switch an alias"):
            change = self._client.create_alias if known is None else self._client.alter_alias
            change(collection_name=collection, alias=alias)

    def drop_alias(self, alias: str) -> None:
        with self._said("drop an alias"):
            self._client.drop_alias(alias)

    def create(self, name: str, fields: Sequence[dict[str, Any]]) -> None:
        """An empty collection without an index. ``fields``: keywords of pymilvus's ``add_field``, types by name."""
        types = self._pymilvus.DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        for one in fields:
            typed = {**one, "datatype": getattr(types, one["datatype"])}
            if "element_type" in one:
                typed["element_type"] = getattr(types, one["element_type"])
            schema.add_field(**typed)
        with self._said("create a collection"):
            self._client.create_collection(name, schema=schema, consistency_level="Session")

    def drop(self, name: str) -> None:
        with self._said("drop a collection"):
            self._client.drop_collection(name)

    # Rows

    def insert(self, name: str, rows: list[dict[str, Any]]) -> None:
        with self._said("insert rows"):
            self._client.insert(name, rows, timeout=_BATCH_TIMEOUT_SECONDS)

    def upsert(self, name: str, rows: list[dict[str, Any]]) -> None:
        with self._said("write rows"):
            self._client.upsert(name, rows, timeout=_BATCH_TIMEOUT_SECONDS)

    def delete(self, name: str, expression: str) -> None:
        with self._said("delete rows"):
            self._client.delete(name, filter=expression, timeout=_BATCH_TIMEOUT_SECONDS)

    def count(self, name: str, expression: str = "row >= 0", *, strong: bool = False) -> int:
        level = {"consistency_level": "Strong"} if strong else {}
        with self._said("count rows"):
            found = self._client.query(
                name, filter=expression, output_fields=["count(*)"], timeout=self._timeout_seconds, **level
            )
        return int(next(iter(found))["count(*)"])

    def query(
        self, name: str, expression: str, fields: Sequence[str], limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Rows that fulfil an expression, in no order."""
        options = {} if limit is None else {"limit": limit}
        with self._said("read rows"):
            found = self._client.query(
                name, filter=expression, output_fields=list(fields), timeout=self._timeout_seconds, **options
            )
            return [dict(one) for one in found]

    def search(
        self, name: str, queries: Any, limit: int, expression: str, fields: Sequence[str], parameters: dict[str, Any]
    ) -> list[list[dict[str, Any]]]:
        """For each query up to ``limit`` hits: the row, its ``distance`` and its ``entity`` with the fields."""
        with self._said("search"):
            found = self._client.search(
                name, data=list(queries), anns_field="vector", limit=limit, filter=expression,
                output_fields=list(fields), search_params={"metric_type": "IP", "params": parameters},
                timeout=self._timeout_seconds,
            )  # fmt: skip
            return [list(hits) for hits in found]

    # Indexes

    def build_index(self, name: str, index_type: str, parameters: dict[str, Any], scalars: Sequence[str]) -> None:
        """Flush, build and load; returns when every index says that it has every row."""
        wanted = self._client.prepare_index_params()
        wanted.add_index("vector", index_type=index_type, metric_type="IP", params=parameters)
        for one in scalars:
            wanted.add_index(one, index_type="INVERTED")
        with self._said("build an index"):
            self._client.flush(name)
            self._client.create_index(name, wanted, sync=False)  # else it sleeps half a second before it first looks
            built = {one: self._await_index(name, one) for one in ("vector", *scalars)}
        failed = any(one["state"] != "Finished" for one in built.values())
        if failed or str(built["vector"].get("index_type")) != index_type:
            raise MilvusFailed(f"The server did not build an index of the type {index_type}; choose another type.")
        self.load(name)

    def _await_index(self, name: str, field: str) -> dict[str, Any]:
        """What the server says of an index that has every row, or will never have."""
        pause_seconds = _FIRST_LOOK_SECONDS
        while True:
            built: dict[str, Any] = self._client.describe_index(name, field)
            if built["state"] == "Failed" or (built["state"] == "Finished" and not built["pending_index_rows"]):
                return built
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LOOK_SECONDS)

    def drop_indexes(self, name: str) -> None:
        """Unload a collection and let go of its indexes: Milvus Lite builds none over an old one."""
        with self._said("drop an index"):
            self._client.release_collection(name)
            for index in self._client.list_indexes(name):
                self._client.drop_index(name, index)

    def load(self, name: str) -> None:
        with self._said("load a collection"):
            self._client.load_collection(name)

    # Errors

    @contextmanager
    def _said(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._pymilvus.MilvusException as error:
            logger.debug("Milvus could not %s.", doing, exc_info=True)
            if self._unreachable(error):
                raise _unreachable() from error
            raise MilvusFailed(f"Milvus could not {doing}; its log says why (code {error.code}).") from error
        except (OSError, ValueError, TypeError) as error:
            logger.debug("Milvus could not %s.", doing, exc_info=True)
            raise MilvusFailed(f"Milvus could not {doing}; the debug log says why.") from error

    def _unreachable(self, error: Any) -> bool:
        known = (
            getattr(self._pymilvus.exceptions, name, None) for name in ("ConnectError", "MilvusUnavailableException")
        )
        if isinstance(error, tuple(one for one in known if one is not None)):
            return True
        text = str(error).lower()
        return any(word in text for word in ("statuscode.unavailable", "deadline", "fail connecting", "timeout"))


def _unreachable() -> MilvusUnreachable:
    return MilvusUnreachable("Milvus does not answer; try again when its server is there.")


def _require_lite(address: Address) -> None:
    try:
        importlib.import_module("milvus_lite")
    except ImportError as error:
        raise DependencyMissing(
            "A .db file needs Milvus Lite, which is not installed; install it with: pip install milvus-lite."
        ) from error
    if not Path(address.uri).resolve().parent.is_dir():
        raise MilvusUnreachable(f"There is no folder for {address.uri}; create it first.")
