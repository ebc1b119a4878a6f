"""Messages, files and history as the unmodified client sees them."""

from __future__ import annotations

import aiohttp
import discord
import pytest
from small_bot import PNG_1X1, SmallBot, file

from bot.playground import ChannelKind, EventKind, Playground, Upload


@pytest.fixture
def channel(bot: SmallBot, playground: Playground) -> discord.PartialMessageable:
    return bot.get_partial_messageable(playground.pictures.id, guild_id=playground.world.guild.id)


async def test_an_edit_swaps_the_preview_for_the_video(
    playground: Playground, channel: discord.PartialMessageable
) -> None:
    sent = await channel.send("working", file=file("preview.webp", b"preview"))
    edited = await sent.edit(content="done", attachments=[file("video.mp4", b"video")])
    assert [a.filename for a in edited.attachments] == ["video.mp4"]
    assert await edited.attachments[0].read() == b"video"
    assert edited.attachments[0].content_type == "video/mp4"
    kept = await edited.edit(attachments=[edited.attachments[0], file("more.png")])
    assert [a.filename for a in kept.attachments] == ["video.mp4", "more.png"]
    assert [a.filename for a in (await kept.edit(content="text")).attachments] == [
        "video.mp4",
        "more.png",
    ]
    assert (await kept.edit(attachments=[])).attachments == []
    seen = [(e.message.content, len(e.message.attachments)) for e in playground.events[-5:]]
    assert seen == [("working", 1), ("done", 1), ("done", 2), ("text", 2), ("text", 0)]


async def test_an_embedded_file_is_not_listed_as_attachment(
    playground: Playground, channel: discord.PartialMessageable
) -> None:
    embed = discord.Embed(title="A boat").set_image(url="attachment://a.png")
    sent = await channel.send(embed=embed, file=file("a.png"))
    assert sent.attachments == []
    assert sent.embeds[0].image.url.startswith(playground.world.origin)
    assert sent.embeds[0].image.width == 1
    shown = playground.messages(playground.pictures)[0]
    assert playground.file(shown.attachments[0]) == PNG_1X1
    assert [a.filename for a in (await sent.edit(embed=None, content="x")).attachments] == ["a.png"]


async def test_an_embedded_file_stays_when_an_edit_lists_its_id(
    playground: Playground, bot: SmallBot, channel: discord.PartialMessageable
) -> None:
    embed = discord.Embed(title="A boat").set_image(url="attachment://a.png")
    sent = await channel.send(embed=embed, file=file("a.png"))
    [shown] = playground.messages(playground.pictures)[0].attachments
    assert f"/{shown.id}/a.png" in (sent.embeds[0].image.url or "")
    embed.title, body = "Two boats", {"attachments": [{"id": str(shown.id)}]}
    route = discord.http.Route(
        "PATCH",
        "/channels/{channel_id}/messages/{message_id}",
        channel_id=channel.id,
        message_id=sent.id,
    )
    edited = await bot.http.request(route, json=body | {"embeds": [embed.to_dict()]})
    assert edited["attachments"] == []
    assert f"/{shown.id}/a.png" in edited["embeds"][0]["image"]["url"]
    assert playground.messages(playground.pictures)[0].attachments == (shown,)
    await bot.http.request(route, json={"attachments": []})
    assert playground.messages(playground.pictures)[0].attachments == ()


async def test_components_of_the_second_generation(
    playground: Playground, channel: discord.PartialMessageable
) -> None:
    view = discord.ui.LayoutView()
    gallery = discord.ui.MediaGallery(discord.MediaGalleryItem("attachment://a.png"))
    view.add_item(discord.ui.Container(discord.ui.TextDisplay("# A boat"), gallery))
    sent = await channel.send(view=view, file=file("a.png"))
    assert sent.flags.components_v2
    item = sent.components[0].children[1].items[0]
    assert item.media.url.startswith(playground.world.origin)
    with pytest.raises(discord.HTTPException, match="field cannot be used"):
        await sent.edit(content="text beside components")
    with pytest.raises(discord.HTTPException, match="attachment was not found"):
        await sent.edit(view=view, attachments=[])


async def test_who_is_notified(playground: Playground, channel: discord.PartialMessageable) -> None:
    ben, cleo = playground.ben, playground.cleo
    said = await playground.say(ben, playground.pictures, "look")
    text = f"{ben.mention} your video, {cleo.mention} asked too"
    only_ben = discord.AllowedMentions(
        everyone=False, roles=False, users=[discord.Object(ben.id)], replied_user=False
    )
    partial = channel.get_partial_message(said.id)
    reply = await partial.reply(text, allowed_mentions=only_ben)
    assert playground.world.messages[reply.id].pings == (ben.id,)
    assert playground.world.messages[reply.id].reply_to_id == said.id
    assert reply.reference.resolved.author.name == "ben"
    nobody = await channel.send(text, allowed_mentions=discord.AllowedMentions.none())
    assert playground.world.messages[nobody.id].pings == ()
    edited = await nobody.edit(content=text, allowed_mentions=only_ben)
    assert playground.world.messages[edited.id].pings == (), "an edit pings nobody"
    assert playground.world.messages[(await channel.send(text)).id].pings == (ben.id, cleo.id)


