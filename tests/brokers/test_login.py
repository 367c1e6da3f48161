"""Who we are and how it is encrypted: for the whole broker, so for nats-py and the wire alike."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dramatiq
import pytest
from dramatiq import Worker

from brokers.nats import NatsBroker, protocol
from brokers.nats.errors import ConnectionClosed, ConnectionFailed
from brokers.nats.servers import Servers
from brokers.nats.wire import Wire
from tests.brokers.certificates import Certificates, make_certificates
from tests.brokers.servers import ConfiguredNats

nkeys = pytest.importorskip("nkeys")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], ConfiguredNats]]:
    """Starts a server with this configuration."""
    running: list[ConfiguredNats] = []

    def start(config: str) -> ConfiguredNats:
        running.append(ConfiguredNats(tmp_path / f"nats-{len(running)}", config))
        running[-1].start()
        return running[-1]

    yield start
    for server in running:
        server.stop()


@contextmanager
def broker_of(url: str, **login: object) -> Iterator[NatsBroker]:
    options = {"namespace": f"l{uuid.uuid4().hex[:8]}", "middleware": [], **login}
    broker = NatsBroker(url=url, **options)  # type: ignore[arg-type]
    try:
        yield broker
    finally:
        broker.close()


def check_all_of_it(url: str, **login: object) -> None:
    """Enqueue, count and consume, in both ways to confirm."""
    for confirm in ("sync", "window"):
        with broker_of(url, confirm=confirm, **login) as broker:
            done = threading.Event()
            actor = dramatiq.actor(
                lambda done=done: done.set(), broker=broker, actor_name="a", queue_name="q"
            )
            actor.send()
            assert broker.get_queue_message_counts("q") == (1, 0, 0)
            worker = Worker(broker, worker_timeout=100, worker_threads=1)
            worker.start()
            assert done.wait(10)
            broker.join("q", timeout=10_000)
            worker.stop()


def check_refused(url: str, match: str, **login: object) -> str:
    """By both clients, with a reason, and soon."""
    began = time.monotonic()
    with pytest.raises(ConnectionFailed, match=match) as wire:
        Wire.open(Servers(url, **login))  # type: ignore[arg-type]
    with broker_of(url, **login) as broker:
        actor = dramatiq.actor(print, broker=broker, actor_name="a", queue_name="q")
        with pytest.raises(ConnectionFailed, match=match) as client:
            actor.send()
    assert time.monotonic() - began < 6
    return f"{wire.value} {client.value}"


def with_user(url: str, user: str) -> str:
    return url.replace("//", f"//{user}@")


# User and password, token


def test_user_and_password_as_arguments_and_in_the_url(serve):
    server = serve("authorization { user: joe, password: pass }")
    check_all_of_it(server.url, user="joe", password="pass")
    check_all_of_it(with_user(server.url, "joe:pass"))


def test_a_password_of_any_characters(serve):
    server = serve(r'authorization { user: "j@e", password: "p/:@ %ä#?" }')
    check_all_of_it(server.url, user="j@e", password="p/:@ %ä#?")
    check_all_of_it(with_user(server.url, "j%40e:p%2F%3A%40%20%25%C3%A4%23%3F"))


def test_a_token_as_argument_and_in_the_url(serve):
    server = serve('authorization { token: "t/0" }')
    check_all_of_it(server.url, token="t/0")
    check_all_of_it(with_user(server.url, "t%2F0"))


def test_arguments_come_before_the_url(serve):
    server = serve("authorization { user: joe, password: pass }")
    check_all_of_it(with_user(server.url, "jim:other"), user="joe", password="pass")


def test_each_server_may_have_a_password_of_its_own(serve):
    servers = [serve(f"authorization {{ user: joe, password: pw{number} }}") for number in (1, 2)]
    urls = [with_user(server.url, f"joe:pw{n}") for n, server in enumerate(servers, start=1)]
    for url in urls:
        check_all_of_it(url)
    for _ in range(5):
        with Wire.open(Servers(urls)) as wire:
            assert wire.settle(5) == []


def test_a_wrong_password_is_told_at_once_and_not_shown(serve):
    server = serve("authorization { user: joe, password: pass }")
    told = check_refused(server.url, "(?i)authorization", user="joe", password="hunter2")
    told += check_refused(with_user(server.url, "joe:hunter2"), "(?i)authorization")
    told += check_refused(with_user(server.url, "hunter2"), "(?i)authorization")
    assert "hunter2" not in told
    check_refused(server.url, "(?i)authorization")


# Keys


@pytest.fixture(scope="module")
def seed() -> str:
    return new_seed("user")


def new_seed(kind: str) -> str:
    prefix = {
        "user": nkeys.PREFIX_BYTE_USER,
        "account": nkeys.PREFIX_BYTE_ACCOUNT,
        "operator": nkeys.PREFIX_BYTE_OPERATOR,
    }[kind]
    return nkeys.encode_seed(os.urandom(32), prefix).decode()


def public(seed: str) -> str:
    return nkeys.from_seed(bytearray(seed.encode())).public_key.decode()


def test_an_nkey_as_seed_and_as_file(serve, seed, tmp_path):
    server = serve(f"authorization {{ users = [ {{ nkey: {public(seed)} }} ] }}")
    check_all_of_it(server.url, nkey=seed)
    file = tmp_path / "Seed.nk"  # begins like a seed
    file.write_text(seed + "\n")
    check_all_of_it(server.url, nkey=str(file))


def test_a_wrong_nkey_is_told_at_once_and_not_shown(serve, seed):
    server = serve(f"authorization {{ users = [ {{ nkey: {public(seed)} }} ] }}")
    other = new_seed("user")
    assert other not in check_refused(server.url, "(?i)authorization", nkey=other)
    broken = seed[:-4]
    assert broken not in check_refused(server.url, "nkey", nkey=broken)


def jwt(claims: dict[str, object], issuer: str) -> str:
    """Signed as NATS's own tools do."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    claims = {"iat": int(time.time()), "iss": public(issuer), **claims}
    claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).decode()
    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    text = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
    return f"{text}.{encoded(nkeys.from_seed(bytearray(issuer.encode())).sign(text.encode()))}"


