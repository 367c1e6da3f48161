"""The actors. `dramatiq tasks` runs them."""

import os

import dramatiq
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.results import Results
from hades_scheduler.brokers.nats import NatsBroker, NatsRateLimiterBackend, NatsResultBackend

URL = os.environ.get("NATS_URL", "nats://localhost:4222")

limits = NatsRateLimiterBackend(url=URL, namespace="words-limits")
results = NatsResultBackend(url=URL, namespace="words-results")
broker = NatsBroker(url=URL, namespace="words", max_priority=1)
broker.add_middleware(Results(backend=results))
broker.add_middleware(GroupCallbacks(limits))
dramatiq.set_broker(broker)

ONE_SUMMARY = ConcurrentRateLimiter(limits, "summary", limit=1)


@dramatiq.actor(store_results=True, max_retries=3)
def count_words(text: str) -> int:
    """Runs wherever a worker is free; tried again if it fails."""
    return len(text.split())


@dramatiq.actor(broker_priority=1)
def summarise(texts: int) -> None:
    """Runs when the whole group is done, before what waits on the lower lane."""
    with ONE_SUMMARY.acquire():
        print(f"counted {texts} texts", flush=True)


@dramatiq.actor
def remind(text: str) -> None:
    """Sent with a delay: the server keeps it until it is due."""
    print(f"do not forget: {text}", flush=True)
