"""Everything that goes wrong on Discord, as the unmodified client meets it."""

from __future__ import annotations

import asyncio

import aiohttp
import discord
import pytest
from small_bot import PNG_1X1, SmallBot, file

from bot.playground import Playground, Upload

PICTURE = Upload(filename="boat.png", data=PNG_1X1)
POST = "POST /channels/*/messages"
PATCH = "PATCH /channels/*/messages/*"


def channel_of(bot: SmallBot, playground: Playground) -> discord.PartialMessageable:
    return bot.get_partial_messageable(playground.pictures.id, guild_id=playground.world.guild.id)


@pytest.mark.parametrize(
    ("status", "wait_s"), [(429, 0.05), (500, 1.0), (502, 1.0)], ids=["429", "500", "502"]
)
async def test_what_the_client_retries_succeeds_at_the_second_try(
    playground: Playground, bot: SmallBot, status: int, wait_s: float
) -> None:
    playground.faults.inject(POST, status, retry_after_s=0.05)
    before = asyncio.get_running_loop().time()
    await channel_of(bot, playground).send("hello")
    assert asyncio.get_running_loop().time() - before >= wait_s
    assert [m.content for m in playground.messages(playground.pictures)] == ["hello"]
    statuses = [c.status for c in playground.calls if c.route.endswith("/messages")]
    assert statuses == [status, 200]


async def test_the_client_does_not_retry_503(playground: Playground, bot: SmallBot) -> None:
    playground.faults.inject(POST, 503)
    with pytest.raises(discord.DiscordServerError) as caught:
        await channel_of(bot, playground).send("hello")
    assert caught.value.status == 503
    assert playground.messages(playground.pictures) == []


async def test_a_dropped_connection_is_not_a_discord_error(
    playground: Playground, bot: SmallBot
) -> None:
    playground.faults.inject(POST, drop=True)
    with pytest.raises(aiohttp.ClientConnectionError):
        await channel_of(bot, playground).send("hello")
    assert playground.messages(playground.pictures) == []
    assert playground.calls[-1].status == 0


async def test_a_lost_answer_leaves_the_message_and_the_nonce_finds_it(
    playground: Playground, bot: SmallBot
) -> None:
    playground.faults.inject(POST, drop=True, applied=True)
    channel = channel_of(bot, playground)
    with pytest.raises(aiohttp.ClientConnectionError):
        await channel.send("the video", nonce="job-1")
    again = await channel.send("the video", nonce="job-1")
    assert [m.id for m in playground.messages(playground.pictures)] == [again.id]
    other = await channel.send("the video", nonce="job-2")
    assert other.id != again.id


async def test_a_nonce_holds_for_minutes_only_and_25_characters(
    playground: Playground, bot: SmallBot
) -> None:
    channel = channel_of(bot, playground)
    first = await channel.send("the video", nonce="job-1")
    playground.turn_clock_forward(600)
    assert (await channel.send("the video", nonce="job-1")).id != first.id
    playground.calls.clear()
    with pytest.raises(discord.HTTPException, match="25 or fewer"):
        await channel.send("the video", nonce="x" * 26)
    playground.calls.clear()


async def test_late_answers_are_late(playground: Playground, bot: SmallBot) -> None:
    playground.faults.inject(POST, latency_s=0.2)
    await channel_of(bot, playground).send("hello")
    assert playground.calls[-1].duration_s >= 0.2


async def test_files_over_the_limit_are_refused_by_boost_tier(
    playground: Playground, bot: SmallBot
) -> None:
    large = b"0" * (10 * 2**20 + 1)
    with pytest.raises(discord.HTTPException) as caught:
        await channel_of(bot, playground).send(file=file("a.mp4", large))
    assert (caught.value.status, caught.value.code) == (413, 40005)
    playground.set_boost_tier(2)
    sent = await channel_of(bot, playground).send(file=file("a.mp4", large))
    assert sent.attachments[0].size == len(large)
    playground.world.upload_limit_bytes = 10
    with pytest.raises(discord.HTTPException):
        await sent.edit(attachments=[file("b.mp4")])


async def test_a_deleted_message_is_reported_and_then_unknown(
    playground: Playground, bot: SmallBot
) -> None:
    sent = await channel_of(bot, playground).send("status")
    playground.delete_message(playground.world.messages[sent.id])
    await bot.until_seen(f"deleted {sent.id}")
    with pytest.raises(discord.NotFound) as caught:
        await sent.edit(content="more")
    assert caught.value.code == 10008
    with pytest.raises(discord.HTTPException, match="Unknown message"):
        await channel_of(bot, playground).send("done", reference=sent)


