"""A client of one connection, byte by byte, for what no ordinary client would send."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass

from tests.service.edge.test_middleware import WAIT_SECONDS
from tests.service.test_server import Live


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])


class Client:
    """One connection, byte by byte."""

    def __init__(self, live: Live) -> None:
        self.socket = socket.create_connection(live.listener.getsockname(), timeout=WAIT_SECONDS)
        self.rest = b""

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # it may have been closed meanwhile
            self.socket.sendall(data)

    def answer(self) -> Answer:
        while b"\r\n\r\n" not in self.rest:
            self._more()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(self.rest) < int(headers["content-length"]):
            self._more()
        body, self.rest = self.rest[: int(headers["content-length"])], self.rest[int(headers["content-length"]) :]
        return Answer(int(first.split()[1]), headers, body)

    def ended(self) -> bool:
        """Wait for the end; whether it came without another answer."""
        try:
            return self.rest + self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _more(self) -> None:
        data = self.socket.recv(65536)
        assert data, f"the connection ended after {self.rest!r}"
        self.rest += data
