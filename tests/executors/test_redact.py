"""No secret leaves by a log, a reason or a record."""

from __future__ import annotations

import pytest

from executors.job import Job, OutputStream, Step
from executors.redact import MIN_HELD, MaskingSink, mask
from executors.secrets import MASK, is_secret_key, secrets_of

OUT, ERR = OutputStream.STDOUT, OutputStream.STDERR


class Collected:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.data = dict.fromkeys(OutputStream, b"")
        self.opened: list[str] = []

    def open(self, container_id: str) -> None:
        self.opened.append(container_id)

    def write(self, stream: OutputStream, data: bytes) -> None:
        assert data
        self.data[stream] += data

    @property
    def text(self) -> str:
        return self.data[OUT].decode()


def masked(secrets: list[str], *writes: bytes) -> str:
    collected = Collected()
    sink = MaskingSink(collected, secrets)
    for data in writes:
        sink.write(OUT, data)
    sink.close()
    return collected.text


CASES = [
    (["s3cret"], "the s3cret is out", f"the {MASK} is out"),
    (["s3cret"], "s3cret", MASK),
    (["s3cret"], "s3crets3cret", MASK + MASK),
    (["s3cret"], "s3cre t", "s3cre t"),
    (["aab!"], "aaaab!", f"aa{MASK}"),
    (["pass", "password"], "password pass passwor", f"{MASK} {MASK} {MASK}wor"),
    (["abcd", "cdef"], "-abcdef-", f"-{MASK}-"),
    (["abcdefgh", "xxabcd"], "xxabcdefgh", MASK),
    (["abcabc"], "abcabcabc.", f"{MASK}."),
    (["line one\nline two", "line one", "line two"], "line one\nline two\n", f"{MASK}\n"),
    (["line one\nline two", "line one", "line two"], "line two\nx", f"{MASK}\nx"),
    (["pässwört"], "ein pässwört!", f"ein {MASK}!"),
]


@pytest.mark.parametrize(("secrets", "text", "expected"), CASES)
def test_secrets_are_masked_in_one_piece(secrets, text, expected) -> None:
    assert mask(text, secrets) == expected
    assert masked(secrets, text.encode()) == expected


@pytest.mark.parametrize(("secrets", "text", "expected"), CASES)
def test_secrets_are_masked_wherever_a_write_ends(secrets, text, expected) -> None:
    data = text.encode()
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            pieces = (data[:first], data[first:second], data[second:])
            assert masked(secrets, *pieces) == expected, pieces
    assert masked(secrets, *(data[n : n + 1] for n in range(len(data)))) == expected


def test_what_cannot_begin_a_secret_is_passed_on_at_once() -> None:
    collected = Collected()
    sink = MaskingSink(collected, ["s3cret"])
    sink.write(OUT, b"progress 10%\n")
    assert collected.text == "progress 10%\n"
    sink.write(OUT, b"maybe s3")
    assert collected.text == "progress 10%\nmaybe "
    sink.write(OUT, b" no")
    assert collected.text == "progress 10%\nmaybe s3 no"


def test_closing_holds_nothing_back() -> None:
    collected = Collected()
    sink = MaskingSink(collected, ["s3cret"])
    sink.write(OUT, b"s3cre")
    sink.write(ERR, b"s")
    sink.close()
    sink.close()
    assert collected.data == {OUT: b"s3cre", ERR: b"s"}


def test_the_two_outputs_do_not_complete_each_others_secrets() -> None:
    collected = Collected()
    sink = MaskingSink(collected, ["s3cret"])
    sink.open("c1")
    sink.write(OUT, b"s3c")
    sink.write(ERR, b"ret")
    sink.close()
    assert collected.data == {OUT: b"s3c", ERR: b"ret"}
    assert collected.opened == ["c1"]


def test_binary_output_passes_unchanged() -> None:
    collected = Collected()
    sink = MaskingSink(collected, ["s3cret"])
    everything = bytes(range(256)) * 3
    sink.write(OUT, everything)
    sink.close()
    assert collected.data[OUT] == everything


def test_a_secret_that_overlaps_itself_for_ever_is_not_kept_for_ever() -> None:
    collected = Collected()
    sink = MaskingSink(collected, ["0000"])
    for _ in range(20):
        sink.write(OUT, b"0" * 16 * 1024)
    assert collected.data[OUT]
    assert len(sink._held[OUT]) <= MIN_HELD
    sink.close()
    assert set(collected.text) <= {MASK[0], "0"}
    assert "0000" not in collected.text


def job(metadata: dict[str, str], *steps: dict[str, str]) -> Job:
    return Job(
        id="x",
        name="n",
        metadata=metadata,
        steps=tuple(Step(image="i", metadata=step) for step in steps),
    )


def test_secrets_are_told_by_their_key_in_the_job_and_in_every_step() -> None:
    found = secrets_of(
        job({"API_TOKEN": "from-the-job", "NAME": "public"}, {"DB_PASSWORD": "from-a-step"}, {})
    )
    assert found == {"from-the-job", "from-a-step"}


def test_a_secret_of_several_lines_counts_as_a_whole_and_line_by_line() -> None:
    found = secrets_of(job({"PRIVATE_KEY": "-----BEGIN-----\nMIIEvQ\nab\n-----END-----\n"}))
    assert found == {
        "-----BEGIN-----\nMIIEvQ\nab\n-----END-----",
        "-----BEGIN-----",
        "MIIEvQ",
        "-----END-----",
    }


@pytest.mark.parametrize("value", ["", " ", "a", "abc", " abc ", "true", "False", "none"])
def test_a_short_value_and_a_switch_are_not_masked(value) -> None:
    assert secrets_of(job({"TOKEN": value})) == frozenset()


def test_an_installation_may_tell_secrets_by_other_keys() -> None:
    given = job({"PIN_OF_BOB": "12345", "TOKEN": "abcde"})
    assert secrets_of(given, lambda key: key.startswith("PIN")) == {"12345"}


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("API_TOKEN", True),
        ("apiKey", True),
        ("HADES_TEST_PASSWORD", True),
        ("signing_cert", True),
        ("OAUTH", True),
        ("Authorization", True),
        ("AUTHORISED_KEYS", True),
        ("AUTHOR", False),
        ("GIT_AUTHOR_NAME", False),
        ("authority", False),
        ("NAME", False),
        ("REPOSITORY_DIR", False),
    ],
)
def test_the_words_of_secret_keys(key, secret) -> None:
    assert is_secret_key(key) is secret
