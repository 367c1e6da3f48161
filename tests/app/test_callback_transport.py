"""One POST to hosts that behave badly."""

from __future__ import annotations

import base64
import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.logs.callbacks.guard import AddressGuard, Allowed
from app.logs.callbacks.transport import Poster, PostFailed, PostRefused
from tests.app.receivers import (
    Receiver,
    answer,
    close,
    drip,
    flood,
    hang,
    nonsense,
    receiving,
)
from tests.brokers.certificates import Certificates, make_certificates, server_context

ANYWHERE = AddressGuard(Allowed(everything=True))


def poster(
    guard: AddressGuard = ANYWHERE, *, timeout: float = 10.0, tls: ssl.SSLContext | None = None
) -> Poster:
    return Poster(guard, timeout=timeout, tls=tls or ssl.create_default_context())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure(certificates: Certificates) -> Iterator[Receiver]:
    with receiving(200, tls=server_context(certificates)) as receiver:
        yield receiver


def trusting(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority))


def test_the_status_of_the_answer_is_returned() -> None:
    with receiving(204, 503) as receiver:
        assert poster().post(receiver.url, {"X-A": "b"}, b"body") == 204
        assert poster().post(receiver.url, {}, b"") == 503
        first = receiver.next()
        assert (first.path, first.body, first.headers["X-A"]) == ("/hook", b"body", "b")


def test_the_path_the_query_and_the_login_reach_the_receiver_as_they_are() -> None:
    with receiving(200) as receiver:
        url = receiver.url.replace("//", "//us%40er:p%3Aw@") + "/a%2Fb?x=1&y=%20z#never"
        poster().post(url, {}, b"{}")
        request = receiver.next()
        assert request.path == "/hook/a%2Fb?x=1&y=%20z"
        login = request.headers["Authorization"].removeprefix("Basic ")
        assert base64.b64decode(login) == b"us@er:p:w"
        assert request.headers["Host"] == f"127.0.0.1:{receiver.server_port}"


def test_redirects_are_not_followed() -> None:
    with receiving(200) as elsewhere:
        with receiving(answer(307, ("Location", elsewhere.url))) as receiver:
            assert poster().post(receiver.url, {}, b"") == 307
        assert elsewhere.arrived.empty()


@pytest.mark.parametrize("behaviour", [hang, drip])
def test_a_receiver_that_takes_its_time_is_left(behaviour) -> None:
    with receiving(behaviour) as receiver:
        with pytest.raises(PostFailed, match=r"no answer within 0\.3 seconds"):
            poster(timeout=0.3).post(receiver.url, {}, b"")


def test_a_receiver_that_does_not_read_is_left() -> None:
    with receiving(200) as receiver:
        receiver.shutdown()  # the kernel still accepts connections
        with pytest.raises(PostFailed, match="no answer within"):
            poster(timeout=0.3).post(receiver.url, {}, b"a" * 32_000_000)


def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    with receiving(flood) as receiver:
        assert poster(timeout=60).post(receiver.url, {}, b"") == 200


@pytest.mark.parametrize("behaviour", [close, nonsense])
def test_what_is_no_answer_is_a_failure(behaviour) -> None:
    with receiving(behaviour) as receiver:
        with pytest.raises(PostFailed, match="no valid answer"):
            poster().post(receiver.url, {}, b"")


def test_nobody_there_is_a_failure() -> None:
    with receiving(200) as receiver:
        url = receiver.url
    with pytest.raises(PostFailed, match="no connection: Connection refused"):
        poster().post(url, {}, b"")


def test_a_name_that_cannot_be_resolved_is_a_failure_that_may_pass() -> None:
    with pytest.raises(PostFailed, match="cannot be resolved"):
        poster().post("http://nowhere.invalid/", {}, b"")


@pytest.mark.parametrize(
    "url", ["ftp://host/", "http:///path", "nonsense", "http://[::1/", "http://host:99999/"]
)
def test_what_is_no_address_of_the_web_is_refused(url: str) -> None:
    with pytest.raises(PostRefused):
        poster().post(url, {}, b"")


def test_a_private_address_is_refused_before_anything_is_sent() -> None:
    with receiving(200) as receiver:
        with pytest.raises(PostRefused, match=r"127\.0\.0\.1: not a public address"):
            poster(AddressGuard(Allowed())).post(receiver.url, {}, b"")
        assert receiver.arrived.empty()


def test_the_address_that_was_checked_is_the_one_that_is_called() -> None:
    """A name server that answers differently each time: first what is allowed, then what is not."""
    with receiving(200) as receiver, receiving(200) as victim:
        asked: list[str] = []

        def rebinding(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

        guard = AddressGuard(Allowed.of(["127.0.0.1"]), rebinding)
        url = f"http://rebinding.invalid:{receiver.server_port}/"
        assert poster(guard).post(url, {}, b"") == 200
        assert asked == ["rebinding.invalid"]
        host = f"rebinding.invalid:{receiver.server_port}"
        assert receiver.next().headers["Host"] == host
        with pytest.raises(PostRefused):
            poster(guard).post(f"http://rebinding.invalid:{victim.server_port}/", {}, b"")
        assert victim.arrived.empty()


def test_when_one_address_does_not_answer_the_next_one_is_called() -> None:
    with receiving(200) as receiver:
        guard = AddressGuard(Allowed(everything=True), lambda *_: ["127.0.0.9", "127.0.0.1"])
        assert poster(guard).post(f"http://two.invalid:{receiver.server_port}/", {}, b"") == 200


def test_the_certificate_must_be_of_the_urls_name_whatever_its_address(
    secure: Receiver, certificates: Certificates
) -> None:
    tls = trusting(certificates.authority)
    guard = AddressGuard(Allowed(everything=True), lambda *_: ["127.0.0.1"])

    assert poster(guard, tls=tls).post(f"https://localhost:{secure.server_port}/", {}, b"") == 200
    with pytest.raises(PostFailed, match="TLS: Hostname mismatch"):
        poster(guard, tls=tls).post(f"https://other.invalid:{secure.server_port}/", {}, b"")


def test_a_certificate_of_an_unknown_authority_is_not_accepted(secure: Receiver) -> None:
    with pytest.raises(PostFailed, match=r"TLS: (.*self.signed|unable to get)"):
        poster().post(secure.url, {}, b"")


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving(200) as proxy, receiving(200) as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        poster().post(receiver.url, {}, b"")
        assert proxy.arrived.empty()


def test_nothing_secret_of_a_url_is_logged_or_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving(200, close) as receiver:
        url = receiver.url.replace("//", "//user:s3cret@") + "?token=s3cret#s3cret"
        poster().post(url, {"X": "s3cret"}, b"s3cret")
        with pytest.raises(PostFailed) as failed:
            poster().post(url, {}, b"s3cret")
    assert "s3cret" not in caplog.text + str(failed.value)