def credentials_file(path: Path, account: str, user: str) -> str:
    limits = {"subs": -1, "data": -1, "payload": -1}
    token = jwt(
        {
            "name": "tests",
            "sub": public(user),
            "nats": {"type": "user", "version": 2, **limits},
        },
        account,
    )
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        f"-----BEGIN USER NKEY SEED-----\n{user}\n------END USER NKEY SEED------\n"
    )
    return str(path)


def test_a_credentials_file_of_an_operator_s_account(serve, seed, tmp_path):
    operator, account, system = (new_seed(kind) for kind in ("operator", "account", "account"))
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    limits = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1}
    accounts = {
        public(account): jwt(
            {
                "name": "A",
                "sub": public(account),
                "nats": {
                    "type": "account",
                    "version": 2,
                    "limits": {**limits, "wildcards": True, "leaf": -1, **storage},
                },
            },
            operator,
        ),
        public(system): jwt(
            {
                "name": "SYS",
                "sub": public(system),
                "nats": {
                    "type": "account",
                    "version": 2,
                    "limits": {**limits, "wildcards": True, "leaf": -1},
                },
            },
            operator,
        ),
    }
    root = jwt(
        {
            "name": "O",
            "sub": public(operator),
            "nats": {"type": "operator", "version": 2, "system_account": public(system)},
        },
        operator,
    )
    preload = "\n".join(f"{name}: {token}" for name, token in accounts.items())
    server = serve(
        f"operator: {root}\nsystem_account: {public(system)}\n"
        f"resolver: MEMORY\nresolver_preload: {{\n{preload}\n}}\n"
    )
    check_all_of_it(server.url, credentials=credentials_file(tmp_path / "u.creds", account, seed))
    stranger = credentials_file(tmp_path / "s.creds", new_seed("account"), seed)
    check_refused(server.url, "(?i)authorization", credentials=stranger)


# TLS


def tls(files: Certificates, more: str = "") -> str:
    return f"tls {{ cert_file: {files.server}, key_file: {files.server_key}, {more} }}"


def test_tls_with_an_authority_of_ones_own(serve, certificates):
    server = serve(tls(certificates))
    check_all_of_it(server.url, tls_ca=str(certificates.authority))
    check_all_of_it(server.url.replace("nats:", "tls:"), tls_ca=str(certificates.authority))


def test_tls_from_the_first_byte(serve, certificates):
    server = serve(tls(certificates, "handshake_first: true"))
    check_all_of_it(server.url, tls_ca=str(certificates.authority), tls_first=True)


