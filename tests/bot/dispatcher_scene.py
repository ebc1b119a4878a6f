"""A dispatcher with a real child process and a real database; only Discord is a list."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from fake_posts import FakePosts
from live import fake_command

from bot.backend import LocalBackend
from bot.delivery import Delivery
from bot.dispatcher import Dispatcher
from bot.notices import Notices
from bot.publisher import Publisher
from bot.turns import TurnsConfig
from generator.protocol import job_request
from storage.jobs import Job, JobState, JobStore, NewJob, new_job_id, utc_now

LONG_TURNS = TurnsConfig()
SHORT_TURNS = TurnsConfig(sections=1, minutes=0)
"""The fake makes a section of five steps."""


class Scene:
    def __init__(
        self, store: JobStore, backend: LocalBackend, folder: Path, turns: TurnsConfig
    ) -> None:
        self.store, self.backend, self.jobs_dir = store, backend, folder / "jobs"
        self.posts = FakePosts(utc_now)
        self.publisher = Publisher(self.posts, store, self.jobs_dir)
        self.delivery = Delivery(self.posts, store, self.publisher, self.jobs_dir)
        self.notices = Notices(self.posts, store)
        self.dispatcher = Dispatcher(
            store,
            backend,
            self.publisher,
            self.delivery,
            self.notices,
            self.jobs_dir,
            turns=turns,
            pause_s=0.05,
        )
        self._interactions = iter(range(1, 10_000))

    async def ask(self, seconds: float = 5.0, user_id: int = 7) -> Job:
        new = NewJob(
            id=new_job_id(),
            interaction_id=next(self._interactions),
            guild_id=5,
            channel_id=1,
            user_id=user_id,
            request=job_request(prompt="a cat", seed=1, seconds=seconds),
        )
        (self.jobs_dir / new.id).mkdir(parents=True)
        (self.jobs_dir / new.id / "input.png").write_bytes(b"png")
        job = await self.store.enqueue(new)
        self.dispatcher.wake()
        return job

    async def reaches(self, job: Job, *states: JobState, timeout_s: float = 20) -> Job:
        async with asyncio.timeout(timeout_s):
            while True:
                now = await self.store.get(job.id)
                assert now is not None
                if now.state in states:
                    return now
                await asyncio.sleep(0.02)

    async def ends(self, job: Job) -> Job:
        return await self.reaches(job, JobState.FINISHED, JobState.FAILED, JobState.CANCELLED)

    async def makes_progress(self, job: Job) -> None:
        async with asyncio.timeout(20):
            while job.id not in self.dispatcher.progress:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def scene(
    folder: Path, *words: str, turns: TurnsConfig = LONG_TURNS, **options: float
) -> AsyncIterator[Scene]:
    async with (
        await JobStore.open(folder / "bot.sqlite3") as store,
        LocalBackend(fake_command(*words), start_timeout_s=10, **options) as backend,
    ):
        scene = Scene(store, backend, folder, turns)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(part.run())
                for part in (scene.publisher, scene.delivery, scene.notices, scene.dispatcher)
            ]
            yield scene
            for task in tasks:
                task.cancel()
