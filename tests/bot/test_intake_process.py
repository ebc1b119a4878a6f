"""The process that opens pictures: it hangs, is killed, takes too much, and sees no token."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest
from PIL import Image
from sent_pictures import accepted, halves, names, packed, refused

from bot.config import Limits
from bot.intake import Intake, IntakeError, picture_limits
from bot.picture import WATCHDOG_GRACE_S
from bot.picture_messages import Order, PictureLimits


def picture_processes() -> list[psutil.Process]:
    return [
        child for child in psutil.Process().children() if "bot.picture" in " ".join(child.cmdline())
    ]


@asynccontextmanager
async def one_process(
    limits: PictureLimits,
) -> AsyncIterator[tuple[Intake, psutil.Process]]:
    """An intake, its process told apart from those of other tests, and no orphan afterwards."""
    others = set(picture_processes())
    async with Intake(limits) as intake:
        (process,) = set(picture_processes()) - others
        yield intake, process
    assert set(picture_processes()) <= others


async def test_one_process_opens_picture_after_picture(tmp_path: Path) -> None:
    async with one_process(PictureLimits()) as (intake, process):
        for _ in range(3):
            await accepted(intake, packed(halves(), "PNG"), tmp_path)
            await refused(intake, b"no", tmp_path / "other")
        assert process.is_running()


async def test_a_process_that_hangs_is_killed_and_the_next_picture_works(tmp_path: Path) -> None:
    async with one_process(PictureLimits(timeout_s=2)) as (intake, process):
        process.suspend()
        sentence = await refused(intake, packed(halves(), "PNG"), tmp_path)
        assert sentence.startswith("opening the picture took more than 2 s")
        assert not process.is_running()
        await accepted(intake, packed(halves(), "PNG"), tmp_path)


async def test_a_process_killed_between_two_pictures_is_replaced_unnoticed(tmp_path: Path) -> None:
    async with one_process(PictureLimits()) as (intake, process):
        process.kill()
        await accepted(intake, packed(halves(), "PNG"), tmp_path)


async def test_a_process_killed_over_an_innocent_picture_is_replaced(tmp_path: Path) -> None:
    async with one_process(PictureLimits()) as (intake, process):
        process.suspend()
        asked = asyncio.create_task(accepted(intake, packed(halves(), "PNG"), tmp_path))
        await asyncio.sleep(0.05)
        process.kill()
        assert (await asked)[0].width == 80


async def test_a_cancelled_acceptance_leaves_nothing_and_the_next_one_is_not_mixed_up(
    tmp_path: Path,
) -> None:
    async with one_process(PictureLimits()) as (intake, process):
        process.suspend()
        asked = asyncio.create_task(intake.accept(packed(halves(), "PNG"), tmp_path / "a.png"))
        await asyncio.sleep(0.05)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert names(tmp_path) == []
        answer, _ = await accepted(intake, packed(halves((90, 70)), "PNG"), tmp_path)
        assert answer.width == 90


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS bounds no process's memory")
async def test_a_picture_that_needs_too_much_memory_is_refused_and_the_next_works(
    tmp_path: Path,
) -> None:
    big = packed(Image.new("RGBA", (5000, 5000)), "PNG", compress_level=1)
    async with one_process(PictureLimits(memory_mib=150)) as (intake, process):
        sentence = await refused(intake, big, tmp_path)
        assert sentence.startswith("opening the picture takes more than 150 MiB of memory")
        await accepted(intake, packed(halves(), "PNG"), tmp_path)
        assert not process.is_running()
    async with Intake(PictureLimits()) as intake:
        await accepted(intake, big, tmp_path)


async def test_a_picture_that_ends_the_process_twice_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragile = 'import sys; print(\'{"type":"up","no_memory_limit":""}\', flush=True); input()'
    monkeypatch.setattr("bot.intake.PICTURE_PROCESS", (sys.executable, "-c", fragile))
    async with Intake(PictureLimits()) as intake:
        sentence = await refused(intake, packed(halves(), "PNG"), tmp_path)
        assert sentence.startswith("opening the picture ended the process")


async def test_a_process_that_can_not_start_says_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = (sys.executable, "-c", "raise SystemExit('no Pillow here')")
    monkeypatch.setattr("bot.intake.PICTURE_PROCESS", command)
    with pytest.raises(IntakeError, match="ended at its start: no Pillow here"):
        await Intake(PictureLimits()).__aenter__()
    monkeypatch.setattr("bot.intake.PICTURE_PROCESS", (str(Path("/no/such/python")),))
    with pytest.raises(IntakeError, match="can not be started: "):
        await Intake(PictureLimits()).__aenter__()


HOLD = """
import asyncio, sys, time
from bot.intake import Intake
from bot.picture import WATCHDOG_GRACE_S
from bot.picture_messages import Order, PictureLimits
async def main():
    async with Intake(PictureLimits()) as intake:
        print(intake._child._process.pid, flush=True)
        time.sleep(600)
asyncio.run(main())
"""


def test_the_process_ends_when_the_bot_is_killed() -> None:
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as bot:
        assert bot.stdout is not None
        process = psutil.Process(int(bot.stdout.readline()))
        assert "bot.picture" in " ".join(process.cmdline())
        bot.kill()
        process.wait(timeout=20)


def test_a_process_that_nobody_is_left_to_kill_ends_itself(tmp_path: Path) -> None:
    limits = PictureLimits(timeout_s=0.02 - WATCHDOG_GRACE_S)
    command = [sys.executable, "-m", "bot.picture", msgspec.json.encode(limits).decode()]
    raw = packed(Image.effect_noise((3000, 3000), 90), "PNG", compress_level=1)
    order = Order(destination=str(tmp_path / "never.png"), size_bytes=len(raw))
    ended = subprocess.run(
        command, input=msgspec.json.encode(order) + b"\n" + raw, capture_output=True, timeout=60
    )
    assert ended.returncode != 0
    assert ended.stdout.count(b"\n") == 1  # it came up, and answered nothing
    assert names(tmp_path) == []


async def test_the_process_never_sees_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCORD_TOKEN", "secret")
    async with one_process(PictureLimits()) as (_, process):
        assert "DISCORD_TOKEN" not in process.environ()


async def test_the_work_is_not_done_on_the_event_loop(tmp_path: Path) -> None:
    raw = packed(Image.effect_noise((2000, 2000), 90), "PNG", compress_level=1)
    async with one_process(PictureLimits()) as (intake, process):
        before = time.thread_time()
        await intake.accept(raw, tmp_path / "input.png")
        ours_s = time.thread_time() - before
        times = process.cpu_times()
        assert ours_s < (times.user + times.system) / 2


def test_the_configured_limits_reach_the_process() -> None:
    configured = Limits(max_attachment_mib=2, max_picture_megapixels=3.5, picture_memory_mib=600)
    limits = picture_limits(configured)
    assert (limits.max_bytes, limits.max_pixels, limits.memory_mib) == (2 * 2**20, 3_500_000, 600)
    assert picture_limits(Limits()) == PictureLimits()


@pytest.mark.skipif(sys.maxsize < 2**32, reason="sizes are of 64-bit Windows")
def test_the_windows_structures_have_windows_sizes() -> None:
    import ctypes

    from bot.windows_memory import _BasicLimits, _ExtendedLimits, limit_own_memory

    assert (ctypes.sizeof(_BasicLimits), ctypes.sizeof(_ExtendedLimits)) == (64, 144)
    if sys.platform != "win32":
        assert limit_own_memory(1024) == "this is not Windows"
