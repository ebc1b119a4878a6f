"""A job is cancelled wherever it is: in the queue, just claimed, at work, between its turns.

And what was read of the queue before a job left it is not shown after.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dispatcher_scene import SHORT_TURNS, scene
from fake_posts import FakePosts
from simcord_scene import NoBackend
from virtual_time import PatientStore, now, open_store, run

from bot.delivery import Delivery
from bot.dispatcher import Dispatcher
from bot.notices import Notices
from bot.publisher import Publisher
from generator.protocol import Generate, job_request
from storage.jobs import Job, JobState, NewJob, WrongState


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


# On a clock that jumps, with a store that takes a second to read the queue


class SilentBackend(NoBackend):
    """A generator that takes a job and says nothing."""

    async def run(self, order: Generate) -> AsyncIterator[Any]:
        await asyncio.sleep(1e6)
        yield


async def slowly(self: PatientStore) -> Job | None:
    """`JobStore.next_in_line`, which is the last that is read for the places."""
    await asyncio.sleep(1)
    return await super(PatientStore, self).next_in_line()


class Queue:
    def __init__(self, store: PatientStore, folder: Path) -> None:
        self.store, self.posts = store, FakePosts(now)
        self.publisher = Publisher(self.posts, store, folder, clock=now)
        delivery = Delivery(self.posts, store, self.publisher, folder)
        backend: Any = SilentBackend()
        notices = Notices(self.posts, store)
        self.dispatcher = Dispatcher(store, backend, self.publisher, delivery, notices, folder)

    async def ask(self, number: int) -> Job:
        new = NewJob(
            id=f"job{number}",
            interaction_id=number,
            guild_id=5,
            channel_id=number,
            user_id=number,
            request=job_request(prompt="a cat", seed=1),
        )
        return await self.store.enqueue(new)

    async def tell(self, times: int) -> None:
        for _ in range(times):
            await self.dispatcher.tell_queue()
            await asyncio.sleep(0.3)

    def titles(self) -> dict[str, str]:
        """What each job's card says in the end."""
        return {card.job_id: card.title for _, card in self.posts.cards}


def test_a_cancelled_job_is_not_told_a_place_that_was_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientStore, "next_in_line", slowly)

    async def cancel(queue: Queue, job: Job, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await queue.dispatcher.cancel(job.id)

    async def go() -> None:
        async with open_store(tmp_path / "bot.sqlite3") as store, asyncio.TaskGroup() as group:
            queue = Queue(store, tmp_path)
            loop = group.create_task(queue.publisher.run())
            jobs = [await queue.ask(number) for number in range(1, 31)]
            telling = [group.create_task(queue.tell(40)) for _ in range(3)]
            cancels = [cancel(queue, job, 0.37 * n) for n, job in enumerate(jobs)]
            await asyncio.gather(*map(group.create_task, cancels), *telling)
            await asyncio.sleep(600)
            loop.cancel()
            assert queue.titles() == {job.id: "Cancelled" for job in jobs}

    run(go())


def test_a_claimed_job_is_not_told_a_place_that_was_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientStore, "next_in_line", slowly)

    async def go() -> None:
        async with open_store(tmp_path / "bot.sqlite3") as store, asyncio.TaskGroup() as group:
            queue = Queue(store, tmp_path)
            loops = [group.create_task(queue.publisher.run())]
            for number in (1, 2):
                await queue.ask(number)
            telling = group.create_task(queue.tell(1))
            await asyncio.sleep(0.5)
            loops.append(group.create_task(queue.dispatcher.run()))
            await telling
            await asyncio.sleep(600)
            for loop in loops:
                loop.cancel()
            assert queue.titles()["job1"] == "Making the video"

    run(go())
