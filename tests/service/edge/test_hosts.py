"""Which addresses are public, in every disguise."""

from __future__ import annotations

import pytest

from service.edge.hosts import is_host_name, is_public, parse_address


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.31.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254",
        "192.0.0.8", "192.0.0.192", "192.88.99.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "168.63.129.16",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1",
        "64:ff9b:1::1", "64:ff9b:1::8.8.8.8", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::1",
        "2001:0:808:808:0:0:80ff:fffe",  # Teredo: a public server, and 127.0.0.1 as the client
        "2606:4700::5efe:7f00:1", "2606:4700:0:0:200:5efe:a9fe:a9fe", "2001:db8::1", "2001:20::1", "3fff::1",
        "100::1", "5f00::1",
    ],
)  # fmt: skip
def test_what_is_not_the_open_internet(address: str) -> None:
    """B22"""
    assert not is_public(parse_address(address))


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"],
)
def test_what_is(address: str) -> None:
    assert is_public(parse_address(address))


@pytest.mark.parametrize("name", ["images.example.org", "localhost", "a-b.c", "xn--nxasmq6b.example"])
def test_host_names(name: str) -> None:
    assert is_host_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "", "*", "*.example.org", "Example.org", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1",
        "example.0x1", "[::1]", "::1", "a..b", ".a", "a.", "-a.org", "a-.org", "a_b.org", "example.org:443",
        "user@example.org", "①②⑦.0.0.1", "example。org", "a" * 64 + ".org", "a." * 130 + "org", "a.org\n",
    ],
)  # fmt: skip
def test_what_is_no_host_name(name: str) -> None:
    assert not is_host_name(name)
