"""Jobs as rows: what was asked for, how far it came, and what was delivered.

Decides: the states of a job, which may follow which, and the queue's order. All SQL about jobs is
here. Refuses to know: Discord, the generator's process, files. Every verb is one statement in
autocommit, so it is atomic without a lock, however many coroutines share the connection; a
transition names the old state in its WHERE, and a row that was not there is a WrongState.

What is promised to somebody is on the disk when its verb returns; what recovery makes again
(`redo`) does not wait for it (see `storage.schema`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from generator.protocol import ErrorKind, Variant
from storage.connections import Connections
from storage.job import Delivery, Job, JobState, NewJob, job_from_row, new_job_id
from storage.order import NEAR, NEXT, ORDER
from storage.reading import read_jobs
from storage.schema import StorageError

__all__ = [
    "Delivery",
    "DuplicateJob",
    "Job",
    "JobState",
    "JobStore",
    "NewJob",
    "StorageError",
    "UnknownJob",
    "WrongState",
    "new_job_id",
    "read_jobs",
    "utc_now",
]

SPEED_SAMPLE = 10
"""How many finished jobs the measured speed is taken from."""
DECODED_AT_ONCE = 100
"""More rows than this become jobs in another thread: a thousand take 25 ms."""
PROGRESS = 0.01
"""What part of its work a job must get further by, for its attempts to be counted anew."""

_OVER = "state IN ('finished', 'failed', 'cancelled') AND delivery <> 'pending'"
_BACK_TO_QUEUE = (
    "ended_ms = CASE cancel_requested WHEN 1 THEN :now END,"
    " state = CASE cancel_requested WHEN 1 THEN 'cancelled' ELSE 'queued' END"
)


class DuplicateJob(StorageError):
    """This interaction's job is already a row: Discord delivered the interaction twice."""


class UnknownJob(StorageError):
    """There is no row of this id."""


class WrongState(StorageError):
    """The job is not in a state from which this may be done. `job` is what it is now."""

    def __init__(self, sentence: str, job: Job) -> None:
        super().__init__(sentence)
        self.job = job


def utc_now() -> datetime:
    """The time, aware and UTC."""
    return datetime.now(UTC)


