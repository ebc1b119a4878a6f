"""The bot is killed before, during and after the upload of a video: it is in the channel once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_generator import video_bytes
from live import Live
from test_process import bot_process

from bot.playground import Playground
from storage.jobs import Delivery, JobState

UPLOAD = "POST /channels/*/messages"
MOMENTS: dict[str, dict[str, Any]] = {
    "before": {"status": 503},
    "during": {"latency_s": 1.0},  # what arrived whole takes effect, though nobody waits any more
    "after": {"drop": True, "applied": True},
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_killed_around_the_upload_the_video_comes_once(
    playground: Playground, tmp_path: Path, moment: str
) -> None:
    live = Live(playground, tmp_path)
    async with bot_process(live, "--steps", "6", "--step-s", "0.3") as process:
        await live.animate()
        await live.until(lambda: [job.state for job in live.jobs()] == [JobState.RUNNING])
        await live.until(lambda: live.jobs()[0].status_message_id)
        playground.faults.inject(UPLOAD, times=None, **MOMENTS[moment])
        if moment == "after":
            await live.video()
        await live.until(lambda: [job.delivery_attempts for job in live.jobs()] == [1])
        process.kill()
        await process.wait()
    playground.faults.clear()
    assert live.jobs()[0].delivery is Delivery.PENDING
    async with bot_process(live):
        await live.until(lambda: live.jobs()[0].delivery is Delivery.DELIVERED)
    videos = live.videos()
    assert len(videos) == 1
    assert playground.file(videos[0].attachments[0]) == video_bytes(6)
    assert live.jobs()[0].result_message_id == videos[0].id
