from hypothesis import given, settings
from hypothesis import strategies as st

from app.server.framing import Chunked, Counted


def framed(chunks: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def end_of(ending, data: bytes, cuts: list[int]) -> int:
    """Where the body ends when `data` comes in pieces."""
    at = 0
    for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        end = ending.feed(data[at:cut])
        if end >= 0:
            return at + end
        at = cut
    return -1


cuts = st.lists(st.integers(0, 200))


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.binary(), cuts)
def test_a_chunked_body_ends_at_the_same_place_however_it_comes(chunks, rest, cuts):
    body, ending = framed(chunks), Chunked()
    assert end_of(ending, body + rest, cuts) == len(body)
    assert ending.size == sum(map(len, chunks))


@settings(deadline=None)
@given(st.binary(), st.binary(), cuts)
def test_so_does_one_of_known_length(body, rest, cuts):
    ending = Counted(len(body))
    assert end_of(ending, body + rest, cuts) == len(body)
    assert ending.size == len(body)


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.integers(1, 200), cuts)
def test_a_body_that_is_not_whole_goes_on(chunks, missing, cuts):
    body = framed(chunks)[:-missing]
    assert end_of(Chunked(), body, cuts) == -1


@settings(deadline=None)
@given(st.binary())
def test_whatever_comes_is_no_error(data):
    assert -1 <= Chunked().feed(data) <= len(data)
