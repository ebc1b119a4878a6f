"""`framepack-bot play`: the whole product in a browser, without a token.

Decides: how the page's bot is configured, kept running and ended, and which address is printed.
Refuses to know: what the page shows. The bot is the real one in a process of its own; jobs and
videos live in a folder that goes when play ends, for nothing here outlives it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
import tomllib
import webbrowser
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec

from bot.config import Config, ConfigError, load_config
from bot.playground.child import BotProcess, write_config
from bot.playground.demo import EXAMPLES, FOR_BUILT_IN_MODELS, built_in, full_path
from bot.playground.entities import ChannelKind
from bot.playground.page import Example, Page
from bot.playground.server import Playground

PORT = 8722
START_AGAIN_S = 0.5
PICTURES = (
    Example(
        file=EXAMPLES / "lake.jpg",
        prompt="The camera pans to the right over the lake, soft light.",
    ),
    Example(
        file=EXAMPLES / "lighthouse.jpg",
        prompt="The beam of the lighthouse turns, waves roll in, the stars twinkle.",
    ),
)
NOTES = {
    "demo": "Demo weights: made to run on any computer, so the videos are small and rough."
    " FramePack's own weights make real ones.",
    "tiny": "Demo weights, random ones: the videos show noise; everything around them is real.",
}


class PlayError(Exception):
    """Play can not start; the text is one sentence."""


class Play(msgspec.Struct, frozen=True, kw_only=True):
    """What to play with. `port` None takes the usual one, or a free one if that is taken."""

    port: int | None = None
    model: str | None = None
    config: Path | None = None
    browser: bool = True


class BotKeeper:
    """Starts the bot, and starts it again when it is told to or has been killed."""

    def __init__(self, config: Path, discord: Playground, log: Path) -> None:
        self._config, self._discord, self._log = config, discord, log
        self._process: BotProcess | None = None
        self._again = asyncio.Event()
        self._state = "The bot starts …"

    @property
    def state(self) -> str:
        """How the bot is, in a few words; "" while it is connected."""
        is_up = self._process is not None and self._discord.gateway.is_connected
        return "" if is_up else self._state

    async def keep(self) -> None:
        """Keep the bot until cancelled."""
        while True:
            self._again.clear()
            self._say("The bot starts …")
            async with BotProcess(self._config, self._discord.token, self._log) as process:
                self._process = process
                status = await self._until_over(process)
            self._process = None
            if not self._again.is_set():
                self._say(f"The bot has stopped (exit status {status}); its log says why.")
                await self._again.wait()
            await asyncio.sleep(START_AGAIN_S)

    async def _until_over(self, process: BotProcess) -> int | None:
        """Its exit status; None when it is to be started again."""
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(process.ended())
            told = group.create_task(self._again.wait())
            await asyncio.wait([ended, told], return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            told.cancel()
        return None if ended.cancelled() else ended.result()

    def restart(self) -> None:
        """End the bot in order and start it again."""
        self._say("The bot restarts …")
        self._again.set()

    def kill(self) -> None:
        """End the bot as a power cut does, and start it again."""
        self._say("The bot was killed and restarts …")
        if self._process is not None:
            self._process.kill()
        self._again.set()

    def log_tail(self, lines: int) -> str:
        """The end of the bot's log."""
        with suppress(OSError):
            text = self._log.read_text(encoding="utf-8", errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return ""

    def _say(self, state: str) -> None:
        self._state = state
        self._discord.world.journal.wake()


def run_play(play: Play) -> int:
    """Serve the page until Ctrl-C. Returns 0 then, 1 after one sentence when it can not start."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(_play(play))
    except (PlayError, ConfigError) as error:
        sys.stderr.write(f"framepack-bot: {error}\n")
        return 1
    except KeyboardInterrupt:
        _say("Stopped.")
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


async def _play(play: Play) -> None:
    """The story: settings, a Discord with a page, the bot on it, until somebody ends it."""
    tables, config = _given(play)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="framepack-play-")))
        discord = Playground(port=_port(play.port), rate_limits=True)
        keeper = BotKeeper(folder / "config.toml", discord, folder / "bot.log")
        examples = tuple(e for e in PICTURES if e.file.is_file())  # a wheel comes without them
        page = Page(discord, note=_note(config), examples=examples, keeper=keeper)
        discord.mount(page.add_to)
        await stack.enter_async_context(discord)
        furnish(discord)
        tables["discord"] |= {"api_url": discord.api_url, "gateway_url": discord.gateway_url}
        tables["storage"] = {"data_dir": str(folder / "data")}
        tables["admins"] = {"user_ids": [discord.ada.id]}  # ids here are made anew each time
        write_config(folder / "config.toml", tables)
        _say(f"\n  Open {discord.world.origin}/ in a browser. Ctrl-C ends it.\n")
        if play.browser and _has_browser():
            webbrowser.open(f"{discord.world.origin}/")
        await keeper.keep()


def _given(play: Play) -> tuple[dict[str, Any], Config]:
    """The settings to play with, as tables and checked. Raises ConfigError, PlayError."""
    tables: dict[str, Any] = {"discord": {"allow_dms": True}, "generator": {}, "defaults": {}}
    if play.config is not None:
        checked = load_config(play.config, os.environ)
        tables |= tomllib.loads(play.config.read_text(encoding="utf-8"))
        tables["discord"] = dict(tables["discord"]) | {"guild_ids": []}
        tables["generator"] = dict(tables["generator"]) | {"model": checked.generator.model}
    if play.model is not None:
        tables["generator"]["model"] = full_path(play.model)
    model = tables["generator"].get("model", "demo")
    if play.config is None and built_in(model):
        tables["defaults"] = dict(FOR_BUILT_IN_MODELS)
    return tables, msgspec.convert({"generator": tables["generator"]}, Config)


def furnish(discord: Playground) -> None:
    """Add what an empty playground lacks: a forum with a post, and an age-restricted channel."""
    forum = discord.add_channel("showcase", ChannelKind.FORUM)
    discord.world.add_thread(forum, "My first video", discord.ben)
    discord.add_channel("after-dark", nsfw=True)


def _note(config: Config) -> str:
    return NOTES.get(built_in(config.generator.model), f"Model: {config.generator.model}")


def _port(wanted: int | None) -> int:
    """The wanted port, or the usual one, or any. Raises PlayError when the wanted one is taken."""
    if wanted == 0 or _is_free(wanted or PORT):
        return PORT if wanted is None else wanted
    if wanted is None:
        return 0
    raise PlayError(f"port {wanted} is taken; name another with --port, or none for a free one.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        if sys.platform != "win32":  # as the server does; there it would mean something else
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def _has_browser() -> bool:
    """Whether opening one shows a window, and not a text browser in this terminal."""
    has_window = sys.platform in ("win32", "darwin") or "DISPLAY" in os.environ
    return sys.stdout.isatty() and (has_window or "WAYLAND_DISPLAY" in os.environ)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
