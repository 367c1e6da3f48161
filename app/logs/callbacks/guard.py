"""Which addresses a callback may go to: those of the public internet, and what a setting allows.

Names are resolved here and nowhere else. What is returned is what is connected to, so a name that
means something else a moment later changes nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from executors.errors import HadesError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], list[str]]
"""All addresses of a host. Raises OSError."""

_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's own, seen from its machines
        "169.254.0.0/16",  # link-local; metadata of clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",
        "2001::/23",  # Teredo and other protocols
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",
    )
]
_PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
"""Outside are loopback, link-local, multicast, and IPv4 addresses mapped or translated (NAT64)."""
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")


class AddressRefused(HadesError):
    """A callback may not go there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowed:
    """Exceptions of an installation."""

    everything: bool = False
    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[str]) -> Allowed:
        """`*`, networks, addresses and host names. Raises ValueError, naming the entry."""
        networks, hosts, everything = [], set(), False
        for entry in entries:
            if entry == "*":
                everything = True
            elif (network := _network(entry)) is not None:
                networks.append(network)
            elif _HOST.fullmatch(entry.lower()) and not entry.replace(".", "").isdigit():
                hosts.add(entry.lower())
            else:
                raise ValueError(f"{entry!r} is neither a network nor a host's name")
        return cls(everything=everything, networks=tuple(networks), hosts=frozenset(hosts))

    def admits(self, host: str, address: Address) -> bool:
        """Whether this address, of this host, is an exception."""
        if self.everything or host.lower() in self.hosts:
            return True
        return any(address in network for network in self.networks)


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether it is unicast, and of the public internet."""
    if address.version == 6 and address not in _PUBLIC_IPV6:
        return False
    return not any(address in network for network in _NOT_PUBLIC)


def resolve(host: str, port: int) -> list[str]:
    """As the system does."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class AddressGuard:
    """One for all callbacks; may be used by several threads."""

    def __init__(self, allowed: Allowed, resolve: Resolve = resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve

    def addresses(self, host: str, port: int) -> list[str]:
        """Where to connect to. Raises AddressRefused when there is nothing allowed, and OSError
        when the name cannot be resolved."""
        try:
            found = self._resolve(host, port)
        except UnicodeError:
            raise AddressRefused("that is no name of a host") from None
        allowed = [text for text in found if self._allows(host, text)]
        if not allowed:
            raise AddressRefused(f"{host} is {', '.join(found) or 'nowhere'}: not a public address")
        return allowed

    def _allows(self, host: str, text: str) -> bool:
        address = ipaddress.ip_address(text)
        return is_public(address) or self._allowed.admits(host, address)
