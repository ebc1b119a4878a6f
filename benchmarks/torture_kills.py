"""Kill bot, generator or both at random instants; count what is lost, posted twice or different.

The bot runs as a process of its own against the playground's sockets and is killed with SIGKILL
while jobs wait, are made and are delivered. Afterwards every job that was taken must have its video
in the channel exactly once, with the bytes of a run that nobody disturbed; of the real generator
also the latents are compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
from fake_generator import KEPT, video_bytes
from live import COMMANDS, PICTURE, Live
from torture_table import Row

from bot.playground import Message, Playground, User
from storage.jobs import Delivery, Job, JobState

ROOT = Path(__file__).resolve().parent.parent
WITH_FAKE = ROOT / "tests" / "bot" / "bot_with_fake.py"
WITH_REAL = ROOT / "tests" / "bot" / "bot_with_real.py"
GENERATORS = ("fake_generator.py", "generator_keeping_latents.py")
STEPS = 40
LATENTS = "latents.safetensors"


class Victim:
    """A bot process, its generator, and what it took to have them."""

    def __init__(self, live: Live, command: list[str]) -> None:
        self.live, self.command = live, command
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Have the bot running and connected."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("DISCORD_TOKEN")}
        environ |= {"PYTHONPATH": str(ROOT), "DISCORD_TOKEN": self.live.playground.token}
        environ["OMP_NUM_THREADS"] = "1"
        with (self.live.folder / "bot.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, env=environ, stdout=log, stderr=log
            )
        try:
            await self.live.playground.bot_ready(*COMMANDS, timeout_s=120)
        except TimeoutError:
            sys.stderr.write((self.live.folder / "bot.log").read_text()[-3000:])
            raise

    async def kill(self, *, bot: bool, generator: bool) -> None:
        """SIGKILL, both at once where both are asked for."""
        assert self.process is not None
        try:
            found = psutil.Process(self.process.pid)
        except psutil.NoSuchProcess:  # its generator was killed while it started: it said so
            self.process = None
            return
        victims = [p for p in _children(found) if generator and _is_generator(p)]
        victims += [found] if bot else []
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        if bot:
            await self.process.wait()
            self.process = None
            gateway = self.live.playground.gateway
            await self.live.until(lambda: not gateway.is_connected, 60)

    async def end(self) -> None:
        """An orderly end."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self.process.wait(), 30)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _is_generator(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        words = " ".join(process.cmdline())
        return any(name in words for name in GENERATORS)
    return False


def write_config(live: Live, **generator: object) -> Path:
    """Settings for many jobs of one person, with turns so short that they happen."""
    path, discord = live.folder / "config.toml", live.config.discord
    settings = {"cancel_grace_s": 5, "resume_every_s": 0, **generator}
    lines = [f"{name} = {value!r}" for name, value in settings.items()]
    path.write_text(
        f"[discord]\napi_url = '{discord.api_url}'\ngateway_url = '{discord.gateway_url}'\n"
        f"[storage]\ndata_dir = '{live.folder.as_posix()}'\n"
        "[limits]\nmax_waiting_per_user = 1000\n[turns]\nsections = 1\nminutes = 0.0\n"
        "[defaults]\nsteps = 12\nresolution = 64\nseconds = 0.2\nlatent_window_size = 1\n"
        "[generator]\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )
    return path


@contextlib.asynccontextmanager
async def stage(script: Path, *words: str, **generator: object) -> AsyncIterator[Victim]:
    """A playground and a bot that runs; `words` are for the script that starts it."""
    with tempfile.TemporaryDirectory() as name:
        async with Playground() as playground:
            live = Live(playground, Path(name))
            config = str(write_config(live, **generator))
            victim = Victim(live, [sys.executable, str(script), config, *words])
            try:
                await victim.start()
                yield victim
                await victim.end()
            finally:
                if victim.process is not None and victim.process.returncode is None:
                    victim.process.kill()
                    await victim.process.wait()


async def torture(
    row: Row, victim: Victim, kills: int, gap_s: float, differs: Callable[[Job, bytes], bool]
) -> None:
    """Kill at random instants while people ask; then let it finish, and count."""
    live, draw, taken = victim.live, random.Random(f"{row.name} {row.batch}"), []
    began = time.monotonic()
    people, at_work = [live.playground.ben, live.playground.ada], 0
    async with asyncio.TaskGroup() as group:
        for number in range(kills):
            if len(unfinished(live)) < 3:
                asking = live.animate(user=people[number % 2], **_wish(draw))
                taken.append(group.create_task(asked(asking)))
            if draw.random() < 0.7:  # the others meet a bot or a generator that only starts
                with contextlib.suppress(TimeoutError):
                    await live.until(lambda: _at_work(live), 40)
            await asyncio.sleep(draw.uniform(0, gap_s))
            at_work += _at_work(live)
            dice = draw.random()
            await victim.kill(bot=dice < 0.6, generator=dice >= 0.4)
            if victim.process is None:
                await victim.start()
    await _finish(victim, 900)
    row.tried, row.seconds = kills, time.monotonic() - began
    row.remarks["met a job in the middle"] = at_work
    count(row, live, differs)
    add_missing(row, sum(task.result() for task in taken))


async def _finish(victim: Victim, limit_s: float) -> None:
    """Let everything come to its end; a bot that ended is started, as a service would be."""
    end = time.monotonic() + limit_s
    while unfinished(victim.live) and time.monotonic() < end:
        if victim.process is None or victim.process.returncode is not None:
            await victim.start()
        await drained(victim.live, 5)


def _wish(draw: random.Random) -> dict[str, object]:
    """Lengths and qualities mixed; drafts are made with TeaCache."""
    return {
        "seed": draw.randrange(2**31),
        "seconds": draw.choice([0.1, 0.2, 0.4, 0.6]),
        "quality": draw.choice(["draft", "final"]),
    }


def _at_work(live: Live) -> bool:
    """Whether some job has steps that are kept."""
    kept = ("resume.safetensors", "sections.bin", KEPT)
    folders = (live.folder / "jobs").glob("*")
    return any((folder / name).exists() for folder in folders for name in kept)


async def drained(live: Live, limit_s: float) -> None:
    """Wait until nothing waits, runs or is on its way; or for so long."""
    end = time.monotonic() + limit_s
    while unfinished(live) and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.3)