async def test_history_is_searched_before_after_and_around(
    playground: Playground, channel: discord.PartialMessageable
) -> None:
    sent = [await channel.send(str(number)) for number in range(6)]

    async def found(**where: object) -> list[str]:
        return [message.content async for message in channel.history(**where)]

    assert await found() == ["5", "4", "3", "2", "1", "0"]
    assert await found(after=sent[3], oldest_first=True) == ["4", "5"]
    assert await found(before=sent[2], limit=1) == ["1"]
    assert await found(around=sent[3], limit=3) == ["4", "3", "2"]
    assert (await channel.fetch_message(sent[1].id)).content == "1"
    playground.permit(playground.pictures, playground.bot, deny="read_message_history")
    assert await found() == []


async def test_others_messages_cannot_be_edited_or_deleted(
    playground: Playground, channel: discord.PartialMessageable
) -> None:
    said = await playground.say(playground.ben, playground.pictures, "mine")
    message = channel.get_partial_message(said.id)
    with pytest.raises(discord.Forbidden) as caught:
        await message.edit(content="yours")
    assert caught.value.code == 50005
    with pytest.raises(discord.Forbidden):
        await message.delete()
    playground.permit(playground.pictures, playground.bot, allow="manage_messages")
    await message.delete()
    assert playground.messages(playground.pictures) == []


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": ""}, "empty message"),
        ({"content": "x" * 2001}, "2,000 or fewer"),
        ({"embeds": [discord.Embed(description="x" * 3001)] * 2}, "maximum size of 6000"),
    ],
    ids=["empty", "content", "embeds"],
)
async def test_messages_that_discord_refuses(
    playground: Playground, channel: discord.PartialMessageable, message: dict, reason: str
) -> None:
    with pytest.raises(discord.HTTPException, match=reason):
        await channel.send(**message)
    playground.calls.clear()


async def test_threads_forum_posts_and_typing(playground: Playground, bot: SmallBot) -> None:
    text = await bot.fetch_channel(playground.pictures.id)
    thread = await text.create_thread(
        name="a thread", type=discord.ChannelType.public_thread, auto_archive_duration=60
    )
    await thread.send("inside")
    forum = playground.add_channel("forum", ChannelKind.FORUM)
    post = await (await bot.fetch_channel(forum.id)).create_thread(name="a post", content="first")
    assert post.message.content == "first"
    async with thread.typing():
        pass
    created = [e.text for e in playground.events if e.kind is EventKind.CHANNEL_CREATED]
    assert created[-3:] == ["a thread", "forum", "a post"]
    assert playground.events[-1].kind is EventKind.TYPING


async def test_the_cdn_serves_ranges_and_nothing_else(playground: Playground) -> None:
    said = await playground.say(playground.ben, playground.lounge, files=[_upload(b"0123456789")])
    url = said.attachments[0].url
    async with aiohttp.ClientSession() as http:
        async with http.get(url, headers={"Range": "bytes=2-4"}) as answer:
            assert (answer.status, await answer.read()) == (206, b"234")
            assert answer.headers["Content-Range"] == "bytes 2-4/10"
        async with http.get(url.replace(str(said.attachments[0].id), "1")) as answer:
            assert answer.status == 404


def _upload(data: bytes) -> Upload:
    return Upload(filename="clip.mp4", data=data)


async def test_links_die_after_a_day_and_a_fresh_message_has_fresh_ones(
    bot: SmallBot, points_at_playground: Playground
) -> None:
    playground = points_at_playground
    channel = bot.get_channel(playground.pictures.id)
    assert isinstance(channel, discord.TextChannel)
    sent = await channel.send(file=file("a.png"))
    assert len(await sent.attachments[0].read()) > 0
    playground.turn_clock_forward(86_500)
    with pytest.raises(discord.NotFound):
        await sent.attachments[0].read()
    again = await channel.fetch_message(sent.id)
    assert len(await again.attachments[0].read()) > 0


async def test_a_purge_reaches_the_bot_as_one_event(
    bot: SmallBot, points_at_playground: Playground
) -> None:
    playground = points_at_playground
    for text in ("one", "two"):
        await playground.say(playground.ben, playground.pictures, text)
    assert playground.purge(playground.pictures) == 2
    assert playground.messages(playground.pictures) == []
    await bot.until_seen("purged 2")


async def test_a_role_gives_permissions_and_a_channel_takes_them(
    bot: SmallBot, points_at_playground: Playground
) -> None:
    playground = points_at_playground
    role = playground.add_role("moderators", "manage_messages")
    playground.world.join(playground.ben, role.id)
    held = playground.world.permissions(playground.pictures, playground.ben)
    assert discord.Permissions(held).manage_messages
    playground.permit(playground.pictures, role, deny="send_messages manage_messages")
    now = playground.world.channels[playground.pictures.id]
    held = playground.world.permissions(now, playground.ben)
    assert not discord.Permissions(held).manage_messages
    assert not discord.Permissions(held).send_messages
    await bot.until_seen("role moderators")
