"""The verbs of JobStore on a real file: every transition, from every state."""

from __future__ import annotations

import asyncio
import re
import string
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiosqlite
import pytest

from generator.protocol import ErrorKind, JobRequest, StepCacheKind, Variant, job_request
from storage.jobs import (
    Delivery,
    DuplicateJob,
    Job,
    JobState,
    JobStore,
    NewJob,
    Short,
    StorageError,
    UnknownJob,
    WrongState,
    new_job_id,
    read_jobs,
    utc_now,
)

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bot.sqlite3"


@pytest.fixture
async def store(path: Path, clock: Clock) -> AsyncIterator[JobStore]:
    async with await JobStore.open(path, clock=clock) as opened:
        yield opened


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


async def test_a_job_from_claim_to_delivery(store: JobStore, clock: Clock) -> None:
    await store.enqueue(new("j"))
    await store.save_status_message("j", 100)
    await store.claim_next()
    clock.turn(60)
    job = await store.finish("j", "framepack-j.mp4")
    assert (job.state, job.delivery) == (JobState.FINISHED, Delivery.PENDING)
    assert job.ended_at == NOON + timedelta(seconds=60)
    assert await store.undelivered() == [job]
    clock.turn(60)
    await store.begin_delivery("j")
    job = await store.begin_delivery("j")
    assert (job.delivery, job.delivery_attempts) == (Delivery.PENDING, 2)
    job = await store.mark_delivered("j", 200)
    assert (job.delivery, job.result_message_id) == (Delivery.DELIVERED, 200)
    assert job.status_message_id == 100
    assert job.ended_at == NOON + timedelta(seconds=60)
    assert await store.undelivered() == []
    assert (await store.forget_status_message("j")).status_message_id is None


async def test_a_video_that_nobody_can_be_shown(store: JobStore) -> None:
    await into(store, JobState.FINISHED)
    job = await store.mark_undeliverable("j", "the channel is gone")
    assert (job.delivery, job.error, job.video) == (
        Delivery.UNDELIVERABLE,
        "the channel is gone",
        "v.mp4",
    )
    with pytest.raises(WrongState, match="job j is finished and undeliverable"):
        await store.mark_delivered("j", 1)


async def test_a_failure_keeps_its_kind_and_sentence(store: JobStore) -> None:
    job = await into(store, JobState.RUNNING)
    job = await store.fail("j", ErrorKind.MEMORY, "needs 9 GiB, 8 are there")
    assert (job.state, job.error_kind, job.error) == (
        JobState.FAILED,
        ErrorKind.MEMORY,
        "needs 9 GiB, 8 are there",
    )
    assert job.ended_at == NOON


async def test_cancelling(store: JobStore) -> None:
    running = await into(store, JobState.RUNNING, "a")
    queued = await into(store, JobState.QUEUED, "b")
    asked = await store.request_cancel(running.id)
    assert (asked.state, asked.cancel_requested, asked.ended_at) == (JobState.RUNNING, True, None)
    assert await store.request_cancel(running.id) == asked
    gone = await store.request_cancel(queued.id)
    assert (gone.state, gone.ended_at) == (JobState.CANCELLED, NOON)
    done = await store.cancelled(running.id)
    assert (done.state, done.ended_at) == (JobState.CANCELLED, NOON)
    assert await store.claim_next() is None


async def test_a_job_that_ends_before_the_cancel_reaches_it_is_finished(store: JobStore) -> None:
    await into(store, JobState.RUNNING)
    await store.request_cancel("j")
    assert (await store.finish("j", "v.mp4")).state is JobState.FINISHED


async def test_after_a_restart_running_jobs_keep_their_place(path: Path, clock: Clock) -> None:
    async with await JobStore.open(path, clock=clock) as before:
        for name in ("a", "b", "c", "d"):
            await before.enqueue(new(name))
        for _ in range(3):
            await before.claim_next()
        await before.request_cancel("b")
        await before.finish("c", "v.mp4")
    async with await JobStore.open(path, clock=clock) as after:
        changed = await after.requeue_running()
        assert [(job.id, job.state) for job in changed] == [
            ("a", JobState.QUEUED),
            ("b", JobState.CANCELLED),
        ]
        assert changed[0].attempts == 0  # that the bot ended says nothing about the job
        assert changed[1].ended_at == NOON
        assert [job.id for job in await after.waiting()] == ["a", "d"]
        assert [job.id for job in await after.undelivered()] == ["c"]
        again = await after.claim_next()
        assert again is not None
        assert (again.id, again.attempts) == ("a", 1)
        assert await after.known_ids() == {"a", "b", "c", "d"}


