"""Discord repeats, loses, refuses or deletes something, over real sockets: nothing comes twice."""

from __future__ import annotations

import asyncio

import pytest
from live import SLOW, Live

from bot.playground import Upload
from storage.jobs import Delivery, JobState

POST = "POST /channels/*/messages"
PATCH = "PATCH /channels/*/messages/*"
CALLBACK = "POST /interactions/*/*/callback"


async def test_an_interaction_that_is_delivered_twice_is_one_job(live: Live) -> None:
    async with live.running():
        live.playground.deliver_next_twice()
        await live.animate()
        await live.video()
        await asyncio.sleep(1)
    assert len(live.jobs()) == 1
    assert len(live.posts()) == 2
    assert len(live.folders()) == 1


async def test_a_token_that_dies_after_two_seconds_changes_nothing_for_the_job(
    live: Live,
) -> None:
    async with live.running("--steps", "60", "--step-s", "0.05"):
        asked = await live.animate()
        asked.kill_token(after_s=2.0)
        await live.video()
        await live.status_says("Finished")
    assert len(live.videos()) == 1


async def test_a_token_that_dies_at_once_changes_nothing_for_the_job(live: Live) -> None:
    async with live.running():
        asked = await live.animate()
        await asked.answered()
        asked.kill_token()
        await live.video()
    assert len(live.videos()) == 1


async def test_a_refusal_whose_token_is_dead_goes_to_the_channel(live: Live) -> None:
    async with live.running():
        live.playground.faults.inject("GET /attachments/*", latency_s=1.0, times=None)
        asked = await live.animate(picture=Upload(filename="a.png", data=b"this is no picture"))
        await asked.answered()
        asked.kill_token()
        [message] = await live.sees(live.posts)
    assert message.content.startswith(f"<@{live.playground.ben.id}>, about your `/animate`:")
    assert message.pings == ()
    assert live.jobs() == []
    assert live.folders() == []


async def test_a_refusal_after_an_answer_whose_receipt_got_lost_takes_its_place(
    live: Live,
) -> None:
    """To answer again meets 40060, as if the refusal were there already."""
    async with live.running():
        live.playground.faults.inject(CALLBACK, drop=True, applied=True)
        asked = await live.animate(picture=Upload(filename="a.png", data=b"%PDF-1.7 not one"))
        await live.answer_says(asked, "This is a PDF document, not a picture")
    assert live.posts() == []
    assert live.jobs() == []


@pytest.mark.parametrize("status", [500, 502, 503])
@pytest.mark.parametrize("pattern", [POST, PATCH])
async def test_single_server_errors_are_survived(live: Live, pattern: str, status: int) -> None:
    async with live.running("--steps", "10", "--step-s", "0.1"):
        live.playground.faults.inject(pattern, status)
        live.playground.faults.inject(pattern, status, skip=1)
        await live.animate()
        await live.video()
        await live.status_says("Finished")
    assert len(live.videos()) == 1
    assert len(live.posts()) == 2


async def test_lost_answers_do_not_double_anything(live: Live) -> None:
    async with live.running():
        live.playground.faults.inject(POST, drop=True, applied=True, times=1)
        live.playground.faults.inject(POST, drop=True, applied=True, times=1, skip=1)
        await live.animate()
        await live.video()
        await live.status_says("Finished")
        await live.until(lambda: live.jobs()[0].delivery is Delivery.DELIVERED)
    assert len(live.videos()) == 1
    assert len(live.posts()) == 2


async def test_an_answer_that_meets_500_is_tried_again(live: Live) -> None:
    async with live.running():
        live.playground.faults.inject(CALLBACK, 500)
        asked = await live.animate()
        await live.answer_says(asked, "https://discord.com/channels/")
        await live.video()


async def test_a_deleted_status_message_is_no_cancel(live: Live) -> None:
    async with live.running("--steps", "40", "--step-s", "0.05"):
        await live.animate()
        status = await live.status_says("step ")
        live.playground.delete_message(status)
        video = await live.video()
    assert video.reply_to_id is None
    assert live.posts() == [video]


async def test_a_deleted_channel_means_a_direct_message(live: Live) -> None:
    channel = live.playground.add_channel("short-lived")
    async with live.running("--steps", "20", "--step-s", "0.05"):
        await live.animate(channel=channel)
        await live.sees(lambda: live.posts(channel))
        live.playground.delete_channel(channel)
        await live.until(lambda: live.jobs()[0].delivery is Delivery.DELIVERED)


async def test_who_removes_the_bot_cancels_what_waits_there(live: Live) -> None:
    async with live.running(*SLOW):
        await live.animate()
        await live.status_says("step ")
        await live.animate(live.playground.cleo)
        await live.sees(lambda: len(live.posts()) == 2)
        live.playground.kick_bot()
        await live.until(lambda: _state(live, 1) is JobState.CANCELLED)
    live.playground.world.is_member = True


def _state(live: Live, number: int) -> JobState:
    return live.jobs()[number].state


async def test_no_permission_to_attach_files_is_named_and_nothing_taken(live: Live) -> None:
    playground = live.playground
    playground.permit(playground.pictures, playground.bot, deny="attach_files embed_links")
    async with live.running():
        asked = await live.animate()
        answer = await live.answer_says(asked, "Attach Files, Embed Links")
    assert "permission" in answer
    assert live.jobs() == []


async def test_a_channel_that_refuses_after_all_takes_no_job(live: Live) -> None:
    async with live.running():
        live.playground.faults.inject(POST, 403, code=50013, times=None)
        asked = await live.animate()
        await live.answer_says(asked, "I can not post in this channel")
        await live.until(lambda: _state(live, 0) is JobState.CANCELLED)
