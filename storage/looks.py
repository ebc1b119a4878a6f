"""What can be asked of the jobs without changing any.

Decides: the SQL that only reads. Refuses to know: how a row comes to be what it is, which
`storage.jobs` does.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from storage.connections import Connections
from storage.job import Job, JobState, job_from_row
from storage.order import FIRST_SHORT, NEXT, ORDER, Short

SPEED_SAMPLE = 10
"""How many finished jobs the measured speed is taken from."""
DECODED_AT_ONCE = 100
"""More rows than this become jobs in another thread: a thousand take 25 ms."""
OVER = "state IN ('finished', 'failed', 'cancelled') AND delivery <> 'pending'"
"""Of a job about which nothing will change any more, as SQL."""


def utc_now() -> datetime:
    """The time, aware and UTC."""
    return datetime.now(UTC)


class JobLooks:
    """The reading half of `JobStore`. Every verb may raise StorageError."""

    def __init__(
        self, connections: Connections, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._connections = connections
        self._clock = clock

    async def get(self, job_id: str) -> Job | None:
        """The job as it is now."""
        jobs = await self._rows("SELECT * FROM jobs WHERE id = :id", id=job_id)
        return jobs[0] if jobs else None

    async def short_waiting(self, short: Short) -> list[Job]:
        """The first thirty short jobs that wait, next first; none when jobs are paused."""
        return await self._rows(FIRST_SHORT, now=self._now_ms(), **short.values())

    async def next_in_line(self) -> Job | None:
        """The queued job with the most right to the GPU; None when jobs are paused."""
        jobs = await self._rows(f"SELECT * FROM jobs WHERE number = ({NEXT})")
        return jobs[0] if jobs else None

    async def waiting(self) -> list[Job]:
        """The queue, next job first."""
        return await self._rows(f"SELECT * FROM jobs WHERE state = 'queued' ORDER BY {ORDER}")

    async def running(self) -> list[Job]:
        """What the generator works on, oldest first."""
        return await self._rows("SELECT * FROM jobs WHERE state = 'running' ORDER BY number")

    async def undelivered(self) -> list[Job]:
        """Finished jobs whose video nobody has yet, oldest first."""
        return await self._rows("SELECT * FROM jobs WHERE delivery = 'pending' ORDER BY number")

    async def to_notice(self) -> list[Job]:
        """Jobs that ended without a video and whose owner is still to be told, oldest first."""
        return await self._rows(
            "SELECT * FROM jobs WHERE notice_due = 1 AND state IN ('failed', 'cancelled')"
            " ORDER BY number"
        )

    async def unfinished_of(self, user_id: int) -> list[Job]:
        """What a user has waiting or running, in queue order."""
        return await self._rows(
            "SELECT * FROM jobs WHERE user_id = :user AND state IN ('queued', 'running')"
            " ORDER BY number",
            user=user_id,
        )

    async def recent(self, limit: int) -> list[Job]:
        """The newest jobs of any state, newest first."""
        return await self._rows("SELECT * FROM jobs ORDER BY number DESC LIMIT :n", n=limit)

    async def known_ids(self) -> set[str]:
        """Every id that has a row: a job folder of another name is nobody's."""
        return {row["id"] for row in await self._execute("SELECT id FROM jobs", {})}

    async def ended(self) -> list[Job]:
        """Jobs about which nothing will change any more, the first that ended first."""
        return await self._rows(
            f"SELECT * FROM jobs WHERE {OVER} ORDER BY ended_ms, number",
        )

    async def speed(self) -> float | None:
        """GPU seconds per second of video, over the last finished jobs; None before any was served.

        Before the first has finished, over those that were served last.
        """
        jobs = await self._rows(
            "SELECT * FROM jobs WHERE state = 'finished' AND worked_ms > 0"
            " ORDER BY number DESC LIMIT :n",
            n=SPEED_SAMPLE,
        ) or await self._rows(
            "SELECT * FROM jobs WHERE worked_ms > 0 AND furthest > 0 AND id IN"
            " (SELECT job_id FROM served ORDER BY number DESC LIMIT :n)",
            n=SPEED_SAMPLE,
        )
        work_s = sum(job.worked_ms for job in jobs) / 1000
        is_over = JobState.FINISHED
        done = [job.share_made if job.state is is_over else job.furthest for job in jobs]
        made_s = sum(job.request.seconds * part for job, part in zip(jobs, done, strict=True))
        return work_s / made_s if made_s else None

    async def _rows(self, sql: str, *, redo: bool = False, **values: Any) -> list[Job]:
        rows = await self._execute(sql, values, redo=redo)
        if "RETURNING" in sql:  # in no order of its own
            rows.sort(key=lambda row: row["number"])
        if len(rows) > DECODED_AT_ONCE:
            return await asyncio.to_thread(_jobs_of, rows)
        return _jobs_of(rows)

    async def _execute(
        self, sql: str, values: dict[str, Any], *, redo: bool = False
    ) -> list[sqlite3.Row]:
        return await self._connections.execute(sql, values, redo=redo)

    def _now_ms(self) -> int:
        return round(self._clock().timestamp() * 1000)


def _jobs_of(rows: Sequence[sqlite3.Row]) -> list[Job]:
    return [job_from_row(row) for row in rows]
