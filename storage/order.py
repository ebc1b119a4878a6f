"""The queue's order, as SQL: priority, then short jobs, then who was served less, then age.

Decides: which queued row is next, and what makes a job short. Refuses to know: what happens to it.
A statement that uses these looks at the first entries of the index `jobs_queue` only, however many
jobs wait.

A short job is one that needs no more than one turn, has had none, and whose owner was not served
more (by over a turn) than everybody else who waits or runs: so nobody lives on short jobs alone.
Among them goes first who will have been served least in the last hour when the job is done.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

ORDER = "priority DESC, share_ms, number"
_FIRST = (  # named, for SQLite would rather read all that wait, and sort them
    "SELECT {} FROM jobs INDEXED BY jobs_queue WHERE state = 'queued'"
    " AND NOT EXISTS (SELECT 1 FROM switches WHERE name = 'paused')"
    f" ORDER BY {ORDER} LIMIT {{}}"
)
NEXT = _FIRST.format("number", 1)
NEAR = (  # who was not served at all waits for nobody's model
    "WITH near AS MATERIALIZED (SELECT number, priority, share_ms, request FROM jobs"
    f" WHERE number IN ({_FIRST.format('number', 8)})),"
    f" head AS (SELECT priority, share_ms FROM near ORDER BY {ORDER} LIMIT 1)"
    " SELECT near.number FROM near, head WHERE near.priority = head.priority"
    " AND near.share_ms <= head.share_ms + iif(head.share_ms = 0, 0, :slack)"
    " ORDER BY json_extract(near.request, '$.variant') <> :loaded,"
    " near.share_ms, near.number LIMIT 1"
)
_COLUMNS = "number, priority, share_ms, seconds, turns, user_id"
_SHORT = (
    f"(WITH first AS MATERIALIZED ({_FIRST.format(_COLUMNS, 200)})"
    " SELECT number, seconds * :ms_per_second + (SELECT total(weighted_ms) FROM served"
    " WHERE served.user_id = first.user_id AND at_ms > :now - 3600000) AS after_ms"
    " FROM first WHERE turns = 0 AND seconds <= :short_seconds"
    " AND priority = (SELECT max(priority) FROM first)"
    " AND (share_ms <= :turn_ms OR EXISTS (SELECT 1 FROM jobs AS other"
    " WHERE other.state IN ('queued', 'running') AND other.user_id <> first.user_id"
    " AND other.share_ms >= first.share_ms - :turn_ms))) AS short"
)
NEXT_SHORT = f"SELECT number FROM {_SHORT} ORDER BY after_ms, number LIMIT 1"
FIRST_SHORT = (
    f"SELECT jobs.* FROM {_SHORT} JOIN jobs USING (number) ORDER BY after_ms, number LIMIT 30"
)


class Short(Struct, frozen=True, kw_only=True):
    """What counts as short: video of `seconds`, at this speed, where a turn is so long."""

    seconds: float
    speed: float
    turn_s: float

    def values(self) -> dict[str, Any]:
        """For NEXT_SHORT and FIRST_SHORT."""
        return {
            "short_seconds": self.seconds,
            "ms_per_second": 1000 * self.speed,
            "turn_ms": round(1000 * self.turn_s),
        }
