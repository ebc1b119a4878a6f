"""What the playground answers is what Discord's own OpenAPI document says that Discord answers."""

from __future__ import annotations

import asyncio

import discord
import pytest
from discord_answers import ANSWERS, LISTS, answer_problems, covers
from small_bot import Buttons, SmallBot, file

from bot.playground import Playground, controls


async def _every_kind_of_message(bot: SmallBot, playground: Playground) -> discord.Message:
    """Post, reply, edit and fetch: text, embed, files, both generations of components."""
    channel = bot.get_channel(playground.pictures.id)
    assert isinstance(channel, discord.TextChannel)
    embed = discord.Embed(title="A", description="b", colour=0x5865F2)
    embed.set_image(url="attachment://a.png").set_footer(text="f").add_field(name="n", value="v")
    first = await channel.send("text", embed=embed, file=file("a.png"), view=Buttons())
    layout = discord.ui.LayoutView()
    gallery = discord.ui.MediaGallery(discord.MediaGalleryItem("attachment://b.png"))
    thumbnail = discord.ui.Thumbnail("attachment://b.png")
    layout.add_item(
        discord.ui.Container(
            discord.ui.Section("words", accessory=thumbnail),
            discord.ui.Separator(),
            gallery,
            discord.ui.ActionRow(discord.ui.Select(options=[discord.SelectOption(label="one")])),
            accent_colour=0x123456,
        )
    )
    await channel.send(view=layout, file=file("b.png"))
    await first.reply(f"<@{playground.ben.id}>", allowed_mentions=discord.AllowedMentions.all())
    await first.edit(content="other")
    await channel.fetch_message(first.id)
    assert len([m async for m in channel.history()]) == 3
    return first


async def _every_place(bot: SmallBot, playground: Playground, first: discord.Message) -> None:
    """A thread, a member, a direct message, commands, and refusals."""
    channel = bot.get_channel(playground.pictures.id)
    assert isinstance(channel, discord.TextChannel)
    await first.create_thread(name="about it")
    thread = await channel.create_thread(name="alone", type=discord.ChannelType.public_thread)
    await thread.edit(archived=True)
    await bot.fetch_channel(channel.id)
    user = await bot.fetch_user(playground.ben.id)
    await (await user.create_dm()).send("hello")
    guild = bot.get_guild(playground.world.guild.id)
    assert guild is not None
    await guild.fetch_member(playground.ben.id)
    await bot.tree.fetch_commands()
    await bot.application_info()
    with pytest.raises(discord.NotFound):
        await channel.fetch_message(1)
    with pytest.raises(discord.HTTPException):
        await channel.send("x" * 2001)
    playground.faults.inject("POST /channels/*/messages", 429, retry_after_s=0.05)
    await channel.send("again")


async def _every_answer_to_a_person(playground: Playground) -> None:
    ben, pictures = playground.ben, playground.pictures
    later = await playground.slash(ben, pictures, "later")
    await playground.until(lambda: later.response and later.response.content == "done")
    named = await (await playground.slash(ben, pictures, "colour", {"name": "red"})).answered()
    assert named.response is not None
    await playground.until(lambda: named.response and controls(named.response))
    for custom_id in ("update", "later", "ask"):
        await (await playground.press(named.response, custom_id, ben)).answered()
    await playground.until(lambda: named.response and named.response.content == "updated later")


async def test_every_answer_is_as_discord_documents_it(
    bot: SmallBot, points_at_playground: Playground
) -> None:
    playground = points_at_playground
    first = await _every_kind_of_message(bot, playground)
    await _every_place(bot, playground, first)
    await _every_answer_to_a_person(playground)
    await asyncio.sleep(0)
    wrong = {
        text
        for call in playground.calls
        for text in answer_problems(call.method, call.route, call.status, call.answer)
    }
    assert not wrong, "\n".join(sorted(wrong))
    seen = {(call.method, call.route) for call in playground.calls}
    assert len([route for route in seen if covers(*route)]) >= 17, seen
    assert not (ANSWERS.keys() & LISTS.keys())


def test_a_wrong_answer_is_noticed() -> None:
    missing = answer_problems("GET", "/users/{user_id}", 200, {"id": "1", "username": "x"})
    assert any("required" in text for text in missing)
    assert answer_problems("GET", "/users/{user_id}", 404, {"message": "no", "code": "x"})
