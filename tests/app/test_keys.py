import re
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from app.keys import (
    ApiKey,
    KeyInvalid,
    KeyRing,
    Scope,
    describe,
    digest_of,
    format_line,
    new_secret,
    parse_line,
)

HASH = "sha256:" + "a1" * 32


def key(name: str = "ci", secret: str = "s", **options: str) -> ApiKey:
    return describe(name, digest_of(secret), ["submit"], **options)


def test_a_key_is_long_and_random_and_can_be_recognised():
    assert re.fullmatch(r"hades_[A-Za-z0-9_-]{43}", new_secret())
    assert len({new_secret() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "key",
    [
        key(),
        key("0", expires="2027-01-01"),
        key("a.b_c-d", rate="3000/m", burst="7"),
        describe("z" * 63, digest_of("x"), ["admin", "read", "cancel", "submit"], rate="5/s"),
    ],
)
def test_a_key_is_written_and_read_as_it_was(key):
    assert parse_line(format_line(key)) == key


def test_a_line_never_holds_the_key():
    secret = new_secret()
    assert secret not in format_line(describe("ci", digest_of(secret), ["submit"]))


@pytest.mark.parametrize("line", ["", "   ", "# a comment", "  #ci sha256:00 submit"])
def test_empty_lines_and_comments_are_no_keys(line):
    assert parse_line(line) is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ci", "a name, a hash and scopes"),
        (f"ci {HASH}", "a name, a hash and scopes"),
        (f"CI {HASH} submit", "a name has 1 to 63"),
        (f"-ci {HASH} submit", "a name has 1 to 63"),
        (f"{'a' * 64} {HASH} submit", "a name has 1 to 63"),
        (f"hades {HASH} submit", "belongs to AUTH_KEY"),
        ("ci hunter2 submit", "the hash is written sha256:"),
        (f"ci {HASH}0 submit", "the hash is written sha256:"),
        (f"ci {HASH} hunter2", "the scopes are submit, read, cancel, admin"),
        (f"ci {HASH} submit,", "the scopes are"),
        (f"ci {HASH} submit hunter2", "there may be rate="),
        (f"ci {HASH} submit hunter2=1", "there may be rate="),
        (f"ci {HASH} submit rate=hunter2", "a rate is written"),
        (f"ci {HASH} submit rate=1/s rate=2/s", "rate stands there twice"),
        (f"ci {HASH} submit burst=5", "burst needs a rate"),
        (f"ci {HASH} submit rate=1/s burst=0", "burst is a number"),
        (f"ci {HASH} submit expires=tomorrow", "expires is a day"),
    ],
)
def test_a_broken_line_is_refused_without_a_word_of_it(line, why):
    with pytest.raises(KeyInvalid, match=why) as refused:
        parse_line(line)
    assert "hunter2" not in str(refused.value)


def test_a_ring_finds_a_key_by_its_secret_alone():
    first, second = key("a", "1"), key("b", "2")
    ring = KeyRing([first, second])
    assert (ring.find("1"), ring.find("2"), ring.find("3")) == (first, second, None)
    assert ring.find("\ud800") is None


@pytest.mark.parametrize(
    ("now", "expired"),
    [
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), False),
        (datetime(2027, 1, 1, tzinfo=UTC), True),
        (datetime(2027, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))), False),
    ],
)
def test_a_key_expires_as_its_day_begins_in_utc(now, expired):
    limited = key(expires="2027-01-01")
    assert limited.expires == date(2027, 1, 1)
    assert limited.expired(now) is expired


def test_scopes_are_the_four_that_the_api_knows():
    assert [str(scope) for scope in Scope] == ["submit", "read", "cancel", "admin"]
