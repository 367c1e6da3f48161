"""Names of streams, subjects and consumers of one namespace, and their configuration.

NS.q.<queue>.<lane>     messages that are ready, a lane a priority
NS.s.<queue>.<uid>      messages that the server will move to their lane when they are due
NS.x.<queue>            dead letters
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import nats.js.errors
from nats.js import JetStreamContext, api

_STREAM_EXISTS = 10058
_UNSAFE = re.compile(r"[^-_A-Za-z0-9]")


def encode(text: str) -> str:
    """A name as one token of a subject: `a.b` becomes `a=2Eb`."""
    return _UNSAFE.sub(lambda match: "".join(f"={byte:02X}" for byte in match[0].encode()), text)


@dataclass(frozen=True, slots=True)
class Names:
    """Every name of one namespace."""

    namespace: str

    @property
    def stream(self) -> str:
        """The one stream that holds all queues."""
        return f"{encode(self.namespace)}-queues"

    @property
    def subjects(self) -> list[str]:
        """What the stream takes."""
        root = encode(self.namespace)
        return [f"{root}.q.*.*", f"{root}.s.*.*", f"{root}.x.*"]

    def lane(self, queue: str, lane: int) -> str:
        """Where messages of this priority wait."""
        return f"{encode(self.namespace)}.q.{encode(queue)}.{lane}"

    def lanes(self, queue: str) -> str:
        """All lanes of the queue."""
        return f"{encode(self.namespace)}.q.{encode(queue)}.*"

    def scheduled(self, queue: str, uid: str) -> str:
        """Where one delayed message waits; `*` for all of the queue."""
        return f"{encode(self.namespace)}.s.{encode(queue)}.{uid}"

    def dead(self, queue: str) -> str:
        """Where dead letters are kept."""
        return f"{encode(self.namespace)}.x.{encode(queue)}"

    def consumer(self, queue: str, lane: int) -> str:
        """The durable consumer of one lane."""
        return f"{encode(queue)}-{lane}"


def queue_stream(names: Names, *, duplicate_window: float, replicas: int) -> api.StreamConfig:
    """One WorkQueue stream: an acknowledged message is gone. No size limit, since `discard new`
    excludes schedules and `discard old` would drop messages."""
    return api.StreamConfig(
        name=names.stream,
        subjects=names.subjects,
        retention=api.RetentionPolicy.WORK_QUEUE,
        storage=api.StorageType.FILE,
        num_replicas=replicas,
        duplicate_window=duplicate_window,
        allow_direct=True,
        allow_msg_ttl=True,
        allow_msg_schedules=True,
    )


def lane_consumer(names: Names, queue: str, lane: int, *, ack_wait: float) -> api.ConsumerConfig:
    """`max_deliver` and `max_ack_pending` stay unlimited: JetStream keeps a message that reached
    the one invisible for ever, and stalls all workers at the other. The broker counts itself."""
    return api.ConsumerConfig(
        durable_name=names.consumer(queue, lane),
        filter_subject=names.lane(queue, lane),
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=ack_wait,
        max_deliver=-1,
        max_ack_pending=-1,
        max_waiting=8192,
    )


async def ensure_stream(jetstream: JetStreamContext, config: api.StreamConfig) -> None:
    """Create the stream, or bring an existing one to this configuration."""
    try:
        await jetstream.add_stream(config)
    except nats.js.errors.BadRequestError as error:
        if error.err_code != _STREAM_EXISTS:
            raise
        await jetstream.update_stream(config)
