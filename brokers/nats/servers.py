"""Where the servers are and who we are to them: one description for every connection."""

from __future__ import annotations

import base64
import dataclasses
import ipaddress
import itertools
import random
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, TypedDict
from urllib.parse import unquote, urlsplit

DEFAULT_URL = "nats://localhost:4222"
DEFAULT_PORT = 4222
AVOID_SECONDS = 30.0
"""How long a server that did not answer is tried only after the others."""

_SCHEMES = ("nats", "tls")
_SEED = re.compile(r"S[A-Z2-7]{57}")


class ConnectArguments(TypedDict, total=False):
    """How to log in, as keyword arguments; all are optional.

    `user` and `password`, used only when both are given; a `token`; an `nkey`, the seed or the file
    that holds it; `credentials`, a `.creds` file. The last two need the package `nkeys`.
    `tls` is a context; or `tls_ca`, `tls_cert` and `tls_key` are files, for an authority and a
    client certificate of one's own. `tls_hostname` is the name that certificates must have instead
    of the URL's, `tls_first` begins with the handshake, without waiting for the server's greeting.
    `name` is shown by the server's monitoring; `connect_timeout` is in seconds.
    """

    name: str
    user: str | None
    password: str | None
    token: str | None
    nkey: str | None
    credentials: str | None
    tls: ssl.SSLContext | None
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    tls_hostname: str | None
    tls_first: bool
    connect_timeout: float


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address."""

    host: str
    port: int
    tls: bool = False
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls_hostname: str | None = None
    """The name in its certificate, for one that is known by its address only."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Servers:
    """Addresses, in an order that puts those last that did not answer lately, and the login.

    Addresses that servers tell of others in their cluster are added, and forgotten when no server
    tells of them any more. Raises ValueError for a URL that is none.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        name: str = "dramatiq",
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        nkey: str | None = None,
        credentials: str | None = None,
        tls: ssl.SSLContext | None = None,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_hostname: str | None = None,
        tls_first: bool = False,
        connect_timeout: float = 10.0,
    ) -> None:
        listed = urls.split(",") if isinstance(urls, str) else list(urls)
        self.urls = [url.strip() for url in listed if url.strip()]
        self.connect_timeout = connect_timeout
        self.tls_hostname = tls_hostname
        self.tls_first = tls_first
        self._tls = tls or _context(tls_ca, tls_cert, tls_key)
        self._name = name
        both = bool(user and password)
        self._user = user if both else None
        self._password = password if both else None
        self._token = token
        self._nkey = nkey
        self._credentials = credentials
        self._named = tuple(map(_endpoint, self.urls))
        self._endpoints = dict.fromkeys(self._named, 0.0)
        if not self._endpoints:
            raise ValueError("no NATS server is named")

    def __len__(self) -> int:
        return len(self._endpoints)

    def __str__(self) -> str:
        return ", ".join(str(endpoint) for endpoint in self._endpoints)

    # Addresses

    def endpoints(self) -> list[Endpoint]:
        """All that are known, those to try first in front."""
        now = monotonic()
        known = list(self._endpoints.items())
        random.shuffle(known)
        known.sort(key=lambda item: item[1] > now)
        return [endpoint for endpoint, _ in known]

    def avoid(self, endpoint: Endpoint) -> None:
        """It did not answer: the others first, for a while."""
        self._endpoints[endpoint] = monotonic() + AVOID_SECONDS

    def answered(self, endpoint: Endpoint, others: Sequence[str]) -> None:
        """It did; and it knows of `others` (`host:port`) in its cluster."""
        before = self._endpoints
        told = [(host.strip("[]"), port) for host, _, port in (o.rpartition(":") for o in others)]
        known = {endpoint: 0.0, **{named: before.get(named, 0.0) for named in self._named}}
        for host, port in told:
            if port.isdecimal() and host and not _listed(known, host, int(port)):
                other = dataclasses.replace(
                    endpoint, host=host, port=int(port), tls_hostname=_certified(endpoint, host)
                )
                known[other] = before.get(other, 0.0)
        known[endpoint] = 0.0
        self._endpoints = known if told else {**before, endpoint: 0.0}

    # Login

    def tls_context(self, endpoint: Endpoint, required: bool) -> ssl.SSLContext | None:
        """None for a connection in clear: nobody asks for TLS."""
        if self._tls is not None:
            return self._tls
        return ssl.create_default_context() if required or endpoint.tls else None

    def login(self, endpoint: Endpoint, nonce: str) -> dict[str, str]:
        """Fields of the CONNECT line. Raises OSError and ValueError for unusable keys."""
        if self._credentials:
            jwt, seed = _read_credentials(self._credentials)
            return {"jwt": jwt, "sig": _sign(seed, nonce)}
        if self._nkey:
            seed = _read_seed(self._nkey)
            return {"nkey": _public_key(seed), "sig": _sign(seed, nonce)}
        if self._token:
            return {"auth_token": self._token}
        user, password = self._user or endpoint.user, self._password or endpoint.password
        if user and password:
            return {"user": user, "pass": password}
        return {"auth_token": user} if user else {}

    @property
    def name(self) -> str:
        """What the server's monitoring calls us."""
        return self._name

    def client_options(self) -> Mapping[str, Any]:
        """The same for nats-py's `connect`, which takes URLs literally: without their escapes."""
        options: dict[str, Any] = {
            "servers": self.urls,
            "name": self._name,
            "user": self._user,
            "password": self._password,
            "token": self._token,
            "tls": self._tls,
            "tls_hostname": self.tls_hostname,
            "tls_handshake_first": self.tls_first,
            "user_credentials": self._credentials,
        }
        logins = {(endpoint.user, endpoint.password) for endpoint in self._named}
        if len(logins) == 1:  # else each URL keeps its own
            [(user, password)] = logins
            options["servers"] = [_plain_url(endpoint) for endpoint in self._named]
            if user and password and not (self._user or self._token):
                options.update(user=user, password=password)
            elif user and not (self._user or self._token):
                options["token"] = user
        if self._nkey:
            options["nkeys_seed_str"] = _read_seed(self._nkey).decode()
        return {name: value for name, value in options.items() if value is not None}