async def asked(asking: object) -> bool:
    """Whether the person was told that the job is in the queue; nobody answers for a dead bot."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(60):
            interaction = await asking  # type: ignore[misc]
            await interaction.answered()
            while interaction.response and "looking at" in interaction.response.content:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            response = interaction.response
            return bool(response and "in the queue" in response.content)
    return False


def unfinished(live: Live) -> list[Job]:
    """Jobs that somebody still waits for."""
    return [
        job
        for job in live.jobs()
        if job.state in (JobState.QUEUED, JobState.RUNNING) or job.delivery is Delivery.PENDING
    ]


def count(row: Row, live: Live, differs: Callable[[Job, bytes], bool]) -> None:
    """Hold what is in the channel against the rows."""
    videos: dict[str, list[Message]] = {}
    for message in live.videos():
        for file in message.attachments:
            videos.setdefault(file.filename, []).append(message)
    for job in live.jobs():
        row.jobs += 1
        posts = videos.get(f"framepack-{job.id}.mp4", [])
        row.lost += not posts
        row.duplicated += len(posts) > 1
        if not posts:
            row.notes.append(f"{job.id}: {job.state}, {job.delivery}, {job.error}")
        elif differs(job, live.playground.file(posts[0].attachments[0])):
            row.different += 1
            row.notes.append(f"{job.id}: its bytes differ after {job.turns} turns")


def add_missing(row: Row, promised: int) -> None:
    """Jobs that people were told of and that have no row are lost as well."""
    missing = max(0, promised - row.jobs)
    row.jobs += missing
    row.lost += missing


def is_not_whole(job: Job, video: bytes) -> bool:
    """Whether the fake generator's video differs from one that nobody disturbed."""
    return video != video_bytes(STEPS)


async def fake_kills(kills: int, batch: int = 0) -> Row:
    """Over a generator that makes thirty steps a second."""
    row = Row(name="SIGKILL, fast fake generator", batch=batch)
    words = ("--steps", str(STEPS), "--step-s", "0.03", "--section-steps", "8")
    async with stage(WITH_FAKE, *words) as victim:
        await torture(row, victim, kills, 1.0, is_not_whole)
    return row


async def real_kills(kills: int, batch: int = 0) -> Row:
    """Over the real one with a random model of a few megabytes."""
    import torch

    from generator.pipeline import generate
    from generator.tiny import make_tiny_model
    from tests.generator.small_jobs import small_workshop

    row = Row(name="SIGKILL, real generator", batch=batch)
    torch.set_num_threads(1)  # as the victim; sums in another order are other bytes
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        make_tiny_model(model)
        workshop = small_workshop(model)

        def differs(job: Job, video: bytes) -> bool:
            folder, disturbed = Path(name) / job.id, victim.live.folder / "jobs" / job.id
            folder.mkdir()
            picture = (disturbed / job.request.image).read_bytes()
            (folder / job.request.image).write_bytes(picture)
            latents = folder / LATENTS
            for _ in generate(job.id, job.request, folder, workshop, latents_out=latents):
                pass
            same = latents.read_bytes() == (disturbed / LATENTS).read_bytes()
            return not same or (folder / f"framepack-{job.id}.mp4").read_bytes() != video

        async with stage(WITH_REAL, model=model.as_posix(), device="cpu") as victim:
            await torture(row, victim, kills, 2.0, differs)
    return row


async def crowd(jobs: int, batch: int = 0) -> Row:
    """Many people at once, nothing killed."""
    row = Row(name="jobs of 200 users over sockets", batch=batch)
    words = ("--steps", "2", "--step-s", "0")
    async with stage(WITH_FAKE, *words) as victim:
        live, began = victim.live, time.monotonic()
        people, taken = _invited(live.playground, min(jobs, 200)), []
        for start in range(0, jobs, 20):
            async with asyncio.TaskGroup() as group:
                for n in range(start, min(jobs, start + 20)):
                    user = people[n % len(people)]
                    asking = live.animate(user=user, picture=PICTURE)
                    taken.append(group.create_task(asked(asking)))
        await drained(live, 2400)
        row.tried, row.seconds = jobs, time.monotonic() - began
        count(row, live, lambda job, video: video != video_bytes(2))
        add_missing(row, jobs)
        row.remarks["told so"] = sum(task.result() for task in taken)
    return row


def _invited(playground: Playground, count: int) -> list[User]:
    people = [playground.world.add_user(f"user{number}") for number in range(count)]
    for user in people:
        playground.world.join(user)
    return people
