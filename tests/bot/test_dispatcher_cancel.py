"""A job is cancelled wherever it is: in the queue, just claimed, at work, between its turns."""

from __future__ import annotations

from pathlib import Path

import pytest
from dispatcher_scene import SHORT_TURNS, scene

from storage.jobs import JobState, WrongState


async def test_cancel_while_queued(tmp_path: Path) -> None:
    async with scene(tmp_path, "--steps", "1000", "--step-s", "0.02") as found:
        first, second = await found.ask(), await found.ask()
        await found.makes_progress(first)
        assert (await found.dispatcher.cancel(second.id)).state is JobState.CANCELLED
        await found.dispatcher.cancel(first.id)
        assert (await found.ends(first)).state is JobState.CANCELLED
        with pytest.raises(WrongState):
            await found.dispatcher.cancel(first.id)


async def test_cancel_right_after_the_claim(tmp_path: Path) -> None:
    async with scene(tmp_path, "--steps", "1000") as found:
        job = await found.ask()
        await found.reaches(job, JobState.RUNNING)
        await found.dispatcher.cancel(job.id)
        assert (await found.ends(job)).state is JobState.CANCELLED
        after = await found.ask()
        await found.makes_progress(after)
        await found.dispatcher.cancel(after.id)
        await found.ends(after)


async def test_who_ignores_cancel_is_killed_and_the_next_job_runs(tmp_path: Path) -> None:
    async with scene(
        tmp_path, "ignores_cancel", "--steps", "2", "--step-s", "0.8", cancel_grace_s=0.2
    ) as found:
        first, second = await found.ask(), await found.ask()
        await found.makes_progress(first)
        await found.dispatcher.cancel(first.id)
        assert (await found.ends(first)).state is JobState.CANCELLED
        assert (await found.ends(second)).state is JobState.FINISHED


async def test_a_job_cancelled_between_its_turns_is_over(tmp_path: Path) -> None:
    words = ("--steps", "200", "--step-s", "0.02", "--section-steps", "2")
    async with scene(tmp_path, *words, turns=SHORT_TURNS) as found:
        one, other = await found.ask(user_id=1), await found.ask(user_id=2)
        await found.makes_progress(one)
        await found.reaches(one, JobState.QUEUED)
        waiting = await found.store.get(one.id)
        assert waiting is not None
        await found.dispatcher.cancel(one.id)
        assert (await found.ends(one)).state is JobState.CANCELLED
        await found.dispatcher.cancel(other.id)
        await found.ends(other)
