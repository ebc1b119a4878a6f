"""The page in a real browser, with the real bot behind it and a generator that plays a film."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect
from stage import WIDTHS, browser, film_bot, needs_chromium, opened, served

from bot.playground import Playground
from bot.playground.mishaps import MISHAPS
from bot.playground.play import PICTURES
from storage.jobs import Delivery, Job, JobState, read_jobs

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]
LAKE = PICTURES[0].file
PROMPT = "The boat glides."
JOB = ("--steps", "40", "--step-s", "0.1")


class Stage:
    def __init__(self, discord: Playground, chromium: Browser, data: Path) -> None:
        self.discord, self.chromium, self.data = discord, chromium, data

    def jobs(self) -> list[Job]:
        return read_jobs(self.data / "bot.sqlite3")

    def new(self, known: set[str], state: JobState | None = None) -> list[Job]:
        """The jobs that are not known, in one state if any."""
        return [j for j in self.jobs() if j.id not in known and state in (None, j.state)]

    async def until(self, look: Callable[[], object], timeout_s: float = 60) -> None:
        """Wait for something that only the database shows."""
        try:
            async with asyncio.timeout(timeout_s):
                while not look():  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError:
            said = await asyncio.to_thread((self.data.parent / "bot.log").read_text)
            raise AssertionError(f"{self.jobs()}\nThe bot said:\n{said[-6000:]}") from None


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with (
        served() as discord,
        film_bot(discord, *JOB) as data,
        browser() as chromium,
    ):
        yield Stage(discord, chromium, data)


async def animate(page: Page, prompt: str = PROMPT) -> None:
    """Type the command, attach a picture, send it; all but the file by keyboard.

    As a person does, once the bot is there: after a mishap that cost it its session discord.py
    waits 5 s before it logs in again, and what is sent meanwhile reaches nobody, as on Discord.
    """
    await expect(page.locator("#bot-state")).to_have_text("FramePack is online", timeout=20_000)
    await page.locator("#composer").click()
    await page.keyboard.type("/anim")
    await expect(page.locator("#picker [aria-selected=true] b")).to_have_text("/animate")
    await page.keyboard.press("Enter")
    form = page.locator("form.command")
    await form.locator("input[type=file]").first.set_input_files(LAKE)
    await expect(form.locator(".chip-name").first).to_have_text("lake.jpg")
    await form.get_by_label("prompt").fill(prompt)
    await page.keyboard.press("Enter")
    await expect(form).to_have_count(0)


def cancel_button(page: Page) -> Locator:
    return page.get_by_role("button", name="Cancel", exact=True).last


@pytest.mark.parametrize("width", WIDTHS)
async def test_a_picture_becomes_a_film_that_plays(stage: Stage, width: str) -> None:
    channel = stage.discord.add_channel(f"films-{width}")
    async with opened(stage.chromium, stage.discord, viewport=WIDTHS[width]) as page:
        await go_to(page, channel.name)
        await animate(page)
        card = page.locator(".message", has=cancel_button(page)).last
        seen = set()
        async with asyncio.timeout(15):
            while len(seen) < 3:
                seen.add(await card.inner_text())
                await asyncio.sleep(0.2)
        await expect(card.locator("img[src*=preview]")).to_be_visible()
        video = page.locator("video")
        await expect(video).to_be_visible()
        await until(video, "v => v.readyState >= 2")
        assert await video.evaluate("v => [v.videoWidth, v.videoHeight, v.loop]") == [
            480,
            320,
            True,
        ]
        await video.evaluate("v => { v.pause(); v.currentTime = 0; return v.play(); }")
        await until(video, "v => v.currentTime > 0.3")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def until(node: Locator, holds: str) -> None:
    """Asked from here: the page's own policy forbids Playwright's wait_for_function."""
    async with asyncio.timeout(15):
        while not await node.evaluate(holds):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def go_to(page: Page, name: str) -> None:
    if await page.locator("#open-side").is_visible():
        await page.locator("#open-side").click()
    await page.locator(f"[data-channel]:has-text('{name}')").first.click()
    await expect(page.locator("#title")).to_have_text(f"#{name}")


async def test_cancel_is_pressed_and_the_answer_is_for_one_only(stage: Stage) -> None:
    channel = stage.discord.add_channel("cancelling")
    async with (
        opened(stage.chromium, stage.discord) as page,
        opened(stage.chromium, stage.discord, stage.discord.cleo) as other,
    ):
        await go_to(page, channel.name)
        await go_to(other, channel.name)
        await animate(page)
        await expect(cancel_button(other)).to_be_visible()
        await expect(page.get_by_text("Only you can see this").first).to_be_visible()
        assert await other.get_by_text("Only you can see this").count() == 0
        button = cancel_button(page)
        await button.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator(".embed-title, .container .h").last).to_contain_text("Cancelled")
        await expect(cancel_button(other)).to_have_count(0)


async def test_a_picture_can_be_dropped_and_pasted_and_an_example_taken(stage: Stage) -> None:
    channel = stage.discord.add_channel("dropping")
    async with opened(stage.chromium, stage.discord, viewport=WIDTHS["phone"]) as page:
        await go_to(page, channel.name)
        await page.locator(".card").first.click()
        form = page.locator("form.command")
        await expect(form.locator(".chip-name")).to_have_text("lake.jpg")
        await expect(form.get_by_label("prompt")).to_have_value(PICTURES[0].prompt)
        for kind, name in (("drop", "dropped.png"), ("paste", "pasted.png")):
            await page.evaluate(
                """([kind, name]) => {
                    const data = new DataTransfer();
                    data.items.add(new File([new Uint8Array(9)], name, { type: 'image/png' }));
                    const options = { bubbles: true, cancelable: true };
                    const event = kind === 'drop'
                        ? new DragEvent(kind, { ...options, dataTransfer: data })
                        : new ClipboardEvent(kind, { ...options, clipboardData: data });
                    document.body.dispatchEvent(event);
                }""",
                [kind, name],
            )
            await expect(form.locator(".chip-name").first).to_have_text(name)


async def test_the_theme_follows_the_system_until_it_is_switched(stage: Stage) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    async with opened(stage.chromium, stage.discord, color_scheme="dark") as page:
        dark = await page.evaluate(colour)
        await page.get_by_role("button", name="Switch between light and dark").click()
        light = await page.evaluate(colour)
        assert dark != light
        await page.reload()
        assert await page.evaluate(colour) == light


THEN = {"dms": "dms", "outage": "invite", "kick": "invite"}
"""What takes a mishap back that would be in the way of the next."""
ALONE = ("413", "clear")


def groups() -> list[list[str]]:
    """The drawer's groups, each for one job; 413 is about the video alone."""
    names = dict.fromkeys(mishap.group for mishap in MISHAPS.values())
    by_group = [[n for n, m in MISHAPS.items() if m.group == g and n not in ALONE] for g in names]
    return [*by_group, ["413"]]


