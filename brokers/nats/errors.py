"""What can go wrong between Dramatiq and NATS.

    dramatiq.errors.BrokerError
    |-- BrokerConnectionError
    |   |-- ConnectionFailed     no server could be reached
    |   `-- ConnectionClosed     it was reached once, and does not answer now
    |       `-- NobodyAnswers    it is there, but nobody to answer the request
    |-- MessageTooLarge          larger than the server's max_payload; never sent
    |-- JetStreamError           JetStream refused a request
    |   |-- QueueFull            a bounded queue takes no more
    |   |-- PermissionDenied     the account may not publish or subscribe there
    |   `-- RevisionConflict     somebody else has written in between
    `-- DeliveryLimitExceeded    given to a message that was delivered too often

The client library's exceptions become one of these in `translated`, with their cause chained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import nats.errors
import nats.js.errors
from dramatiq.errors import BrokerError, ConnectionClosed, ConnectionFailed

__all__ = [
    "BrokerError",
    "ConnectionClosed",
    "ConnectionFailed",
    "DeliveryLimitExceeded",
    "JetStreamError",
    "MessageTooLarge",
    "NobodyAnswers",
    "PermissionDenied",
    "QueueFull",
    "RevisionConflict",
    "refusal",
    "translated",
]

_WRONG_LAST_SEQUENCE = (10071, 10164)
_STORE_FAILED = 10077  # whatever the reason is: a limit ("maximum bytes exceeded"), or the disk
_STORE_FULL = (_STORE_FAILED, 10047, 10023, 10122)  # or no storage, no resources
_UNAVAILABLE = 503


class _Error(BrokerError):
    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]


class MessageTooLarge(_Error):
    """The message is larger than the server's max_payload. It was not sent."""


class JetStreamError(_Error):
    """JetStream refused a request; the text is the server's."""


class RevisionConflict(JetStreamError):
    """Somebody else has written since the revision that this write expected."""


class NobodyAnswers(ConnectionClosed):
    """There is no stream, or no leader for it at the moment."""


class QueueFull(JetStreamError):
    """The queue, or the stream that holds it, is as long as it may be. Nothing was stored."""


class PermissionDenied(JetStreamError):
    """The account may not publish or subscribe where it tried to."""


class DeliveryLimitExceeded(_Error):
    """The message was delivered more often than allowed without being acknowledged."""

    def __init__(self, deliveries: int, limit: int) -> None:
        super().__init__(f"delivered {deliveries} times without completing (limit {limit})")
        self.deliveries = deliveries


def refusal(code: int, error_code: int, description: str) -> BrokerError:
    """What JetStream's answer to a publication is here; ConnectionClosed for what may pass."""
    if error_code in _WRONG_LAST_SEQUENCE:
        return RevisionConflict(description)
    failed_otherwise = error_code == _STORE_FAILED and not description.startswith("maximum ")
    if error_code in _STORE_FULL and not failed_otherwise:
        return QueueFull(f"the stream takes no more: {description}")
    if code == _UNAVAILABLE:
        return ConnectionClosed(description)
    return JetStreamError(f"{description} ({error_code})")


@contextmanager
def translated() -> Iterator[None]:
    """Raise the client library's exceptions as this module's."""
    try:
        yield
    except nats.errors.MaxPayloadError as error:
        raise MessageTooLarge("larger than the server's max_payload") from error
    except nats.js.errors.APIError as error:
        if error.err_code in _WRONG_LAST_SEQUENCE:
            raise RevisionConflict(str(error.description)) from error
        if isinstance(error, nats.js.errors.ServiceUnavailableError):
            raise ConnectionClosed(str(error.description)) from error
        raise JetStreamError(f"{error.description} ({error.err_code})") from error
    except (TimeoutError, nats.errors.Error, OSError) as error:
        raise ConnectionClosed(f"NATS does not answer: {error!r}") from error