Verb = Callable[[JobStore], Awaitable[object]]
FINAL = {JobState.FINISHED, JobState.FAILED, JobState.CANCELLED}
GUARDED: dict[str, tuple[Verb, set[JobState]]] = {
    "finish": (lambda s: s.finish("j", "v.mp4"), {JobState.RUNNING}),
    "fail": (lambda s: s.fail("j", ErrorKind.DISK, "x"), {JobState.RUNNING, JobState.QUEUED}),
    "cancelled": (lambda s: s.cancelled("j"), {JobState.RUNNING}),
    "request_cancel": (lambda s: s.request_cancel("j"), {JobState.RUNNING, JobState.QUEUED}),
    "note_sections": (lambda s: s.note_sections("j", 1, 3), {JobState.RUNNING}),
    "begin_delivery": (lambda s: s.begin_delivery("j"), {JobState.FINISHED}),
    "mark_delivered": (lambda s: s.mark_delivered("j", 1), {JobState.FINISHED}),
    "mark_undeliverable": (lambda s: s.mark_undeliverable("j", "x"), {JobState.FINISHED}),
}


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("verb", GUARDED)
async def test_a_verb_works_from_its_states_only(
    store: JobStore, verb: str, state: JobState
) -> None:
    act, allowed = GUARDED[verb]
    before = await into(store, state)
    if state in allowed:
        await act(store)
        assert await store.get("j") != before
        return
    with pytest.raises(WrongState, match=f"job j is {state}") as caught:
        await act(store)
    assert caught.value.job == before == await store.get("j")


@pytest.mark.parametrize("verb", GUARDED)
async def test_an_unknown_job_is_named(store: JobStore, verb: str) -> None:
    with pytest.raises(UnknownJob, match="there is no job j"):
        await GUARDED[verb][0](store)


async def test_a_delivered_job_is_never_delivered_again(store: JobStore) -> None:
    await into(store, JobState.FINISHED)
    await store.mark_delivered("j", 1)
    for verb in ("begin_delivery", "mark_delivered", "mark_undeliverable"):
        with pytest.raises(WrongState, match="finished and delivered"):
            await GUARDED[verb][0](store)


async def test_what_is_done_can_be_sent_once_a_section_is_finished(store: JobStore) -> None:
    await into(store, JobState.RUNNING)
    with pytest.raises(WrongState, match="it can not be cut short"):
        await store.request_finish("j")
    await store.note_sections("j", 2, 5)
    waiting = await store.suspended("j", 0.4)
    assert (waiting.sections_made, waiting.sections, waiting.finish_requested) == (2, 5, False)
    assert (await store.request_finish("j")).finish_requested
    assert (await store.request_finish("j")).state is JobState.QUEUED
    await store.claim_next()
    ended = await store.finish("j", "v.mp4", 2, 5)
    assert (ended.sections_made, ended.share_made) == (2, 0.4)


async def test_what_is_to_stop_is_not_sent(store: JobStore) -> None:
    await into(store, JobState.RUNNING)
    await store.note_sections("j", 2, 5)
    await store.request_cancel("j")
    with pytest.raises(WrongState):
        await store.request_finish("j")


async def test_a_deleted_status_message_is_told_from_one_never_posted(store: JobStore) -> None:
    job = await store.enqueue(new("j"))
    assert (job.status_message_id, job.status_deleted) == (None, False)
    await store.save_status_message("j", 5)
    job = await store.forget_status_message("j")
    assert (job.status_message_id, job.status_deleted) == (None, True)
    job = await store.save_status_message("j", 6)
    assert (job.status_message_id, job.status_deleted) == (6, False)


async def test_unfinished_jobs_of_one_user(store: JobStore) -> None:
    await store.enqueue(new("a", user_id=1))
    await store.enqueue(new("b", user_id=2))
    await store.enqueue(new("c", user_id=1))
    await store.enqueue(new("d", user_id=1))
    await store.claim_next()
    await store.request_cancel("c")
    assert [job.id for job in await store.unfinished_of(1)] == ["a", "d"]
    assert [job.id for job in await store.recent(3)] == ["d", "c", "b"]


async def test_speed_is_gpu_time_over_length_however_long_a_job_waited(
    store: JobStore, clock: Clock
) -> None:
    assert await store.speed() is None
    for name, seconds, turns_s in (("a", 5.0, [60, 40]), ("b", 1.0, [20])):
        await store.enqueue(new(name, seconds=seconds))
        for turn_s in turns_s:
            await store.claim_next()
            clock.turn(turn_s)
            await store.charge(name, turn_s)
            if turn_s == 60:
                await store.suspended(name, 0.5)
                clock.turn(9999)
        await store.finish(name, "v.mp4")
    assert await store.speed() == pytest.approx(20.0)


