"""Asks a registry for an image: the distribution protocol's few read requests, over httpx.

    with Registry(reference, docker_config) as registry:
        bundle = registry.bundle()      manifest and config; layers are read when they are opened

Nothing is tried twice: an attempt of the job is the retry. A registry on this machine's loopback is
spoken to without TLS, every other one with it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from executors.sandbox.blobs import Blob, Bundle, ImageInvalid, Readable, checked
from executors.sandbox.credentials import find_credentials
from executors.sandbox.manifests import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_JSON,
    choose,
    is_index,
    parse_json,
    parse_manifest,
)
from executors.sandbox.references import DEFAULT_REGISTRY, Reference

CONNECT_TIMEOUT = 5.0
"""Seconds; a machine without Internet should learn it soon."""
SILENCE_TIMEOUT = 60.0
"""Seconds without a byte."""
MAX_REDIRECTS = 5

_HUB_HOST = "registry-1.docker.io"
_HEADERS = {
    "Accept": ", ".join((*MANIFEST_TYPES, *INDEX_TYPES, "*/*")),
    "Accept-Encoding": "identity",
}


class Registry:
    """One image's repository, for one thread. Every method raises ImageInvalid."""

    def __init__(self, reference: Reference, docker_config: Path) -> None:
        self._reference = reference
        host = _HUB_HOST if reference.registry == DEFAULT_REGISTRY else reference.registry
        scheme = "http" if reference.loopback else "https"
        self._credentials = find_credentials(docker_config, reference.registry)
        self._authorization: dict[str, str] = {}
        self._client = httpx.Client(
            base_url=f"{scheme}://{host}/v2/{reference.repository}/",
            timeout=httpx.Timeout(SILENCE_TIMEOUT, connect=CONNECT_TIMEOUT),
            trust_env=not reference.loopback,
        )

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def bundle(self) -> Bundle:
        """The image for this machine's platform."""
        document = self._manifest(self._reference.digest or self._reference.tag)
        if is_index(document):
            document = self._manifest(choose(document))
        manifest = parse_manifest(document)
        return Bundle(
            references=(str(self._reference),),
            config=self._read(f"blobs/{manifest.config}", manifest.config),
            layers=tuple(
                Blob(open=partial(self._open, f"blobs/{digest}"), digest=digest)
                for digest in manifest.layers
            ),
        )

    def _manifest(self, name: str) -> dict[str, Any]:
        digest = name if ":" in name else None
        return parse_json(self._read(f"manifests/{name}", digest), "manifest")

    def _read(self, path: str, digest: str | None) -> bytes:
        with self._open(path) as body:
            return checked(_read_all(body, MAX_JSON), MAX_JSON, digest, path)

    @contextmanager
    def _open(self, path: str) -> Iterator[Readable]:
        try:
            with closing(self._get_with_access(path)) as response:
                if response.status_code != httpx.codes.OK:
                    raise ImageInvalid(_refusal(response))
                yield _Body(response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            host = self._client.base_url.host
            raise ImageInvalid(f"{host} can't be read: {error or type(error).__name__}") from error

    def _get_with_access(self, path: str) -> httpx.Response:
        """Its response; asked a second time when the registry first wants to know who asks."""
        response = self._get(path, self._authorization)
        challenge = response.headers.get("WWW-Authenticate", "")
        ours = response.url.host == self._client.base_url.host
        if response.status_code != httpx.codes.UNAUTHORIZED or not ours:
            return response
        response.close()
        self._authorization = self._answer(challenge)
        return self._get(path, self._authorization)

    def _get(self, path: str, headers: Mapping[str, str]) -> httpx.Response:
        """Follows redirects itself: httpx would read their bodies, of whatever length, into memory.

        `next_request` carries no Authorization to another host.
        """
        request = self._client.build_request("GET", path, headers={**_HEADERS, **headers})
        for _ in range(MAX_REDIRECTS):
            response = self._client.send(request, stream=True)
            if response.next_request is None:
                return response
            response.close()
            request = response.next_request
        raise ImageInvalid("its registry redirects too often")

    def _answer(self, challenge: str) -> dict[str, str]:
        """The Authorization that a `WWW-Authenticate` asks for; empty: none that we have."""
        scheme, _, rest = challenge.partition(" ")
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if scheme.lower() == "bearer" and "realm" in fields:
            return {"Authorization": f"Bearer {self._token(fields)}"}
        return self._basic() if scheme.lower() == "basic" else {}

    def _basic(self) -> dict[str, str]:
        if self._credentials is None:
            return {}
        encoded = base64.b64encode(":".join(self._credentials).encode()).decode()
        return {"Authorization": f"Basic {encoded}"}

    def _token(self, fields: Mapping[str, str]) -> str:
        """From the service that the registry names; a password goes there only over TLS."""
        realm = httpx.URL(fields["realm"])
        safe = realm.scheme == "https" or self._reference.loopback
        asked = {name: fields[name] for name in ("service", "scope") if name in fields}
        url = str(realm.copy_merge_params(asked))
        with closing(self._get(url, self._basic() if safe else {})) as response:
            if response.status_code != httpx.codes.OK:
                raise ImageInvalid(_refusal(response))
            answer = parse_json(_read_all(_Body(response), MAX_JSON), "token")
        return str(answer.get("token") or answer.get("access_token") or "")


def _refusal(response: httpx.Response) -> str:
    """Why there is no image, in the registry's own words if they are short and readable."""
    status = f"{response.url.host} answered {response.status_code}"
    try:
        errors = parse_json(_read_all(_Body(response), MAX_JSON), "answer")["errors"]
        return f"{status}: {str(errors[0]['message'])[:200]}"
    except (ImageInvalid, LookupError, TypeError):
        return status


def _read_all(body: Readable, limit: int) -> bytes:
    """Up to one byte more than the limit."""
    data = b""
    while len(data) <= limit and (more := body.read(limit + 1 - len(data))):
        data += more
    return data


class _Body:
    """A response's bytes, undecoded: their digest is of what was sent."""

    def __init__(self, response: httpx.Response) -> None:
        self._chunks = response.iter_raw()
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        """Of one chunk at a time."""
        if not self._rest:
            self._rest = next(self._chunks, b"")
        cut = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:cut], self._rest[cut:]
        return data
