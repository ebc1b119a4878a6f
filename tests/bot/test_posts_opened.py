"""A file that is opened for a post which is cancelled meanwhile is closed again."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import discord
import pytest

from bot.posts import opened


async def test_a_cancelled_post_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, may_open, made = tmp_path / "a.mp4", threading.Event(), []
    video.write_bytes(b"a video")

    def slow(*arguments: Any, **options: Any) -> discord.File:
        may_open.wait()
        made.append(real(*arguments, **options))
        return made[0]

    real = discord.File
    monkeypatch.setattr(discord, "File", slow)
    post = asyncio.create_task(opened(video, spoiler=False))
    await asyncio.sleep(0)
    post.cancel()
    with pytest.raises(asyncio.CancelledError):
        await post
    may_open.set()
    while not made or not made[0].fp.closed:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_file_that_can_not_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await opened(tmp_path / "gone.mp4", spoiler=False)
