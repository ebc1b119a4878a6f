"""Jobs as rows: what was asked for, how far it came, and what was delivered.

Decides: the states of a job, which may follow which. All SQL that changes jobs is here; what only
reads them is in `storage.looks`, the queue's order in `storage.order`. Refuses to know: Discord,
the generator's process, files. Every verb is one statement in autocommit, so it is atomic without a
lock, however many coroutines share the connection; a transition names the old state in its WHERE,
and a row that was not there is a WrongState.

What is promised to somebody is on the disk when its verb returns; what recovery makes again
(`redo`) does not wait for it (see `storage.schema`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from generator.protocol import ErrorKind, Variant
from storage.connections import Connections
from storage.job import (
    Delivery,
    DuplicateJob,
    Job,
    JobState,
    NewJob,
    UnknownJob,
    WrongState,
    new_job_id,
)
from storage.looks import OVER, JobLooks, utc_now
from storage.order import NEAR, NEXT, NEXT_SHORT, Short
from storage.reading import read_jobs
from storage.schema import StorageError

__all__ = [
    "Delivery",
    "DuplicateJob",
    "Job",
    "JobState",
    "JobStore",
    "NewJob",
    "Short",
    "StorageError",
    "UnknownJob",
    "WrongState",
    "new_job_id",
    "read_jobs",
    "utc_now",
]

PROGRESS = 0.01
"""What part of its work a job must get further by, for its attempts to be counted anew."""

_BACK_TO_QUEUE = (
    "ended_ms = CASE cancel_requested WHEN 1 THEN :now END,"
    " state = CASE cancel_requested WHEN 1 THEN 'cancelled' ELSE 'queued' END"
)


class JobStore(JobLooks):
    """The one writer of the jobs table. Opened with `open()`; `close()` or `async with` ends it.

    Every verb may raise StorageError (a full disk, a locked file); then nothing was changed.
    """

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

    async def request_cancel(self, job_id: str, *, notice: bool = False) -> Job:
        """A queued job is cancelled at once; a running one is marked for the dispatcher to stop.

        With `notice` its owner is to be told. Asking twice is no error. WrongState for a job that
        already ended.
        """
        return await self._change(
            job_id,
            "cancelled",
            "cancel_requested = 1, notice_due = max(notice_due, :notice),"
            " ended_ms = CASE state WHEN 'queued' THEN :now ELSE ended_ms END,"
            " state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END",
            "state IN ('queued', 'running')",
            notice=notice,
            now=self._now_ms(),
        )

    async def request_finish(self, job_id: str) -> Job:
        """The video shall be of the sections that are finished; the dispatcher sees to it.

        Asking twice is no error. WrongState without a finished section, or when it is to stop.
        """
        return await self._change(
            job_id,
            "cut short",
            "finish_requested = 1",
            "state IN ('queued', 'running') AND cancel_requested = 0 AND sections_made > 0",
        )

    # Generating

    async def claim_next(
        self, loaded: Variant | None = None, slack: timedelta = timedelta()
    ) -> Job | None:
        """The next queued job, running from now on; None when nothing waits or jobs are paused.

        One for the variant that is `loaded` goes before others whose users were served less, as
        long as by no more than `slack`, and were served at all.
        """
        values = {"loaded": loaded, "slack": round(slack.total_seconds() * 1000)}
        return await self._claim(NEXT if loaded is None else NEAR, values)

    async def claim_short(self, short: Short) -> Job | None:
        """As `claim_next`, the next of the short jobs only."""
        return await self._claim(NEXT_SHORT, short.values())

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

    async def note_sections(self, job_id: str, made: int, sections: int) -> Job:
        """So many sections of the running job are finished, and kept in its folder."""
        return await self._change(
            job_id,
            "made",
            "sections_made = :made, sections = :sections",
            "state = 'running'",
            redo=True,
            made=made,
            sections=sections,
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

    async def lost(self, job_id: str, furthest: float, kind: ErrorKind = ErrorKind.INTERNAL) -> Job:
        """running → queued: this went wrong. Who got further has all attempts again."""
        return await self._change(
            job_id,
            "tried again",
            f"{_BACK_TO_QUEUE}, error_kind = :kind,"
            f" attempts = CASE WHEN :furthest >= furthest + {PROGRESS} THEN 0 ELSE attempts END,"
            " furthest = max(furthest, :furthest)",
            "state = 'running'",
            redo=True,
            kind=kind.value,
            furthest=furthest,
            now=self._now_ms(),
        )

    async def put_back(self, job_id: str, furthest: float = 0.0) -> Job:
        """running → queued: there was no generator for it, or no more. That was no attempt."""
        return await self._change(
            job_id,
            "put back",
            f"{_BACK_TO_QUEUE}, attempts = max(0, attempts - 1),"
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

    async def finish(
        self, job_id: str, video: str, made: int = 0, sections: int = 0, given_up: str = ""
    ) -> Job:
        """running → finished: the video of so many sections is there, its delivery is pending.

        `given_up` says in words what it lacks for want of memory.
        """
        return await self._change(
            job_id,
            "finished",
            "state = 'finished', delivery = 'pending', video = :video, ended_ms = :now,"
            " error_kind = NULL,"
            " sections_made = :made, sections = :sections, given_up = :given_up",
            "state = 'running'",
            video=video,
            made=made,
            sections=sections,
            given_up=given_up,
            now=self._now_ms(),
        )

    async def fail(self, job_id: str, kind: ErrorKind, message: str) -> Job:
        """running or queued → failed, for the reason that its owner is to be told."""
        return await self._change(
            job_id,
            "failed",
            "state = 'failed', error_kind = :kind, error = :message, ended_ms = :now,"
            " notice_due = 1",
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
            job_id,
            "shown",
            "status_message_id = :message, status_deleted = 0",
            "TRUE",
            message=message_id,
        )

    async def forget_status_message(self, job_id: str) -> Job:
        """The status message is gone from Discord, and no other is to take its place."""
        assignments = "status_message_id = NULL, status_deleted = 1"
        return await self._change(job_id, "shown", assignments, "TRUE")

    async def noticed(self, job_id: str) -> Job:
        """Its owner has been told that there is no video, or can not be."""
        return await self._change(job_id, "noticed", "notice_due = 0", "TRUE")

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

    async def deliver_again(self, job_id: str) -> Job:
        """undeliverable → pending. Its attempts are counted anew, from one on: the first may have
        posted the video, so the next looks for it."""
        return await self._change(
            job_id,
            "delivered again",
            "delivery = 'pending', error = NULL, delivery_attempts = 1",
            "delivery = 'undeliverable'",
        )

    async def forget_ended(self, before: datetime) -> int:
        """Remove the rows of what was over before this time; returns how many."""
        jobs = await self._rows(
            f"DELETE FROM jobs WHERE {OVER} AND ended_ms < :before RETURNING *",
            before=round(before.timestamp() * 1000),
        )
        return len(jobs)

    # The one way to the file

    async def _claim(self, which: str, values: dict[str, Any]) -> Job | None:
        jobs = await self._rows(
            "UPDATE jobs SET state = 'running', started_ms = ifnull(started_ms, :now),"
            f" attempts = attempts + 1 WHERE number = ({which})"
            " AND state = 'queued' RETURNING *",
            redo=True,
            now=self._now_ms(),
            **values,
        )
        return jobs[0] if jobs else None

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
