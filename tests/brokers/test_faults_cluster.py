"""A cluster that loses one of its servers, while messages flow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers.cluster import Cluster
from tests.brokers.fault_traffic import Traffic
from tests.brokers.fault_workers import Site

MESSAGES = 10_000
MIDDLE = 3_000
AWAY_SECONDS = 4.0
FROZEN_SECONDS = 8.0
RECOVERY_SECONDS = 30.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def traffic(cluster: Cluster, tmp_path: Path) -> Iterator[Traffic]:
    """In a stream with three replicas."""
    options = {"servers": cluster.urls, "replicas": 3, "ack_wait": 5.0}
    with Site(tmp_path, **options) as site:
        for _ in range(2):
            site.start_worker(threads=4)
        traffic = Traffic(site, MESSAGES)
        try:
            yield traffic
        finally:
            traffic.close()


def test_nothing_is_lost_when_the_leader_of_the_stream_is_killed(
    cluster: Cluster, traffic: Traffic
) -> None:
    [stream] = cluster.streams()
    with traffic.fault(MIDDLE):
        leader = cluster.await_that(lambda: cluster.leader_of(stream), "a leader")
        leader.kill()
    traffic.await_recovery(RECOVERY_SECONDS)
    successor = cluster.await_that(lambda: cluster.leader_of(stream), "a leader again")
    assert successor is not leader
    leader.start()
    cluster.await_healthy()
    traffic.check()


def test_nothing_is_lost_when_a_follower_hangs_that_clients_use(
    cluster: Cluster, traffic: Traffic
) -> None:
    [stream] = cluster.streams()
    with traffic.fault(MIDDLE):
        leader = cluster.await_that(lambda: cluster.leader_of(stream), "a leader")
        followers = [node for node in cluster.nodes if node is not leader]
        follower = max(followers, key=lambda node: node.clients)
        print(f"{follower.clients} connections hang")
        follower.freeze()
        time.sleep(FROZEN_SECONDS)
        print(f"{len(traffic.publishers.acknowledged)} were acknowledged before it went on")
        follower.thaw()
    traffic.check()
    cluster.await_healthy()
