"""Cancel over real sockets: what is done is sent, of a running job and of a waiting one."""

from __future__ import annotations

import msgspec
import pytest
from live import Live, button

from bot.config import AdminsConfig
from bot.playground import ClientRefused, Message, plain_text
from bot.turns import TurnsConfig
from storage.jobs import Delivery, JobState

SECTIONS = ("--steps", "3000", "--step-s", "0.03", "--section-steps", "5")


async def test_cancel_sends_what_is_done_if_its_owner_wants_it(live: Live) -> None:
    playground = live.playground
    async with live.running(*SECTIONS):
        await live.animate(model="f1")
        await live.until(lambda: live.jobs() and live.jobs()[0].sections_made >= 2)
        status = await live.status_says("section ")
        asked = await playground.press(status, button(status, "Cancel"), playground.ben)
        await live.answer_says(asked, "They are the **beginning** of the video")
        assert asked.response is not None and asked.response.ephemeral_for == playground.ben.id
        with pytest.raises(ClientRefused, match="sees no such message"):
            await playground.press(asked.response, "framepack:finish:x", playground.cleo)
        send = button(asked.response, "Send what is done")
        pressed = await playground.press(asked.response, send, playground.ben)
        await live.answer_says(pressed, "it comes in a moment")
        video = await live.video()
        await live.delivered_status()
    [job] = live.jobs()
    assert (job.state, job.delivery) == (JobState.FINISHED, Delivery.DELIVERED)
    assert 2 <= job.sections_made < 600
    words = f"Only its beginning: the first {job.sections_made} of 600 sections"
    assert words in video.content
    assert words in plain_text(live.status())


async def test_cancel_all_asks_about_jobs_that_have_something_to_send(live: Live) -> None:
    playground = live.playground
    async with live.running(*SECTIONS):
        await live.animate()
        await live.animate()
        await live.until(lambda: live.jobs() and live.jobs()[0].sections_made >= 2)
        first, second = live.jobs()
        typed = await playground.slash(
            playground.ben, playground.pictures, "cancel", {"job": "ALL"}
        )
        text = await live.answer_says(typed, "1 of your jobs have finished sections")
        assert f"Cancelled `{second.id}`" in text and first.id not in text

        def question() -> Message | None:
            found = (playground.world.messages[i] for i in typed.message_ids)
            return next((m for m in found if first.id in m.content), None)

        asked = await live.sees(question)
        assert asked.ephemeral_for == playground.ben.id
        assert "They are the **end** of the video" in asked.content
        assert live.jobs()[0].state is JobState.RUNNING
        send = button(asked, "Send what is done")
        await playground.press(asked, send, playground.ben)
        await live.sees(lambda: "it comes in a moment" in (question() or asked).content)
        await live.video()
        again = await playground.slash(
            playground.ben, playground.pictures, "cancel", {"job": "all"}
        )
        await live.answer_says(again, "You have no job that could be cancelled")
    first, second = live.jobs()
    assert (first.state, second.state) == (JobState.FINISHED, JobState.CANCELLED)
    assert 2 <= first.sections_made < 600


async def test_what_is_done_of_a_waiting_job_is_sent_after_a_restart_too(live: Live) -> None:
    playground = live.playground
    turns, admins = TurnsConfig(sections=1, minutes=0), AdminsConfig(user_ids=(playground.ada.id,))
    config = msgspec.structs.replace(live.config, turns=turns, admins=admins)
    async with live.running(*SECTIONS, config=config):
        await live.animate()
        await live.status_says("step ")
        await live.animate(playground.cleo)
        await live.until(lambda: live.jobs()[0].turns > 0 and live.jobs()[0].state == "queued")
        paused = await playground.slash(playground.ada, playground.pictures, "admin queue pause")
        await live.answer_says(paused, "The queue is: paused.")
        await live.until(lambda: live.jobs()[0].state is JobState.QUEUED)
    async with live.running(*SECTIONS, config=config):
        first = live.jobs()[0]
        assert first.state is JobState.QUEUED
        status = playground.world.messages[first.status_message_id or 0]
        asked = await playground.press(status, f"framepack:cancel:{first.id}", playground.ben)
        await live.answer_says(asked, "They are the **end** of the video")
    async with live.running(*SECTIONS, config=config):
        assert asked.response is not None
        send = button(asked.response, "Send what is done")
        pressed = await playground.press(asked.response, send, playground.ben)
        await live.answer_says(pressed, "as soon as it has its next turn")
        await playground.slash(playground.ada, playground.pictures, "admin queue resume")
        await live.until(lambda: live.jobs()[0].delivery is Delivery.DELIVERED)
    [video] = [v for v in live.videos() if first.id in v.content]
    made = live.jobs()[0].sections_made
    assert first.sections_made <= made <= first.sections_made + 1
    assert f"Only its end: the last {made} of 600 sections" in video.content
