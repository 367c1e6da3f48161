"""A client of the API and the log manager, for `hades submit` and `hades demo`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from executors.errors import HadesError
from executors.job import JobState

_TIMEOUT = httpx.Timeout(60.0, connect=5.0)  # seconds; a stream without a ping in 60 s is lost
_PATIENCE = 30.0  # seconds that a lost stream is taken up again without any new frame
_RETRY_DELAY = 0.5  # seconds between two of these tries
_FINAL = frozenset(state.value for state in JobState if state.final)


class SubmissionRefused(HadesError):
    """The API understood the request and does not want it. The text is the API's own."""


class ServerUnreachable(HadesError):
    """A server can't be reached, breaks off, or fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """One line of one step."""

    step_index: int
    step_name: str
    message: str
    stream: str
    """`stdout` or `stderr`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StateChange:
    """The job is now in this state."""

    state: str
    reason: str = ""

    @property
    def final(self) -> bool:
        """Whether nothing comes after it."""
        return self.state in _FINAL


@dataclass(kw_only=True, slots=True)
class _Frame:
    """One server-sent event."""

    id: str = ""
    data: list[str] = field(default_factory=list)


class HadesClient:
    """`with HadesClient(...) as client: job_id = client.submit(body); client.follow(job_id)`."""

    def __init__(
        self, *, api_url: str, logs_url: str, auth_key: str = "", patience: float = _PATIENCE
    ) -> None:
        """`auth_key` is the password of the user `hades`; empty: the API is open.

        `patience` is for how many seconds without news `follow` tries to reach the server again.
        """
        self._patience = patience
        self._api_url = api_url.rstrip("/")
        self._logs_url = logs_url.rstrip("/")
        auth = ("hades", auth_key) if auth_key else None
        self._http = httpx.Client(timeout=_TIMEOUT, auth=auth)

    def __enter__(self) -> HadesClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, body: bytes) -> str:
        """Post a job, as JSON; its id. Raises SubmissionRefused or ServerUnreachable."""
        url = f"{self._api_url}/build"
        headers = {"Content-Type": "application/json"}
        try:
            response = self._http.post(url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerUnreachable(f"{url}: {_text(error)}") from error
        if response.is_success:
            return _job_id(url, response)
        text = response.text.strip() or f"{response.status_code} {response.reason_phrase}"
        if response.is_client_error:
            raise SubmissionRefused(text)
        raise ServerUnreachable(f"{url}: {text}")

    def follow(self, job_id: str) -> Iterator[LogLine | StateChange]:
        """All of a job's lines and states, from its start to its final state, as they come.

        A lost connection is taken up again where it broke. Raises ServerUnreachable when that
        brings no news for too long.
        """
        last_id, deadline = "", time.monotonic() + self._patience
        while True:
            trouble = "the stream ended before the job did"
            try:
                for frame in self._frames(job_id, last_id):
                    last_id, deadline = frame.id or last_id, time.monotonic() + self._patience
                    for event in _events(frame):
                        yield event
                        if isinstance(event, StateChange) and event.final:
                            return
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                trouble = _text(error)
            if time.monotonic() > deadline:
                raise ServerUnreachable(f"{self._logs_url}: {trouble}")
            time.sleep(_RETRY_DELAY)

    def _frames(self, job_id: str, last_id: str) -> Iterator[_Frame]:
        headers = {"Accept": "text/event-stream"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        url = f"{self._logs_url}/jobs/{job_id}/logs/stream"
        with self._http.stream("GET", url, headers=headers) as response:
            if response.status_code in (401, 403):
                raise ServerUnreachable(f"{url}: {response.status_code} {response.reason_phrase}")
            response.raise_for_status()
            yield from _parse(_lines(response.iter_bytes()))


def _job_id(url: str, response: httpx.Response) -> str:
    try:
        return str(response.json()["job_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise ServerUnreachable(f"{url}: this is not the answer of a Hades API") from error


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Complete lines. Unlike `str.splitlines` it leaves a line separator inside JSON alone."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.removesuffix(b"\r").decode(errors="replace") for line in lines)


def _parse(lines: Iterable[str]) -> Iterator[_Frame]:
    """Frames that carry data; comments and an unfinished last frame are dropped."""
    frame = _Frame()
    for line in lines:
        if not line:
            if frame.data:
                yield frame
            frame = _Frame()
            continue
        name, _, value = line.partition(":")
        if name == "data":
            frame.data.append(value.removeprefix(" "))
        elif name == "id":
            frame.id = value.removeprefix(" ")


def _events(frame: _Frame) -> Iterator[LogLine | StateChange]:
    """Frames of a kind that this client doesn't know give nothing."""
    content: dict[str, Any] = json.loads("\n".join(frame.data))
    if content.get("type") == "log":
        step = content.get("step") or {}
        for entry in (content.get("log") or {}).get("logs") or []:
            yield LogLine(
                step_index=int(step.get("index", 0)),
                step_name=str(step.get("name", "")),
                message=str(entry.get("message", "")),
                stream=str(entry.get("output_stream", "stdout")),
            )
    elif content.get("type") == "job":
        job = content.get("job") or {}
        yield StateChange(state=str(job.get("status", "")), reason=str(job.get("reason") or ""))
