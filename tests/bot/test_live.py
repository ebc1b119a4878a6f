"""The whole bot over real sockets, with a generator that needs no GPU."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import sqlite3
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from live import COMMANDS, PICTURE, Live, button, fake_command, png, with_limits
from PIL import Image
from test_fitting import noisy_video

from bot.app import StartError, run_bot
from bot.config import AdminsConfig
from bot.playground import Message, Upload, controls, plain_text
from storage.jobs import Delivery, JobState

POST = "POST /channels/*/messages"
PATCH = "PATCH /channels/*/messages/*"
CALLBACK = "POST /interactions/*/*/callback"
SLOW = ("--steps", "1000", "--step-s", "0.05")


async def test_a_picture_and_a_sentence_come_back_as_a_video(live: Live) -> None:
    async with live.running("--steps", "20", "--step-s", "0.05"):
        asked = await live.animate(seconds=2, seed=7)
        await asked.answered()
        assert asked.response_time_s is not None
        assert asked.response_time_s < 1
        assert asked.response is not None
        assert asked.response.ephemeral_for == live.playground.ben.id
        video = await live.video()
        await live.sees(lambda: len(controls(live.status())) == 3)
        link = await live.answer_says(asked, "https://discord.com/channels/")
    status = live.status()
    assert status is not None
    assert str(status.id) in link
    [job] = live.jobs()
    assert video.reply_to_id == status.id
    assert video.pings == (live.playground.ben.id,)
    assert [file.filename for file in video.attachments] == [f"framepack-{job.id}.mp4"]
    assert (job.state, job.delivery) == (JobState.FINISHED, Delivery.DELIVERED)
    assert job.result_message_id == video.id
    assert job.request.seed == 7
    assert [button["label"] for button in controls(status)] == ["Again", "Edit", "Delete"]


async def test_every_picture_and_option_reaches_the_generator(live: Live) -> None:
    async with live.running():
        files = {"image": PICTURE, "end_image": PICTURE, "reference2": PICTURE}
        options = {"prompt": "the boat rocks", "model": "i2v", "quality": "draft", "motion": 3}
        playground = live.playground
        await playground.slash(playground.ben, playground.pictures, "animate", options, files)
        await live.video()
    [job] = live.jobs()
    assert (job.request.end_image, job.request.references) == ("end.png", ("reference-1.png",))
    folder = live.folder / "jobs" / job.id
    for name in ("input.png", "end.png", "reference-1.png"):
        with Image.open(folder / name) as picture:
            assert picture.size == (64, 48)


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


async def test_a_picture_in_a_message_is_animated_from_its_menu(live: Live) -> None:
    playground = live.playground
    text = await playground.say(playground.cleo, playground.pictures, "no picture")
    message = await playground.say(playground.cleo, playground.pictures, "look", [PICTURE])
    async with live.running():
        refused = await playground.message_command(playground.ben, text, "Animate this image")
        await live.answer_says(refused, "This message has no picture")
        asked = await playground.message_command(playground.ben, message, "Animate this image")
        await live.sees(lambda: asked.modal)
        filled = {"prompt": "the boat rocks", "seconds": "1.5", "references": [PICTURE, PICTURE]}
        submitted = await playground.submit_modal(asked, filled)
        await live.answer_says(submitted, "https://discord.com/channels/")
        await live.video()
    [job] = live.jobs()
    assert (job.request.seconds, job.user_id) == (1.5, playground.ben.id)
    assert job.request.references == ("reference-1.png", "reference-2.png")


async def test_who_is_named_but_may_not_manage_the_server_is_no_admin(live: Live) -> None:
    playground = live.playground
    admins = AdminsConfig(user_ids=(playground.ben.id, playground.ada.id))
    config = msgspec.structs.replace(live.config, admins=admins)
    async with live.running(config=config):
        playground.api.commands.open_to_everyone("admin")  # as a server's admin may set it
        await live.animate()
        await live.video()
        for who, words in (
            (playground.ben, "named in my configuration"),
            (playground.ada, "Model fake on a fake, float32. Up for 0:0"),
            (playground.ada, "Where the weights lie: stream: 8.0 GiB of VRAM are too few"),
            (playground.ada, "Memory: 5.0 GiB of VRAM used, 2.0 GiB of 8.0 GiB free; 3.0 GiB of"),
            (playground.ada, "Loaded: i2v. Preferred: i2v."),
        ):
            asked = await playground.slash(who, playground.pictures, "admin generator status")
            await live.answer_says(asked, words)
        for verb, words in (
            ("unload", "gives its memory back"),
            ("status", "Loaded: none. Preferred: i2v."),
            ("restart", "has been restarted"),
            ("status", "Model fake"),
        ):
            command = f"admin generator {verb}"
            asked = await playground.slash(playground.ada, playground.pictures, command)
            await live.sees(lambda a=asked: a.response and a.response.content != "One moment.")
            assert words in asked.response.content
        await live.animate()
        await live.until(lambda: len(live.videos()) == 2)


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


async def test_a_video_over_the_channels_limit_is_made_to_fit(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await asyncio.to_thread(noisy_video, live.folder / "noise.mp4")
    monkeypatch.setenv("FAKE_VIDEO", str(source))
    limit_bytes = int(0.5 * 2**20)
    async with live.running("real_video", config=with_limits(live.config, upload_limit_mib=0.5)):
        await live.animate(spoiler=True)
        video = await live.video()
        await live.status_says("Finished")
    [job] = live.jobs()
    [file] = video.attachments
    assert file.filename == f"SPOILER_framepack-{job.id}.mp4"
    assert 0.4 * limit_bytes < len(live.playground.file(file)) <= limit_bytes
    assert "Made smaller to fit here" in video.content
    assert f"seed {job.request.seed} · `{job.id}`" in video.content
    original = live.folder / "jobs" / job.id / f"framepack-{job.id}.mp4"
    assert original.read_bytes() == source.read_bytes()


async def test_a_boosted_server_takes_the_original_and_413_makes_it_smaller(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await asyncio.to_thread(noisy_video, live.folder / "noise.mp4")
    monkeypatch.setenv("FAKE_VIDEO", str(source))
    live.playground.set_boost_tier(2)
    async with live.running("real_video", config=with_limits(live.config, upload_limit_mib=0.5)):
        await live.animate()
        video = await live.video()
        assert live.playground.file(video.attachments[0]) == source.read_bytes()
        await live.animate(channel=live.playground.lounge)
        await live.until(lambda: live.status(live.playground.lounge))
        live.playground.faults.too_large("POST /channels/*/messages")
        smaller = await live.video(live.playground.lounge)
    size_bytes = len(live.playground.file(smaller.attachments[0]))
    assert 0.5 < size_bytes / source.stat().st_size <= 0.7


async def test_the_status_message_shows_progress_and_a_preview(live: Live) -> None:
    async with live.running("--steps", "30", "--step-s", "0.1"):
        await live.animate()
        first = await live.status_says("step ")
        assert [button["label"] for button in controls(first)] == ["Cancel"]
        assert "the boat rocks" in plain_text(first)

        assert files_of(first) == ["input-small.jpg"]
        thumbnail = first.attachments[0]
        assert first.embeds[0]["thumbnail"]["url"] == "attachment://input-small.jpg"
        with Image.open(io.BytesIO(live.playground.file(thumbnail))) as small:
            assert (small.format, small.size) == ("JPEG", (64, 48))
        assert "0.1 s a step · started <t:" in plain_text(first)
        assert "\ndone <t:" in plain_text(first)

        def preview() -> bool:
            status = live.status()
            return status is not None and len(status.attachments) == 2

        await live.sees(preview)
        await live.status_says("Took")
    edits = [
        event.at
        for event in live.playground.events
        if event.kind == "message_edited" and event.message and event.message.embeds
    ]
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(edits)]
    assert min(gaps) >= 0.45
    status = live.status()
    assert status is not None
    assert status.attachments == (thumbnail,)
    sent = [(call.method, [name for name, _ in call.files]) for call in live.playground.calls]
    pictures = [(how, names) for how, names in sent if names and not names[0].endswith(".mp4")]
    assert pictures == [("POST", ["input-small.jpg"]), ("PATCH", ["preview-15.webp"])]


def files_of(message: Message) -> list[str]:
    return [file.filename for file in message.attachments]


async def test_a_deleted_status_message_stays_deleted_after_a_restart(live: Live) -> None:
    async with live.running(*SLOW):
        await live.animate()
        live.playground.delete_message(await live.status_says("step "))
        await live.until(lambda: live.jobs()[0].status_deleted)
    async with live.running(*SLOW):
        await live.until(lambda: live.jobs()[0].state is JobState.RUNNING)
        await asyncio.sleep(1.5)
        assert live.posts() == []


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


async def test_what_was_delivered_is_not_delivered_again(live: Live) -> None:
    async with live.running():
        await live.animate()
        await live.video()
        await live.until(lambda: live.jobs()[0].delivery is Delivery.DELIVERED)
    for _ in range(2):
        async with live.running():
            await asyncio.sleep(0.5)
    assert len(live.videos()) == 1
    registered = [c for c in live.playground.calls if c.method == "PUT" and "commands" in c.path]
    assert len(registered) == 1


async def test_a_video_that_was_posted_but_not_written_down_is_found(live: Live) -> None:
    async with live.running():
        await live.animate()
        await live.video()
        await live.until(lambda: live.jobs()[0].delivery is Delivery.DELIVERED)
    with sqlite3.connect(live.folder / "bot.sqlite3") as database:
        database.execute("UPDATE jobs SET delivery = 'pending', result_message_id = NULL")
    database.close()
    async with live.running():
        await live.until(lambda: live.jobs()[0].delivery is Delivery.DELIVERED)
    assert len(live.videos()) == 1


async def test_a_child_killed_in_the_middle_costs_nothing_but_time(live: Live) -> None:
    async with live.running("--steps", "40", "--step-s", "0.1"):
        await live.animate()
        await live.status_says("step ")
        [child] = [
            process
            for process in psutil.Process().children()
            if any("fake_generator" in word for word in process.cmdline())
        ]
        child.kill()
        await live.video()
    assert live.jobs()[0].attempts == 1  # only those without progress count
    assert len(live.videos()) == 1


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


OUT_OF_RANGE: list[tuple[dict[str, object], str]] = [
    ({"prompt": "   "}, "Your prompt is empty"),
    ({"prompt": "x" * 5000}, "5,000 characters; at most 2,000"),
    ({"seconds": 100.0}, "You asked for 100 seconds; here at most 20"),
    ({"seconds": 0.01}, "seconds is 0.01; it must be between 0.1 and 120"),
    ({"steps": 0}, "steps is 0; it must be between 1 and 100"),
    ({"seed": -1}, "seed is -1"),
]


async def test_what_is_out_of_range_is_one_sentence(live: Live) -> None:
    async with live.running():
        for command in live.playground.api.commands.usable():  # a client that checks nothing
            for option in command.get("options", ()):
                for key in ("min_value", "max_value", "min_length", "max_length"):
                    option.pop(key, None)
        for options, words in OUT_OF_RANGE:
            asked = await live.animate(**options)
            await live.answer_says(asked, words)
            assert asked.response is not None and asked.response.ephemeral_for
    assert live.jobs() == []
    assert live.folders() == []


async def test_a_file_that_is_no_picture_is_one_sentence(live: Live) -> None:
    async with live.running():
        asked = await live.animate(picture=Upload(filename="a.png", data=b"%PDF-1.7 not one"))
        await live.sees(
            lambda: asked.response and "looking at your picture" not in asked.response.content
        )
        assert asked.response is not None
        assert asked.response.content.endswith(".")
    assert live.jobs() == []
    assert live.folders() == []


async def test_one_person_gets_a_fair_share(live: Live) -> None:
    async with live.running(*SLOW, config=with_limits(live.config, max_waiting_per_user=1)):
        await live.animate()
        await live.status_says("step ")
        asked = await live.animate()
        await live.answer_says(asked, "You already have 1 unfinished jobs")
        await live.animate(live.playground.cleo)
        await live.until(lambda: len(live.jobs()) == 2)


@pytest.mark.parametrize("limit", ["max_waiting_per_user", "max_per_day"])
async def test_who_asks_for_much_at_once_gets_no_more_than_others(live: Live, limit: str) -> None:
    limits = {"max_waiting_per_user": 9, limit: 2}
    async with live.running(*SLOW, config=with_limits(live.config, **limits)):
        asked = [await live.animate() for _ in range(6)]

        def decided() -> list[str]:
            texts = [one.response.content for one in asked if one.response is not None]
            return [text for text in texts if "in the queue: " in text or " is the most" in text]

        await live.sees(lambda: len(decided()) == len(asked))
        refused = [text for text in decided() if "and 2 is the most" in text]
        assert (len(refused), len(live.jobs()), len(live.folders())) == (4, 2, 2), decided()


async def test_a_failure_is_told_without_a_path(live: Live) -> None:
    async with live.running("fails_path"):
        await live.animate()
        status = await live.status_says("problem with the model")
    assert "can not write frame.png" in plain_text(status)
    assert str(live.folder) not in plain_text(status)


async def test_a_generator_that_breaks_later_leaves_the_bot_alive(live: Live) -> None:
    async with live.running("dies"):
        await live.animate()
        await live.status_says("broke down 5 times")
        asked = await live.playground.slash(live.playground.ben, live.playground.pictures, "queue")
        await live.answer_says(asked, "Nobody is waiting")


async def test_a_full_disk_is_one_sentence(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    from bot.intake import Intake

    async def full(self: Intake, raw: bytes, destination: Path, small: Path | None) -> None:
        destination.parent.mkdir(parents=True)
        destination.with_suffix(".part").write_bytes(raw[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Intake, "accept", full)
    async with live.running():
        asked = await live.animate()
        await live.answer_says(asked, "My disk is full")
        assert live.folders() == []
        monkeypatch.undo()
    assert live.jobs() == []


async def test_an_error_nobody_foresaw_has_a_number_in_answer_and_log(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from bot.orders import Orders

    async def broken(self: Orders, wish: object, admit: object) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(Orders, "take", broken)
    async with live.running():
        asked = await live.animate()
        answer = await live.answer_says(asked, "the number `")
    number = answer.split("`")[1]
    [record] = [r for r in caplog.records if number in r.getMessage()]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


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


async def test_a_wrong_token_is_one_sentence(live: Live) -> None:
    with pytest.raises(StartError, match="does not accept the bot's token"):
        await run_bot(live.config, "wrong", command=["nothing"])


async def test_an_api_that_is_not_there_is_one_sentence(live: Live) -> None:
    import msgspec

    nowhere = msgspec.structs.replace(live.config.discord, api_url="http://127.0.0.1:9/api/v10")
    config = msgspec.structs.replace(live.config, discord=nowhere)
    with pytest.raises(StartError, match=r"127.0.0.1:9/api/v10 can not be reached"):
        await run_bot(config, "token", command=["nothing"])


async def test_a_broken_generator_at_start_is_one_sentence(live: Live) -> None:
    with pytest.raises(StartError, match="the model folder has no vae"):
        await run_bot(live.config, live.playground.token, command=fake_command("broken"))


async def test_a_generator_killed_while_it_starts_is_started_once_more(live: Live) -> None:
    async def kill_the_first() -> int:
        while True:
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    if "fake_generator" in " ".join(child.cmdline()):
                        child.kill()
                        return child.pid
            await asyncio.sleep(0.002)

    killing = asyncio.ensure_future(kill_the_first())
    async with live.running("--start-s", "0.5"):
        await live.animate()
        await live.video()
        assert killing.done()


async def test_a_second_bot_on_one_folder_is_refused(live: Live) -> None:
    async with live.running():
        with pytest.raises(StartError, match="another framepack-bot already uses"):
            await run_bot(live.config, live.playground.token, command=["nothing"])


async def test_strange_folders_are_removed_at_start(live: Live) -> None:
    (live.folder / "jobs" / "halfdone22").mkdir(parents=True)
    (live.folder / "jobs" / "halfdone22" / "input.png").write_bytes(PICTURE.data)
    async with live.running():
        assert live.folders() == []


async def test_the_loop_is_never_busy_for_50_ms(live: Live) -> None:
    """The bot in a thread of its own, measured in that thread's processor time."""
    busy_s: list[float] = []
    stop, loops = asyncio.Event(), []

    async def beat() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            busy_s.append(time.thread_time() - before)

    async def bot() -> None:
        loops.append(asyncio.get_running_loop())
        command = fake_command("--steps", "20", "--step-s", "0.05")
        beating = asyncio.create_task(beat())
        await run_bot(live.config, live.playground.token, command=command, stop=stop)
        beating.cancel()

    thread = asyncio.create_task(asyncio.to_thread(asyncio.run, bot()))
    await live.playground.bot_ready(*COMMANDS)
    busy_s.clear()
    await live.animate(picture=Upload(filename="big.png", data=png(4000, 3000)))
    await live.status_says("Finished")
    loops[0].call_soon_threadsafe(stop.set)
    await thread
    assert max(busy_s) < 0.05
