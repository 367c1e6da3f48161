"""Where callbacks may go."""

from __future__ import annotations

import ipaddress

import pytest

from app.logs.callbacks.guard import AddressGuard, AddressRefused, Allowed, is_public

REFUSED = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:93.184.216.34",
    "64:ff9b::a00:1",
    "64:ff9b::5db8:d822",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:5db8:d822::1",
    "3fff::1",
    "4000::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = [
    "1.1.1.1",
    "93.184.216.34",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700::1111",
    "2a00:1450::1",
]


def guard(*found: str, allow: tuple[str, ...] = ()) -> AddressGuard:
    return AddressGuard(Allowed.of(allow), lambda host, port: list(found))


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_of_the_public_internet_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused, match="not a public address"):
        guard(address).addresses("host.example", 443)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert guard(address).addresses("host.example", 443) == [address]


@pytest.mark.parametrize("address", REFUSED)
def test_whatever_python_calls_private_is_refused_too(address: str) -> None:
    parsed = ipaddress.ip_address(address)

    assert not is_public(parsed)
    assert all(ipaddress.ip_address(each).is_global for each in PUBLIC)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "017700000001",
        "0",
        "localhost",
        "::1",
        "::ffff:127.0.0.1",
    ],
)
def test_however_the_loopback_is_written_it_is_refused_once_it_is_resolved(host: str) -> None:
    with pytest.raises(AddressRefused):
        AddressGuard(Allowed()).addresses(host, 80)


def test_of_several_addresses_only_the_public_ones_are_used() -> None:
    assert guard("10.0.0.1", "1.1.1.1", "::1").addresses("both.example", 80) == ["1.1.1.1"]


@pytest.mark.parametrize(
    "allow", ["10.0.0.0/8", "10.1.2.3", "*", "inside.example", "INSIDE.example"]
)
def test_an_exception_is_a_network_an_address_a_host_or_all(allow: str) -> None:
    allowed = guard("10.1.2.3", allow=(allow,))

    assert allowed.addresses("inside.example", 80) == ["10.1.2.3"]


def test_an_exception_for_one_host_is_none_for_another_at_the_same_address() -> None:
    with pytest.raises(AddressRefused):
        guard("10.1.2.3", allow=("inside.example",)).addresses("evil.example", 80)


def test_an_exception_for_an_address_is_none_for_its_disguises() -> None:
    with pytest.raises(AddressRefused):
        guard("::ffff:10.1.2.3", "2002:a01:203::1", allow=("10.0.0.0/8",)).addresses("h", 80)


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "10.0.0", "http://host", "a b", "-x", "1::2::3"])
def test_an_exception_that_is_neither_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a network nor a host"):
        Allowed.of([entry])


def test_a_host_that_is_no_name_at_all_is_refused() -> None:
    with pytest.raises(AddressRefused, match="no name of a host"):
        AddressGuard(Allowed()).addresses("a" * 64 + ".example", 80)
