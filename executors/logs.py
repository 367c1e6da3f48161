"""From the bytes of a step's output to batches of log lines.

`LineSink` cuts one step's bytes into entries; `LogBatcher` carries the entries of all steps of an
attempt to where they are published, in order, from a thread of its own. The first line goes out at
once, the next ones together, `BATCH_SECONDS` later at the latest. When publishing is slow, the
batcher fills up and the step that writes has to wait: nothing is dropped but by `limit`.
"""

from __future__ import annotations

import threading
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic

from executors.base import OutputStream
from executors.job import LogBatch, LogEntry

MAX_LINE = 64 * 1024
"""Characters of one entry; a longer line becomes several, none of it is lost."""
MAX_BATCH_ENTRIES = 1000
MAX_BATCH_CHARS = 100 * 1024
"""JSON needs up to six bytes for a character: such a batch fits NATS' largest message."""
MAX_PENDING_CHARS = 4 * 1024 * 1024
"""What waits for NATS before the step that writes it has to wait too."""
ENTRY_CHARS = 100
"""What an entry counts on top of its message: empty lines take memory as well."""
BATCH_SECONDS = 0.05
TAIL_ENTRIES = 200
"""Last lines of a step that are kept when its output is cut."""

_Utf8Decoder = getincrementaldecoder("utf-8")


def now() -> str:
    """This moment, as log entries and records write it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class LogBatcher:
    """`publish` is called from one thread, in order, and may block.

    Its exception ends the batcher: `add` and `close` raise it.
    """

    def __init__(self, job_id: str, attempt: int, publish: Callable[[LogBatch], None]) -> None:
        self._job_id = job_id
        self._attempt = attempt
        self._publish = publish
        self._pending: deque[tuple[int, str, LogEntry | None]] = deque()
        self._chars = 0
        self._sequence = 0
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"logs-{job_id}", daemon=True)
        self._thread.start()

    def add(self, step: int, container_id: str, entry: LogEntry | None) -> None:
        """Take one line; None registers the step's slot. Blocks while too much is waiting."""
        with self._changed:
            self._changed.wait_for(lambda: self._chars < MAX_PENDING_CHARS or self._error)
            if self._error is not None:
                raise self._error
            self._pending.append((step, container_id, entry))
            self._chars += _weight(entry)
            self._changed.notify_all()

    def close(self) -> None:
        """Return when every line is published. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while batch := self._take():
                started = monotonic()
                self._publish(batch)
                if not batch.entries:
                    continue  # only a slot: the first line still goes out at once
                with self._changed:
                    rest = BATCH_SECONDS - (monotonic() - started)
                    self._changed.wait_for(self._urgent, timeout=max(rest, 0))
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _urgent(self) -> bool:
        return self._closed or self._chars >= MAX_BATCH_CHARS

    def _take(self) -> LogBatch | None:
        """The next lines of one step; None when closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closed)
            if not self._pending:
                return None
            step, container_id, _ = self._pending[0]
            entries: list[LogEntry] = []
            chars = 0
            while self._fits(step, container_id, len(entries), chars):
                entry = self._pending.popleft()[2]
                self._chars -= _weight(entry)
                if entry is not None:
                    entries.append(entry)
                    chars += len(entry.message)
            self._changed.notify_all()
            sequence, self._sequence = self._sequence, self._sequence + 1
            return LogBatch(
                job_id=self._job_id,
                attempt=self._attempt,
                step=step,
                container_id=container_id,
                sequence=sequence,
                entries=tuple(entries),
            )

    def _fits(self, step: int, container_id: str, entries: int, chars: int) -> bool:
        if not self._pending or self._pending[0][:2] != (step, container_id):
            return False
        entry = self._pending[0][2]
        more = 0 if entry is None else len(entry.message)
        return entries == 0 or (entries < MAX_BATCH_ENTRIES and chars + more <= MAX_BATCH_CHARS)


def _weight(entry: LogEntry | None) -> int:
    return ENTRY_CHARS + (0 if entry is None else len(entry.message))


class LineSink:
    """The sink of one step: bytes in, entries into the batcher.

    Bytes that are not UTF-8 become replacement characters. When the step has written `limit`
    characters, later lines are held back; the last of them follow at the end, after a line that
    says how many are missing.
    """

    def __init__(self, batcher: LogBatcher, step: int, *, limit: int) -> None:
        self._batcher = batcher
        self._step = step
        self._left = limit
        self._container_id = f"step-{step + 1}"
        self._opened = False
        self._tail: deque[LogEntry] = deque(maxlen=TAIL_ENTRIES)
        self._held = 0
        self._open_line = dict.fromkeys(OutputStream, "")
        self._decoders = {stream: _Utf8Decoder("replace") for stream in OutputStream}

    @property
    def container_id(self) -> str:
        """By which name logs call the step's container."""
        return self._container_id

    def open(self, container_id: str) -> None:
        """Register the step's slot, so that silent steps have one as well."""
        self._container_id = container_id
        self._opened = True
        self._batcher.add(self._step, container_id, None)

    def write(self, stream: OutputStream, data: bytes) -> None:
        """Takes any bytes, cut anywhere."""
        self._take(stream, self._decoders[stream].decode(data))

    def say(self, message: str) -> None:
        """A line of ours, on the step's standard error."""
        self._finish_line(OutputStream.STDERR)
        self._emit(OutputStream.STDERR, message)

    def close(self) -> None:
        """Send the last lines, also those without a newline, and the slot of a step that never
        started."""
        if not self._opened:
            self.open(self._container_id)
        for stream in OutputStream:
            self._take(stream, self._decoders[stream].decode(b"", final=True))
            self._finish_line(stream)
        missing = self._held - len(self._tail)
        if missing > 0:
            text = f"hades: the log is cut here, {missing} lines are left out"
            self._send(LogEntry(self._tail[0].timestamp, text, OutputStream.STDERR))
        for entry in self._tail:
            self._send(entry)

    def _take(self, stream: OutputStream, text: str) -> None:
        *lines, rest = (self._open_line[stream] + text).split("\n")
        for line in lines:
            self._emit(stream, line.removesuffix("\r"))
        while len(rest) > MAX_LINE:  # a full line may just lack its newline
            self._emit(stream, rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._open_line[stream] = rest

    def _finish_line(self, stream: OutputStream) -> None:
        if self._open_line[stream]:
            self._emit(stream, self._open_line[stream])
            self._open_line[stream] = ""

    def _emit(self, stream: OutputStream, line: str) -> None:
        for start in range(0, len(line) or 1, MAX_LINE):
            entry = LogEntry(now(), line[start : start + MAX_LINE], stream)
            if self._left > 0:
                self._left -= len(entry.message) + 1
                self._send(entry)
            else:
                self._held += 1
                self._tail.append(entry)

    def _send(self, entry: LogEntry) -> None:
        if not self._opened:
            self.open(self._container_id)
        self._batcher.add(self._step, self._container_id, entry)
