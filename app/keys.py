"""API keys, and the lines of the file that lists them.

    # name  hash                scopes       limits
    ci      sha256:<64 digits>  submit,read  rate=50/s burst=100 expires=2027-01-01

A key is random and long, so its plain SHA-256 tells nothing about it, and costs microseconds
(docs/decisions/0010). A name may have several keys, of which one replaces the other.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

from brokers.token_buckets import Rate
from executors.errors import HadesError

PREFIX = "hades_"
OWNER = "hades"
"""The user of `AUTH_KEY`; no key of the file has this name."""

_RANDOM_BYTES = 32
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_BURST = re.compile(r"[1-9][0-9]{0,8}")
_OPTIONS = ("rate", "burst", "expires")


class Scope(StrEnum):
    """What a key may be used for."""

    SUBMIT = "submit"
    READ = "read"
    CANCEL = "cancel"
    ADMIN = "admin"
    """Everything."""


class KeyInvalid(HadesError):
    """A key can't be described like this. The text quotes nothing that may be a secret."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """What is known of a key: all but the key itself."""

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    rate: Rate | None = None
    """None: the default of the API."""
    expires: date | None = None
    """The first day, UTC, on which it is not valid any more; None: it stays valid."""

    @property
    def id(self) -> str:
        """Tells keys of one name apart."""
        return self.digest.hex()[:8]

    def expired(self, now: datetime) -> bool:
        """Whether its time is over; `now` is aware."""
        return self.expires is not None and now.astimezone(UTC).date() >= self.expires


class KeyRing:
    """Keys, found by what they are."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = {key.digest: key for key in keys}

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, secret: str) -> ApiKey | None:
        """How long it takes depends on a hash alone, from which the key can't be guessed."""
        digest = digest_of(secret)
        key = self._keys.get(digest)
        return key if key is not None and hmac.compare_digest(key.digest, digest) else None


def new_secret() -> str:
    """A key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest_of(secret: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def describe(
    name: str,
    digest: bytes,
    scopes: Iterable[str],
    *,
    rate: str = "",
    burst: str = "",
    expires: str = "",
) -> ApiKey:
    """From the words of a command or of a line. Raises KeyInvalid."""
    if not _NAME.fullmatch(name):
        raise KeyInvalid("a name has 1 to 63 of a-z, 0-9, '.', '_', '-' and begins with a-z or 0-9")
    if name == OWNER:
        raise KeyInvalid(f'the name "{OWNER}" belongs to AUTH_KEY')
    return ApiKey(
        name=name,
        digest=digest,
        scopes=_scopes(scopes),
        rate=_rate(rate, burst),
        expires=_date(expires),
    )


def parse_line(line: str) -> ApiKey | None:
    """None for a comment or an empty line. Raises KeyInvalid."""
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    if len(words) < 3:
        raise KeyInvalid("a key has a name, a hash and scopes")
    name, hashed, scopes, *rest = words
    match = _HASH.fullmatch(hashed)
    if match is None:
        raise KeyInvalid("the hash is written sha256: and 64 digits of 0-9, a-f")
    return describe(name, bytes.fromhex(match[1]), scopes.split(","), **_options(rest))


def format_line(key: ApiKey) -> str:
    """As `parse_line` reads it."""
    words = [key.name, f"sha256:{key.digest.hex()}", ",".join(sorted(key.scopes))]
    if key.rate is not None:
        words += [f"rate={key.rate}", f"burst={key.rate.burst}"]
    if key.expires is not None:
        words.append(f"expires={key.expires}")
    return "  ".join(words)


def _options(words: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in _OPTIONS or not equals:
            raise KeyInvalid("after the scopes there may be rate=, burst= and expires=")
        if name in options:
            raise KeyInvalid(f"{name} stands there twice")
        options[name] = value
    return options


def _scopes(words: Iterable[str]) -> frozenset[Scope]:
    try:
        scopes = frozenset(Scope(word) for word in words)
    except ValueError:
        raise KeyInvalid(f"the scopes are {', '.join(Scope)}") from None
    if not scopes:
        raise KeyInvalid("a key needs a scope")
    return scopes


def _rate(rate: str, burst: str) -> Rate | None:
    if burst and not rate:
        raise KeyInvalid("burst needs a rate")
    if burst and not _BURST.fullmatch(burst):
        raise KeyInvalid("burst is a number from 1 on")
    try:
        return Rate.parse(rate, int(burst or 0)) if rate else None
    except ValueError as error:
        raise KeyInvalid(str(error)) from None


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise KeyInvalid("expires is a day, written 2027-01-31") from None
