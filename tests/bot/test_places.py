"""Where the bot works, over real sockets: threads, forum posts, direct messages."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from live import PICTURE, SLOW, Live, button, with_limits
from test_fitting import noisy_video

from bot import replies
from bot.intake import download
from bot.playground import ChannelKind, ClientRefused, controls, plain_text
from storage.jobs import Delivery, JobState

POST = "POST /channels/*/messages"
AMEND = "PATCH /webhooks/*/*/messages/@original"


async def test_in_a_forum_post_everything_happens_there(live: Live) -> None:
    forum = live.playground.add_channel("showcase", ChannelKind.FORUM)
    post = live.playground.world.add_thread(forum, "My first", live.playground.ben)
    async with live.running():
        asked = await live.animate(channel=post)
        await live.answer_says(asked, f"/{post.id}/")
        video = await live.video(post)
        await live.until(lambda: live.jobs()[0].delivery is Delivery.DELIVERED)
        status = await live.delivered_status(post)
        assert video.reply_to_id == status.id
        pressed = await live.playground.press(status, button(status, "Again"), live.playground.ben)
        await live.answer_says(pressed, f"/{post.id}/")
        await live.until(lambda: len(live.videos(post)) == 2)
    assert live.posts() == []


async def test_an_archived_post_gets_its_video_all_the_same(live: Live) -> None:
    forum = live.playground.add_channel("showcase", ChannelKind.FORUM)
    post = live.playground.world.add_thread(forum, "My first", live.playground.ben)
    async with live.running("--steps", "20", "--step-s", "0.05"):
        await live.animate(channel=post)
        await live.until(lambda: live.status(post))
        live.playground.archive(post)
        await live.video(post)


async def test_a_thread_needs_a_permission_of_its_own(live: Live) -> None:
    playground = live.playground
    thread = playground.world.add_thread(playground.pictures, "aside", playground.ben)
    playground.permit(playground.pictures, playground.bot, deny="send_messages_in_threads")
    async with live.running():
        asked = await live.animate(channel=thread)
        await live.answer_says(asked, "I need the permission Send Messages in Threads")
        fine = await live.animate()
        await live.answer_says(fine, "https://discord.com/channels/")
        await live.video()
    assert len(live.jobs()) == 1


async def test_in_direct_messages_if_the_operator_allows_it(live: Live) -> None:
    playground = live.playground
    dm = playground.world.open_dm(playground.ben)
    async with live.running():
        with pytest.raises(ClientRefused, match="not offered in direct messages"):
            await live.animate(channel=dm)
    assert live.posts(dm) == []
    discord = msgspec.structs.replace(live.config.discord, allow_dms=True)
    config = msgspec.structs.replace(live.config, discord=discord)
    async with live.running(config=config):
        asked = await live.animate(channel=dm)
        await live.answer_says(asked, "https://discord.com/channels/@me/")
        await live.video(dm)
        status = await live.delivered_status(dm)
        pressed = await playground.press(status, button(status, "Delete"), playground.ben)
        await live.answer_says(pressed, "Deleted `")
        await live.until(lambda: not live.posts(dm))
    [job] = live.jobs()
    assert (job.guild_id, job.channel_id) == (None, dm.id)


async def test_in_direct_messages_the_queue_names_only_who_asks(live: Live) -> None:
    playground = live.playground
    discord = msgspec.structs.replace(live.config.discord, allow_dms=True)
    config = msgspec.structs.replace(live.config, discord=discord)
    async with live.running(*SLOW, config=config):
        await live.animate(playground.cleo)
        await live.status_says("step ")
        await live.animate(playground.ben)
        await live.sees(lambda: len(live.posts()) == 2)
        dm = playground.world.open_dm(playground.ben)
        asked = await playground.slash(playground.ben, dm, "queue")
        shown = await live.sees(lambda: asked.response)
    text = str(shown.embeds)
    assert "▶ somebody elsewhere · " in text
    assert f"1. <@{playground.ben.id}> · " in text


async def test_what_is_refused_is_not_downloaded(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[str] = []

    async def counted(url: str, *rest: Any) -> bytes:
        downloads.append(url)
        return await download(url, *rest)

    monkeypatch.setattr("bot.orders.download", counted)
    config = with_limits(live.config, blocked_words=("gore",), max_waiting_per_user=1)
    async with live.running("--steps", "1000", "--step-s", "0.05", config=config):
        asked = await live.animate(prompt="g\u00f6re everywhere")
        await live.answer_says(asked, "holds a word that is not allowed here")
        live.playground.permit(
            live.playground.lounge, live.playground.bot, deny="read_message_history"
        )
        asked = await live.animate(channel=live.playground.lounge)
        await live.answer_says(asked, "Read Message History")
        assert downloads == []
        await live.animate()
        await live.status_says("step ")
        assert len(downloads) == 1
        asked = await live.animate()
        await live.answer_says(asked, "1 is the most one person may have")
    assert len(downloads) == 1


async def test_show_brings_the_video_anywhere_to_those_who_may_see_it(live: Live) -> None:
    playground = live.playground
    hidden = playground.add_channel("hidden")
    everyone = playground.world.guild.roles[0]
    playground.permit(hidden, everyone, deny="view_channel")
    for who in (playground.ben, playground.bot):
        playground.permit(hidden, who, allow="view_channel")
    async with live.running():
        await live.animate(channel=hidden)
        await live.animate()
        await live.video(hidden)
        await live.video()
        await live.until(lambda: all(j.delivery is Delivery.DELIVERED for j in live.jobs()))
        secret, public = live.jobs()
        for who, job, files in (
            (playground.ben, secret, 1),
            (playground.cleo, secret, 0),
            (playground.cleo, public, 1),
        ):
            asked = await playground.slash(who, playground.lounge, "show", {"job": job.id})
            await live.answer_says(asked, "seed " if files else "I know no job")
            assert asked.response is not None and asked.response.ephemeral_for == who.id
            assert len(asked.response.attachments) == files
    assert live.posts(playground.lounge) == []


async def test_show_ends_in_words_when_discord_does_not_take_the_file(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "AMEND_WITHIN_S", 1.0)
    playground = live.playground
    async with live.running():
        await live.animate()
        await live.video()
        await live.until(lambda: live.jobs()[0].delivery is Delivery.DELIVERED)
        [job] = live.jobs()
        for fault, files in (({"status": 413}, 0), ({"latency_s": 2.0}, 1)):
            playground.faults.inject(AMEND, **fault)
            asked = await playground.slash(
                playground.ben, playground.lounge, "show", {"job": job.id}
            )
            text = await live.answer_says(asked, f"/{job.channel_id}/{job.result_message_id}")
            assert ("Discord does not take the video here" in text) is (files == 0)
            assert asked.response is not None and len(asked.response.attachments) == files


async def test_what_fits_nowhere_is_kept_and_the_message_says_where(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await asyncio.to_thread(noisy_video, live.folder / "noise.mp4", "176x144", 1)
    monkeypatch.setenv("FAKE_VIDEO", str(source))
    async with live.running("real_video", "--step-s", "0.3"):
        await live.animate()
        await live.until(live.status)
        live.playground.faults.too_large(POST, times=3)
        await live.status_says("could not be posted")
    [job] = live.jobs()
    assert (job.state, job.delivery) == (JobState.FINISHED, Delivery.UNDELIVERABLE)
    [told] = [message for message in live.posts() if not message.embeds]
    assert f"`jobs/{job.id}/framepack-{job.id}.mp4`" in told.content
    assert told.pings == (live.playground.ben.id,)
    assert (live.folder / "jobs" / job.id / str(job.video)).read_bytes() == source.read_bytes()
    assert str(live.folder) not in told.content + plain_text(live.status())


async def test_the_menu_takes_no_little_picture_of_a_status_message(live: Live) -> None:
    playground = live.playground
    async with live.running():
        await live.animate()
        await live.video()
        status = await live.delivered_status()
        assert status.attachments
        asked = await playground.message_command(playground.cleo, status, "Animate this image")
        await live.answer_says(asked, "This message has no picture")


async def test_after_retention_the_buttons_say_what_became_of_the_job(live: Live) -> None:
    playground = live.playground
    async with live.running():
        await live.animate()
        await live.video()
        status = await live.delivered_status()
        erased = await playground.slash(
            playground.ben, playground.pictures, "privacy", {"delete_everything": True}
        )
        await live.answer_says(erased, "Deleted: 1 jobs")
        for control in controls(status):
            pressed = await playground.press(status, control["custom_id"], playground.ben)
            await live.answer_says(pressed, "I have forgotten job")


async def test_a_spoiler_shows_no_picture_before_it_is_clicked(live: Live) -> None:
    async with live.running("--steps", "20", "--step-s", "0.05"):
        await live.animate(spoiler=True, picture=PICTURE)
        video = await live.video()
        status = await live.delivered_status()
    assert video.attachments[0].filename.startswith("SPOILER_")
    edits = [e.message for e in live.playground.events if e.message and e.message.id == status.id]
    assert not any(message.attachments for message in edits)
