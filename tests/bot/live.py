"""A live bot on the playground: real client, database, picture process and child; a fake generator.

`Live.start()` runs `bot.app.run_bot` in the test's own loop, so a test can start it twice on one
data folder. What only a process can show is in test_process.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from PIL import Image

from bot.app import run_bot
from bot.config import Config, DiscordConfig, GeneratorConfig, StorageConfig
from bot.playground import (
    Channel,
    Interaction,
    Message,
    Playground,
    Upload,
    User,
    controls,
    plain_text,
)
from storage.jobs import Job, read_jobs

Found = TypeVar("Found")
FAKE = Path(__file__).resolve().parent.parent / "fake_generator.py"
WITHIN_S = 90.0
"""How long a test waits for what must come. Long: on a machine whose processors others had taken, a
job of a second needed more than half a minute, and nothing was wrong."""
COMMANDS = ("animate", "cancel", "queue")
SLOW = ("--steps", "1000", "--step-s", "0.05")
"""Words for a generator that is still at work when a test has seen what it wanted."""


def fake_command(*words: str) -> list[str]:
    return [sys.executable, str(FAKE), *words]


def png(width: int = 64, height: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = Upload(filename="boat.png", data=png())


class Live:
    def __init__(self, playground: Playground, folder: Path) -> None:
        self.playground, self.folder = playground, folder
        self.config = Config(
            discord=DiscordConfig(api_url=playground.api_url, gateway_url=playground.gateway_url),
            storage=StorageConfig(data_dir=folder),
            generator=GeneratorConfig(cancel_grace_s=5, start_timeout_s=30),
        )

    @contextlib.asynccontextmanager
    async def running(self, *words: str, config: Config | None = None) -> AsyncIterator[None]:
        """The bot, connected; ended in an orderly way at the end of the block."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            bot = group.create_task(
                run_bot(
                    config or self.config,
                    self.playground.token,
                    command=fake_command(*words),
                    stop=stop,
                )
            )
            ready = group.create_task(self.playground.bot_ready(*COMMANDS, timeout_s=WITHIN_S))
            await asyncio.wait([bot, ready], return_when=asyncio.FIRST_COMPLETED)
            if bot.done():
                ready.cancel()
                bot.result()
            yield
            stop.set()
            async with asyncio.timeout(15):
                await bot

    async def animate(
        self,
        user: User | None = None,
        channel: Channel | None = None,
        picture: Upload = PICTURE,
        **options: object,
    ) -> Interaction:
        playground = self.playground
        return await playground.slash(
            user or playground.ben,
            channel or playground.pictures,
            "animate",
            {"prompt": "the boat rocks", **options},
            {"image": picture},
        )

    def posts(self, channel: Channel | None = None) -> list[Message]:
        """The bot's own public messages in a channel."""
        messages = self.playground.messages(channel or self.playground.pictures)
        bot = self.playground.bot.id
        return [m for m in messages if m.author_id == bot and m.ephemeral_for is None]

    def status(self, channel: Channel | None = None) -> Message | None:
        return next((m for m in self.posts(channel) if m.embeds), None)

    def videos(self, channel: Channel | None = None) -> list[Message]:
        return [
            message
            for message in self.posts(channel)
            if any(file.filename.endswith(".mp4") for file in message.attachments)
        ]

    async def sees(self, look: Callable[[], Found | None]) -> Found:
        """What `look` finds, as soon as it finds something on the playground."""
        return await self.playground.until(look, WITHIN_S)

    async def video(self, channel: Channel | None = None, timeout_s: float = WITHIN_S) -> Message:
        found = await self.playground.until(lambda: self.videos(channel), timeout_s)
        return found[0]

    async def status_says(self, words: str, timeout_s: float = WITHIN_S) -> Message:
        def look() -> Message | None:
            status = self.status()
            return status if status and words in plain_text(status) else None

        return await self.playground.until(look, timeout_s)

    async def delivered_status(self, channel: Channel | None = None) -> Message:
        """The status message once it is a record of what was made, with its buttons."""

        def look() -> Message | None:
            status = self.status(channel)
            labels = [control.get("label") for control in controls(status)] if status else []
            return status if "Again" in labels else None

        return await self.playground.until(look, WITHIN_S)

    async def until(self, look: Callable[[], object], timeout_s: float = WITHIN_S) -> None:
        """Wait for something that the playground does not see, such as a row."""
        async with asyncio.timeout(timeout_s):
            while not look():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def answer_says(self, interaction: Interaction, words: str) -> str:
        def look() -> str | None:
            response = interaction.response
            return response.content if response and words in response.content else None

        return await self.playground.until(look, WITHIN_S)

    def jobs(self) -> list[Job]:
        return read_jobs(self.folder / "bot.sqlite3")

    def folders(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "jobs").iterdir())


def button(message: Message, label: str) -> str:
    """The custom_id of the button that reads so."""
    return next(c["custom_id"] for c in controls(message) if c["label"] == label)


def with_limits(config: Config, **limits: object) -> Config:
    changed = msgspec.structs.replace(config.limits, **limits)
    return msgspec.structs.replace(config, limits=changed)
