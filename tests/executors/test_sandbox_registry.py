"""Pulling from registries: Debian's real one, and a small one for what that can't do."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from executors.errors import ImageUnavailable
from executors.sandbox.credentials import find_credentials
from executors.sandbox.images import ImageStore
from tests.executors.image_archives import (
    ARCHITECTURE,
    MANIFEST,
    config,
    descriptor,
    digest,
    file,
    index,
    layer,
    manifest,
    oci_layout,
    write_tree,
)
from tests.executors.registries import RunningRegistry, running_registry

BASE = layer(file("bin/sh", b"shell", 0o755))
UPPER = layer(file("app", b"program", 0o755))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """Knows no credentials, whoever runs the tests."""
    return ImageStore(tmp_path / "store", docker_config=tmp_path / "config.json")


def log_in(tmp_path: Path, address: str, user: str, password: str) -> None:
    """What `docker login` writes."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}}))


def test_an_image_is_pulled_and_unpacked(registry: RunningRegistry, store: ImageStore) -> None:
    reference = registry.push_image("team/app:1", [BASE, UPPER], [gzip.compress(BASE), UPPER])
    image = store.get(reference)
    assert image.reference == reference
    assert image.digest == digest(config([BASE, UPPER]))
    assert (image.rootfs / "app").read_bytes() == b"program"
    assert store.find(reference) == image


def test_an_image_is_pulled_by_its_digest(registry: RunningRegistry, store: ImageStore) -> None:
    reference = registry.push_image("team/pinned", [BASE])
    assert "@sha256:" in reference
    assert store.get(reference).reference == reference


def test_an_image_that_skopeo_pushed_with_dockers_own_media_types_is_pulled(
    registry: RunningRegistry, store: ImageStore, tmp_path: Path
) -> None:
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.skip("skopeo is not installed")
    layout = write_tree(tmp_path / "layout", oci_layout("app:1", [BASE, UPPER]))
    name = f"{registry.address}/team/v2s2:1"
    source, target = f"oci:{layout}:app:1", f"docker://{name}"
    options = ["--insecure-policy", "copy", "--format", "v2s2", "--dest-tls-verify=false"]
    subprocess.run([skopeo, *options, source, target], check=True, capture_output=True)
    assert (store.get(name).rootfs / "app").read_bytes() == b"program"


def test_of_several_platforms_this_machines_is_pulled(
    registry: RunningRegistry, store: ImageStore
) -> None:
    listed = []
    for architecture, content in (("s390x", BASE), (ARCHITECTURE, UPPER)):
        registry.push_image("team/multi", [content])
        platform = {"os": "linux", "architecture": architecture}
        document = manifest(config([content]), [content])
        listed.append(descriptor(MANIFEST, document, platform=platform))
    reference = registry.push_index("team/multi:1", index(*listed))
    assert store.get(reference).digest == digest(config([UPPER]))
    foreign = registry.push_index("team/multi:2", index(listed[0]))
    with pytest.raises(ImageUnavailable, match=f"not made for linux/{ARCHITECTURE}"):
        store.get(foreign)


def test_get_asks_the_registry_once_and_pull_each_time(
    registry: RunningRegistry, store: ImageStore
) -> None:
    reference = registry.push_image("team/moving:1", [BASE])
    old = store.get(reference)
    registry.push_image("team/moving:1", [UPPER])
    assert store.get(reference) == old
    new = store.pull(reference)
    assert new.digest != old.digest
    assert store.get(reference) == new


def test_callers_at_the_same_time_share_one_pull(tmp_path: Path) -> None:
    with running_registry(tmp_path) as registry:
        reference = registry.push_image("team/shared:1", [BASE])
        stores = [ImageStore(tmp_path / "store", docker_config=tmp_path / "none") for _ in "ab"]
        with ThreadPoolExecutor(8) as pool:
            pulls = [pool.submit(stores[n % 2].get, reference) for n in range(8)]
            digests = {pull.result().digest for pull in pulls}
    assert len(digests) == 1
    assert registry.requests("/manifests/1") == 1
    assert registry.requests(digest(BASE)) == 1


