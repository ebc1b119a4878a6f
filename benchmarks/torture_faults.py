"""What goes wrong without anybody being killed: pictures, disk, lock, clock, a child's bad manners.

Each part runs the real bot over the playground's sockets with the fast fake generator, breaks one
thing while jobs are asked for, made and delivered, and counts as the kills do. A job that was
refused with a sentence was never taken; one that was taken must have its video once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pillow_heif
from fake_generator import video_bytes
from live import Live
from PIL import Image
from sent_pictures import halves, packed, png_of_zeros
from torture_kills import ROOT, add_missing, asked, count, drained
from torture_table import Row

from bot import intake
from bot.intake import Intake, IntakeError, RefusedPicture
from bot.picture_messages import PictureLimits
from bot.playground import Playground
from storage import looks
from storage.connections import Connections
from storage.jobs import Job, JobStore
from storage.schema import StorageError

STEPS = 30
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "HEIF", "AVIF")


async def pictures(times: int, batch: int = 0) -> Row:
    """Valid pictures with some bytes changed, cut or doubled: accepted or refused, never worse."""
    row = Row(name="mutated pictures", batch=batch)
    dice, began = random.Random(f"pictures {batch}"), time.monotonic()
    seeds = _seeds()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with Intake(PictureLimits()) as intake:
            for number in range(times):
                await _judge(row, intake, _mutated(seeds[number % len(seeds)], dice), folder)
            await intake.accept(packed(halves(), "PNG"), folder / "input.png")  # it still works
            row.lost += len(await asyncio.to_thread(_others, folder))
    row.tried = times
    row.seconds = time.monotonic() - began
    return row


def _others(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"input.png"}


async def _judge(row: Row, intake: Intake, raw: bytes, folder: Path) -> str:
    row.jobs += 1
    try:
        await intake.accept(raw, folder / "input.png")
        verdict = "accepted"
    except RefusedPicture as error:
        verdict = "refused"
        row.different += "\n" in str(error) or not str(error).strip()
    except (IntakeError, Exception) as error:
        verdict = "lost"
        row.lost += 1
        row.notes.append(f"{type(error).__name__}: {error}: {raw[:40]!r}")
    row.remarks[verdict] = row.remarks.get(verdict, 0) + 1
    return verdict


def _seeds() -> list[bytes]:
    pillow_heif.register_heif_opener()
    noise = Image.effect_noise((48, 48), 90).convert("RGB")
    grey = Image.new("I;16", (48, 48), 40000)
    turned = Image.Exif()
    turned[0x0112] = 6
    found = [packed(noise, kind) for kind in KINDS]
    found += [packed(noise.convert(mode), "PNG") for mode in ("RGBA", "P", "L", "1")]
    found += [packed(grey, "PNG"), packed(noise, "JPEG", exif=turned.tobytes())]
    frames = [halves(left=(n, 0, 0)) for n in range(3)]
    for kind in ("GIF", "WEBP", "PNG"):
        found.append(packed(frames[0], kind, save_all=True, append_images=frames[1:]))
    return found


def _mutated(seed: bytes, dice: random.Random) -> bytes:
    raw = bytearray(seed)
    for _ in range(dice.randint(1, 8)):
        raw[dice.randrange(len(raw))] = dice.randrange(256)
    if dice.random() < 0.1:
        del raw[dice.randrange(len(raw)) :]
    if dice.random() < 0.1:
        at = dice.randrange(len(raw) + 1)
        raw[at:at] = raw[: dice.randrange(200)]
    return bytes(raw)


async def hostile(times: int, batch: int = 0) -> Row:
    """The table of pictures that people and attackers send, each with its verdict."""
    row = Row(name="hostile pictures", batch=batch)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        async with Intake(PictureLimits()) as intake:
            for _ in range(times):
                for what, (raw, expected) in HOSTILE.items():
                    verdict = await _judge(row, intake, raw, Path(name))
                    if verdict != expected:
                        row.different += 1
                        row.notes.append(f"{what}: {verdict}, not {expected}")
    row.tried, row.seconds = times * len(HOSTILE), time.monotonic() - began
    return row


def _hostile() -> dict[str, tuple[bytes, str]]:
    pillow_heif.register_heif_opener()
    good, noise = halves(), Image.effect_noise((200, 200), 90).convert("RGB")
    turned, frames = Image.Exif(), [halves(left=(n, 0, 0)) for n in range(3)]
    turned[0x0112] = 6
    whole = {kind: packed(noise, kind) for kind in KINDS}
    accepted: dict[str, bytes] = {
        "16-bit grey": packed(Image.new("I;16", (64, 64), 40000), "PNG"),
        "turned by EXIF": packed(good, "JPEG", exif=turned.tobytes()),
        "transparent": packed(good.convert("RGBA"), "PNG"),
        "animated": packed(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "HEIC": packed(good, "HEIF"),
        "a ZIP behind it": packed(good, "PNG") + b"PK\x03\x04" + bytes(500),
        "10:1": packed(halves((640, 64)), "PNG"),
    }
    refused: dict[str, bytes] = {
        "claims 60000²": png_of_zeros(60000, 60000, rows=0),
        "13000² in 0.5 MB": png_of_zeros(13000, 13000),
        "SVG": b"<?xml version='1.0'?>\n<svg xmlns='x'/>",
        "HTML": b"<!DOCTYPE html><title>x</title>",
        "PDF": b"%PDF-1.7\n%\xe2\xe3",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "1×1": packed(Image.new("L", (1, 1)), "PNG"),
        "16000×4": packed(Image.new("L", (16000, 4)), "PNG"),
        "0 bytes": b"",
        **{f"truncated {kind}": raw[: len(raw) * 6 // 10] for kind, raw in whole.items()},
    }
    table = {name: (raw, "accepted") for name, raw in accepted.items()}
    return table | {name: (raw, "refused") for name, raw in refused.items()}


HOSTILE = _hostile()


async def full_disk(jobs: int, batch: int = 0) -> Row:
    """Again and again nothing can be written into the database for half a second."""
    row, real = Row(name="a full disk (database)", batch=batch), Connections.execute
    began = time.monotonic()

    async def full(self: Connections, sql: str, values: dict[str, Any], *, redo: bool) -> Any:
        writes = not sql.startswith("SELECT")
        if writes and int(2 * (time.monotonic() - began)) % 3 == 0:
            row.remarks["refused writes"] = row.remarks.get("refused writes", 0) + 1
            raise StorageError("the disk that holds bot.sqlite3 is full; free some space")
        return await real(self, sql, values, redo=redo)

    @contextlib.asynccontextmanager
    async def fill(live: Live) -> AsyncIterator[None]:
        Connections.execute = full  # type: ignore[method-assign]
        try:
            yield
        finally:
            Connections.execute = real  # type: ignore[method-assign]

    await _under(row, jobs, meanwhile=fill)
    return row


FULL = ROOT / "tests" / "bot" / "picture_on_full_disk.py"


async def full_folders(jobs: int, batch: int = 0) -> Row:
    """Again and again pictures, kept steps and videos find no space for half a second."""
    row = Row(name="a full disk (pictures, steps, videos)", batch=batch)
    real_process, real_lost = intake.PICTURE_PROCESS, JobStore.lost

    async def lost(self: JobStore, *arguments: Any) -> Job:
        row.remarks["turns ended by it"] = row.remarks.get("turns ended by it", 0) + 1
        return await real_lost(self, *arguments)

    with tempfile.TemporaryDirectory() as name:
        marker = Path(name) / "full"

        async def fill(live: Live) -> None:
            marker.touch()
            try:
                await asyncio.sleep(0.5)
            finally:
                marker.unlink()

        intake.PICTURE_PROCESS = (sys.executable, str(FULL), str(marker))
        JobStore.lost = lost  # type: ignore[method-assign]
        try:
            again = functools.partial(_again, fill)
            await _under(row, jobs, "--full-while", str(marker), meanwhile=again)
        finally:
            intake.PICTURE_PROCESS = real_process
            JobStore.lost = real_lost  # type: ignore[method-assign]
    return row


async def locked(jobs: int, batch: int = 0) -> Row:
    """Another program locks the file again and again, for longer than the bot waits."""
    row = Row(name="a locked database", batch=batch)

    def hold(live: Live) -> None:
        with closing(sqlite3.connect(live.folder / "bot.sqlite3", timeout=20)) as other:
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(5.5)
            other.rollback()

    async def lock(live: Live) -> None:
        await asyncio.to_thread(hold, live)
        row.remarks["locks of 5.5 s"] = row.remarks.get("locks of 5.5 s", 0) + 1

    await _under(row, jobs, meanwhile=functools.partial(_again, lock))
    return row


@contextlib.asynccontextmanager
async def _again(fault: Callable[[Live], Awaitable[None]], live: Live) -> AsyncIterator[None]:
    """While the block lasts the fault comes again and again, with a second of peace between."""

    async def repeat() -> None:
        while True:
            await fault(live)
            await asyncio.sleep(1.0)

    task = asyncio.ensure_future(repeat())
    try:
        yield
    finally:
        task.cancel()


async def clock(jobs: int, batch: int = 0) -> Row:
    """The system's clock jumps by hours and years, back and forth."""
    row, dice, real = Row(name="a clock that jumps", batch=batch), random.Random(batch), datetime
    row.remarks["jumps"] = 0

    class Jumping(datetime):
        ahead = timedelta()

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            if dice.random() < 0.2:
                row.remarks["jumps"] += 1
                cls.ahead = timedelta(hours=dice.choice([-87600, -24, -1, 0, 1, 24, 87600]))
            return real.now(UTC) + cls.ahead

    looks.datetime = Jumping  # type: ignore[attr-defined]
    try:
        await _under(row, jobs)
    finally:
        looks.datetime = real  # type: ignore[attr-defined]
    return row