@pytest.mark.slow
@pytest.mark.parametrize("names", groups(), ids=lambda names: names[0])
async def test_mishaps_are_clicked_while_a_job_runs_and_it_is_not_lost(
    stage: Stage, names: list[str]
) -> None:
    known = {job.id for job in stage.jobs()}
    async with opened(stage.chromium, stage.discord) as page:
        await go_to(page, stage.discord.add_channel(f"mishaps-{names[0]}").name)
        await animate(page, names[0])
        await stage.until(lambda: stage.new(known, JobState.RUNNING))
        await page.locator("#open-drawer").click()
        for name in names:
            await click_mishap(page, name)
            if name in THEN:
                await click_mishap(page, THEN[name])
            if name == "delete-channel":
                await go_to(page, stage.discord.lounge.name)
        await stage.until(lambda: stage.new(known, JobState.FINISHED))
        await stage.until(lambda: stage.new(known)[0].delivery is not Delivery.PENDING)
        await click_mishap(page, "clear")
    [job] = stage.new(known)
    assert (job.state, job.attempts) == (JobState.FINISHED, 1), job
    if names == ["413"] and job.delivery is Delivery.UNDELIVERABLE:
        assert job.error
    else:
        assert job.delivery is Delivery.DELIVERED, job


@pytest.mark.slow
async def test_the_page_says_when_the_bot_is_away_and_when_it_is_back(stage: Stage) -> None:
    known = {job.id for job in stage.jobs()}
    async with opened(stage.chromium, stage.discord) as page:
        await go_to(page, stage.discord.add_channel("away").name)
        await page.locator("#open-drawer").click()
        await click_mishap(page, "identify")
        await expect(page.locator("#bot-state:not(.online)")).to_have_text("FramePack is offline")
        await animate(page)
        await expect(page.locator("#bot-state.online")).to_have_count(1)
        await stage.until(lambda: stage.new(known, JobState.FINISHED))


async def test_every_mishap_of_the_drawer_is_clicked() -> None:
    assert {name for names in groups() for name in names} | {"clear"} == set(MISHAPS)


async def click_mishap(page: Page, name: str) -> None:
    async with page.expect_response(f"**/page/mishap/{name}?*") as answer:
        await page.locator(f"[data-mishap='{name}']").click()
    assert (await answer.value).ok
