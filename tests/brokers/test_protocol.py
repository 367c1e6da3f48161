"""The client protocol as bytes: what a server says may hurt no more than its own connection."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.nats import protocol
from brokers.nats.protocol import Arrival, Control, Parser, ProtocolError

tokens = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)
values = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30)
names = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"))
headers = st.dictionaries(names.filter(bool), values, max_size=4)
messages = st.tuples(
    tokens, st.integers(0, 2**53), st.just("") | tokens, headers, st.binary(max_size=300)
)


def delivered(subject: str, sid: int, reply: str, block: bytes, data: bytes) -> bytes:
    """As a server sends it."""
    fields = [subject, str(sid), *([reply] if reply else [])]
    if block:
        line = f"HMSG {' '.join(fields)} {len(block)} {len(block) + len(data)}\r\n"
    else:
        line = f"MSG {' '.join(fields)} {len(data)}\r\n"
    return line.encode() + block + data + b"\r\n"


def fed(pieces: list[bytes]) -> list[Arrival | Control]:
    parser = Parser()
    return [item for piece in pieces for item in parser.feed(piece)]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:stop] for start, stop in pairwise(edges)]


def told(item: Arrival | Control) -> tuple[object, ...]:
    if isinstance(item, Control):
        return item.verb, item.argument
    return item.subject, item.sid, item.reply, item.head, item.data


@given(st.lists(messages, max_size=5), st.lists(st.integers(0, 10_000), max_size=12))
def test_messages_arrive_as_they_were_sent_however_the_stream_is_cut(sent, places):
    stream = b"".join(
        delivered(subject, sid, reply, protocol.header_block(head), data)
        for subject, sid, reply, head, data in sent
    )
    arrivals = fed(cut(stream, places))
    assert [
        (item.subject, item.sid, item.reply, item.headers, item.data)
        for item in arrivals
        if isinstance(item, Arrival)
    ] == [
        (subject, sid, reply, {name: value.strip() for name, value in head.items()}, data)
        for subject, sid, reply, head, data in sent
    ]
    assert len(arrivals) == len(sent)


def test_every_place_to_cut_gives_the_same_items():
    head = protocol.header_block({"Nats-Msg-Id": "a-1", "X": "MSG x 1 3"})
    stream = (
        b'INFO {"max_payload":1048576}\r\n'
        + delivered("a.b", 1, "", b"", b"x\r\nMSG y 1 2\r\n\r\n")
        + b"PING\r\n+OK\r\n"
        + delivered("a.b", 2, "_INBOX.r", head, b"PING\r\n")
        + delivered("a.b", 2, "", b"NATS/1.0 404 No Messages\r\n\r\n", b"")
        + b"-ERR 'Stale Connection'\r\n"
    )
    whole = [told(item) for item in fed([stream])]
    assert len(whole) == 7
    for place in range(len(stream) + 1):
        assert [told(item) for item in fed([stream[:place], stream[place:]])] == whole
    assert [told(item) for item in fed([stream[i : i + 1] for i in range(len(stream))])] == whole


def feed_garbage(pieces: list[bytes]) -> None:
    parser = Parser()
    try:
        for piece in pieces:
            for item in parser.feed(piece):
                if isinstance(item, Arrival):
                    assert isinstance(item.status, str)
                    assert isinstance(item.headers, dict)
                elif item.verb == "INFO":
                    protocol.server_info(item.argument)
    except ProtocolError:
        pass


words = b"MSG |HMSG |\r\n|\r|\n| |INFO |PING\r\n|-ERR |a|\xff|1|-1|0|12|NATS/1.0| 404|{|[]|\x00|\t"
fragments = st.sampled_from(words.split(b"|"))


@settings(max_examples=500)
@given(st.lists(st.binary(max_size=50) | fragments, max_size=40))
def test_garbage_raises_protocol_errors_and_nothing_else(pieces):
    feed_garbage(pieces)


def test_mutated_streams_raise_protocol_errors_and_nothing_else():
    chance = random.Random(7)
    seed = b"".join(
        delivered("a.b", 1, "r", protocol.header_block({"A": "b"}), b"x" * size) + b"PING\r\n"
        for size in range(20)
    )
    for _ in range(3_000):
        stream = bytearray(seed)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(stream))
            stream[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        feed_garbage(cut(bytes(stream), [chance.randrange(len(stream)) for _ in range(5)]))


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a 1 -1",
        b"MSG a -1 1",
        b"MSG a 1 +1",
        b"MSG a 1 1_0",
        b"MSG a 1 0x1",
        b"MSG a 1 \xd9\xa1",
        b"MSG a 1 " + b"9" * 5_000,
        b"MSG a 1 134217729",
        b"MSG a 1",
        b"MSG",
        b"MSG a 1 b c 1",
        b"MSGX a 1 1",
        b"msg a 1 1",
        b"HMSG a 1 1",
        b"HMSG a 1 5 4",
        b"HMSG a 1 -5 4",
        b"HMSGMSG a 1 1 1",
        b"MSG \xff\xfe 1 1",
        b"MSG a 1 \xff 1",
        b"HELLO",
        b"",
        b"HTTP/1.1 400 Bad Request",
    ],
)
def test_a_malformed_line_is_a_protocol_error_at_once(line):
    with pytest.raises(ProtocolError):
        Parser().feed(line + b"\r\n")


def test_a_message_without_its_line_end_is_a_protocol_error():
    with pytest.raises(ProtocolError):
        Parser().feed(b"MSG a 1 3\r\nabcdMSG a 1 3\r\n")


def test_a_line_that_never_ends_is_given_up():
    parser = Parser()
    with pytest.raises(ProtocolError):
        for _ in range(1_000):
            parser.feed(b"x" * 65_536)


def test_a_message_that_is_larger_than_any_server_sends_is_given_up_before_it_comes():
    with pytest.raises(ProtocolError):
        Parser().feed(b"MSG a 1 99999999999\r\n")


def test_a_large_message_in_small_pieces_costs_no_more_than_its_length():
    size = 32 * 1_048_576
    parser, piece = Parser(), b"x" * 4_096
    began = time.process_time()
    assert parser.feed(b"MSG a 1 %d\r\n" % size) == []
    for _ in range(size // len(piece)):
        assert parser.feed(piece) == []
    [arrival] = parser.feed(b"\r\n")
    assert isinstance(arrival, Arrival)
    assert len(arrival.data) == size
    assert time.process_time() - began < 2


def test_a_status_is_told_from_a_message_with_headers():
    [status, message] = fed(
        [
            delivered("i", 1, "", b"NATS/1.0 408 Request Timeout\r\nA: b\r\n\r\n", b""),
            delivered("i", 1, "", b"NATS/1.0\r\nA: 408\r\n\r\n", b""),
        ]
    )
    assert isinstance(status, Arrival) and isinstance(message, Arrival)
    assert (status.status, status.headers) == ("408", {"A": "b"})
    assert (message.status, message.headers) == ("", {"A": "408"})


def test_a_status_that_is_no_text_is_no_error():
    [item] = fed([delivered("i", 1, "", b"NATS/1.0 \xff\xfe\xfd\r\n\r\n", b"")])
    assert isinstance(item, Arrival)
    assert item.status


@given(headers, values)
def test_a_line_break_in_a_header_is_refused(others, value):
    for evil in ("\r", "\n", "\r\nInjected: yes", "\n\r"):
        with pytest.raises(ValueError, match="one line"):
            protocol.header_block({**others, "X": value + evil})


@pytest.mark.parametrize("name", ["", "A:B", "A B", "A\r\nB", "A\n", "Ä", "A\x00"])
def test_a_header_whose_name_could_be_read_as_another_one_is_refused(name):
    with pytest.raises(ValueError, match="name"):
        protocol.header_block({name: "x"})


def test_text_that_has_no_bytes_is_a_value_error():
    with pytest.raises(ValueError, match="surrogates"):
        protocol.header_block({"X": "\ud800"})


@given(messages)
def test_what_is_published_says_how_long_it_is(message):
    subject, _, reply, head, data = message
    block = protocol.header_block(head)
    line, _, rest = protocol.publication(subject, reply, block, data).partition(b"\r\n")
    assert rest == block + data + b"\r\n"
    assert int(line.split()[-1]) == len(block + data)
    assert (line.split()[0] == b"HPUB") == bool(block)


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "{",
        "[]",
        "5",
        "null",
        "[" * 100_000,
        '{"max_payload":"many"}',
        '{"max_payload":null}',
        '{"max_payload":true}',
        '{"max_payload":1.5}',
        '{"nonce":5}',
        '{"max_payload":1e999}',
        '{"max_payload":' + "9" * 5_000 + "}",
    ],
)
def test_an_info_that_no_server_would_send_is_a_protocol_error(argument):
    with pytest.raises(ProtocolError):
        protocol.server_info(argument)


def test_addresses_that_are_no_text_are_ignored():
    assert protocol.server_info('{"connect_urls":["a:1",5,null]}')["connect_urls"] == ["a:1"]
    assert protocol.server_info('{"connect_urls":7}')["connect_urls"] == []
