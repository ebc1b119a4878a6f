"""Takes the pictures of docs/playground.md: `python tests/playground/page_pictures.py [MODEL]`.

MODEL is what `framepack-bot play --model` takes. Without one a stand-in film takes the place of the
generator, which the bar at the top of each picture says.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from PIL import Image
from playwright.async_api import Browser, Page, expect
from stage import PHONE, browser, film_bot, opened

from bot.playground import Playground
from bot.playground.child import BotProcess, write_config
from bot.playground.demo import FOR_BUILT_IN_MODELS, built_in
from bot.playground.page import Page as Served
from bot.playground.play import NOTES, PICTURES, furnish

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "playground"
LARGEST_BYTES = 150_000
STAND_IN = "A stand-in film: no weights took part in this picture."
WIDE = {"width": 1120, "height": 700}
WITH_DRAWER = {"width": 1320, "height": 760}
WAIT_MS = 900_000


async def save(page: Page, name: str) -> None:
    """A screenshot, with fewer colours where it would be too large."""
    await page.wait_for_timeout(700)
    image = Image.open(io.BytesIO(await page.screenshot())).convert("RGB")
    path = FOLDER / f"{name}.png"
    image.save(path, optimize=True)
    for dither in (Image.Dither.FLOYDSTEINBERG, Image.Dither.NONE):
        if path.stat().st_size > LARGEST_BYTES:
            image.quantize(256, dither=dither).save(path, optimize=True)
    sys.stdout.write(f"{path.name}: {path.stat().st_size / 1000:.0f} kB\n")


async def take(chromium: Browser, discord: Playground) -> None:
    """The story in pictures: an empty channel, the form, a running job, the film."""
    async with opened(chromium, discord, viewport=WIDE, color_scheme="light") as page:
        await expect(page.locator(".card").first).to_be_visible(timeout=WAIT_MS)
        await save(page, "welcome-desktop-light")
        async with opened(chromium, discord, viewport=PHONE, color_scheme="dark") as phone:
            await expect(phone.locator(".card").first).to_be_visible()
            await save(phone, "welcome-phone-dark")
        await page.locator(".card").first.click()
        await expect(page.locator(".chip-name").first).to_be_visible()
        await page.get_by_role("button", name="+ seconds").click()
        await save(page, "form-desktop-light")
        await page.get_by_role("button", name="Remove seconds").click()
        await page.get_by_role("button", name="Send", exact=True).click()
        await running(chromium, discord, page)
        await expect(page.locator("video").last).to_be_visible(timeout=WAIT_MS)
        await page.wait_for_timeout(1500)
        await save(page, "result-desktop-light")
    async with opened(chromium, discord, viewport=PHONE, color_scheme="light") as phone:
        await expect(phone.locator("video").last).to_be_visible()
        await save(phone, "result-phone-light")


async def running(chromium: Browser, discord: Playground, page: Page) -> None:
    dark = {"color_scheme": "dark"}
    async with (
        opened(chromium, discord, viewport=WITH_DRAWER, **dark) as operator,
        opened(chromium, discord, viewport=PHONE, **dark) as phone,
    ):
        preview = "img[src*=preview]"
        await expect(operator.locator(preview).last).to_be_visible(timeout=WAIT_MS)
        await operator.locator("#open-drawer").click()
        await operator.locator("[data-mishap='503']").click()
        await operator.locator("#scroll").evaluate("s => { s.scrollTop = s.scrollHeight; }")
        await save(operator, "running-desktop-dark")
        await save(phone, "running-phone-dark")
        await operator.locator("#tab-calls").click()
        await operator.locator(".calls summary", has_text="PATCH").first.click()
        await save(operator, "log-desktop-dark")


@contextlib.asynccontextmanager
async def real_bot(discord: Playground, model: str) -> AsyncIterator[None]:
    """The bot with a real generator."""
    with tempfile.TemporaryDirectory(prefix="framepack-pictures-") as name:
        folder = Path(name)
        settings = {
            "discord": {"api_url": discord.api_url, "gateway_url": discord.gateway_url},
            "storage": {"data_dir": str(folder / "data")},
            "generator": {"model": model},
            "defaults": FOR_BUILT_IN_MODELS if built_in(model) else {},
        }
        write_config(folder / "config.toml", settings)
        async with BotProcess(folder / "config.toml", discord.token, folder / "bot.log"):
            await discord.bot_ready("animate", timeout_s=120)
            yield


async def main(model: str) -> None:
    """Take every picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    discord = Playground(rate_limits=True)
    note = NOTES.get(built_in(model), f"Model: {model}") if model else STAND_IN
    discord.mount(Served(discord, note=note, examples=PICTURES).add_to)
    async with discord, browser() as chromium:
        furnish(discord)
        film = film_bot(discord, "--steps", "150", "--step-s", "0.12")
        async with real_bot(discord, model) if model else film:
            await take(chromium, discord)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2] or [""]))
