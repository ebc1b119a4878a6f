"""A job enters the queue whole and once, with an id and a time, and is claimed once, in order."""

from __future__ import annotations

import asyncio
import string
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from new_jobs import NOON, Clock, new

from generator.protocol import JobRequest, StepCacheKind, Variant
from storage.jobs import (
    Delivery,
    DuplicateJob,
    Job,
    JobState,
    JobStore,
    NewJob,
    StorageError,
    new_job_id,
    utc_now,
)


async def test_what_is_enqueued_comes_back_whole(store: JobStore, clock: Clock) -> None:
    request = JobRequest(
        prompt="“naïve” 猫 🐈\x00\n%s'; DROP TABLE jobs;--",
        seed=2**53 - 1,
        variant=Variant.F1,
        references=("a.png", "b.png"),
        step_cache=StepCacheKind.TEACACHE,
        motion_bias=3.5,
    )
    asked = NewJob(
        id=new_job_id(),
        interaction_id=2**63 - 1,
        ordinal=3,
        guild_id=12,
        channel_id=34,
        user_id=56,
        request=request,
        input_note="first frame of an animation",
    )
    job = await store.enqueue(asked)
    assert job == await store.get(asked.id)
    assert job == Job(
        id=asked.id,
        interaction_id=2**63 - 1,
        ordinal=3,
        guild_id=12,
        channel_id=34,
        user_id=56,
        request=request,
        input_note="first frame of an animation",
        state=JobState.QUEUED,
        delivery=Delivery.NONE,
        cancel_requested=False,
        status_message_id=None,
        result_message_id=None,
        created_at=NOON,
        started_at=None,
        ended_at=None,
        error_kind=None,
        error=None,
        video=None,
        attempts=0,
        delivery_attempts=0,
    )


def test_ids_are_short_safe_and_differ() -> None:
    ids = [new_job_id() for _ in range(1000)]
    assert len(set(ids)) == len(ids)
    assert {len(name) for name in ids} == {10}
    assert set("".join(ids)) <= set(string.ascii_lowercase + "234567")


def test_the_default_clock_is_aware_and_utc() -> None:
    assert utc_now().tzinfo is UTC
    assert abs(utc_now() - datetime.now(UTC)) < timedelta(seconds=5)


async def test_the_same_interaction_twice_is_a_duplicate(store: JobStore) -> None:
    first = await store.enqueue(new("j"))
    with pytest.raises(DuplicateJob, match="already has its job number 0"):
        await store.enqueue(NewJob(**{**as_dict(new("j")), "id": "other"}))
    assert await store.known_ids() == {"j"}
    await store.enqueue(NewJob(**{**as_dict(new("j", ordinal=1)), "id": "second"}))
    assert await store.waiting() == [first, await store.get("second")]


def as_dict(job: NewJob) -> dict[str, object]:
    return {field: getattr(job, field) for field in job.__struct_fields__}


async def test_an_id_taken_by_another_interaction_is_no_duplicate(store: JobStore) -> None:
    await store.enqueue(new("j"))
    with pytest.raises(StorageError, match=r"UNIQUE constraint failed: jobs\.id") as caught:
        await store.enqueue(NewJob(**{**as_dict(new("k")), "id": "j"}))
    assert not isinstance(caught.value, DuplicateJob)


async def test_the_queue_is_first_come_first_served_even_if_the_clock_jumps_back(
    store: JobStore, clock: Clock
) -> None:
    for name in ("a", "b", "c"):
        await store.enqueue(new(name))
        clock.turn(-3600)
    assert [job.id for job in await store.waiting()] == ["a", "b", "c"]
    claimed = await store.claim_next()
    assert claimed is not None
    assert (claimed.id, claimed.state, claimed.attempts) == ("a", JobState.RUNNING, 1)
    assert claimed.started_at == clock.now
    assert await store.running() == [claimed]
    assert [job.id for job in await store.waiting()] == ["b", "c"]


async def test_nothing_to_claim(store: JobStore) -> None:
    assert await store.claim_next() is None
    assert await store.get("nobody") is None


async def test_many_claims_at_once_never_give_one_job_twice(path: Path) -> None:
    async with await JobStore.open(path) as one, await JobStore.open(path) as two:
        names = [f"j{n}" for n in range(40)]
        for name in names:
            await one.enqueue(new(name))
        claims = await asyncio.gather(*(store.claim_next() for store in (one, two) * 25))
    claimed = [job.id for job in claims if job is not None]
    assert sorted(claimed) == sorted(names)
    assert claims.count(None) == 10


async def test_unfinished_jobs_of_one_user(store: JobStore) -> None:
    await store.enqueue(new("a", user_id=1))
    await store.enqueue(new("b", user_id=2))
    await store.enqueue(new("c", user_id=1))
    await store.enqueue(new("d", user_id=1))
    await store.claim_next()
    await store.request_cancel("c")
    assert [job.id for job in await store.unfinished_of(1)] == ["a", "d"]
    assert [job.id for job in await store.recent(3)] == ["d", "c", "b"]
