"""A job that is ended early becomes a video of its finished sections, whatever it is doing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from dispatcher_scene import SHORT_TURNS, Scene, scene
from fake_generator import DRAWN_S

from storage.jobs import Job, JobState, JobStore, WrongState

LONG = ("--steps", "400", "--step-s", "0.02", "--section-steps", "5")


async def has_sections(found: Scene, job: Job, count: int) -> Job:
    async with asyncio.timeout(20):
        while (now := await found.store.get(job.id)) is None or now.sections_made < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return now


async def test_the_running_job_ends_with_its_finished_sections(tmp_path: Path) -> None:
    async with scene(tmp_path, *LONG) as found:
        job = await found.ask()
        with pytest.raises(WrongState):
            await found.dispatcher.finish_early(job.id)
        running = await has_sections(found, job, 2)
        assert running.sections == 80
        await found.dispatcher.finish_early(job.id)
        await found.dispatcher.finish_early(job.id)
        ended = await found.ends(job)
        assert ended.state is JobState.FINISHED
        assert 2 <= ended.sections_made < 80
        async with asyncio.timeout(10):
            while await found.store.undelivered():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    [posted] = found.posts.files
    assert f"the last {ended.sections_made} of 80 sections" in posted.text


async def test_a_job_that_waits_for_its_next_turn_ends_with_its_finished_sections(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, *LONG, turns=SHORT_TURNS) as found:
        one, other = await found.ask(user_id=1), await found.ask(user_id=2)
        await found.makes_progress(one)
        waiting = await found.reaches(one, JobState.QUEUED)
        assert waiting.sections_made >= 1
        await found.dispatcher.finish_early(one.id)
        ended = await found.ends(one)
        assert (ended.state, ended.sections_made) == (JobState.FINISHED, waiting.sections_made)
        await found.dispatcher.cancel(other.id)
        await found.ends(other)


async def test_who_waits_behind_what_is_done_waits_for_its_frames(tmp_path: Path) -> None:
    async with scene(tmp_path, *LONG, turns=SHORT_TURNS) as found:
        measured = await found.ask(user_id=1)
        await has_sections(found, measured, 1)
        await found.dispatcher.finish_early(measured.id)
        await found.ends(measured)
        await found.store.charge(measured.id, 3600)  # so the other one is not put aside for this
        one = await found.ask(user_id=1)
        await found.makes_progress(one)
        other = await found.ask(user_id=2)
        await found.reaches(one, JobState.QUEUED)
        await found.reaches(other, JobState.RUNNING)
        running = await found.store.running()
        assert [job.id for job in running] == [other.id]
        behind = await found.ask(user_id=1)
        one = await found.store.request_finish(one.id)
        places = await found.dispatcher.places()
        assert [job.id for job, _ in places] == [one.id, behind.id]
        first, second = (place.starts_at for _, place in places)
        assert first is not None and second is not None
        frames_s = DRAWN_S * one.sections_made
        assert (second - first).total_seconds() == pytest.approx(frames_s, abs=1e-3)
        for job in (one, other, behind):
            await found.dispatcher.cancel(job.id)
            await found.ends(job)


async def test_what_is_to_be_sent_survives_a_kill_and_a_restart(tmp_path: Path) -> None:
    async with scene(tmp_path, *LONG) as found:
        job = await found.ask()
        await has_sections(found, job, 2)
        await found.store.request_finish(job.id)  # and the bot ends before the child hears of it
    async with await JobStore.open(tmp_path / "bot.sqlite3") as store:
        [again] = await store.requeue_running()
    assert again.finish_requested
    async with scene(tmp_path, *LONG) as found:
        ended = await found.ends(job)
    assert ended.state is JobState.FINISHED
    assert 2 <= ended.sections_made < 80
