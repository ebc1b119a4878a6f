"""The dispatcher's queue: jobs run in order, and who waits is told a place and a time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from dispatcher_scene import scene

from storage.community import Community, Switch
from storage.jobs import Job, JobState


async def test_jobs_run_in_order_and_each_is_delivered_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        jobs = [await found.ask() for _ in range(3)]
        ended = [await found.ends(job) for job in jobs]
        async with asyncio.timeout(10):
            while await found.store.undelivered():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert [job.state for job in ended] == [JobState.FINISHED] * 3
    starts = [job.started_at for job in ended]
    assert starts == sorted(starts)
    assert [message.file for message in found.posts.files] == [
        f"framepack-{job.id}.mp4" for job in jobs
    ]


async def test_places_and_estimates(tmp_path: Path) -> None:
    async with scene(tmp_path, "--steps", "3", "--step-s", "0.1") as found:
        assert await found.dispatcher.places() == []
        await found.ends(await found.ask(seconds=1))
        running = await found.ask(seconds=1)
        waiting = [await found.ask(seconds=2), await found.ask(seconds=4)]
        await found.makes_progress(running)
        places = await found.dispatcher.places()
        assert [(job.id, place.position) for job, place in places] == [
            (waiting[0].id, 1),
            (waiting[1].id, 2),
        ]
        first, second = (place.starts_at for _, place in places)
        assert first is not None and second is not None
        speed = await found.store.speed()
        assert speed is not None
        assert (second - first).total_seconds() == pytest.approx(2 * speed, abs=1e-3)
        for job in [running, *waiting]:
            await found.ends(job)


async def test_while_paused_no_time_is_promised(tmp_path: Path) -> None:
    async with (
        scene(tmp_path) as found,
        await Community.open(tmp_path / "bot.sqlite3") as community,
    ):
        await found.ends(await found.ask())
        await community.turn(Switch.PAUSED, on=True)
        await found.ask()
        await found.ask()
        places = [place for _, place in await found.dispatcher.places()]
        assert [(place.paused, place.starts_at) for place in places] == [(True, None)] * 2
        await community.turn(Switch.PAUSED, on=False)
        # The first of them may run already; the last one waits in any case.
        *_, (_, place) = await found.dispatcher.places()
        assert place.starts_at is not None


async def test_a_crowd_that_asks_for_places_has_the_queue_read_but_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(tmp_path, "--steps", "1000", "--step-s", "0.1") as found:
        await found.reaches(await found.ask(), JobState.RUNNING)
        read, waiting = 0, found.store.waiting

        async def counted() -> list[Job]:
            nonlocal read
            read += 1
            return await waiting()

        jobs = [await found.ask(user_id=number) for number in range(30)]
        monkeypatch.setattr(found.store, "waiting", counted)
        answers = await asyncio.gather(*(found.dispatcher.places() for _ in jobs))
        assert read == 2
        assert all(len(places) == len(jobs) for places in answers)

        async def is_there(number: int) -> bool:
            job = await found.ask(user_id=100 + number)
            return job.id in [place.id for place, _ in await found.dispatcher.places()]

        assert all(await asyncio.gather(*map(is_there, range(30))))
