"""What receivers get: bodies, headers, signatures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import uuid
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from app.factory import create_logs
from app.logs.callbacks.content import MISSING, in_header, logs_body
from app.logs.callbacks.guard import AddressGuard, Allowed
from app.logs.callbacks.sender import CallbackSender
from app.logs.callbacks.signatures import secret_of, sign
from app.logs.callbacks.transport import Poster
from app.version import installed_version
from brokers.callbacks.messages import Callback, CallbackKind, Delivery, Verdict
from brokers.events import Events
from brokers.job_store import JobStore
from brokers.log_reader import LogMessage, LogReader
from brokers.nats.connection import NatsConnection
from executors.job import JobState, LogBatch, LogEntry, OutputStream
from tests.app.receivers import Receiver, answer, close, receiving
from tests.docs.test_documents import ROOT, blocks

TIME = "2026-01-01T00:00:00.000000Z"
SECRETS = (b"a" * 24, b"b" * 32)


def callback(kind: str = "status", **facts: Any) -> Callback:
    plain = Callback(
        kind=CallbackKind(kind),
        job_id=str(uuid.uuid4()),
        name="grade",
        state=JobState.SUCCEEDED,
        reason="",
        attempt=1,
        queued_at=TIME,
        started_at="2026-01-01T00:00:01.500000Z",
        finished_at="2026-01-01T00:00:03.000000Z",
        told_at="2026-01-01T00:00:04.000000Z",
    )
    return replace(plain, **facts)


class Site:
    """A sender that may call everything, on a real log stream."""

    def __init__(self, connection: NatsConnection) -> None:
        self.store = JobStore(connection, max_age=3600, patience=5)
        self.events = Events(connection, max_age=3600, patience=5)
        self.reader = LogReader(connection, self.store, self.events)
        self.sequence = 0

    def sender(self, guard: AddressGuard | None = None, **options: Any) -> CallbackSender:
        guard = guard or AddressGuard(Allowed(everything=True))
        poster = Poster(guard, timeout=10, tls=ssl.create_default_context())
        return CallbackSender(self.store, self.reader, poster, **options)

    def log(self, job_id: str, step: int, *lines: str, attempt: int = 1) -> None:
        self.sequence += 1
        entries = tuple(LogEntry(TIME, line, OutputStream.STDOUT) for line in lines)
        batch = LogBatch(
            job_id=job_id,
            attempt=attempt,
            step=step,
            container_id=f"c{step}",
            sequence=self.sequence,
            entries=entries,
        )
        self.events.log(batch)


@pytest.fixture
def site(connection: NatsConnection) -> Site:
    return Site(connection)


def delivery(receiver: Receiver, told: Callback, number: int = 1) -> Delivery:
    return Delivery(callback=told, url=receiver.url, number=number)


def test_the_log_is_sent_as_the_log_manager_serves_it_with_a_slot_for_silent_steps(
    site: Site,
) -> None:
    told = callback("logs")
    site.log(told.job_id, 0)
    site.log(told.job_id, 0, "Klön", "two")
    site.log(told.job_id, 1)
    site.log(told.job_id, 0, "late")
    site.log(told.job_id, 2, "end")
    with receiving(201) as receiver:
        assert site.sender()(delivery(receiver, told)).verdict is Verdict.DELIVERED
        request = receiver.next()
    body = json.loads(request.body)
    served = create_logs(site.store, site.reader).test_client().get(f"/jobs/{told.job_id}/logs")
    assert body == served.json["logs"]
    assert [[entry["message"] for entry in slot["logs"]] for slot in body] == [
        ["Klön", "two", "late"],
        [],
        ["end"],
    ]
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["X-Hades-Event"] == "job.logs"


def test_a_job_of_which_nothing_ran_sends_an_empty_array(site: Site) -> None:
    with receiving(200) as receiver:
        site.sender()(delivery(receiver, callback("logs", attempt=0)))
        assert receiver.next().body == b"[]"


def test_a_late_callback_sends_the_log_of_its_own_attempt(site: Site) -> None:
    told = callback("logs", attempt=2)
    site.log(told.job_id, 0, "first", attempt=1)
    site.log(told.job_id, 0, "third", attempt=3)
    with receiving(200) as receiver:
        site.sender()(delivery(receiver, told))
        body = json.loads(receiver.next().body)
    assert [entry["message"] for entry in body[0]["logs"]] == ["first"]


def message(step: int, *lines: str) -> LogMessage:
    logs = [{"timestamp": TIME, "message": line, "output_stream": "stdout"} for line in lines]
    body = {"job_id": "j", "container_id": f"c{step}", "logs": logs}
    return LogMessage(sequence=1, attempt=1, step=step, body=body)


def record(*started: bool, attempt: int = 1) -> Any:
    steps = [SimpleNamespace(started_at=TIME if ran else "") for ran in started]
    return SimpleNamespace(attempt=attempt, steps=steps)


def test_a_step_whose_log_is_not_kept_any_more_has_its_slot_and_says_so() -> None:
    told = callback("logs", job_id="j")
    body = logs_body(told, [message(1, "x")], record(True, True, True, False))

    assert [slot["container_id"] for slot in body] == ["step-1", "c1", "step-3"]
    assert [[entry["message"] for entry in slot["logs"]] for slot in body] == [
        [MISSING],
        ["x"],
        [MISSING],
    ]


@pytest.mark.parametrize("known", [None, record(True, True, attempt=2), record(False)])
def test_a_record_that_tells_nothing_of_the_attempt_adds_no_slots(known: Any) -> None:
    assert len(logs_body(callback("logs"), [message(0, "x")], known)) == 1


def test_the_end_of_a_job_is_told_in_full(site: Site) -> None:
    told = callback(state=JobState.FAILED, reason="container exited\nwith ümlaut\x07", attempt=3)
    with receiving(200) as receiver:
        site.sender()(delivery(receiver, told, number=4))
        request = receiver.next()
    assert json.loads(request.body) == {
        "event": "job.completed",
        "job_id": told.job_id,
        "name": "grade",
        "status": "Failed",
        "reason": told.reason,
        "queued_at": TIME,
        "started_at": "2026-01-01T00:00:01.500000Z",
        "finished_at": "2026-01-01T00:00:03.000000Z",
        "duration_ms": 1500,
        "attempt": 3,
        "timestamp": "2026-01-01T00:00:04.000000Z",
    }
    version = installed_version()
    expected = {
        "Content-Type": "application/json",
        "User-Agent": f"Hades/{version}" if version else "Hades",
        "X-Hades-Event": "job.completed",
        "X-Hades-Job-Id": told.job_id,
        "X-Hades-Attempt": "3",
        "X-Hades-Delivery": "4",
        "X-Hades-Status": "Failed",
        "X-Hades-Reason": "container exited with ?mlaut?",
        "X-Hades-Timestamp": "2026-01-01T00:00:04.000000Z",
        "webhook-id": told.id,
    }
    assert {name: request.headers[name] for name in expected} == expected
    assert request.headers["webhook-signature"] is None


@pytest.mark.parametrize(("state", "event"), [("Queued", "job.queued"), ("Running", "job.running")])
def test_earlier_states_are_told_without_what_is_not_known_yet(
    site: Site, state: str, event: str
) -> None:
    told = callback(state=JobState(state), name="", attempt=0, started_at="", finished_at="")
    with receiving(200) as receiver:
        site.sender()(delivery(receiver, told))
        request = receiver.next()
    assert json.loads(request.body) == {
        "event": event,
        "job_id": told.job_id,
        "status": state,
        "queued_at": TIME,
        "attempt": 0,
        "timestamp": told.told_at,
    }
    assert request.headers["X-Hades-Event"] == event
    assert request.headers["X-Hades-Reason"] is None


def test_a_receiver_that_knows_any_of_the_secrets_can_verify_each_try(site: Site) -> None:
    told, now = callback(), 1_767_225_600
    with receiving(500, 200) as receiver:
        for number in (1, 2):
            sender = site.sender(secrets=SECRETS, clock=lambda n=number: now + n + 0.9)
            sender(delivery(receiver, told, number=number))
        tries = [receiver.next(), receiver.next()]
    for number, request in enumerate(tries, 1):
        headers = request.headers
        assert (headers["webhook-id"], headers["webhook-timestamp"]) == (told.id, str(now + number))
        signed = f"{told.id}.{now + number}.".encode() + request.body
        signatures = headers["webhook-signature"].split(" ")
        for secret, signature in zip(SECRETS, signatures, strict=True):
            digest = hmac.new(secret, signed, hashlib.sha256).digest()
            assert signature == "v1," + base64.b64encode(digest).decode()


def test_the_example_of_the_documentation_verifies_them(site: Site) -> None:
    [example] = blocks(ROOT / "docs/api.md", "python")
    scope: dict[str, Any] = {}
    exec(example, scope)
    with receiving(200) as receiver:
        site.sender(secrets=SECRETS)(delivery(receiver, callback()))
        request = receiver.next()
    for secret, genuine in ((SECRETS[0], True), (SECRETS[1], True), (b"c" * 24, False)):
        text = f"whsec_{base64.b64encode(secret).decode()}"
        assert scope["is_genuine"](request.headers, request.body, text) is genuine
    assert not scope["is_genuine"](request.headers, request.body + b" ", text)


def test_the_standards_own_example_verifies() -> None:
    secret = secret_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signature = sign([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("part", "verdict", "reason"),
    [
        (200, "delivered", ""),
        (204, "delivered", ""),
        (500, "again", "the receiver answered 500"),
        (404, "again", "the receiver answered 404"),
        (410, "never", "the receiver answered 410"),
        (answer(302, ("Location", "/x")), "again", "302: redirects are not followed"),
        (close, "again", "no valid answer: RemoteProtocolError"),
    ],
)
def test_the_answer_decides_what_becomes_of_it(
    site: Site, part: Any, verdict: str, reason: str
) -> None:
    with receiving(part) as receiver:
        outcome = site.sender()(delivery(receiver, callback()))
    assert (outcome.verdict, outcome.reason) == (verdict, reason)


def test_other_answers_can_be_permanent(site: Site) -> None:
    with receiving(404) as receiver:
        sender = site.sender(permanent=[404])
        assert sender(delivery(receiver, callback())).verdict is Verdict.NEVER


def test_a_private_address_is_never_called(site: Site) -> None:
    with receiving(200) as receiver:
        outcome = site.sender(AddressGuard(Allowed()))(delivery(receiver, callback()))
        assert receiver.arrived.empty()
    assert outcome.verdict is Verdict.NEVER
    assert outcome.reason == "127.0.0.1 is 127.0.0.1: not a public address"


def test_a_header_is_one_line_of_printable_ascii() -> None:
    assert in_header("a\r\nX-Evil: 1\t\x00é") == "a X-Evil: 1 ??"
