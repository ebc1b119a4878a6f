"""Jobs as rows: what was asked for, how far it came, and what was delivered.

Decides: the states of a job, which may follow which, and the queue's order. All SQL about jobs is
here. Refuses to know: Discord, the generator's process, files. Every verb is one statement in
autocommit, so it is atomic without a lock, however many coroutines share the connection; a
transition names the old state in its WHERE, and a row that was not there is a WrongState.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiosqlite
import msgspec

from generator.protocol import ErrorKind
from storage.job import Delivery, Job, JobState, NewJob, job_from_row, new_job_id
from storage.schema import (
    StorageError,
    checked_version,
    migrations,
    open_database,
    translated_errors,
)

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
        self,
        database: aiosqlite.Connection,
        path: Path,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._path = path
        self._clock = clock

    @classmethod
    async def open(cls, path: Path, *, clock: Callable[[], datetime] = utc_now) -> JobStore:
        """The store of this file, which is made or migrated where needed. Raises StorageError."""
        return cls(await open_database(path), path, clock=clock)

    async def close(self) -> None:
        """Let go of the file. May be called twice."""
        await self._database.close()

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
            f"INSERT INTO jobs ({', '.join(values)}) VALUES (:{', :'.join(values)})"
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

    async def claim_next(self) -> Job | None:
        """The next queued job, running from now on; None when nothing waits or jobs are paused."""
        jobs = await self._rows(
            "UPDATE jobs SET state = 'running', started_ms = :now, attempts = attempts + 1"
            " WHERE id = (SELECT id FROM jobs WHERE state = 'queued'"
            " AND NOT EXISTS (SELECT 1 FROM switches WHERE name = 'paused')"
            " ORDER BY priority DESC, number LIMIT 1)"
            " AND state = 'queued' RETURNING *",
            now=self._now_ms(),
        )
        return jobs[0] if jobs else None

    async def requeue_running(self) -> list[Job]:
        """At start: what was running when the bot ended goes back to its place in the queue.

        What had been asked to stop is cancelled instead. Returns every job that changed.
        """
        return await self._rows(
            "UPDATE jobs SET started_ms = CASE cancel_requested WHEN 1 THEN started_ms END,"
            " ended_ms = CASE cancel_requested WHEN 1 THEN :now END,"
            " state = CASE cancel_requested WHEN 1 THEN 'cancelled' ELSE 'queued' END"
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
        return await self._rows(
            "SELECT * FROM jobs WHERE state = 'queued' ORDER BY priority DESC, number"
        )

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

    async def speed(self) -> float | None:
        """Seconds of work per second of video, over the last finished jobs; None before the first.

        Jobs that were interrupted are left out: their time says nothing.
        """
        jobs = await self._rows(
            "SELECT * FROM jobs WHERE state = 'finished' AND attempts = 1 AND ended_ms > started_ms"
            " ORDER BY number DESC LIMIT :n",
            n=SPEED_SAMPLE,
        )
        work = sum((_work_time(job) for job in jobs), timedelta())
        seconds = sum(job.request.seconds for job in jobs)
        return work.total_seconds() / seconds if seconds else None

    # The one way to the file

    async def _change(
        self, job_id: str, outcome: str, assignments: str, guard: str, **values: Any
    ) -> Job:
        """Change the row if `guard` holds; else say why not."""
        jobs = await self._rows(
            f"UPDATE jobs SET {assignments} WHERE id = :id AND {guard} RETURNING *",
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

    async def _rows(self, sql: str, **values: Any) -> list[Job]:
        rows = await self._execute(sql, values)
        if "RETURNING" in sql:  # in no order of its own
            rows.sort(key=lambda row: row["number"])
        return [job_from_row(row) for row in rows]

    async def _execute(self, sql: str, values: dict[str, Any]) -> list[sqlite3.Row]:
        with translated_errors(self._path):
            return list(await self._database.execute_fetchall(sql, values))

    def _now_ms(self) -> int:
        return round(self._clock().timestamp() * 1000)


def read_jobs(path: Path) -> list[Job]:
    """Every job, oldest first, read without writing, also while a bot runs on the file.

    Raises StorageError where there is no database, or none of this version.
    """
    if not path.is_file():
        raise StorageError(f"there is no database at {path}; the bot makes it when it first runs")
    newest = len(migrations())
    with (
        translated_errors(path),
        closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database,
    ):
        version = checked_version(database, path, newest)
        if version < newest:
            raise StorageError(
                f"{path} is of an older framepack-bot (schema {version}, this one reads {newest}); "
                "start the bot once, it brings the file up to date"
            )
        database.row_factory = sqlite3.Row
        return [job_from_row(row) for row in database.execute("SELECT * FROM jobs ORDER BY number")]


def _work_time(job: Job) -> timedelta:
    if job.started_at is None or job.ended_at is None:
        return timedelta()
    return job.ended_at - job.started_at
