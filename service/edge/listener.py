"""The address that the service listens on: taking it, and who can reach it."""

from __future__ import annotations

import errno
import ipaddress
import socket

from sightline.errors import SettingError


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. Raises SettingError when the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingError(f"'{host}' is no address of this machine; try --host 127.0.0.1.") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise bind_error(host, port, error) from error
    return listener


def bind_error(host: str, port: int, error: OSError) -> SettingError:
    """Why an address cannot be had, in one sentence."""
    if error.errno == errno.EADDRINUSE:
        return SettingError(
            f"Port {port} of {host} is in use by another program; stop it or choose another --port.", port=port
        )
    if error.errno == errno.EACCES:
        return SettingError(f"Port {port} may not be used without rights; choose a --port above 1023.", port=port)
    return SettingError(f"'{host}' is no address of this machine; try --host 127.0.0.1.")


def url_of(host: str, port: int) -> str:
    """The address to type: a wildcard host is shown as this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - shown, not bound
    return f"http://{shown}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
