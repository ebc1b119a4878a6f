"""A generator that is killed or fails, over real sockets: what it costs, and what is said."""

from __future__ import annotations

import asyncio
import contextlib

import psutil
from live import Live

from bot.playground import plain_text


async def test_a_generator_killed_while_it_starts_is_started_once_more(live: Live) -> None:
    async def kill_the_first() -> int:
        while True:
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    if "fake_generator" in " ".join(child.cmdline()):
                        child.kill()
                        return child.pid
            await asyncio.sleep(0.002)

    killing = asyncio.ensure_future(kill_the_first())
    async with live.running("--start-s", "0.5"):
        await live.animate()
        await live.video()
        assert killing.done()


async def test_a_child_killed_in_the_middle_costs_nothing_but_time(live: Live) -> None:
    async with live.running("--steps", "40", "--step-s", "0.1"):
        await live.animate()
        await live.status_says("step ")
        [child] = [
            process
            for process in psutil.Process().children()
            if any("fake_generator" in word for word in process.cmdline())
        ]
        child.kill()
        await live.video()
    assert live.jobs()[0].attempts == 1  # only those without progress count
    assert len(live.videos()) == 1


async def test_a_generator_that_breaks_later_leaves_the_bot_alive(live: Live) -> None:
    async with live.running("dies"):
        await live.animate()
        await live.status_says("broke down 5 times")
        asked = await live.playground.slash(live.playground.ben, live.playground.pictures, "queue")
        await live.answer_says(asked, "Nobody is waiting")


async def test_a_failure_is_told_without_a_path(live: Live) -> None:
    async with live.running("fails_path"):
        await live.animate()
        status = await live.status_says("problem with the model")
        [notice] = await live.sees(lambda: [m for m in live.posts() if not m.embeds])
    assert (notice.reply_to_id, notice.pings) == (status.id, (live.playground.ben.id,))
    assert "can not write frame.png" in notice.content
    assert str(live.folder) not in notice.content
    assert "can not write frame.png" in plain_text(status)
    assert str(live.folder) not in plain_text(status)
