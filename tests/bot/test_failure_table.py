"""The failure table: each row while a job waits, is sampled and is delivered; over real sockets.

The subject is a job of ben's in a channel of its own; while it "waits" a job of cleo's is at work.
While it is "delivered" its first upload has met a 503 and the next comes after a pause. In every
phase the video must come exactly once, or what the row says instead. A bot that is killed is a
process of its own; more of the moments around an upload are in test_delivery_kills, random ones in
the torture. What belongs to no phase is elsewhere: interactions that arrive twice in
test_live_discord, the lock of one instance in test_live_start.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import discord
import msgspec
import psutil
import pytest
import yarl
from fake_generator import KEPT, video_bytes
from live import FAKE, Live
from test_fitting import noisy_video
from test_process import bot_process

from bot import delivery, posts, publisher
from bot.playground import Channel, Message, Playground, plain_text
from storage.jobs import Delivery, Job, JobState

EDIT = "PATCH /channels/*/messages/*"
WAITS, SAMPLES, DELIVERED = "waits", "samples", "is delivered"
PHASES = (WAITS, SAMPLES, DELIVERED)
STEPS = ("--steps", "25", "--step-s", "0.04")


class Subject:
    """The job that a row befalls, in a channel of its own."""

    def __init__(self, live: Live, channel: Channel, phase: str) -> None:
        self.live, self.channel, self.phase = live, channel, phase
        self.discord = live.playground
        self.id = ""

    @property
    def job(self) -> Job:
        return next(job for job in self.live.jobs() if job.id == self.id)

    @property
    def status(self) -> Message:
        return self.discord.world.messages[self.job.status_message_id or 0]

    def videos(self, job_id: str = "") -> list[Message]:
        """Wherever they went; of another job if it is named."""
        name = f"framepack-{job_id or self.id}.mp4"
        messages = self.discord.world.messages.values()
        return [m for m in messages if any(file.filename == name for file in m.attachments)]

    async def comes_into(self) -> None:
        """Ask, and wait until the job is in its phase."""
        live, ben, cleo = self.live, self.discord.ben, self.discord.cleo
        if self.phase == WAITS:
            await live.animate(cleo, seconds=1)
            await live.until(lambda: [j.state for j in live.jobs()] == [JobState.RUNNING])
        await live.animate(ben, self.channel)
        await live.until(lambda: [j for j in live.jobs() if j.user_id == ben.id])
        self.id = next(job.id for job in live.jobs() if job.user_id == ben.id)
        await live.until(lambda: self.job.status_message_id)
        if self.phase == SAMPLES:
            await live.until(lambda: self.job.state is JobState.RUNNING)
            await live.until(self.is_sampled)
        if self.phase == DELIVERED:
            await live.until(self.is_sampled)
            self.discord.faults.inject(f"POST /channels/{self.channel.id}/messages", 503)
            await live.until(lambda: self.job.delivery_attempts == 1)
            await live.until(lambda: not self.discord.faults.waiting)

    def is_sampled(self) -> bool:
        """Whether its owner was told of a step."""
        return "step " in plain_text(self.status)

    async def ends(self) -> Job:
        """The job when nothing about it will change any more."""
        await self.live.until(lambda: publisher.is_last(self.job), 90)
        return self.job


class SubjectOfProcess(Subject):
    """The same where the bot is a process, which tells of steps as seldom as the product does."""

    def is_sampled(self) -> bool:
        """Whether a step is kept."""
        return (self.live.folder / "jobs" / self.id / KEPT).exists()


async def message_deleted(subject: Subject) -> None:
    subject.discord.delete_message(subject.status)


async def channel_deleted(subject: Subject) -> None:
    subject.discord.delete_channel(subject.channel)


async def kicked(subject: Subject) -> None:
    subject.discord.kick_bot()


async def permission_lost(subject: Subject) -> None:
    denied = "view_channel send_messages embed_links attach_files"
    subject.discord.permit(subject.channel, subject.discord.bot, deny=denied)


def fault(*faults: dict[str, Any]) -> Callable[[Subject], Awaitable[None]]:
    """What the bot's next requests about messages in the job's channel meet."""

    async def befall(subject: Subject) -> None:
        for details in faults:
            method = details.get("method", "*")
            pattern = f"{method} /channels/{subject.channel.id}/messages*"
            rest = {name: value for name, value in details.items() if name != "method"}
            subject.discord.faults.inject(pattern, **rest)

    return befall


async def edits_rationed(subject: Subject) -> None:
    subject.discord.faults.inject(EDIT, 429, code=30046, retry_after_s=0.3, times=2)


async def archived(subject: Subject) -> None:
    subject.discord.archive(subject.channel)


async def resumed(subject: Subject) -> None:
    await subject.discord.drop_gateway()


async def identified(subject: Subject) -> None:
    await subject.discord.drop_gateway(resumable=False)


async def asked_to_reconnect(subject: Subject) -> None:
    subject.discord.gateway.ask_to_reconnect()


def generators_of(pid: int) -> list[psutil.Process]:
    """The generator that this bot has."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if str(FAKE) in child.cmdline()]


