"""Names of streams, subjects and consumers of one namespace, and their configuration.

NS.q.<queue>.<lane>     messages that are ready, a lane a priority
NS.s.<queue>.<uid>      messages that the server will move to their lane when they are due
NS.d.<queue>            the same, waiting in a worker's memory: for servers without schedules
NS.x.<queue>            dead letters
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import nats.js.errors
from nats.js import JetStreamContext, api

_STREAM_EXISTS = 10058
_UNSAFE = re.compile(r"[^-_A-Za-z0-9]")


@lru_cache(maxsize=4096)
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
        return [f"{root}.q.*.*", f"{root}.s.*.*", f"{root}.d.*", f"{root}.x.*"]

    def lane(self, queue: str, lane: int) -> str:
        """Where messages of this priority wait."""
        return f"{encode(self.namespace)}.q.{encode(queue)}.{lane}"

    def lanes(self, queue: str) -> str:
        """All lanes of the queue."""
        return f"{encode(self.namespace)}.q.{encode(queue)}.*"

    def scheduled(self, queue: str, uid: str) -> str:
        """Where one delayed message waits; `*` for all of the queue."""
        return f"{encode(self.namespace)}.s.{encode(queue)}.{uid}"

    def waiting(self, queue: str) -> str:
        """Where messages wait whose delay a worker counts."""
        return f"{encode(self.namespace)}.d.{encode(queue)}"

    def dead(self, queue: str) -> str:
        """Where dead letters are kept."""
        return f"{encode(self.namespace)}.x.{encode(queue)}"

    def consumer(self, queue: str, kind: int | str) -> str:
        """The durable consumer of a lane, or of `scheduled`, `waiting`, `dead`."""
        return f"{encode(queue)}-{kind}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamOptions:
    """How the server keeps the queues."""

    storage: Literal["file", "memory"] = "file"
    """Memory is lost with the server."""
    replicas: int = 1
    """Servers of a cluster that hold each message: 1, 3 or 5."""
    duplicate_window: float = 60.0
    """Seconds that the server remembers ids for."""
    max_age: float = 0.0
    """Seconds after which a message is dropped, whatever its state; 0: never."""
    max_bytes: int | None = None
    """Bytes of all queues together; beyond, `enqueue` raises QueueFull. It costs the schedules:
    JetStream has no stream that has both, so delays are counted by the workers."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the server and the stream can do."""

    schedules: bool


MINIMUM_LEVEL = 1
SCHEDULES_LEVEL = 2
"""Levels of JetStream's API: 1 came with server 2.11 (TTLs of messages), 2 with 2.12 (schedules)"""


def queue_stream(names: Names, options: StreamOptions, abilities: Abilities) -> api.StreamConfig:
    """One WorkQueue stream: an acknowledged message is gone. Without `max_bytes` it has no limit,
    since `discard new` excludes schedules and `discard old` would drop messages."""
    return api.StreamConfig(
        name=names.stream,
        subjects=names.subjects,
        retention=api.RetentionPolicy.WORK_QUEUE,
        storage=api.StorageType(options.storage),
        num_replicas=options.replicas,
        duplicate_window=min(options.duplicate_window, options.max_age or math.inf),
        max_age=options.max_age,
        max_bytes=options.max_bytes if options.max_bytes is not None else -1,
        discard=api.DiscardPolicy.OLD if options.max_bytes is None else api.DiscardPolicy.NEW,
        allow_direct=True,
        allow_msg_ttl=True,
        allow_msg_schedules=abilities.schedules or None,
    )


def pulled_consumer(name: str, subject: str, *, ack_wait: float) -> api.ConsumerConfig:
    """`max_deliver` and `max_ack_pending` stay unlimited: JetStream keeps a message that reached
    the one invisible for ever, and stalls all workers at the other. The broker counts itself."""
    return api.ConsumerConfig(
        durable_name=name,
        filter_subject=subject,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=ack_wait,
        max_deliver=-1,
        max_ack_pending=-1,
        max_waiting=8192,
    )


def counting_consumer(name: str, subject: str) -> api.ConsumerConfig:
    """One that nobody pulls from: the server counts for it what is there."""
    return api.ConsumerConfig(
        durable_name=name, filter_subject=subject, ack_policy=api.AckPolicy.EXPLICIT
    )


async def ensure_stream(jetstream: JetStreamContext, config: api.StreamConfig) -> None:
    """Create the stream, or bring an existing one to this configuration."""
    try:
        await jetstream.add_stream(config)
    except nats.js.errors.BadRequestError as error:
        if error.err_code != _STREAM_EXISTS:
            raise
        await jetstream.update_stream(config)
