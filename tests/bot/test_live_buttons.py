"""A job's buttons over real sockets: who may press them, what they do, also after a restart."""

from __future__ import annotations

from live import SLOW, Live, button

from bot.playground import controls, plain_text
from storage.jobs import JobState


async def test_the_buttons_of_a_finished_job_work_after_a_restart(live: Live) -> None:
    playground = live.playground
    async with live.running():
        await live.animate(quality="draft", seed=3)
        await live.video()
        status = await live.delivered_status()
    async with live.running():
        for number, label in enumerate(("Again", "Final quality"), start=2):
            pressed = await playground.press(status, button(status, label), playground.ben)
            await live.answer_says(pressed, "https://discord.com/channels/")
            await live.until(lambda n=number: len(live.videos()) == n)
        stranger = await playground.press(status, button(status, "Again"), playground.cleo)
        await live.answer_says(stranger, "Only <@")
    first, again, final = live.jobs()
    assert again.request.seed != 3
    assert again.request.step_cache == first.request.step_cache != "none"
    assert (final.request.seed, final.request.step_cache) == (3, "none")
    assert len({job.interaction_id for job in live.jobs()}) == 3


async def test_edit_is_a_form_with_the_old_values(live: Live) -> None:
    playground = live.playground
    async with live.running():
        await live.animate(seconds=2, seed=3)
        await live.video()
        status = await live.delivered_status()
        pressed = await playground.press(status, button(status, "Edit"), playground.ben)
        await live.sees(lambda: pressed.modal)
        fields = [label["component"] for label in pressed.modal["components"]]
        values = {field["custom_id"]: field.get("value") for field in fields}
        assert values == {
            "prompt": "the boat rocks",
            "seconds": "2",
            "steps": "25",
            "seed": "3",
            "negative": None,
        }
        changed = {"prompt": "the boat sinks", "seconds": "1,5", "steps": "9", "seed": ""}
        submitted = await playground.submit_modal(pressed, changed)
        await live.answer_says(submitted, "https://discord.com/channels/")
        await live.until(lambda: len(live.videos()) == 2)
        pressed = await playground.press(status, button(status, "Edit"), playground.ben)
        await live.sees(lambda: pressed.modal)
        refused = await playground.submit_modal(pressed, {**changed, "steps": "man"})
        await live.answer_says(refused, "“man” is not a number")
    request = live.jobs()[1].request
    assert (request.prompt, request.seconds, request.steps) == ("the boat sinks", 1.5, 9)
    assert request.seed != 3


async def test_delete_takes_everything_away_and_is_for_owner_and_moderators(live: Live) -> None:
    playground = live.playground
    async with live.running():
        await live.animate()
        await live.video()
        status = await live.delivered_status()
        stranger = await playground.press(status, button(status, "Delete"), playground.cleo)
        await live.answer_says(stranger, "Only <@")
        pressed = await playground.press(status, button(status, "Delete"), playground.ben)
        await live.answer_says(pressed, "Deleted `")
        await live.until(lambda: not live.posts())
    assert live.folders() == []


async def test_what_was_cancelled_can_be_deleted_with_its_prompt_and_picture(live: Live) -> None:
    playground = live.playground
    async with live.running(*SLOW):
        await live.animate()
        status = await live.status_says("step ")
        await playground.press(status, button(status, "Cancel"), playground.ben)
        status = await live.delivered_status()
        assert "the boat rocks" in plain_text(status)
        pressed = await playground.press(status, button(status, "Delete"), playground.ben)
        await live.answer_says(pressed, "Deleted `")
        await live.until(lambda: not live.posts())
        kept = await playground.slash(playground.ben, playground.pictures, "privacy")
        await live.answer_says(kept, "status messages")
    assert live.folders() == []


async def test_after_a_restart_the_cancel_button_works_and_jobs_go_on(live: Live) -> None:
    async with live.running(*SLOW):
        await live.animate()
        await live.status_says("step ")
        await live.animate(live.playground.cleo)
        await live.sees(lambda: len(live.posts()) == 2)
    first, second = live.jobs()
    assert (first.state, second.state) == (JobState.RUNNING, JobState.QUEUED)
    async with live.running(*SLOW):
        status = live.playground.world.messages[first.status_message_id or 0]
        await live.playground.press(status, f"framepack:cancel:{first.id}", live.playground.ben)
        await live.sees(
            lambda: "Cancelled" in plain_text(live.playground.world.messages[status.id])
        )
        await live.until(lambda: live.jobs()[1].state is JobState.RUNNING)
    assert len(live.posts()) == 2


async def test_strangers_can_not_press_cancel(live: Live) -> None:
    async with live.running(*SLOW):
        await live.animate()
        status = await live.status_says("step ")
        custom_id = controls(status)[0]["custom_id"]
        pressed = await live.playground.press(status, custom_id, live.playground.cleo)
        await live.answer_says(pressed, "Only <@")
        assert live.jobs()[0].state is JobState.RUNNING
        pressed = await live.playground.press(status, custom_id, live.playground.ada)
        await live.answer_says(pressed, "Stopping")
        await live.status_says("Cancelled")
