"""What the page shows of messages and forms, with a small bot that has one of everything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import discord
import pytest
import pytest_asyncio
import yarl
from playwright.async_api import Browser, Page, expect
from small_bot import PNG_1X1, SmallBot, file, running
from stage import PHONE, browser, needs_chromium, opened, served

from bot.playground import Playground

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]
HOSTILE = "<img src=x onerror=alert(1)> </div><script>alert(1)</script> [x](javascript:alert(1))"


class Stage:
    def __init__(self, discord: Playground, chromium: Browser, bot: SmallBot) -> None:
        self.discord, self.chromium, self.bot = discord, chromium, bot

    @property
    def channel(self) -> discord.TextChannel:
        channel = self.bot.get_channel(self.discord.pictures.id)
        assert isinstance(channel, discord.TextChannel)
        return channel


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage() -> AsyncIterator[Stage]:
    patch = pytest.MonkeyPatch()
    with contextlib.ExitStack() as stack:
        stack.callback(patch.undo)
        async with served() as playground, browser() as chromium:
            patch.setattr(discord.http.Route, "BASE", playground.api_url)
            gateway = yarl.URL(playground.gateway_url)
            patch.setattr(discord.gateway.DiscordWebSocket, "DEFAULT_GATEWAY", gateway)
            bot = SmallBot()
            add_silent_command(bot)
            async with running(bot, playground.token):
                await playground.bot_ready("show")
                yield Stage(playground, chromium, bot)


def add_silent_command(bot: SmallBot) -> None:
    @bot.tree.command(name="silent", description="Never answers")
    async def silent(interaction: discord.Interaction) -> None:
        await asyncio.sleep(0)


async def command(page: Page, name: str) -> None:
    await page.locator("#composer").click()
    await page.keyboard.type(f"/{name}")
    await page.keyboard.press("Enter")


async def test_a_modal_with_a_file_is_filled_in_and_sent(stage: Stage) -> None:
    async with opened(stage.chromium, stage.discord, viewport=PHONE) as page:
        await command(page, "colour")
        await page.locator("form.command").get_by_label("name").fill("gr")
        await expect(page.locator(".suggestions [role=option]")).to_have_text(["green", "grey"])
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Enter")
        message = page.locator(".message", has_text="green")
        await message.get_by_role("button", name="Ask").click()
        dialog = page.get_by_role("dialog", name="More")
        await dialog.get_by_role("button", name="Submit").click()
        await expect(dialog).to_be_visible()  # the text is required
        await dialog.get_by_label("Text").fill("words")
        picture = {"name": "dot.png", "mimeType": "image/png", "buffer": PNG_1X1}
        await dialog.locator("input[type=file]").set_input_files(picture)
        await dialog.get_by_role("button", name="Submit").click()
        await expect(dialog).to_have_count(0)
        answer = page.locator(".ephemeral", has_text="got 'words' and ['dot.png']")
        await expect(answer).to_be_visible()
        await answer.get_by_role("button", name="Dismiss message").click()
        await expect(answer).to_have_count(0)
        await message.get_by_role("button", name="Update").click()
        await expect(page.locator(".message", has_text="updated")).to_be_visible()


async def test_options_have_their_types_and_ranges(stage: Stage) -> None:
    async with opened(stage.chromium, stage.discord) as page:
        await command(page, "show")
        form = page.locator("form.command")
        await form.get_by_role("button", name="Send", exact=True).click()
        await expect(form.get_by_text("A file is needed here.")).to_be_visible()
        await form.get_by_role("button", name="+ seconds").click()
        seconds = form.get_by_role("spinbutton", name="seconds")
        limits = [await seconds.get_attribute(name) for name in ("min", "max", "step")]
        assert limits == ["0.1", "20", "any"]
        picture = {"name": "dot.png", "mimeType": "image/png", "buffer": PNG_1X1}
        await form.locator("input[type=file]").set_input_files(picture)
        await seconds.fill("21")
        await seconds.press("Enter")
        await expect(form).to_be_visible()
        await seconds.fill("2.5")
        await seconds.press("Enter")
        await expect(page.locator(".ephemeral", has_text="bytes, 1x1, 2.5 s")).to_be_visible()


async def test_a_message_menu_and_a_command_that_only_the_owner_has(stage: Stage) -> None:
    playground = stage.discord
    said = await playground.say(playground.cleo, playground.pictures, "look here")
    async with opened(stage.chromium, playground) as page:
        button = page.locator(f"[data-menu='{said.id}']")
        await button.focus()
        await page.keyboard.press("Enter")
        items = page.get_by_role("menuitem")
        await expect(items).to_have_text(["Look at this"])
        await page.keyboard.press("Enter")
        await expect(page.locator(".ephemeral", has_text="'look here' with 0")).to_be_visible()
        await page.locator("#composer").click()
        await page.keyboard.type("/adm")
        await expect(page.get_by_text("No command of that name is offered here.")).to_be_visible()
        await page.keyboard.press("Escape")
        await page.locator("#me").select_option(str(playground.ada.id))
        await expect(page.locator("#me")).to_have_value(str(playground.ada.id))
        await expect(page.locator(".ephemeral")).to_have_count(0)
        await page.locator("#composer").fill("/adm")
        await expect(page.locator("#picker [role=option]").first).to_contain_text("/admin queue")


async def test_a_command_without_an_answer_says_so(stage: Stage) -> None:
    stage.discord.api.interactions.answer_within_s = 0.6
    try:
        async with opened(stage.chromium, stage.discord) as page:
            await command(page, "silent")
            await page.get_by_role("button", name="Send", exact=True).click()
            await expect(
                page.get_by_role("alert").filter(has_text="did not respond")
            ).to_be_visible()
    finally:
        stage.discord.api.interactions.answer_within_s = 3.0


async def test_markdown_mentions_and_times_are_shown_and_hostile_text_is_only_text(
    stage: Stage,
) -> None:
    at = int(stage.discord.world.clock.now().timestamp())
    text = (
        f"# Title\n**bold** *thin* __under__ ~~gone~~ `code` ||secret||\n> quoted\n- one\n- two\n"
        f"-# small\n<t:{at - 65}:R> <@{stage.discord.ben.id}> <#{stage.discord.lounge.id}>"
        f" \\*stars\\* https://example.org/a_b_c\n{HOSTILE}"
    )
    sent = await stage.channel.send(text)
    async with opened(stage.chromium, stage.discord) as page:
        message = page.locator(f"[data-id='{sent.id}']")
        for selector, words in {
            ".h1": "Title",
            "strong:not(.who strong)": "bold",
            "em": "thin",
            "u": "under",
            "s": "gone",
            "code": "code",
            "blockquote": "quoted",
            ".small": "small",
            "time.time": "1 minute ago",
        }.items():
            await expect(message.locator(selector)).to_have_text(words)
        await expect(message.locator("ul li")).to_have_text(["one", "two"])
        await expect(message.locator(".mention")).to_have_text(["@ben", "#lounge"])
        await expect(message.locator("a[href='https://example.org/a_b_c']")).to_have_count(1)
        await expect(message).to_contain_text("*stars* ")
        await expect(message).to_contain_text("<img src=x onerror=alert(1)>")
        assert await message.locator("img:not(.avatar), script, a[href^=javascript]").count() == 0
        spoiler = message.locator(".spoiler")
        assert not await spoiler.locator("span").is_visible()
        await spoiler.click()
        await expect(spoiler.locator("span")).to_be_visible()
        await sent.edit(content="**edited**")
        await expect(message.locator(".body strong").last).to_have_text("edited")
        await expect(message).to_contain_text("(edited)")
        await sent.delete()
        await expect(message).to_have_count(0)


async def test_components_of_the_second_generation_and_a_select(stage: Stage) -> None:
    chosen: list[list[str]] = []

    class Choose(discord.ui.Select):
        async def callback(self, interaction: discord.Interaction) -> None:
            chosen.append(self.values)
            await interaction.response.defer()

    class Layout(discord.ui.LayoutView):
        def __init__(self) -> None:
            super().__init__(timeout=None)
            options = [discord.SelectOption(label=word, value=word) for word in ("red", "blue")]
            link = discord.ui.Button(label="Link", url="https://example.org")
            self.add_item(
                discord.ui.Container(
                    discord.ui.Section(
                        "## Words", accessory=discord.ui.Thumbnail("attachment://a.png")
                    ),
                    discord.ui.Separator(),
                    discord.ui.MediaGallery(
                        discord.MediaGalleryItem("attachment://a.png", spoiler=True)
                    ),
                    discord.ui.ActionRow(Choose(options=options, placeholder="Colour")),
                    discord.ui.ActionRow(link),
                    accent_colour=0x2E9E5B,
                )
            )

    sent = await stage.channel.send(view=Layout(), file=file("a.png"))
    async with opened(stage.chromium, stage.discord) as page:
        message = page.locator(f"[data-id='{sent.id}']")
        await expect(message.locator(".container .h2")).to_have_text("Words")
        await expect(message.locator("hr, [role=separator]")).to_have_count(1)
        picture = message.locator(".gallery .picture")
        await expect(picture).to_have_attribute("data-shown", "no")
        await picture.click()
        await expect(picture).to_have_attribute("data-shown", "yes")
        await picture.click()
        await expect(page.locator("dialog.large img")).to_be_visible()
        await page.keyboard.press("Escape")
        await message.get_by_label("Colour").select_option("blue")
        await stage.discord.until(lambda: chosen, 10)
        assert chosen == [["blue"]]
        link = message.get_by_role("link", name="Link")
        assert await link.get_attribute("rel") == "noopener noreferrer"
