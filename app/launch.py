"""Where the installed `hades` command enters.

The house's four packages are imported by their bare names, but are installed under one private
root (docs/decisions/0001): this module puts that root first, in a wheel and in a checkout alike.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The directory that holds `app`, `brokers`, `executors` and `workers`."""


def main() -> None:
    """Ends the process with the command's exit code."""
    sys.path.insert(0, str(ROOT))
    from app.cli import main as command

    command()


if __name__ == "__main__":
    main()
