"""How long a second of video takes: what counts of the jobs so far, and what does not."""

from __future__ import annotations

import pytest
from new_jobs import Clock, new

from storage.jobs import JobStore


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
