"""One job as storage hands it out: a frozen struct, how a row becomes one, what can not be done.

Decides: the states of generation and of delivery, the form of a job's id. Refuses to know: SQL, and
which state may follow which (`storage.jobs` does).
"""

from __future__ import annotations

import base64
import secrets
import sqlite3
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec

from generator.protocol import ErrorKind, JobRequest
from storage.schema import StorageError


class JobState(StrEnum):
    """Where a job's generation stands. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Delivery(StrEnum):
    """Where a finished video stands: generation done and delivered are different things."""

    NONE = "none"
    PENDING = "pending"
    DELIVERED = "delivered"
    UNDELIVERABLE = "undeliverable"


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a job when it is asked for. `ordinal` counts those of one interaction."""

    id: str
    interaction_id: int
    ordinal: int = 0
    guild_id: int | None
    channel_id: int
    user_id: int
    request: JobRequest
    input_note: str = ""
    spoiler: bool = False
    weight: float = 1.0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One row, as it was when it was read. Times are aware and UTC.

    `attempts` counts how often the generator was given the job, `delivery_attempts` how often a
    post was begun. `video` is a file name in the job's folder. `error` is a sentence for the asker;
    of an undeliverable video it is the reason. `error_kind` of a job that is not over is what ended
    its last attempt. A larger `priority`, which admins give, goes first, then the user of the
    smaller `share_ms` (GPU time served lately, divided by `weight`). `turns` and `worked_ms` count
    what is over; `furthest`, of 0 to 1, is how far the job is known to be. `sections_made` of
    `sections` (0: not known yet) are finished; with `finish_requested` the video is of these only.
    `status_deleted`: somebody deleted the status message. `notice_due`: its owner is still to be
    told if it ends without a video.
    """

    id: str
    interaction_id: int
    ordinal: int
    guild_id: int | None
    channel_id: int
    user_id: int
    request: JobRequest
    input_note: str
    state: JobState
    delivery: Delivery
    cancel_requested: bool
    status_message_id: int | None
    result_message_id: int | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    error_kind: ErrorKind | None
    error: str | None
    video: str | None
    attempts: int
    delivery_attempts: int
    spoiler: bool = False
    priority: int = 0
    weight: float = 1.0
    share_ms: int = 0
    turns: int = 0
    worked_ms: int = 0
    given_up: str = ""
    furthest: float = 0.0
    sections_made: int = 0
    sections: int = 0
    finish_requested: bool = False
    status_deleted: bool = False
    notice_due: bool = False

    @property
    def share_made(self) -> float:
        """Which part of the video a finished job has, of 0 to 1."""
        return self.sections_made / self.sections if self.sections else 1.0


class DuplicateJob(StorageError):
    """This interaction's job is already a row: Discord delivered the interaction twice."""


class UnknownJob(StorageError):
    """There is no row of this id."""


class WrongState(StorageError):
    """The job is not in a state from which this may be done. `job` is what it is now."""

    def __init__(self, sentence: str, job: Job) -> None:
        super().__init__(sentence)
        self.job = job


def new_job_id() -> str:
    """Ten characters of a–z and 2–7, random: safe in a URL, a file name and a button's id."""
    return base64.b32encode(secrets.token_bytes(7))[:10].decode("ascii").lower()


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def job_from_row(row: sqlite3.Row) -> Job:
    """The job that a row of the jobs table holds. StorageError if it is not one."""
    values: dict[str, Any] = dict(row)
    del values["number"], values["seconds"]  # the request says it too
    for name in ("created", "started", "ended"):
        ms = values.pop(f"{name}_ms")
        values[f"{name}_at"] = None if ms is None else _EPOCH + timedelta(milliseconds=ms)
    try:
        values["request"] = msgspec.json.decode(values["request"], type=JobRequest)
        for name in (
            "cancel_requested",
            "spoiler",
            "finish_requested",
            "status_deleted",
            "notice_due",
        ):
            values[name] = bool(values[name])
        return msgspec.convert(values, Job)
    except msgspec.MsgspecError as error:
        raise StorageError(f"job {values['id']} in the database can not be read: {error}") from None
