"""Pull the plug at random instants; count what is lost, posted twice or different: `make torture`.

    python benchmarks/torture.py [--kills N] [--real-kills N] [--crowd N]

The bot runs as a process of its own against the playground's sockets; bot, generator or both are
killed with SIGKILL while jobs wait, are made and are delivered. Afterwards every job that was taken
must have its video in the channel exactly once, with the bytes of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "bot")]

import psutil  # noqa: E402
from fake_generator import video_bytes  # noqa: E402
from live import COMMANDS, PICTURE, Live  # noqa: E402

from bot.playground import Message, Playground, User  # noqa: E402
from storage.jobs import Delivery, Job, JobState  # noqa: E402

WITH_FAKE = ROOT / "tests" / "bot" / "bot_with_fake.py"
STEPS = 40


@dataclass
class Row:
    """One line of the table."""

    name: str
    tried: int = 0
    jobs: int = 0
    lost: int = 0
    duplicated: int = 0
    different: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing lost, nothing twice, every byte equal."""
        return self.jobs > 0 and not (self.lost or self.duplicated or self.different)

    def line(self) -> str:
        """The row in Markdown."""
        survived, equal = self.jobs - self.lost, self.jobs - self.lost - self.different
        return (
            f"| {self.name} | {self.tried} | {self.jobs} | {survived} | {self.lost} "
            f"| {self.duplicated} | {equal} | {self.seconds:.0f} s |"
        )


HEADER = (
    "| what | tried | jobs | survived | lost | duplicated | bytes equal | took |\n"
    "|---|---|---|---|---|---|---|---|"
)


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
            await self.live.playground.bot_ready(*COMMANDS, timeout_s=60)
        except TimeoutError:
            sys.stderr.write((self.live.folder / "bot.log").read_text()[-3000:])
            raise

    async def kill(self, *, bot: bool, generator: bool) -> None:
        """SIGKILL, both at once where both are asked for."""
        assert self.process is not None
        found = psutil.Process(self.process.pid)
        victims = [p for p in _children(found) if generator and _is_generator(p)]
        victims += [found] if bot else []
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        if bot:
            await self.process.wait()
            self.process = None

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
        return "fake_generator.py" in words or "generator serve" in words
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
        "[defaults]\nsteps = 6\nresolution = 64\nseconds = 0.2\nlatent_window_size = 1\n"
        "[generator]\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )
    return path


@contextlib.asynccontextmanager
async def stage(*fake: str, **generator: object) -> AsyncIterator[Victim]:
    """A playground and a bot that is not yet started; `fake` are words for the fake generator."""
    with tempfile.TemporaryDirectory() as name:
        async with Playground() as playground:
            live = Live(playground, Path(name))
            config = str(write_config(live, **generator))
            command = [sys.executable, str(WITH_FAKE), config, *fake]
            if not fake:
                command = [sys.executable, "-m", "bot", "run", "--config", config]
            victim = Victim(live, command)
            try:
                await victim.start()
                yield victim
                await victim.end()
            finally:
                if victim.process is not None and victim.process.returncode is None:
                    victim.process.kill()
                    await victim.process.wait()


async def torture(
    row: Row, victim: Victim, kills: int, gap_s: float, expected: Callable[[Job], bytes]
) -> None:
    """Kill at random instants while people ask; then let it finish, and count."""
    live, draw, taken = victim.live, random.Random(row.name), []
    began = time.monotonic()
    people = [live.playground.ben, live.playground.ada]
    async with asyncio.TaskGroup() as group:
        for number in range(kills):
            if len(_open(live)) < 3:
                asking = live.animate(user=people[number % 2], seed=draw.randrange(2**31))
                taken.append(group.create_task(_asked(asking)))
            await asyncio.sleep(draw.uniform(0, gap_s))
            dice = draw.random()
            await victim.kill(bot=dice < 0.6, generator=dice >= 0.4)
            if victim.process is None:
                await victim.start()
    while _open(live) and time.monotonic() - began < 3000:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    row.tried, row.seconds = kills, time.monotonic() - began
    count(row, live, expected)
    add_missing(row, sum(task.result() for task in taken))