def test_a_client_certificate(serve, certificates):
    server = serve(tls(certificates, f"ca_file: {certificates.authority}, verify: true"))
    check_all_of_it(
        server.url,
        tls_ca=str(certificates.authority),
        tls_cert=str(certificates.client),
        tls_key=str(certificates.client_key),
    )
    check_refused(server.url, "(?i)certificate|hung up|eof", tls_ca=str(certificates.authority))


def test_a_server_of_another_authority_is_refused_at_once(serve, certificates, tmp_path):
    server = serve(tls(certificates))
    other = make_certificates(tmp_path, "other")
    check_refused(server.url, "(?i)certificate verify failed", tls_ca=str(other.authority))
    check_refused(server.url, "(?i)certificate verify failed")


def test_a_server_of_another_name_is_refused_unless_it_is_expected(serve, certificates):
    server = serve(tls(certificates))
    authority = str(certificates.authority)
    check_refused(server.url, "(?i)certificate", tls_ca=authority, tls_hostname="example.org")
    check_all_of_it(server.url, tls_ca=authority, tls_hostname="localhost")


def test_a_server_without_tls_is_refused_by_who_wants_it(serve, certificates):
    server = serve("")
    with pytest.raises(ConnectionFailed):
        Wire.open(Servers(server.url, tls_ca=str(certificates.authority)))
    with pytest.raises(ConnectionFailed):
        Wire.open(Servers(server.url.replace("nats:", "tls:")))


@contextmanager
def encrypted(server: ConfiguredNats, files: Certificates) -> Iterator[Wire]:
    with Wire.open(Servers(server.url, tls_ca=str(files.authority))) as wire:
        wire.send(protocol.subscription(f"{wire.inbox}.>", 1))
        wire.settle(5)
        yield wire


def test_an_error_that_comes_with_the_end_of_an_encrypted_connection_is_told(serve, certificates):
    server = serve("max_payload: 4096\n" + tls(certificates))
    for _ in range(10):
        with encrypted(server, certificates) as wire:
            wire.send(protocol.publication("a", "", b"", b"x" * 4_097))
            with pytest.raises(ConnectionClosed, match="Maximum Payload"):
                for _ in range(100):
                    wire.receive(1)


def test_close_wakes_a_thread_that_receives_over_tls(serve, certificates):
    outcome: list[BaseException] = []
    with encrypted(serve(tls(certificates)), certificates) as wire:

        def receive() -> None:
            try:
                wire.receive(30)
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=receive)
        thread.start()
        wire.close()
        thread.join(5)
        assert not thread.is_alive()
    assert isinstance(outcome[0], ConnectionClosed)


def test_receive_over_tls_returns_in_time_when_nothing_comes(serve, certificates):
    with encrypted(serve(tls(certificates)), certificates) as wire:
        began = time.monotonic()
        assert wire.receive(0.2) == []
        assert 0.15 < time.monotonic() - began < 2


def test_large_messages_cross_in_both_directions_from_many_threads(serve, certificates):
    server = serve("max_pending: 1GB\n" + tls(certificates))
    noise = os.urandom(70_000)
    with encrypted(server, certificates) as wire:
        subject, count, threads = wire.next_inbox(), 5_000, 4
        room = threading.Semaphore(200)

        def send(thread: int) -> None:
            for number in range(count):
                room.acquire()
                body = noise[: (number * 7 + thread) % (70_000 if number % 50 == 0 else 300)]
                data = b"%d %d %08x " % (thread, number, zlib.crc32(body)) + body
                wire.send(protocol.publication(subject, "", b"", data))

        workers = [threading.Thread(target=send, args=(each,)) for each in range(threads)]
        for worker in workers:
            worker.start()
        numbers: dict[int, list[int]] = {thread: [] for thread in range(threads)}
        received, deadline = 0, time.monotonic() + 60
        while received < count * threads and time.monotonic() < deadline:
            for arrival in wire.receive(1):
                thread, number, check, body = arrival.data.split(b" ", 3)
                assert int(check, 16) == zlib.crc32(body)
                numbers[int(thread)].append(int(number))
                room.release()
                received += 1
        for worker in workers:
            worker.join()
    assert all(each == list(range(count)) for each in numbers.values())
