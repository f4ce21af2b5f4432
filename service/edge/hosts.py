"""Host names, and which IP addresses belong to the open internet, however they are written.

``ipaddress.is_global`` alone is not enough: it says yes to multicast, and to IPv6 addresses that are only another way
of writing an IPv4 address (64:ff9b::a9fe:a9fe is a cloud's metadata service behind NAT64, 2002:7f00:1:: is loopback
behind 6to4). Those are unwrapped and the inner address must pass as well.
"""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

HOST_NAME = r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
"""A name in ASCII whose last label begins with a letter: 127.1, 2130706433 and 0x7f000001 are numbers to resolvers."""
_HOST_NAME = re.compile(HOST_NAME)

_SPECIAL_V4 = tuple(
    IPv4Network(one)
    for one in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's platform service: a public number that only its own machines reach
    )
)  # fmt: skip
_UNICAST_V6 = IPv6Network("2000::/3")
"""All that is handed out to the open internet; everything else in IPv6 is local, reserved or a transition trick."""
_SPECIAL_V6 = tuple(
    IPv6Network(one) for one in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP_MARKS = frozenset({0x0000_5EFE, 0x0200_5EFE})


def is_host_name(text: str) -> bool:
    """Whether this is a lower-case host name: not an address, not a number, not a pattern."""
    return len(text) <= 253 and _HOST_NAME.fullmatch(text) is not None


def is_public(address: Address) -> bool:
    """Whether a server may be asked there: global unicast, and so is every address wrapped in it."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _SPECIAL_V4)
    wrapped = _wrapped(address)
    if wrapped:
        return all(is_public(inner) for inner in wrapped)
    return (
        address.is_global
        and not address.is_multicast
        and address in _UNICAST_V6
        and not any(address in network for network in _SPECIAL_V6)
    )


def parse_address(text: str) -> Address:
    """An address as a resolver gives it, zone included. Raises ValueError."""
    return ipaddress.ip_address(text)


def _wrapped(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses to which a packet for this one may end up going."""
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    number = int(address)
    if address in _NAT64 or (number >> 32) & 0xFFFF_FFFF in _ISATAP_MARKS:
        return (IPv4Address(number & 0xFFFF_FFFF),)
    return ()