def test_a_pull_of_what_is_there_reads_no_layers(tmp_path: Path) -> None:
    with running_registry(tmp_path) as registry:
        reference = registry.push_image("team/same:1", [BASE])
        store = ImageStore(tmp_path / "store", docker_config=tmp_path / "none")
        assert store.pull(reference) == store.pull(reference)
    assert registry.requests(digest(BASE)) == 1


def test_a_password_of_dockers_config_opens_the_registry(store: ImageStore, tmp_path: Path) -> None:
    with running_registry(tmp_path, password=True) as registry:
        assert registry.auth
        reference = registry.push_image("team/secret:1", [BASE])
        with pytest.raises(ImageUnavailable, match="401"):
            store.get(reference)
        log_in(tmp_path, registry.address, *registry.auth)
        assert store.get(reference).digest == digest(config([BASE]))


def test_an_image_that_does_not_exist_is_unavailable_with_the_registrys_reason(
    registry: RunningRegistry, store: ImageStore
) -> None:
    reference = f"{registry.address}/team/none:1"
    with pytest.raises(ImageUnavailable) as caught:
        store.get(reference)
    assert f"failed to pull image {reference}: 127.0.0.1 answered 404: manifest unknown" in str(
        caught.value
    )


def test_a_registry_that_does_not_answer_makes_the_image_unavailable(store: ImageStore) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        with pytest.raises(ImageUnavailable, match="can't be read"):
            store.get(f"127.0.0.1:{silent.getsockname()[1]}/app")


def test_a_registry_without_an_address_makes_the_image_unavailable(store: ImageStore) -> None:
    with pytest.raises(ImageUnavailable, match=r"registry\.invalid can't be read"):
        store.get("registry.invalid/app")


Answers = dict[str, bytes]


class SmallRegistry(BaseHTTPRequestHandler):
    """Answers from a dictionary, to those who have fetched the token it asks for."""

    answers: Answers
    token_for: str | None
    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        authorization = self.headers.get("Authorization", "")
        self.seen.append((self.path, authorization))
        body = self.answers.get(self.path)
        if body is not None and body.startswith(b"http:"):
            self.send_response(307)
            self.send_header("Location", body.decode())
            self.end_headers()
            return
        if self.path.startswith("/token"):
            body = b'{"token": "abc"}' if authorization == self.token_for else None
        elif self.token_for is not None and authorization != "Bearer abc":
            self._challenge()
            return
        self.send_response(200 if body is not None else 403)
        self.end_headers()
        self.wfile.write(body or b"")

    def _challenge(self) -> None:
        port = self.server.server_address[1]
        realm = f'realm="http://127.0.0.1:{port}/token?a=1",service="s",scope="repository:x:pull"'
        self.send_response(401)
        self.send_header("WWW-Authenticate", f"Bearer {realm}")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not on the test's output."""


@contextmanager
def small_registry(
    answers: Answers, token_for: str | None = None
) -> Iterator[tuple[str, type[SmallRegistry]]]:
    """Its address and its class, in whose `seen` stands who asked for what."""
    members = {"answers": answers, "token_for": token_for, "seen": []}
    handler = type("Handler", (SmallRegistry,), members)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", handler
        finally:
            server.shutdown()
            thread.join()


def answers_of(layers: list[bytes]) -> Answers:
    about = config(layers)
    document = manifest(about, layers)
    blobs = {f"/v2/app/blobs/{digest(data)}": data for data in (about, *layers)}
    return {"/v2/app/manifests/1": document, **blobs}


def test_a_token_is_fetched_without_a_name_where_everybody_may_read(store: ImageStore) -> None:
    with small_registry(answers_of([BASE]), token_for="") as (address, handler):
        store.get(f"{address}/app:1")
    asked = next(path for path, _ in handler.seen if path.startswith("/token"))
    assert asked == "/token?a=1&service=s&scope=repository%3Ax%3Apull"
    assert sum(path.startswith("/token") for path, _ in handler.seen) == 1


