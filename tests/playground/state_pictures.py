"""Takes the pictures of docs/front-end.md: each state of the status message, and the answers.

    python tests/playground/state_pictures.py [NAME ...]

The messages go through the bot's own views and its own discord.py client to the playground and are
what a browser shows there, at a desktop's and a phone's width. Jobs and their progress are made up;
the film is a stand-in. What only its asker sees is from the running bot with the stand-in film.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import discord
import msgspec
import yarl
from PIL import Image
from playwright.async_api import Browser, Locator, Page
from stage import PHONE, browser, film_bot, make_film, opened, served

from bot.playground import Channel, Playground, Upload, controls
from bot.playground.play import PICTURES
from bot.posts import DiscordPosts
from bot.texts import Text, say
from bot.views import SMALL_PICTURE, Place, small_print, status_card
from generator.protocol import ErrorKind, Progress, Stage, StepCacheKind, job_request
from storage.jobs import Delivery, Job, JobState

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "playground" / "states"
WIDE = {"width": 1000, "height": 900}
SIZES = {
    "desktop": {"viewport": WIDE, "color_scheme": "light"},
    "phone": {"viewport": PHONE, "color_scheme": "dark", "device_scale_factor": 1.5},
}
COLOURS, MARGIN = 160, 8
PREVIEW, VIDEO = "preview.webp", "framepack-boat2a3b4c.mp4"
PROMPT = "The clouds drift over the lake while the water ripples softly"


def made_up(discord_: Playground, channel: Channel, **changes: Any) -> Job:
    """A job of ben's that was asked for a moment ago."""
    now = datetime.now(UTC)
    request = job_request(prompt=PROMPT, seed=20261125, seconds=5.0)
    job = Job(
        id="boat2a3b4c",
        interaction_id=1,
        ordinal=0,
        guild_id=discord_.world.guild.id,
        channel_id=channel.id,
        user_id=discord_.ben.id,
        request=request,
        input_note="",
        state=JobState.QUEUED,
        delivery=Delivery.NONE,
        cancel_requested=False,
        status_message_id=None,
        result_message_id=None,
        created_at=now - timedelta(minutes=12),
        started_at=None,
        ended_at=None,
        error_kind=None,
        error=None,
        video=None,
        attempts=0,
        delivery_attempts=0,
    )
    return msgspec.structs.replace(job, **changes)


STARTED = {"state": JobState.RUNNING, "started_at": datetime.now(UTC) - timedelta(minutes=4)}
OVER = STARTED | {
    "state": JobState.FINISHED,
    "delivery": Delivery.DELIVERED,
    "ended_at": datetime.now(UTC),
    "sections": 4,
    "sections_made": 4,
}
DRAFT = job_request(prompt=PROMPT, seed=20261125, seconds=5.0, step_cache=StepCacheKind.TEACACHE)
TOO_LARGE = say(Text.REASON_TOO_LARGE, size=31.4, path=f"jobs/boat2a3b4c/{VIDEO}")

STATES: dict[str, dict[str, Any]] = {
    "waiting": {},
    "running": STARTED,
    "next-turn": {"turns": 1, "furthest": 0.46, "sections": 4, "sections_made": 1},
    "stopping": STARTED | {"cancel_requested": True},
    "sending": STARTED | {"finish_requested": True, "sections": 4, "sections_made": 2},
    "on-its-way": OVER | {"delivery": Delivery.PENDING},
    "finished": OVER,
    "finished-draft": OVER | {"request": DRAFT},
    "finished-part": OVER | {"sections_made": 2, "finish_requested": True},
    "failed": STARTED
    | {
        "state": JobState.FAILED,
        "error_kind": ErrorKind.MEMORY,
        "error": "this video needs 7.4 GiB of VRAM and 5.1 are free; ask for a smaller resolution",
    },
    "cancelled": {"state": JobState.CANCELLED},
    "undeliverable": OVER | {"delivery": Delivery.UNDELIVERABLE, "error": TOO_LARGE},
}
PLACES = {
    "waiting": Place(position=3, starts_at=datetime.now(UTC) + timedelta(minutes=9)),
    "next-turn": Place(position=2, starts_at=datetime.now(UTC) + timedelta(minutes=4)),
}


def half_way(job: Job) -> Progress:
    """Progress in the middle of the third of four sections."""
    return Progress(
        job_id=job.id,
        stage=Stage.SAMPLING,
        section=3,
        sections=4,
        step=14,
        steps=25,
        fraction=0.62,
        elapsed_s=240.0,
        remaining_s=150.0,
        step_s=2.4,
        preview=PREVIEW,
    )


