"""Certificates for tests, made with the openssl command."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import unavailable


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files of one authority, of a server named localhost, 127.0.0.1, and of a client."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(directory: Path, name: str = "tests") -> Certificates:
    """A new authority; all is valid for a day."""
    if shutil.which("openssl") is None:
        unavailable("the openssl command is not installed")
    root = directory / name
    root.mkdir(parents=True)
    authority, authority_key = root / "ca.pem", root / "ca.key"
    _openssl(
        *("req", "-x509", "-subj", f"/CN={name} authority", "-days", "1"),
        *("-addext", "keyUsage=critical,keyCertSign"),
        *_new_key(authority_key, authority),
    )
    for owner, names in (("server", "DNS:localhost,IP:127.0.0.1"), ("client", "DNS:client")):
        _openssl(
            *("req", "-x509", "-subj", f"/CN={owner}", "-days", "1", "-CA", str(authority)),
            *("-CAkey", str(authority_key), "-addext", f"subjectAltName={names}"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *_new_key(root / f"{owner}.key", root / f"{owner}.pem"),
        )
    return Certificates(
        authority,
        root / "server.pem",
        root / "server.key",
        root / "client.pem",
        root / "client.key",
    )


def _new_key(key: Path, certificate: Path) -> list[str]:
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    return [*curve, "-keyout", str(key), "-out", str(certificate)]


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def server_context(files: Certificates) -> ssl.SSLContext:
    """For a scripted server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    return context
