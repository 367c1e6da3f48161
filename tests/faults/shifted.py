"""The house's programs with a wall clock that a test can set: to be imported before all of them.

It goes by the seconds in the file CLOCK_OFFSET. What only counts seconds goes on as it does.
"""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask

_FILE = Path(os.environ["CLOCK_OFFSET"])
_time, _gmtime, _localtime, _Datetime = time.time, time.gmtime, time.localtime, datetime.datetime


def shifted() -> float:
    return _time() + float(_FILE.read_text())


class Datetime(_Datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls.fromtimestamp(shifted(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return cls.now(datetime.UTC).replace(tzinfo=None)


time.time = shifted
time.time_ns = lambda: int(shifted() * 1e9)
time.gmtime = lambda seconds=None: _gmtime(shifted() if seconds is None else seconds)
time.localtime = lambda seconds=None: _localtime(shifted() if seconds is None else seconds)
datetime.datetime = Datetime  # type: ignore[misc]


def setup() -> None:
    """For dramatiq."""
    from workers import main

    main.setup()


def api() -> Flask:
    """For gunicorn."""
    from app import factory

    return factory.api()


def logs() -> Flask:
    """For gunicorn."""
    from app import factory

    return factory.logs()
