"""A job's whole way over real sockets, from a picture to its video; the generator is a fake."""

from __future__ import annotations

import asyncio
import io
import itertools
import time

import pytest
from live import COMMANDS, PICTURE, Live, fake_command, png, with_limits
from PIL import Image
from test_fitting import noisy_video

from bot.app import run_bot
from bot.playground import Message, Upload, controls, plain_text
from storage.jobs import Delivery, JobState


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
