"""Makes a callback's request, sends it once, and judges the answer."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable

from app.logs.callbacks.content import headers_of, logs_body, status_body
from app.logs.callbacks.signatures import sign
from app.logs.callbacks.transport import Poster, PostFailed, PostRefused
from brokers.callbacks.messages import Callback, CallbackKind, Delivery, Outcome, Verdict
from brokers.job_store import JobStore
from brokers.log_reader import LogReader

log = logging.getLogger(__name__)


class CallbackSender:
    """Called with each delivery, from any thread. `permanent`: statuses after which no further try
    is made. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        store: JobStore,
        reader: LogReader,
        poster: Poster,
        *,
        secrets: Iterable[bytes] = (),
        permanent: Iterable[int] = (410,),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._reader = reader
        self._poster = poster
        self._secrets = tuple(secrets)
        self._permanent = frozenset(permanent)
        self._clock = clock

    def __call__(self, delivery: Delivery) -> Outcome:
        """Raises dramatiq's BrokerError when the log cannot be read."""
        body = json.dumps(self._body(delivery.callback), ensure_ascii=False).encode()
        headers = headers_of(delivery) | self._signature(delivery.callback, body)
        try:
            status = self._poster.post(delivery.url, headers, body)
        except PostRefused as error:
            return Outcome(verdict=Verdict.NEVER, reason=str(error))
        except PostFailed as error:
            return Outcome(verdict=Verdict.AGAIN, reason=str(error))
        return self._judge(status)

    def _body(self, callback: Callback) -> object:
        if callback.kind is CallbackKind.STATUS:
            return status_body(callback)
        messages = self._reader.read(callback.job_id, up_to=callback.attempt)
        return logs_body(callback, messages, self._store.get(callback.job_id))

    def _signature(self, callback: Callback, body: bytes) -> dict[str, str]:
        now = int(self._clock())
        headers = {"webhook-id": callback.id, "webhook-timestamp": str(now)}
        if self._secrets:
            headers["webhook-signature"] = sign(self._secrets, callback.id, now, body)
        return headers

    def _judge(self, status: int) -> Outcome:
        if 200 <= status < 300:
            return Outcome(verdict=Verdict.DELIVERED)
        verdict = Verdict.NEVER if status in self._permanent else Verdict.AGAIN
        if 300 <= status < 400:
            return Outcome(verdict=verdict, reason=f"{status}: redirects are not followed")
        return Outcome(verdict=verdict, reason=f"the receiver answered {status}")