def _certified(endpoint: Endpoint, host: str) -> str | None:
    """Certificates of a cluster name its servers; addresses rarely stand in them."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return endpoint.tls_hostname or endpoint.host


def _listed(known: Mapping[Endpoint, float], host: str, port: int) -> bool:
    return any(endpoint.host == host and endpoint.port == port for endpoint in known)


def _endpoint(url: str) -> Endpoint:
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:  # its text quotes the URL, and there may be a password in it
        raise ValueError("a NATS server's URL cannot be read: is everything escaped?") from None
    if parts.scheme not in _SCHEMES or not host:
        raise ValueError(f"not the URL of a NATS server: {parts.scheme}://{host or ''}")
    return Endpoint(
        host,
        port,
        parts.scheme == "tls",
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
    )


def _plain_url(endpoint: Endpoint) -> str:
    return f"{'tls' if endpoint.tls else 'nats'}://{endpoint}"


def _context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext | None:
    if not ca and not cert:
        return None
    context = ssl.create_default_context(cafile=ca)
    if cert:
        context.load_cert_chain(cert, key)
    return context


def _read_seed(nkey: str) -> bytes:
    if _SEED.fullmatch(nkey.strip()):
        return nkey.strip().encode()
    try:
        return Path(nkey).read_bytes().strip()
    except (OSError, ValueError):  # its text would show what may be a seed with a typo
        raise ValueError("the nkey is neither a seed nor a file that can be read") from None


def _read_credentials(path: str) -> tuple[str, bytes]:
    """The user's JWT and the seed that signs for it."""
    lines = Path(path).read_text().splitlines()
    following = {line.strip(" -"): after for line, after in itertools.pairwise(lines)}
    try:
        jwt, seed = following["BEGIN NATS USER JWT"], following["BEGIN USER NKEY SEED"]
    except KeyError as error:
        raise ValueError(f"not a credentials file: {path}") from error
    return jwt.strip(), seed.strip().encode()


def _key_pair(seed: bytes) -> Any:
    try:
        import nkeys
    except ImportError as error:
        raise ValueError("nkeys and credentials need the package nkeys") from error
    try:
        return nkeys.from_seed(bytearray(seed))
    except Exception as error:  # nkeys' own, binascii's, those of its cipher
        raise ValueError(f"unusable nkey: {type(error).__name__}") from None


def _public_key(seed: bytes) -> str:
    return str(_key_pair(seed).public_key.decode())


def _sign(seed: bytes, nonce: str) -> str:
    return base64.b64encode(_key_pair(seed).sign(nonce.encode())).decode()
