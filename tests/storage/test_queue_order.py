"""Whose turn it is: priority, then who was served less, then age; and what a turn's end leaves."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from new_jobs import Clock, new

from generator.protocol import Variant
from storage.community import Community, Switch
from storage.jobs import JobState, JobStore, NewJob, Short, WrongState

HOUR = timedelta(hours=1)


async def claimed(store: JobStore, times: int, turn_s: float = 60) -> list[str]:
    """Who gets the next turns, if each is of the same length."""
    found = []
    for _ in range(times):
        job = await store.claim_next()
        assert job is not None
        found.append(job.id)
        await store.charge(job.id, turn_s)
        await store.suspended(job.id, 0.0)
    return found


async def test_ten_jobs_of_one_user_do_not_delay_another(store: JobStore) -> None:
    for number in range(10):
        await store.enqueue(new(f"a{number}", user_id=1))
    await store.enqueue(new("b", user_id=2))
    assert await claimed(store, 6) == ["a0", "b", "a0", "b", "a0", "b"]


async def test_what_was_served_counts_for_jobs_that_come_later(store: JobStore) -> None:
    await store.enqueue(new("a", user_id=1))
    assert await claimed(store, 2) == ["a", "a"]
    await store.enqueue(new("a2", user_id=1))
    await store.enqueue(new("b", user_id=2))
    assert await claimed(store, 3) == ["b", "b", "a"]


async def test_twice_the_weight_is_twice_the_turns(store: JobStore) -> None:
    await store.enqueue(msgspec.structs.replace(new("a", user_id=1), weight=2.0))
    await store.enqueue(new("b", user_id=2))
    turns = await claimed(store, 12)
    assert turns.count("a") == 8


async def test_an_admins_priority_goes_before_shares(store: JobStore, tmp_path: Path) -> None:
    await store.enqueue(new("a", user_id=1))
    await store.enqueue(new("b", user_id=2))
    async with await Community.open(tmp_path / "bot.sqlite3") as community:
        await community._execute("UPDATE jobs SET priority = 1 WHERE id = 'b'")
        assert await claimed(store, 3) == ["b", "b", "b"]
        await community.turn(Switch.PAUSED, on=True)
        assert await store.next_in_line() is None
        assert await store.claim_next() is None


async def test_old_service_is_forgotten_with_the_window(store: JobStore, clock: Clock) -> None:
    await store.enqueue(new("a", user_id=1))
    await store.enqueue(new("b", user_id=2))
    assert await claimed(store, 1) == ["a"]
    await store.forget_served(HOUR)
    first = await store.next_in_line()
    assert first is not None and first.id == "b"
    clock.turn(3700)
    await store.forget_served(HOUR)
    first = await store.next_in_line()
    assert first is not None and (first.id, first.share_ms) == ("a", 0)


async def test_a_clock_that_was_ahead_punishes_nobody_for_ever(
    store: JobStore, clock: Clock
) -> None:
    await store.enqueue(new("a", user_id=1))
    clock.turn(1_000_000)
    assert await claimed(store, 1) == ["a"]
    clock.turn(-1_000_000)
    await store.forget_served(HOUR)
    first = await store.next_in_line()
    assert first is not None and first.share_ms == 0


async def test_a_turns_end_keeps_start_count_and_place(store: JobStore, clock: Clock) -> None:
    await store.enqueue(new("a"))
    begun = await store.claim_next()
    assert begun is not None
    clock.turn(100)
    await store.charge("a", 100)
    job = await store.suspended("a", 0.25)
    assert (job.state, job.turns, job.attempts) == (JobState.QUEUED, 1, 0)
    assert (job.furthest, job.worked_ms, job.started_at) == (0.25, 100_000, begun.started_at)
    with pytest.raises(WrongState):
        await store.suspended("a", 0.5)


async def test_what_was_to_stop_is_cancelled_at_its_turns_end(store: JobStore) -> None:
    for verb, name in ((store.suspended, "a"), (store.lost, "b")):
        await store.enqueue(new(name))
        await store.claim_next()
        await store.request_cancel(name)
        job = await verb(name, 0.5)
        assert job.state is JobState.CANCELLED
        assert job.ended_at is not None


async def test_attempts_are_counted_anew_when_a_job_got_further(store: JobStore) -> None:
    await store.enqueue(new("a"))
    found = []
    for furthest in (0.0, 0.0, 0.3, 0.3, 0.305, 0.32):
        await store.claim_next()
        found.append((await store.lost("a", furthest)).attempts)
    assert found == [1, 2, 0, 1, 2, 0]


async def test_a_job_without_a_generator_keeps_its_place_and_its_attempts(
    store: JobStore,
) -> None:
    for name in ("a", "b"):
        await store.enqueue(new(name))
    await store.claim_next()
    assert (await store.lost("a", 0.0)).attempts == 1
    await store.claim_next()
    back = await store.put_back("a")
    assert (back.state, back.attempts) == (JobState.QUEUED, 1)
    assert [job.id for job in await store.waiting()] == ["a", "b"]
    await store.claim_next()
    await store.request_cancel("a")
    assert (await store.put_back("a")).state is JobState.CANCELLED


def of(variant: Variant, name: str, user_id: int) -> NewJob:
    made = new(name, user_id=user_id)
    request = msgspec.structs.replace(made.request, variant=variant)
    return msgspec.structs.replace(made, request=request)


async def test_the_loaded_model_goes_first_within_the_slack_and_no_further(
    store: JobStore,
) -> None:
    await store.enqueue(of(Variant.F1, "f", 1))
    await store.enqueue(of(Variant.I2V, "i", 2))
    await store.charge("i", 150)
    claimed = await store.claim_next(Variant.I2V, HOUR)
    assert claimed is not None and claimed.id == "f"  # it was never served, so it waits for nobody
    await store.charge("f", 50)
    await store.suspended("f", 0.0)
    for slack_s, expected in ((99, "f"), (100, "i")):
        claimed = await store.claim_next(Variant.I2V, timedelta(seconds=slack_s))
        assert claimed is not None and claimed.id == expected
        await store.suspended(claimed.id, 0.0)


async def test_a_priority_goes_before_the_loaded_model(store: JobStore, tmp_path: Path) -> None:
    await store.enqueue(of(Variant.F1, "f", 1))
    await store.enqueue(of(Variant.I2V, "i", 2))
    async with await Community.open(tmp_path / "bot.sqlite3") as community:
        await community._execute("UPDATE jobs SET priority = 1 WHERE id = 'f'")
    claimed = await store.claim_next(Variant.I2V, HOUR)
    assert claimed is not None and claimed.id == "f"


SHORT = Short(seconds=30, speed=10, turn_s=300)


async def short_names(store: JobStore) -> list[str]:
    return [job.id for job in await store.short_waiting(SHORT)]


async def test_a_short_job_goes_before_long_ones_though_its_owner_was_served_more(
    store: JobStore,
) -> None:
    await store.enqueue(new("long", user_id=1, seconds=100))
    await store.enqueue(new("short", user_id=2, seconds=5))
    await store.charge("short", 250)
    assert await claimed(store, 1) == ["long"]
    assert await short_names(store) == ["short"]
    claim = await store.claim_short(SHORT)
    assert claim is not None and (claim.id, claim.state) == ("short", JobState.RUNNING)
    assert await store.claim_short(SHORT) is None


async def test_a_job_that_had_a_turn_is_no_short_one(store: JobStore) -> None:
    await store.enqueue(new("a", seconds=30))
    await store.enqueue(new("b", seconds=30.1))
    assert await short_names(store) == ["a"]
    assert await claimed(store, 1) == ["a"]
    assert await short_names(store) == []


async def test_nobody_lives_on_short_jobs(store: JobStore) -> None:
    await store.enqueue(new("long", user_id=1, seconds=100))
    await store.enqueue(new("a", user_id=2, seconds=20))
    await store.enqueue(new("waits", user_id=2, seconds=100))  # its owner's own count for nothing
    await store.charge("a", 301)
    assert await short_names(store) == []
    await store.charge("long", 1)  # now it is a turn
    assert await short_names(store) == ["a"]


async def test_short_jobs_go_shortest_first_but_a_user_with_ten_delays_nobody(
    store: JobStore, clock: Clock
) -> None:
    for number in range(10):
        await store.enqueue(new(f"a{number}", user_id=1, seconds=5))
    await store.enqueue(new("b", user_id=2, seconds=8))
    order = []
    while (job := await store.claim_short(SHORT)) is not None:
        order.append(job.id)
        await store.charge(job.id, 50)
        await store.finish(job.id, "v.mp4")
    assert order == ["a0", "b", "a1", "a2", "a3", "a4", "a5", "a6"]
    for number in range(7, 10):  # he was served a turn more than everybody else
        await store.request_cancel(f"a{number}")
    await store.enqueue(new("c", user_id=3, seconds=20))
    await store.enqueue(new("d", user_id=1, seconds=5))
    assert await short_names(store) == ["c"]  # he had 500 s, the others less than a turn
    clock.turn(3601)  # what was served an hour ago does not order short jobs any more
    await store.charge("c", 201)
    assert await short_names(store) == ["d", "c"]


async def test_priority_and_pause_hold_for_short_jobs_too(store: JobStore, tmp_path: Path) -> None:
    await store.enqueue(new("short", user_id=1, seconds=5))
    await store.enqueue(new("first", user_id=2, seconds=100))
    async with await Community.open(tmp_path / "bot.sqlite3") as community:
        await community._execute("UPDATE jobs SET priority = 1 WHERE id = 'first'")
        assert await short_names(store) == []
        await community._execute("UPDATE jobs SET priority = 0")
        assert await short_names(store) == ["short"]
        await community.turn(Switch.PAUSED, on=True)
        assert await short_names(store) == []
        assert await store.claim_short(SHORT) is None