async def test_speed_is_known_before_the_first_job_is_done(store: JobStore) -> None:
    await store.enqueue(new("j", seconds=10.0))
    assert await store.speed() is None
    await store.claim_next()
    await store.charge("j", 30)
    assert await store.speed() is None  # nobody knows how far it got
    await store.suspended("j", 0.25)
    assert await store.speed() == pytest.approx(12.0)


async def test_speed_of_a_video_of_some_sections_counts_what_was_made(store: JobStore) -> None:
    await store.enqueue(new("j"))
    await store.claim_next()
    await store.charge("j", 100)
    await store.finish("j", "v.mp4", 2, 5)
    assert await store.speed() == pytest.approx(100 / (5.0 * 2 / 5))


async def test_speed_forgets_the_distant_past(store: JobStore, clock: Clock) -> None:
    for n in range(30):
        await store.enqueue(new(f"j{n}", seconds=2.0))
        await store.claim_next()
        await store.charge(f"j{n}", 200 if n < 20 else 10)
        await store.finish(f"j{n}", "v.mp4")
    assert await store.speed() == pytest.approx(5.0)


async def test_a_full_disk_is_one_sentence_and_the_store_lives_on(path: Path) -> None:
    async with await JobStore.open(path) as store:
        database = store._connections.promises
        await store.enqueue(new("j"))
        await database.execute_fetchall("PRAGMA max_page_count = 1")
        with pytest.raises(StorageError, match=r"the disk that holds .* is full; free some space"):
            for n in range(1000):
                await store.enqueue(new(f"k{n}"))
        kept = await store.known_ids()
        await database.execute_fetchall("PRAGMA max_page_count = 100000")
        assert (await store.enqueue(new("later"))).state is JobState.QUEUED
        assert await store.known_ids() == kept | {"later"}


async def test_a_row_that_is_no_job_is_one_sentence(store: JobStore, path: Path) -> None:
    await store.enqueue(new("j"))
    async with aiosqlite.connect(path) as other:
        await other.execute('UPDATE jobs SET request = \'{"prompt": "x"}\'')
        await other.commit()
    with pytest.raises(StorageError, match="job j in the database can not be read"):
        await store.get("j")


async def test_no_verb_of_a_busy_bot_reads_the_whole_table(path: Path) -> None:
    async with await JobStore.open(path) as store:
        said: list[str] = []
        database = store._connections.promises
        for connection in (store._connections.promises, store._connections.redoable):
            await connection.set_trace_callback(said.append)
        await store.enqueue(new("j"))
        await store.claim_next()
        await store.request_cancel("j")
        await store.requeue_running()
        for look in (store.waiting, store.running, store.undelivered, store.speed):
            await look()
        await store.short_waiting(Short(seconds=9, speed=10, turn_s=300))
        await store.unfinished_of(7)
        await store.recent(5)
        for connection in (store._connections.promises, store._connections.redoable):
            await connection.set_trace_callback(None)
        assert len(said) == 12
        for sql in said:
            plan = [row[3] for row in await database.execute_fetchall(f"EXPLAIN QUERY PLAN {sql}")]
            scans = [step for step in plan if step in ("SCAN jobs", "SCAN served")]
            newest = re.search(r"ORDER BY number DESC LIMIT \d+\)?$", sql)
            assert not scans or newest, (sql, plan)


async def test_the_queue_is_read_from_outside_while_the_bot_runs(
    store: JobStore, path: Path
) -> None:
    await store.enqueue(new("a"))
    await store.enqueue(new("b"))
    claimed = await store.claim_next()
    assert read_jobs(path) == [claimed, await store.get("b")]


async def test_reading_after_the_bot_ended_leaves_the_rows_alone(path: Path) -> None:
    async with await JobStore.open(path) as store:
        job = await store.enqueue(new("a"))
    assert read_jobs(path) == [job]
    assert read_jobs(path) == [job]


def test_reading_where_there_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"there is no database at .*the bot makes it"):
        read_jobs(tmp_path / "bot.sqlite3")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "bot.sqlite3").write_bytes(b"")
    with pytest.raises(StorageError, match="older framepack-bot"):
        read_jobs(tmp_path / "bot.sqlite3")


async def test_a_path_of_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "päth ?#%20&mode=x" / "bot.sqlite3"
    async with await JobStore.open(path) as store:
        job = await store.enqueue(new("a"))
        assert read_jobs(path) == [job]


def test_the_default_clock_is_aware_and_utc() -> None:
    assert utc_now().tzinfo is UTC
    assert abs(utc_now() - datetime.now(UTC)) < timedelta(seconds=5)
