"""A bot that starts, or says why it does not; that goes on where the one before it ended."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time

import msgspec
import pytest
from live import PICTURE, SLOW, Live, fake_command

from bot.app import StartError, run_bot
from storage.jobs import Delivery, JobState


async def test_a_wrong_token_is_one_sentence(live: Live) -> None:
    with pytest.raises(StartError, match="does not accept the bot's token"):
        await run_bot(live.config, "wrong", command=["nothing"])


async def test_an_api_that_is_not_there_is_one_sentence(live: Live) -> None:
    nowhere = msgspec.structs.replace(live.config.discord, api_url="http://127.0.0.1:9/api/v10")
    config = msgspec.structs.replace(live.config, discord=nowhere)
    with pytest.raises(StartError, match=r"127.0.0.1:9/api/v10 can not be reached"):
        await run_bot(config, "token", command=["nothing"])


async def test_a_broken_generator_at_start_is_one_sentence(live: Live) -> None:
    with pytest.raises(StartError, match="the model folder has no vae"):
        await run_bot(live.config, live.playground.token, command=fake_command("broken"))


async def test_a_second_bot_on_one_folder_is_refused(live: Live) -> None:
    async with live.running():
        with pytest.raises(StartError, match="another framepack-bot already uses"):
            await run_bot(live.config, live.playground.token, command=["nothing"])


async def test_strange_folders_are_removed_at_start(live: Live) -> None:
    (live.folder / "jobs" / "halfdone22").mkdir(parents=True)
    (live.folder / "jobs" / "halfdone22" / "input.png").write_bytes(PICTURE.data)
    async with live.running():
        assert live.folders() == []


async def test_finished_videos_without_a_row_stay_for_their_days(
    live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    """Their rows were in no backup yet when an older one was put in the database's place."""
    now, days = time.time(), live.config.storage.keep_days
    for name, age_days in (
        ("young22222", days - 1),
        ("older22222", days / 2),
        ("old2222222", days + 1),
    ):
        folder = live.folder / "jobs" / name
        folder.mkdir(parents=True)
        for file in ("input.png", f"framepack-{name}.mp4"):
            (folder / file).write_bytes(PICTURE.data)
        os.utime(folder / f"framepack-{name}.mp4", times=(now, now - age_days * 86400))
    (live.folder / "jobs" / "halfdone22").mkdir()
    (live.folder / "jobs" / "halfdone22" / "framepack-halfdone22.mp4.part").write_bytes(b"half")
    async with live.running():
        assert live.folders() == ["older22222", "young22222"]
    [warning] = [r.getMessage() for r in caplog.records if "belong to no job" in r.getMessage()]
    assert warning.startswith(f"2 finished videos in {live.folder / 'jobs'} belong to no job")


async def test_a_deleted_status_message_stays_deleted_after_a_restart(live: Live) -> None:
    async with live.running(*SLOW):
        await live.animate()
        live.playground.delete_message(await live.status_says("step "))
        await live.until(lambda: live.jobs()[0].status_deleted)
    async with live.running(*SLOW):
        await live.until(lambda: live.jobs()[0].state is JobState.RUNNING)
        await asyncio.sleep(1.5)
        assert live.posts() == []


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


@pytest.mark.parametrize("status", [200, 403, 404])
async def test_a_server_that_is_listed_no_more_loses_its_own_commands(
    live: Live, status: int
) -> None:
    """Else each command is there twice: the server's own, and everybody's."""
    guild = live.playground.world.guild.id
    discord = msgspec.structs.replace(live.config.discord, guild_ids=(guild,))
    config = msgspec.structs.replace(live.config, discord=discord)
    commands = live.playground.api.commands
    async with live.running(config=config):
        assert commands.registered(guild) and not commands.registered(None)
    known = live.folder / "commands.sha256"
    known.write_text(known.read_text().split()[0])  # as a bot wrote it that kept no servers
    async with live.running(config=config):
        pass
    if status != 200:  # the bot is not there any more
        live.playground.faults.inject("PUT /applications/*/guilds/*/commands", status)
    async with live.running():
        assert bool(commands.registered(guild)) == (status != 200)
        assert commands.registered(None)
    assert not live.playground.faults.waiting
    writes = commands.writes
    async with live.running():
        assert commands.writes == writes


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
