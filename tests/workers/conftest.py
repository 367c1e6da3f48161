"""What the tests of workers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from brokers.embedded import EmbeddedNats
from tests.workers.sites import Site
from workers import middleware


@pytest.fixture
def site(nats_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(middleware, "RETRY_SECONDS", 0.1)
    site = Site(nats_server.url)
    yield site
    site.close()


@pytest.fixture
def own_site(own_server: EmbeddedNats) -> Iterator[Site]:
    """On a server that the test may stop and kill."""
    site = Site(own_server.url)
    yield site
    site.close()