def test_a_token_is_fetched_with_the_password_of_dockers_config(
    store: ImageStore, tmp_path: Path
) -> None:
    basic = f"Basic {base64.b64encode(b'me:secret').decode()}"
    with small_registry(answers_of([BASE]), token_for=basic) as (address, handler):
        with pytest.raises(ImageUnavailable, match="403"):
            store.get(f"{address}/app:1")
        log_in(tmp_path, f"http://{address}/v1/", "me", "secret")
        assert store.get(f"{address}/app:1")
    sent = {authorization for path, authorization in handler.seen if path.startswith("/v2/")}
    assert sent == {"", "Bearer abc"}


def test_a_redirect_is_followed_and_the_token_stays_at_home(store: ImageStore) -> None:
    answers = answers_of([BASE])
    path = f"/v2/app/blobs/{digest(BASE)}"
    with small_registry({"/elsewhere": BASE}) as (storage, elsewhere):
        answers[path] = f"http://{storage.replace('127.0.0.1', 'localhost')}/elsewhere".encode()
        with small_registry(answers, token_for="") as (address, _):
            assert (store.get(f"{address}/app:1").rootfs / "bin/sh").exists()
    assert elsewhere.seen == [("/elsewhere", "")]


def test_redirects_without_end_are_refused(store: ImageStore) -> None:
    answers: Answers = {}
    with small_registry(answers) as (address, _):
        answers["/v2/app/manifests/1"] = f"http://{address}/v2/app/manifests/1".encode()
        with pytest.raises(ImageUnavailable, match="redirects too often"):
            store.get(f"{address}/app:1")


@pytest.mark.parametrize("part", ["config", "layer", "manifest"])
def test_what_has_another_digest_than_asked_for_is_refused(
    store: ImageStore, tmp_path: Path, part: str
) -> None:
    answers = answers_of([BASE])
    wanted = {"config": config([BASE]), "layer": BASE, "manifest": b""}[part]
    pinned = digest(b"another")
    answers[f"/v2/app/blobs/{digest(wanted)}"] = layer(file("evil"))
    answers[f"/v2/app/manifests/{pinned}"] = answers["/v2/app/manifests/1"]
    with small_registry(answers) as (address, _):
        name = f"{address}/app@{pinned}" if part == "manifest" else f"{address}/app:1"
        with pytest.raises(ImageUnavailable, match="digest"):
            store.get(name)
    assert store.list() == []
    assert list((tmp_path / "store/incoming").iterdir()) == []


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"schemaVersion": 1, "fsLayers": []}',
        b'{"manifests": [5]}',
        b'{"schemaVersion": 2, "config": {"digest": "../../x"}}',
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(store: ImageStore, document: bytes) -> None:
    with small_registry({"/v2/app/manifests/1": document}) as (address, _):
        with pytest.raises(ImageUnavailable):
            store.get(f"{address}/app:1")


def test_a_manifest_without_end_is_refused(store: ImageStore) -> None:
    with small_registry({"/v2/app/manifests/1": b" " * 9 * 1024**2}) as (address, _):
        with pytest.raises(ImageUnavailable, match="larger than"):
            store.get(f"{address}/app:1")


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("ghcr.io", "ghcr.io"),
        ("https://host:5000/v2/", "host:5000"),
    ],
)
def test_credentials_are_found_under_the_keys_that_docker_uses(
    tmp_path: Path, key: str, registry: str
) -> None:
    log_in(tmp_path, key, "me", "se:cret")
    assert find_credentials(tmp_path / "config.json", registry) == ("me", "se:cret")
    assert find_credentials(tmp_path / "config.json", "other.io") is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"auths": {"a.io": {}}}', '{"auths": 5}'])
def test_a_docker_config_without_credentials_is_no_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert find_credentials(tmp_path / "config.json", "a.io") is None
