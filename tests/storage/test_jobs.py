"""The verbs of JobStore on a real file: every transition, from every state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from new_jobs import NOON, Clock, into, new

from generator.protocol import ErrorKind
from storage.jobs import Delivery, JobState, JobStore, UnknownJob, WrongState


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


async def test_what_was_undeliverable_is_tried_again_and_looked_for_first(store: JobStore) -> None:
    await into(store, JobState.FINISHED)
    with pytest.raises(WrongState):
        await store.deliver_again("j")
    for _ in range(9):
        await store.begin_delivery("j")
    await store.mark_undeliverable("j", "the channel is gone")
    job = await store.deliver_again("j")
    assert (job.delivery, job.error) == (Delivery.PENDING, None)
    assert await store.undelivered() == [job]
    assert (await store.begin_delivery("j")).delivery_attempts == 2


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