async def test_a_reply_to_a_deleted_message_is_posted_when_it_may_fail(
    playground: Playground, bot: SmallBot
) -> None:
    sent = await channel_of(bot, playground).send("status")
    playground.delete_message(playground.world.messages[sent.id])
    reply = await channel_of(bot, playground).send(
        "done", reference=sent.to_reference(fail_if_not_exists=False)
    )
    assert reply.reference is None


async def test_a_deleted_channel_is_reported_and_then_unknown(
    playground: Playground, bot: SmallBot
) -> None:
    sent = await channel_of(bot, playground).send("status")
    playground.delete_channel(playground.pictures)
    await bot.until_seen(f"channel gone {playground.pictures.id}")
    for wanted in (channel_of(bot, playground).send("more"), sent.edit(content="more")):
        with pytest.raises(discord.NotFound) as caught:
            await wanted
        assert caught.value.code == 10003


@pytest.mark.parametrize(
    ("denied", "code"),
    [("view_channel", 50001), ("send_messages", 50013), ("attach_files", 50013)],
)
async def test_lost_permissions(
    playground: Playground, bot: SmallBot, denied: str, code: int
) -> None:
    playground.permit(playground.pictures, playground.bot, deny=denied)
    with pytest.raises(discord.Forbidden) as caught:
        await channel_of(bot, playground).send("hello", file=file("a.png"))
    assert caught.value.code == code
    if denied != "attach_files":
        return
    await channel_of(bot, playground).send("hello")
    sent = await playground.slash(
        playground.ben, playground.pictures, "show", files={"image": PICTURE}
    )
    await sent.answered()
    assert not bot.interactions[0].app_permissions.attach_files
    assert bot.interactions[0].app_permissions.send_messages


async def test_being_kicked(playground: Playground, bot: SmallBot) -> None:
    playground.kick_bot()
    await bot.until_seen(f"kicked from {playground.world.guild.id}")
    with pytest.raises(discord.Forbidden) as caught:
        await channel_of(bot, playground).send("hello")
    assert caught.value.code == 50001


async def test_an_outage_of_the_server_is_not_a_kick(playground: Playground, bot: SmallBot) -> None:
    playground.server_outage()
    await bot.until(lambda: bot.guilds[0].unavailable)
    playground.invite_bot()
    await bot.until_seen("server back")
    assert not [event for event in bot.seen if event.startswith("kicked")]


async def test_a_lost_download(playground: Playground, bot: SmallBot) -> None:
    # aiohttp asks a second time by itself when a kept connection is dropped under a GET
    for number, fault in enumerate(({"drop": True}, {"status": 503}), start=1):
        playground.faults.inject("GET /ephemeral-attachments/*", times=None, **fault)
        await playground.slash(
            playground.ben, playground.pictures, "show", files={"image": PICTURE}
        )
        await bot.until(lambda number=number: len(bot.errors) == number)
        playground.faults.clear()
    dropped, refused = (error.original for error in bot.errors)
    assert isinstance(dropped, aiohttp.ClientConnectionError)
    assert refused.status == 503


async def test_closed_direct_messages(playground: Playground, bot: SmallBot) -> None:
    dm = await bot.create_dm(discord.Object(playground.ben.id))
    await dm.send("hello")
    assert playground.messages(playground.world.open_dm(playground.ben))[0].content == "hello"
    playground.close_dms(playground.ben)
    with pytest.raises(discord.Forbidden) as caught:
        await dm.send("hello")
    assert caught.value.code == 50007


@pytest.mark.parametrize("how", ["killed", "expired"])
async def test_a_dead_token_answers_401_while_the_bots_own_messages_go_on(
    playground: Playground, bot: SmallBot, how: str
) -> None:
    sent = await playground.slash(
        playground.ben, playground.pictures, "show", files={"image": PICTURE}
    )
    await sent.answered()
    if how == "killed":
        sent.kill_token()
    else:
        playground.turn_clock_forward(15 * 60 + 1)
    for wanted in (
        bot.interactions[0].edit_original_response(content="more"),
        bot.interactions[0].followup.send("more"),
    ):
        with pytest.raises(discord.HTTPException) as caught:
            await wanted
        assert (caught.value.status, caught.value.code) == (401, 50027)
        assert not isinstance(caught.value, discord.NotFound)
    await channel_of(bot, playground).send("still here")


async def test_an_answer_after_three_seconds_is_unknown(
    playground: Playground, bot: SmallBot
) -> None:
    playground.api.interactions.answer_within_s = 0.0
    await playground.slash(playground.ben, playground.pictures, "show", files={"image": PICTURE})
    await bot.until(lambda: bot.errors)
    assert bot.errors[0].original.code == 10062


