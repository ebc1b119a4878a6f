"""A playground with its page, a bot on it, and a browser in front: what the page's tests share.

Chromium is looked for, never fetched: `chromium` from the system's packages does.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import imageio_ffmpeg
import pytest
from playwright.async_api import Browser, Page, async_playwright

from bot.playground import Playground
from bot.playground.child import write_config
from bot.playground.page import Page as Served
from bot.playground.play import PICTURES, furnish

HERE = Path(__file__).resolve().parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
WIDTHS = {"desktop": DESKTOP, "phone": PHONE}
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"
)
EVENT_TIMEOUT_MS = 15_000


@asynccontextmanager
async def served(**options: object) -> AsyncIterator[Playground]:
    """A playground with its page and furniture."""
    discord = Playground(**options)
    discord.mount(Served(discord, note="Demo weights", examples=PICTURES).add_to)
    async with discord:
        furnish(discord)
        yield discord


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Chromium with a profile that is gone afterwards."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        await chromium.close()


@asynccontextmanager
async def opened(
    chromium: Browser, discord: Playground, who: object = None, **options: object
) -> AsyncIterator[Page]:
    """The page as one user sees it; what the console complains about fails the test."""
    options.setdefault("viewport", DESKTOP)
    context = await chromium.new_context(**options)
    page = await context.new_page()
    page.set_default_timeout(EVENT_TIMEOUT_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("console", lambda m: wrong.append(f"{m.type}: {m.text}") if m.type == "error" else None)
    if who is not None:
        await context.add_init_script(f"sessionStorage.setItem('me', '{who.id}')")
    await page.goto(discord.world.origin + "/")
    await page.wait_for_selector("[data-channel]", state="attached")
    yield page
    await context.close()
    own = [text for text in wrong if "400 (Bad Request)" not in text]  # a refusal, as intended
    assert not own, own


@asynccontextmanager
async def film_bot(discord: Playground, *words: str) -> AsyncIterator[Path]:
    """The real bot with a generator whose film plays; yields its data folder."""
    with tempfile.TemporaryDirectory(prefix="framepack-stage-") as name:
        folder = Path(name)
        film, preview = make_film(folder)
        config = folder / "config.toml"
        addresses = {"api_url": discord.api_url, "gateway_url": discord.gateway_url}
        settings = {
            "discord": {**addresses, "allow_dms": True},
            "storage": {"data_dir": str(folder / "data")},
            "limits": {"max_waiting_per_user": 20},
        }
        write_config(config, settings)
        environment = os.environ | {"DISCORD_TOKEN": discord.token}
        command = [sys.executable, str(HERE / "film_bot.py"), str(config), film, preview, *words]
        with (folder / "bot.log").open("wb") as log:
            bot = await asyncio.create_subprocess_exec(
                *map(str, command), stdout=log, stderr=log, env=environment, cwd=HERE.parents[1]
            )
        try:
            await discord.bot_ready("animate")
            yield folder / "data"
        except BaseException:
            sys.stderr.write((folder / "bot.log").read_text(errors="replace")[-6000:])
            raise
        finally:
            if bot.returncode is None:
                bot.terminate()
            await asyncio.wait_for(bot.wait(), 30)


def make_film(folder: Path) -> tuple[Path, Path]:
    """An MP4 and an animated WebP in which the lake glides by."""
    film, preview = folder / "film.mp4", folder / "film.webp"
    moving = "crop=iw*0.8:ih*0.8:(iw-ow)*t/2:(ih-oh)/2"
    for path, size, rate, more in (
        (film, "480:320", 12, ["-pix_fmt", "yuv420p", "-movflags", "+faststart"]),
        (preview, "240:160", 6, ["-loop", "0", "-quality", "60"]),
    ):
        source = ["-loop", "1", "-framerate", str(rate), "-t", "2", "-i", str(PICTURES[0].file)]
        filters = ["-vf", f"{moving},scale={size}"]
        ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
        subprocess.run([*ffmpeg, *source, *filters, *more, str(path)], check=True)
    return film, preview