async def _asked(asking: object) -> bool:
    """Whether the person was told that the job is in the queue; nobody answers for a dead bot."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(30):
            interaction = await asking  # type: ignore[misc]
            response = interaction.response
            return bool(response and "in the queue" in response.content)
    return False


def _open(live: Live) -> list[Job]:
    return [
        job
        for job in live.jobs()
        if job.state in (JobState.QUEUED, JobState.RUNNING) or job.delivery is Delivery.PENDING
    ]


def count(row: Row, live: Live, expected: Callable[[Job], bytes]) -> None:
    """Hold what is in the channel against the rows."""
    videos: dict[str, list[Message]] = {}
    for message in live.videos():
        for file in message.attachments:
            videos.setdefault(file.filename, []).append(message)
    jobs = live.jobs()
    row.jobs = len(jobs)
    for job in jobs:
        posts = videos.get(f"framepack-{job.id}.mp4", [])
        row.lost += not posts
        row.duplicated += len(posts) > 1
        if not posts:
            row.notes.append(f"{job.id}: {job.state}, {job.delivery}, {job.error}")
        elif live.playground.file(posts[0].attachments[0]) != expected(job):
            row.different += 1
            row.notes.append(f"{job.id}: its bytes differ after {job.turns} turns")


def add_missing(row: Row, promised: int) -> None:
    """Jobs that people were told of and that have no row are lost as well."""
    missing = max(0, promised - row.jobs)
    row.jobs += missing
    row.lost += missing


async def fake_kills(kills: int) -> Row:
    """Over a generator that makes forty steps a second."""
    row = Row("SIGKILL, fast fake generator")
    words = ("--steps", str(STEPS), "--step-s", "0.03", "--section-steps", "8")
    async with stage(*words) as victim:
        await torture(row, victim, kills, 1.0, lambda job: video_bytes(STEPS))
    return row


async def real_kills(kills: int) -> Row:
    """Over the real one with a random model of a few megabytes."""
    from generator.pipeline import generate
    from generator.tiny import make_tiny_model
    from tests.generator.small_jobs import small_workshop

    row = Row("SIGKILL, real generator")
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        make_tiny_model(model)
        workshop = small_workshop(model)

        def undisturbed(job: Job) -> bytes:
            folder = Path(name) / job.id
            folder.mkdir()
            picture = victim.live.folder / "jobs" / job.id / job.request.image
            (folder / job.request.image).write_bytes(picture.read_bytes())
            for _ in generate(job.id, job.request, folder, workshop):
                pass
            return (folder / f"framepack-{job.id}.mp4").read_bytes()

        async with stage(model=model.as_posix(), device="cpu") as victim:
            await torture(row, victim, kills, 15.0, undisturbed)
    return row


async def crowd(jobs: int) -> Row:
    """Many people at once, nothing killed."""
    row = Row("jobs of 200 users over sockets")
    async with stage("--steps", "2", "--step-s", "0") as victim:
        live, began = victim.live, time.monotonic()
        people = _invited(live.playground, min(jobs, 200))
        for start in range(0, jobs, 20):
            async with asyncio.TaskGroup() as group:
                for n in range(start, min(jobs, start + 20)):
                    user = people[n % len(people)]
                    group.create_task(_asked(live.animate(user=user, picture=PICTURE)))
        await asyncio.sleep(1)
        while _open(live) and time.monotonic() - began < 2400:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        row.tried, row.seconds = jobs, time.monotonic() - began
        count(row, live, lambda job: video_bytes(2))
        add_missing(row, jobs)
    return row


def _invited(playground: Playground, count: int) -> list[User]:
    people = [playground.world.add_user(f"user{number}") for number in range(count)]
    for user in people:
        playground.world.join(user)
    return people


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=140)
    parser.add_argument("--real-kills", type=int, default=60)
    parser.add_argument("--crowd", type=int, default=1000)
    arguments = parser.parse_args()
    good = True
    print(HEADER, flush=True)
    for part, times in (
        (fake_kills, arguments.kills),
        (real_kills, arguments.real_kills),
        (crowd, arguments.crowd),
    ):
        if times:
            row = asyncio.run(part(times))
            print(row.line(), *row.notes, sep="\n", flush=True)
            good = good and row.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