MANNERS = {
    "hangs": "a generator that hangs",
    "garbage": "a generator that prints garbage",
    "long_lines": "a generator that prints lines of 2 MiB",
    "flood": "a generator that floods stderr",
    "grows": "a generator that grows in memory",
    "dies": "a generator that dies",
}


async def manners(behaviour: str, jobs: int, batch: int = 0) -> Row:
    """Every job's first attempt meets a child that misbehaves."""
    row = Row(name=MANNERS[behaviour], batch=batch)
    await _under(row, jobs, behaviour, "once")
    row.remarks["misbehaved"] = row.tried
    return row


async def _under(row: Row, jobs: int, *words: str, meanwhile: Any = contextlib.nullcontext) -> None:
    """Jobs of three people while something is wrong; the counts go into the row.

    Who is told that a job could not be taken asks again, as people do.
    """
    began = time.monotonic()
    async with _live(1.5 if "hangs" in words else 60.0) as live:
        discord = live.playground
        people, refused = [discord.ben, discord.ada, discord.cleo], 0
        bot = live.running("--steps", str(STEPS), "--step-s", "0.02", *words)
        async with bot, meanwhile(live):
            async with asyncio.timeout(60 + 20 * jobs):
                for number in range(jobs):
                    while not await asked(live.animate(user=people[number % 3])):
                        refused += 1
                        await asyncio.sleep(0.3)
            await drained(live, 300)
        row.tried, row.seconds = jobs, time.monotonic() - began
        count(row, live, lambda job, video: video != video_bytes(STEPS))
        add_missing(row, jobs)
        if refused:
            row.remarks["not taken, told so, asked again"] = refused


@contextlib.asynccontextmanager
async def _live(silence_s: float) -> AsyncIterator[Live]:
    with tempfile.TemporaryDirectory() as name:
        async with Playground() as playground:
            live = Live(playground, Path(name))
            generator = msgspec.structs.replace(
                live.config.generator, silence_limit_s=silence_s, memory_limit_gib=0.15
            )
            limits = msgspec.structs.replace(live.config.limits, max_waiting_per_user=1000)
            live.config = msgspec.structs.replace(live.config, generator=generator, limits=limits)
            yield live