async def generator_killed(subject: Subject) -> None:
    [generator] = generators_of(os.getpid())
    generator.kill()


# What is wanted in the end


async def once_in_its_channel(subject: Subject) -> None:
    job = await subject.ends()
    assert job.delivery is Delivery.DELIVERED
    [video] = subject.videos()
    assert video.channel_id == subject.channel.id
    assert video.id == job.result_message_id


async def once_and_whole(subject: Subject) -> None:
    """Of every job, for the one at work was befallen as well: the bytes of a run undisturbed."""
    await once_in_its_channel(subject)
    for job in subject.live.jobs():
        [video] = subject.videos(job.id)
        assert subject.discord.file(video.attachments[0]) == video_bytes(int(STEPS[1]))


async def once_and_no_reply(subject: Subject) -> None:
    await once_in_its_channel(subject)
    assert subject.videos()[0].reply_to_id is None
    assert len(subject.live.posts(subject.channel)) == 1  # no second status message


async def once_to_its_owner(subject: Subject) -> None:
    job = await subject.ends()
    assert job.delivery is Delivery.DELIVERED
    [video] = subject.videos()
    assert video.channel_id == subject.discord.world.open_dm(subject.discord.ben).id
    refused = [call.status for call in subject.discord.calls if call.status in (403, 404)]
    assert len(refused) <= 4  # such answers count towards a ban


async def cancelled_or_kept_without_requests(subject: Subject) -> None:
    job = await subject.ends()
    if subject.phase == WAITS:
        assert job.state is JobState.CANCELLED
        assert not subject.videos()
    else:  # it is made to its end, and whoever asked may have it in a direct message
        assert job.state is JobState.FINISHED
        assert len(subject.videos()) <= 1
        assert (subject.live.folder / "jobs" / job.id / (job.video or "")).is_file()
    refused = [call.status for call in subject.discord.calls if call.status in (401, 403, 404)]
    assert len(refused) <= 4


async def once_and_smaller(subject: Subject) -> None:
    await once_in_its_channel(subject)
    assert "Made smaller to fit here" in subject.videos()[0].content