async def save(page: Page, item: Locator, name: str) -> None:
    """A picture of one message and a little of what is around it, with few colours."""
    await item.scroll_into_view_if_needed()
    box = await item.bounding_box()
    assert box is not None
    clip = {**box, "y": box["y"] - MARGIN, "height": box["height"] + 2 * MARGIN}
    shot = await page.screenshot(animations="disabled", clip=clip)
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    path = FOLDER / f"{name}.png"
    image.quantize(COLOURS, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    sys.stdout.write(f"{path.name}: {path.stat().st_size / 1000:.0f} kB\n")


async def look(
    chromium: Browser, playground: Playground, names: dict[str, Channel], which: str = ""
) -> None:
    """A picture of the newest such message of each channel, in both sizes, as ben sees it."""
    for size, options in SIZES.items():
        async with opened(chromium, playground, playground.ben, **options) as page:
            for name, channel in names.items():
                await page.goto(f"{playground.world.origin}/#{channel.id}")
                await page.evaluate(
                    "id => document.querySelector(`[data-channel='${id}']`).click()",
                    str(channel.id),
                )
                item = page.locator(f"#scroll .message{which}").last
                await item.wait_for()
                await page.wait_for_timeout(900)
                await save(page, item, f"{name}-{size}")


@asynccontextmanager
async def posting(playground: Playground) -> AsyncIterator[DiscordPosts]:
    """The bot's own way to post, logged in to the playground."""
    discord.http.Route.BASE = playground.api_url
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(playground.gateway_url)
    async with discord.Client(intents=discord.Intents.none()) as client:
        await client.login(playground.token)
        yield DiscordPosts(client)


def furnish_folder(folder: Path) -> None:
    """The files that a job has: its small picture, a preview, the film."""
    film, preview = make_film(folder)
    film.rename(folder / VIDEO)
    preview.rename(folder / PREVIEW)
    with Image.open(PICTURES[0].file) as picture:
        picture.thumbnail((256, 256))
        picture.save(folder / SMALL_PICTURE)


async def cards(playground: Playground, posts: DiscordPosts, folder: Path) -> dict[str, Channel]:
    """Every state's status message in a channel of its own, and the result in one more."""
    found = {}
    for name, changes in STATES.items():
        channel = found[name] = playground.add_channel(name)
        job = made_up(playground, channel, **changes)
        if name.startswith("finished"):
            job = msgspec.structs.replace(job, result_message_id=channel.id)
        running = job.state is JobState.RUNNING
        card = status_card(
            job,
            datetime.now(UTC),
            progress=half_way(job) if running else None,
            place=PLACES.get(name),
            folder=folder,
        )
        await posts.post_card(channel.id, card, f"{name}-status")
    channel = found["result"] = playground.add_channel("result")
    job = made_up(playground, channel, **OVER)
    posted, _ = await posts.post_card(channel.id, status_card(job, datetime.now(UTC)), "r-status")
    text = say(Text.DELIVERED, user=job.user_id, settings=small_print(job))
    await posts.post_text(
        channel.id,
        text,
        nonce="result",
        file=folder / VIDEO,
        reply_to=posted,
        ping=job.user_id,
    )
    return found


async def answers(playground: Playground, chromium: Browser) -> None:
    """What only the asker sees, from the running bot: taken, refused, asked whether to send."""
    prompt = {"prompt": PROMPT}
    picture = {"image": Upload.read(PICTURES[0].file)}
    words = ("--steps", "40", "--step-s", "1", "--section-steps", "10")
    names = ("queued-answer", "refused", "cancel-asked")
    channels = {name: playground.add_channel(name) for name in names}
    async with film_bot(playground, *words):
        pdf = {"image": Upload(filename="boat.png", data=b"%PDF-1.7 " + bytes(100))}
        await playground.slash(playground.ben, channels["refused"], "animate", prompt, pdf)
        ask = channels["cancel-asked"]
        await playground.slash(playground.ben, ask, "animate", prompt, picture)
        status = await playground.until(
            lambda: next((m for m in playground.messages(ask) if m.embeds), None), 60
        )
        await playground.until(
            lambda: "section 3" in str(playground.world.messages[status.id].embeds), 60
        )
        status = playground.world.messages[status.id]
        await playground.press(status, controls(status)[0]["custom_id"], playground.ben)
        last = channels["queued-answer"]
        taken = await playground.slash(playground.ben, last, "animate", prompt, picture)
        await playground.until(lambda: taken.response and "queue" in taken.response.content, 60)
        for message in list(playground.messages(last)):
            playground.delete_message(message)
        await look(chromium, playground, channels, ".ephemeral")


async def main(wanted: list[str]) -> None:
    """Take every picture, or those of these names."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="framepack-states-") as name:
        folder = Path(name)
        await asyncio.to_thread(furnish_folder, folder)
        async with served() as playground, browser() as chromium:
            async with posting(playground) as posts:
                found = await cards(playground, posts, folder)
            chosen = {n: channel for n, channel in found.items() if not wanted or n in wanted}
            await look(chromium, playground, chosen)
            if not wanted or "answers" in wanted:
                await answers(playground, chromium)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
