import base64
from collections.abc import Iterator

import pytest
from scripted_server import JOB_ID, Server, frame, log_frame, serving, state_frame

from app.client import HadesClient, LogLine, ServerUnreachable, StateChange, SubmissionRefused


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def followed(server: Server) -> list[LogLine | StateChange]:
    with server.client() as client:
        return list(client.follow(JOB_ID))


def messages(server: Server) -> list[str]:
    return [event.message for event in followed(server) if isinstance(event, LogLine)]


def test_a_submission_is_posted_as_it_is_and_its_id_returned(server: Server) -> None:
    with server.client() as client:
        assert client.submit(b'{"name": "x"}') == JOB_ID

    path, headers, body = server.seen[0]
    assert (path, body) == ("/build", b'{"name": "x"}')
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers


def test_the_auth_key_is_the_password_of_the_user_hades(server: Server) -> None:
    with server.client(auth_key="key") as client:
        client.submit(b"{}")

    _, headers, _ = server.seen[0]
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"hades:key").decode()


def test_a_refused_submission_carries_the_servers_text(server: Server) -> None:
    server.answer = (400, b"Invalid JSON body")

    with server.client() as client, pytest.raises(SubmissionRefused, match="Invalid JSON body"):
        client.submit(b"nonsense")


def test_a_refusal_without_a_text_is_told_by_its_status(server: Server) -> None:
    server.answer = (401, b"")

    with server.client() as client, pytest.raises(SubmissionRefused, match="401 Unauthorized"):
        client.submit(b"{}")


def test_a_failing_server_counts_as_unreachable(server: Server) -> None:
    server.answer = (500, b"Failed to enqueue job")

    with server.client() as client, pytest.raises(ServerUnreachable, match="Failed to enqueue"):
        client.submit(b"{}")


def test_a_server_that_is_no_hades_is_told_apart(server: Server) -> None:
    server.answer = (200, b"<html>")

    with server.client() as client, pytest.raises(ServerUnreachable, match="not the answer"):
        client.submit(b"{}")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "no url", "http://[::1"])
def test_an_address_where_nobody_answers_is_unreachable(url: str) -> None:
    with HadesClient(api_url=url, logs_url=url) as client:
        with pytest.raises(ServerUnreachable):
            client.submit(b"{}")


def test_lines_and_states_come_in_order_until_the_final_one(server: Server) -> None:
    server.streams = [
        state_frame("Running")
        + b": ping\n\n"
        + log_frame("one", "two", stream="stderr")
        + state_frame("Failed", "step 2 failed")
        + log_frame("after the end")
    ]

    assert followed(server) == [
        StateChange(state="Running"),
        LogLine(step_index=1, step_name="Build", message="one", stream="stderr"),
        LogLine(step_index=1, step_name="Build", message="two", stream="stderr"),
        StateChange(state="Failed", reason="step 2 failed"),
    ]


def test_a_step_without_output_gives_no_line(server: Server) -> None:
    empty = {"type": "log", "job": {}, "log": {"logs": None}, "step": {"index": 0, "name": ""}}
    server.streams = [frame(empty) + state_frame("Succeeded")]

    assert messages(server) == []


def test_a_lost_connection_is_taken_up_after_the_last_frame(server: Server) -> None:
    server.streams = [
        log_frame("one", event_id="41") + b'id: 42\ndata: {"type": "log", "half a fra',
        log_frame("two", event_id="42") + state_frame("Succeeded"),
    ]

    assert messages(server) == ["one", "two"]
    assert [headers.get("Last-Event-ID") for _, headers, _ in server.seen] == [None, "41"]


def test_a_job_that_the_log_manager_does_not_know_yet_is_waited_for(server: Server) -> None:
    server.streams = [b"", log_frame("one") + state_frame("Succeeded")]

    assert messages(server) == ["one"]


def test_a_message_may_contain_any_line_separator(server: Server) -> None:
    text = "one\u2028two\x85three\x0bfour\nfive\r"
    server.streams = [log_frame(text) + state_frame("Succeeded")]

    assert messages(server) == [text]


def test_frames_may_end_their_lines_with_carriage_returns(server: Server) -> None:
    stream = log_frame("one") + state_frame("Succeeded")
    server.streams = [stream.replace(b"\n", b"\r\n")]

    assert messages(server) == ["one"]


def test_following_gives_up_when_there_is_no_news_for_too_long() -> None:
    url = "http://127.0.0.1:1"
    with HadesClient(api_url=url, logs_url=url, patience=0) as client:
        with pytest.raises(ServerUnreachable, match="refused"):
            list(client.follow(JOB_ID))