class JobStore:
    """The one writer of the jobs table. Opened with `open()`; `close()` or `async with` ends it.

    Every verb may raise StorageError (a full disk, a locked file); then nothing was changed.
    """

    def __init__(
        self, connections: Connections, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._connections = connections
        self._clock = clock

    @classmethod
    async def open(cls, path: Path, *, clock: Callable[[], datetime] = utc_now) -> JobStore:
        """The store of this file, which is made or migrated where needed. Raises StorageError."""
        return cls(await Connections.open(path), clock=clock)

    async def close(self) -> None:
        """Let go of the file. May be called twice."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # Asking

    async def enqueue(self, new: NewJob) -> Job:
        """A queued job at the queue's end. DuplicateJob if (interaction_id, ordinal) is a row."""
        values = msgspec.structs.asdict(new) | {
            "request": msgspec.json.encode(new.request).decode(),
            "created_ms": self._now_ms(),
        }
        jobs = await self._rows(
            f"INSERT INTO jobs ({', '.join(values)}, share_ms) VALUES (:{', :'.join(values)},"
            " (SELECT total(weighted_ms) FROM served WHERE user_id = :user_id))"
            " ON CONFLICT (interaction_id, ordinal) DO NOTHING RETURNING *",
            **values,
        )
        if not jobs:
            raise DuplicateJob(
                f"interaction {new.interaction_id} already has its job number {new.ordinal}"
            )
        return jobs[0]

    async def get(self, job_id: str) -> Job | None:
        """The job as it is now."""
        jobs = await self._rows("SELECT * FROM jobs WHERE id = :id", id=job_id)
        return jobs[0] if jobs else None

    async def request_cancel(self, job_id: str) -> Job:
        """A queued job is cancelled at once; a running one is marked for the dispatcher to stop.

        Asking twice is no error. WrongState for a job that already ended.
        """
        return await self._change(
            job_id,
            "cancelled",
            "cancel_requested = 1,"
            " ended_ms = CASE state WHEN 'queued' THEN :now ELSE ended_ms END,"
            " state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END",
            "state IN ('queued', 'running')",
            now=self._now_ms(),
        )

    # Generating

    async def claim_next(
        self, loaded: Variant | None = None, slack: timedelta = timedelta()
    ) -> Job | None:
        """The next queued job, running from now on; None when nothing waits or jobs are paused.

        One for the variant that is `loaded` goes before others whose users were served less, as
        long as by no more than `slack`, and were served at all.
        """
        jobs = await self._rows(
            "UPDATE jobs SET state = 'running', started_ms = ifnull(started_ms, :now),"
            f" attempts = attempts + 1 WHERE number = ({NEXT if loaded is None else NEAR})"
            " AND state = 'queued' RETURNING *",
            redo=True,
            now=self._now_ms(),
            loaded=loaded,
            slack=round(slack.total_seconds() * 1000),
        )
        return jobs[0] if jobs else None

    async def next_in_line(self) -> Job | None:
        """The queued job with the most right to the GPU; None when jobs are paused."""
        jobs = await self._rows(f"SELECT * FROM jobs WHERE number = ({NEXT})")
        return jobs[0] if jobs else None

    async def charge(self, job_id: str, worked_s: float) -> None:
        """Write down that the GPU worked so long for this job, and for its user."""
        await self._execute(
            "INSERT INTO served (job_id, user_id, at_ms, ms, weighted_ms)"
            " SELECT id, user_id, :now, :ms, round(:ms / weight) FROM jobs WHERE id = :id",
            {"id": job_id, "ms": round(worked_s * 1000), "now": self._now_ms()},
            redo=True,
        )

    async def forget_served(self, window: timedelta) -> None:
        """What was served before this time counts no more, nor what a wrong clock put ahead."""
        now_ms, window_ms = self._now_ms(), round(window.total_seconds() * 1000)
        await self._execute(
            "DELETE FROM served WHERE at_ms < :begin OR at_ms > :end",
            {"begin": now_ms - window_ms, "end": now_ms + window_ms},
            redo=True,
        )

    async def suspended(self, job_id: str, furthest: float) -> Job:
        """running → queued: its turn is over. What had been asked to stop is cancelled instead."""
        return await self._change(
            job_id,
            "suspended",
            f"{_BACK_TO_QUEUE}, turns = turns + 1, attempts = 0,"
            " furthest = max(furthest, :furthest)",
            "state = 'running'",
            redo=True,
            furthest=furthest,
            now=self._now_ms(),
        )

    async def lost(self, job_id: str, furthest: float) -> Job:
        """running → queued: the generator broke. Who got further has all attempts again."""
        return await self._change(
            job_id,
            "tried again",
            f"{_BACK_TO_QUEUE},"
            f" attempts = CASE WHEN :furthest >= furthest + {PROGRESS} THEN 0 ELSE attempts END,"
            " furthest = max(furthest, :furthest)",
            "state = 'running'",
            redo=True,
            furthest=furthest,
            now=self._now_ms(),
        )

    async def requeue_running(self) -> list[Job]:
        """At start: what was running when the bot ended goes back to its place in the queue.

        What had been asked to stop is cancelled instead. That the bot ended says nothing about the
        job, so it is no attempt. Returns every job that changed.
        """
        return await self._rows(
            f"UPDATE jobs SET {_BACK_TO_QUEUE}, attempts = max(0, attempts - 1)"
            " WHERE state = 'running' RETURNING *",
            now=self._now_ms(),
        )

    async def finish(self, job_id: str, video: str) -> Job:
        """running → finished: the video is whole, its delivery is pending."""
        return await self._change(
            job_id,
            "finished",
            "state = 'finished', delivery = 'pending', video = :video, ended_ms = :now",
            "state = 'running'",
            video=video,
            now=self._now_ms(),
        )

    async def fail(self, job_id: str, kind: ErrorKind, message: str) -> Job:
        """running or queued → failed, for the reason told to the asker."""
        return await self._change(
            job_id,
            "failed",
            "state = 'failed', error_kind = :kind, error = :message, ended_ms = :now",
            "state IN ('running', 'queued')",
            kind=kind.value,
            message=message,
            now=self._now_ms(),
        )

    async def cancelled(self, job_id: str) -> Job:
        """running → cancelled: the generator has stopped."""
        return await self._change(
            job_id,
            "cancelled",
            "state = 'cancelled', ended_ms = :now",
            "state = 'running'",
            now=self._now_ms(),
        )

    # Telling and delivering

    async def save_status_message(self, job_id: str, message_id: int) -> Job:
        """Remember the bot's own status message, in any state."""
        return await self._change(
            job_id, "shown", "status_message_id = :message", "TRUE", message=message_id
        )

    async def forget_status_message(self, job_id: str) -> Job:
        """The status message is gone from Discord."""
        return await self._change(job_id, "shown", "status_message_id = NULL", "TRUE")

    async def begin_delivery(self, job_id: str) -> Job:
        """Count a delivery attempt, before anything is posted."""
        return await self._change(
            job_id,
            "delivered",
            "delivery_attempts = delivery_attempts + 1",
            "delivery = 'pending'",
        )

    async def mark_delivered(self, job_id: str, message_id: int) -> Job:
        """pending → delivered: this message holds the video."""
        return await self._change(
            job_id,
            "delivered",
            "delivery = 'delivered', result_message_id = :message",
            "delivery = 'pending'",
            message=message_id,
        )

    async def mark_undeliverable(self, job_id: str, reason: str) -> Job:
        """pending → undeliverable: nobody can be shown the video; it stays in the job's folder."""
        return await self._change(
            job_id,
            "given up",
            "delivery = 'undeliverable', error = :reason",
            "delivery = 'pending'",
            reason=reason,
        )

    # Looking

    async def waiting(self) -> list[Job]:
        """The queue, next job first."""
        return await self._rows(f"SELECT * FROM jobs WHERE state = 'queued' ORDER BY {ORDER}")

    async def running(self) -> list[Job]:
        """What the generator works on, oldest first."""
        return await self._rows("SELECT * FROM jobs WHERE state = 'running' ORDER BY number")

    async def undelivered(self) -> list[Job]:
        """Finished jobs whose video nobody has yet, oldest first."""
        return await self._rows("SELECT * FROM jobs WHERE delivery = 'pending' ORDER BY number")

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
            f"SELECT * FROM jobs WHERE {_OVER} ORDER BY ended_ms, number",
        )

    async def forget_ended(self, before: datetime) -> int:
        """Remove the rows of what was over before this time; returns how many."""
        jobs = await self._rows(
            f"DELETE FROM jobs WHERE {_OVER} AND ended_ms < :before RETURNING *",
            before=round(before.timestamp() * 1000),
        )
        return len(jobs)

    async def speed(self) -> float | None:
        """GPU seconds per second of video, over the last finished jobs; None before the first."""
        jobs = await self._rows(
            "SELECT * FROM jobs WHERE state = 'finished' AND worked_ms > 0"
            " ORDER BY number DESC LIMIT :n",
            n=SPEED_SAMPLE,
        )
        work_s = sum(job.worked_ms for job in jobs) / 1000
        seconds = sum(job.request.seconds for job in jobs)
        return work_s / seconds if seconds else None

    # The one way to the file

    async def _change(
        self,
        job_id: str,
        outcome: str,
        assignments: str,
        guard: str,
        *,
        redo: bool = False,
        **values: Any,
    ) -> Job:
        """Change the row if `guard` holds; else say why not."""
        jobs = await self._rows(
            f"UPDATE jobs SET {assignments} WHERE id = :id AND {guard} RETURNING *",
            redo=redo,
            id=job_id,
            **values,
        )
        if jobs:
            return jobs[0]
        job = await self.get(job_id)
        if job is None:
            raise UnknownJob(f"there is no job {job_id}")
        stands = job.state if job.delivery is Delivery.NONE else f"{job.state} and {job.delivery}"
        raise WrongState(f"job {job_id} is {stands}; it can not be {outcome} any more", job)

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
