"""A simulated Discord for command tests: what is left out, and the people on it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import simcord

from bot.orders import Orders
from generator.protocol import Generate, job_request
from storage.jobs import Job, JobStore, NewJob, new_job_id

PICTURE = ("boat.png", b"png")


def make_empty(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


class GivenPicture(Orders):
    """Orders whose pictures are good and need no download."""

    async def _fetch_picture(
        self, source: str | Path, destination: Path, small: Path | None
    ) -> str:
        await asyncio.to_thread(make_empty, destination)
        return "first frame of an animation"


class NoBackend:
    """A generator that nobody starts."""

    cancelled: list[str]

    def __init__(self) -> None:
        self.cancelled = []
        self.finished: list[str] = []
        self.ready, self.ready_since = None, None
        self.closed = self.unloaded = 0
        self.starting = False
        self.trouble: str | None = None

    async def close(self) -> None:
        self.closed += 1

    async def unload(self) -> None:
        self.unloaded += 1

    async def measure(self) -> None:
        return None

    async def finish(self, job_id: str) -> None:
        self.finished.append(job_id)

    async def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    def run(self, order: Generate) -> Any:
        raise AssertionError("the dispatcher does not run here")


class Scene:
    def __init__(self, env: simcord.Env) -> None:
        self.env = env
        self.guild = env.create_guild()
        self.channel = self.guild.create_text_channel("pictures")
        self.ben = self.guild.add_member(env.create_user("ben"))
        self.cleo = self.guild.add_member(env.create_user("cleo"))

    async def animate(self, who: Any = None, **options: Any) -> Any:
        options = {"image": PICTURE, "prompt": "a cat", **options}
        return await (who or self.ben).slash(self.channel, "animate", **options)


async def jobs(store: JobStore) -> list[Job]:
    return list(reversed(await store.recent(100)))


async def make_job(store: JobStore, scene: Scene, prompt: str) -> Job:
    return await store.enqueue(
        NewJob(
            id=new_job_id(),
            interaction_id=len(prompt),
            guild_id=scene.guild.id,
            channel_id=scene.channel.id,
            user_id=scene.ben.id,
            request=job_request(prompt=prompt, seed=1),
        )
    )
