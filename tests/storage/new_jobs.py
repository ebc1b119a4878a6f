"""Jobs for a store and a clock that a test turns: what the storage's tests share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from generator.protocol import ErrorKind, job_request
from storage.jobs import Job, JobState, JobStore, NewJob

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def new(name: str, *, user_id: int = 7, seconds: float = 5.0, ordinal: int = 0) -> NewJob:
    """A job whose interaction follows from its name."""
    return NewJob(
        id=name,
        interaction_id=int.from_bytes(name.encode()[:7], "big"),
        ordinal=ordinal,
        guild_id=None,
        channel_id=2**63 - 1,
        user_id=user_id,
        request=job_request(prompt=f"{name} turns", seed=2**53 - 1, seconds=seconds),
    )


async def into(store: JobStore, state: JobState, name: str = "j") -> Job:
    """A job that has come to this state by the store's own verbs."""
    await store.enqueue(new(name))
    if state is JobState.QUEUED:
        job = await store.get(name)
        assert job is not None
        return job
    if state is JobState.FAILED:
        return await store.fail(name, ErrorKind.INPUT, "no")
    if state is JobState.CANCELLED:
        return await store.request_cancel(name)
    claimed = await store.claim_next()
    assert claimed is not None
    if state is JobState.FINISHED:
        return await store.finish(name, "v.mp4")
    return claimed