async def once_and_the_prompt_is_not_insisted_on(subject: Subject) -> None:
    await once_in_its_channel(subject)
    await subject.live.until(lambda: "Finished" in plain_text(subject.status))


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What befalls the job, and what is wanted then."""

    befall: Callable[[Subject], Awaitable[None]]
    wanted: Callable[[Subject], Awaitable[None]] = once_in_its_channel
    in_thread: bool = False


ROWS = {
    "status message deleted": Row(befall=message_deleted, wanted=once_and_no_reply),
    "channel deleted": Row(befall=channel_deleted, wanted=once_to_its_owner),
    "bot kicked": Row(befall=kicked, wanted=cancelled_or_kept_without_requests),
    "permission lost": Row(befall=permission_lost, wanted=once_to_its_owner),
    "429": Row(befall=fault({"status": 429, "retry_after_s": 0.3, "times": 2})),
    "30046": Row(befall=edits_rationed),
    "500": Row(befall=fault({"status": 500, "times": 2})),
    "502": Row(befall=fault({"status": 502, "times": 2})),
    "503": Row(befall=fault({"status": 503, "times": 2})),
    "dropped connection": Row(befall=fault({"drop": True, "times": 2})),
    "answer lost": Row(befall=fault({"drop": True, "applied": True, "times": 2})),
    "timeout": Row(befall=fault({"latency_s": 1.5, "times": 2})),
    "413": Row(
        befall=fault({"method": "POST", "status": 413, "code": 40005}), wanted=once_and_smaller
    ),
    "AutoMod": Row(
        befall=fault({"method": "PATCH", "status": 400, "code": 200000}),
        wanted=once_and_the_prompt_is_not_insisted_on,
    ),
    "50035": Row(
        befall=fault({"method": "PATCH", "status": 400, "code": 50035}),
        wanted=once_and_the_prompt_is_not_insisted_on,
    ),
    "RESUME": Row(befall=resumed),
    "new IDENTIFY": Row(befall=identified),
    "reconnect": Row(befall=asked_to_reconnect),
    "archived thread": Row(befall=archived, in_thread=True),
    "generator killed": Row(befall=generator_killed, wanted=once_and_whole),
}


@pytest.fixture
def live(playground: Playground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    monkeypatch.setattr(discord.http.Route, "BASE", playground.api_url)
    gateway = yarl.URL(playground.gateway_url)
    monkeypatch.setattr(discord.gateway.DiscordWebSocket, "DEFAULT_GATEWAY", gateway)
    monkeypatch.setattr(publisher, "EDIT_GAP_S", 0.3)
    monkeypatch.setattr(publisher, "QUIET_GAP_S", 0.1)
    monkeypatch.setattr(delivery, "FIRST_PAUSE_S", 0.7)
    monkeypatch.setattr(posts, "REQUEST_TIMEOUT_S", 1.0)
    monkeypatch.setattr(posts, "UPLOAD_TIMEOUT_S", 1.0)
    yield Live(playground, tmp_path)


@asynccontextmanager
async def subject_of(live: Live, row: Row, phase: str, *words: str) -> Any:
    discord = live.playground
    channel = discord.thread if row.in_thread else discord.add_channel("its-own")
    async with live.running(*STEPS, *words):
        subject = Subject(live, channel, phase)
        await subject.comes_into()
        yield subject
    discord.world.is_member = True


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", ROWS)
async def test_the_failure_table(
    live: Live, name: str, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, words = ROWS[name], ()
    if row.wanted is once_and_smaller:
        monkeypatch.setattr(posts, "UPLOAD_TIMEOUT_S", 30.0)
        video = live.folder / "noise.mp4"
        monkeypatch.setenv(
            "FAKE_VIDEO", str(await asyncio.to_thread(noisy_video, video, "176x144", 1))
        )
        words = ("real_video",)
    async with subject_of(live, row, phase, *words) as subject:
        await row.befall(subject)
        await row.wanted(subject)


@pytest.mark.parametrize("phase", PHASES)
async def test_an_orderly_restart(live: Live, phase: str) -> None:
    async with subject_of(live, ROWS["503"], phase) as subject:
        pass
    async with live.running(*STEPS):
        await once_in_its_channel(subject)
    own = live.posts(subject.channel)
    assert len([message for message in own if message.embeds]) == 1
    async with live.running(*STEPS):
        await once_in_its_channel(subject)  # never again


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("victims", ["bot", "bot and generator"])
async def test_kill_dash_nine(
    playground: Playground, tmp_path: Path, victims: str, phase: str
) -> None:
    live = Live(playground, tmp_path)
    subject = SubjectOfProcess(live, playground.add_channel("its-own"), phase)
    async with bot_process(live, *STEPS) as process:
        await subject.comes_into()
        dying = [psutil.Process(process.pid)]
        dying += generators_of(process.pid) if victims != "bot" else []
        for each in dying:
            each.kill()
        await process.wait()
    assert subject.job.delivery is not Delivery.DELIVERED
    async with bot_process(live, *STEPS):
        await once_and_whole(subject)
