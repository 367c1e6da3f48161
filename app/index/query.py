"""What can be asked of the index, and the SQL that answers it.

Jobs come newest first. Where a page ends, the next one begins behind its last job: so a job that
comes meanwhile is on no later page, and none of the others is left out or told twice.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.index.rows import tag

DEFAULT_LIMIT = 50
MAX_LIMIT = 500

_CURSOR = re.compile(r"(-?[0-9]{1,18}):(.{1,200})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Which jobs; what is left empty admits all."""

    states: Sequence[str] = ()
    name: str = ""
    """Exact, or the beginning of names when it ends with `*`."""
    priorities: Sequence[str] = ()
    submitted_by: str | None = None
    """None: anybody; empty: those that were submitted without a key's name."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """All of these, with exactly these values."""
    queued_after: int | None = None
    """Queued then or later; microseconds since the epoch, like all times here."""
    queued_before: int | None = None
    """Queued earlier than that."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last job of a page."""

    queued: int
    id: str

    def encode(self) -> str:
        """As clients keep it."""
        return base64.urlsafe_b64encode(f"{self.queued}:{self.id}".encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises ValueError for what `encode` has not made."""
        try:
            plain = base64.b64decode(f"{text}{'=' * (-len(text) % 4)}", b"-_", validate=True)
            match = _CURSOR.fullmatch(plain.decode())
        except ValueError:
            match = None
        if match is None:
            raise ValueError("it is none that a list has given")
        return cls(int(match[1]), match[2])


Sql = tuple[str, list[object]]


def select(wanted: Filter, after: Cursor | None, limit: int) -> Sql:
    """Rows (queued, id, summary), at most `limit`, from the one behind `after` on."""
    branches = [_branch(wanted, state, after, limit) for state in _walked_states(wanted)]
    found = " UNION ALL ".join(f"SELECT * FROM ({sql})" for sql, _ in branches)
    values = [value for _, branch in branches for value in branch]
    order = f"ORDER BY queued DESC, id DESC LIMIT {int(limit)}"
    sql = f"SELECT queued, id, summary FROM ({found} {order}) JOIN jobs USING (queued, id) {order}"
    return sql, values


def _walked_states(wanted: Filter) -> Sequence[str | None]:
    """The states to be walked one by one; [None]: another index leads to the jobs."""
    elsewhere = wanted.metadata or _is_exact(wanted.name)
    return list(dict.fromkeys(wanted.states)) if wanted.states and not elsewhere else [None]


def _branch(wanted: Filter, state: str | None, after: Cursor | None, limit: int) -> Sql:
    """Rows (queued, id), walked in their order along the index that admits the fewest."""
    source, conditions = _source(wanted, state)
    walked = "metadata" if wanted.metadata else "jobs"
    if state is None and wanted.states:
        conditions.append(_one_of("jobs.state", wanted.states))
    if wanted.priorities:
        conditions.append(_one_of("jobs.priority", wanted.priorities))
    if wanted.submitted_by is not None:
        conditions.append(("jobs.submitted_by = ?", [wanted.submitted_by]))
    conditions += _window(wanted, after, walked)
    where = " AND ".join(sql for sql, _ in conditions) or "1"
    values = [value for _, condition in conditions for value in condition]
    order = f"ORDER BY {walked}.queued DESC, {walked}.id DESC LIMIT {int(limit)}"
    columns = f"{walked}.queued AS queued, {walked}.id AS id"
    return f"SELECT {columns} FROM {source} WHERE {where} {order}", values


def _source(wanted: Filter, state: str | None) -> tuple[str, list[Sql]]:
    conditions = [_named(wanted.name)] if wanted.name else []
    if wanted.metadata:
        first, *others = (tag(key, value) for key, value in wanted.metadata.items())
        conditions.append(("metadata.tag = ?", [first]))
        conditions += [_tagged(other) for other in others]
        return "metadata CROSS JOIN jobs ON jobs.id = metadata.id", conditions
    if state is not None:
        return "jobs INDEXED BY by_state", [*conditions, ("jobs.state = ?", [state])]
    index = "by_name" if _is_exact(wanted.name) else "by_time"
    return f"jobs INDEXED BY {index}", conditions


def _is_exact(name: str) -> bool:
    return bool(name) and not name.endswith("*")


def _named(name: str) -> Sql:
    if _is_exact(name):
        return "jobs.name = ?", [name]
    beginning = name[:-1]
    return f"substr(jobs.name, 1, {len(beginning)}) = ?", [beginning]


def _tagged(other: bytes) -> Sql:
    found = "SELECT 1 FROM metadata AS m WHERE m.tag = ? AND m.queued = jobs.queued AND m.id = "
    return f"EXISTS ({found} jobs.id)", [other]


def _one_of(column: str, values: Sequence[str]) -> Sql:
    return f"{column} IN ({', '.join('?' * len(values))})", list(values)


def _window(wanted: Filter, after: Cursor | None, table: str) -> list[Sql]:
    conditions: list[Sql] = []
    if after is not None:
        conditions.append((f"({table}.queued, {table}.id) < (?, ?)", [after.queued, after.id]))
    if wanted.queued_after is not None:
        conditions.append((f"{table}.queued >= ?", [wanted.queued_after]))
    if wanted.queued_before is not None:
        conditions.append((f"{table}.queued < ?", [wanted.queued_before]))
    return conditions
