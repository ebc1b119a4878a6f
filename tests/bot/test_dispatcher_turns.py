"""Turns: a long job gives way to others' and goes on to the same bytes; a short one goes first."""

from __future__ import annotations

from pathlib import Path

import pytest
from dispatcher_scene import SHORT_TURNS, scene
from fake_generator import video_bytes

from bot.turns import TurnsConfig
from storage.jobs import Job, JobState, JobStore


async def test_a_long_job_gives_way_at_a_step_and_goes_on_to_the_same_bytes(
    tmp_path: Path,
) -> None:
    words = ("--steps", "60", "--step-s", "0.03", "--section-steps", "5")
    async with scene(tmp_path, *words, turns=SHORT_TURNS) as found:
        long = await found.ask(user_id=1)
        await found.makes_progress(long)
        short = await found.ends(await found.ask(user_id=2))
        long = await found.ends(long)
        pids = {found.backend.pid}
    assert long.turns >= 1
    assert short.turns >= 1  # as both were served alike, they took turns
    for job in (long, short):
        assert job.state is JobState.FINISHED
        assert (found.jobs_dir / job.id / str(job.video)).read_bytes() == video_bytes(60)
        assert job.worked_ms > 1000
    titles = [card.title for _, card in found.posts.cards if long.id in card.footer]
    assert len(pids) == 1
    assert set(titles) <= {
        "Waiting in the queue",
        "Making the video",
        "Waiting for its next turn",
        "Finished; the video is on its way",
        "Finished",
    }


async def test_a_short_job_goes_before_long_ones(tmp_path: Path) -> None:
    words = ("--steps-per-second", "10", "--step-s", "0.01", "--section-steps", "2")
    turns = TurnsConfig(sections=1, minutes=1.5 / 60)
    async with scene(tmp_path, *words, turns=turns) as found:
        await found.ends(await found.ask(seconds=1, user_id=3))  # now the speed is known
        long = await found.ask(seconds=20, user_id=1)
        await found.makes_progress(long)
        other = await found.ask(seconds=20, user_id=2)
        short = await found.ends(await found.ask(seconds=1, user_id=3))
        ended = [await found.ends(job) for job in (long, other)]
    assert short.turns == 0
    assert all(job.turns >= 1 for job in ended)
    assert short.started_at < ended[1].started_at  # though it came later
    for job in ended:
        assert (found.jobs_dir / job.id / str(job.video)).read_bytes() == video_bytes(200)


async def test_who_waits_is_read_only_when_a_turn_may_be_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, read = JobStore.next_in_line, []

    async def counted(self: JobStore) -> Job | None:
        read.append(True)
        return await real(self)

    async def never(self: JobStore, short: object) -> list[Job]:
        raise AssertionError("the short jobs were read")

    words = ("--steps", "50", "--step-s", "0.01", "--section-steps", "50")
    async with scene(tmp_path, *words, turns=TurnsConfig(sections=1, minutes=5)) as found:
        await found.ends(await found.ask(user_id=1))  # now the speed is known
        running = await found.ask(user_id=1)
        await found.makes_progress(running)
        before = len(read)
        monkeypatch.setattr(JobStore, "next_in_line", counted)
        monkeypatch.setattr(JobStore, "short_waiting", never)
        await found.ends(running)
    assert len(read) == before


async def test_a_job_is_not_put_aside_for_one_of_the_same_user(tmp_path: Path) -> None:
    words = ("--steps", "20", "--step-s", "0.01", "--section-steps", "2")
    async with scene(tmp_path, *words, turns=SHORT_TURNS) as found:
        jobs = [await found.ask(user_id=1) for _ in range(3)]
        ended = [await found.ends(job) for job in jobs]
    assert [job.turns for job in ended] == [0, 0, 0]