async def test_an_interaction_delivered_twice_is_answered_once(
    playground: Playground, bot: SmallBot
) -> None:
    playground.deliver_next_twice()
    sent = await playground.slash(
        playground.ben, playground.pictures, "show", files={"image": PICTURE}
    )
    await sent.answered()
    await bot.until(lambda: bot.errors)
    assert bot.errors[0].original.code == 40060
    assert [i.id for i in bot.interactions] == [sent.id, sent.id]
    await (
        await playground.slash(
            playground.ben, playground.pictures, "show", files={"image": PICTURE}
        )
    ).answered()
    assert len(bot.interactions) == 3


async def test_what_happened_during_an_outage_is_replayed_by_resume(
    playground: Playground, bot: SmallBot
) -> None:
    sent = await channel_of(bot, playground).send("status")
    await playground.drop_gateway()
    playground.delete_message(playground.world.messages[sent.id])
    await bot.until_seen("resumed")
    assert f"deleted {sent.id}" in bot.seen
    assert (playground.gateway.identifies, playground.gateway.resumes) == (1, 1)


async def test_a_request_to_reconnect_is_resumed(playground: Playground, bot: SmallBot) -> None:
    playground.gateway.ask_to_reconnect()
    await bot.until_seen("resumed")
    assert playground.gateway.identifies == 1


async def test_a_forgotten_session_identifies_again(playground: Playground, bot: SmallBot) -> None:
    await playground.drop_gateway(resumable=False)
    await playground.until(lambda: playground.gateway.identifies == 2)
    sent = await playground.slash(
        playground.ben, playground.pictures, "show", files={"image": PICTURE}
    )
    await sent.answered()


async def test_old_messages_take_few_edits(playground: Playground, bot: SmallBot) -> None:
    sent = await channel_of(bot, playground).send("status")
    playground.turn_clock_forward(3601)
    await sent.edit(content="one")
    waiting = asyncio.create_task(sent.edit(content="two"))
    await playground.until(lambda: playground.calls[-1].status == 429)
    assert playground.calls[-1].answer["code"] == 30046
    assert playground.calls[-1].answer["retry_after"] > 40
    waiting.cancel()


async def test_an_archived_thread_takes_no_edit_but_a_new_message(
    playground: Playground, bot: SmallBot
) -> None:
    guild_id = playground.world.guild.id
    thread = bot.get_partial_messageable(playground.thread.id, guild_id=guild_id)
    sent = await thread.send("status")
    playground.archive(playground.thread)
    with pytest.raises(discord.HTTPException) as caught:
        await sent.edit(content="more")
    assert caught.value.code == 50083
    await thread.send("done")
    await sent.edit(content="more")


async def test_automod(playground: Playground, bot: SmallBot) -> None:
    playground.faults.blocked_by_automod()
    with pytest.raises(discord.HTTPException) as caught:
        await channel_of(bot, playground).send("bad words")
    assert (caught.value.status, caught.value.code) == (400, 200000)


async def test_a_fault_spares_what_it_skips_and_ends_after_its_times(
    playground: Playground, bot: SmallBot
) -> None:
    playground.faults.inject(PATCH, 503, skip=1, times=2)
    sent = await channel_of(bot, playground).send("status")
    results = []
    for number in range(4):
        try:
            await sent.edit(content=str(number))
            results.append(200)
        except discord.DiscordServerError as error:
            results.append(error.status)
    assert results == [200, 503, 503, 200]


async def test_a_wrong_token_is_refused(points_at_playground: Playground) -> None:
    with pytest.raises(discord.LoginFailure):
        async with SmallBot() as stranger:
            await stranger.login("not the token")


async def test_rate_limits_are_told_in_headers_and_kept_by_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Playground(rate_limits=True) as playground, aiohttp.ClientSession() as http:
        url = f"{playground.api_url}/channels/{playground.pictures.id}/messages"
        headers = {"Authorization": f"Bot {playground.token}"}
        for left in (4, 3, 2, 1, 0):
            async with http.post(url, headers=headers, json={"content": "hello"}) as answer:
                assert answer.headers["X-RateLimit-Remaining"] == str(left)
        async with http.post(url, headers=headers, json={"content": "hello"}) as answer:
            assert answer.status == 429
            assert answer.headers["Via"]
            assert 0 < (await answer.json())["retry_after"] <= 5


async def test_other_origins_are_refused(playground: Playground) -> None:
    async with aiohttp.ClientSession() as http:
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            async with http.get(f"{playground.api_url}/gateway", headers=headers) as answer:
                assert answer.status == 403
