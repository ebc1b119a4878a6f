"""The channel as lines in a terminal, and the configuration that the demo writes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import discord
from small_bot import PNG_1X1, SmallBot, file

from bot.playground import Playground, Upload
from bot.playground.child import write_config
from bot.playground.transcript import Transcript


def told(playground: Playground) -> list[str]:
    transcript = Transcript(playground.world, playground.world.clock.now())
    return [line[8:].strip() for event in playground.events for line in transcript.lines(event)]


async def test_a_job_as_the_channel_shows_it(playground: Playground, bot: SmallBot) -> None:
    picture = Upload(filename="lake.png", data=PNG_1X1)
    sent = await playground.slash(
        playground.ben, playground.pictures, "show", files={"image": picture}
    )
    await sent.answered()
    channel = bot.get_partial_messageable(
        playground.pictures.id, guild_id=playground.world.guild.id
    )
    embed = discord.Embed(title="Waiting", description="“a boat”\nNext in the queue")
    status = await channel.send(embed=embed)
    embed = discord.Embed(title="Working", description="“a boat”\nstep 1 of 8\n█░ 12 %")
    await status.edit(embed=embed, attachments=[file("preview.webp")])
    await status.edit(embed=embed)
    await status.reply(f"{playground.ben.mention} done", file=file("a.mp4", b"0" * 2**20))
    await status.delete()
    assert told(playground) == [
        "FramePack (only ben sees this)",
        f"{len(PNG_1X1)} bytes, 1x1, 5 s",
        "FramePack",
        "Waiting",
        "“a boat”",
        "Next in the queue",
        "FramePack edits: Working · step 1 of 8 · █░ 12 % · [preview.webp]",
        "FramePack (replies to FramePack, notifies ben)",
        "@ben done",
        "[a.mp4, 1.00 MiB]",
        "FramePack: the message is deleted",
    ]


async def test_buttons_mentions_and_links_are_readable(
    playground: Playground, bot: SmallBot
) -> None:
    link = f"https://discord.com/channels/1/{playground.pictures.id}/3"
    text = f"see <#{playground.pictures.id}> and {link}, {playground.cleo.mention}"
    sent = await playground.slash(playground.ben, playground.lounge, "colour", {"name": text})
    await sent.answered()
    assert told(playground) == [
        "FramePack (notifies cleo)",
        "see #pictures and [link to the message], @cleo",
        "(Update) (Later) (Ask) (Off)",
    ]


async def test_times_and_named_links_are_readable(playground: Playground, bot: SmallBot) -> None:
    now = round(playground.world.clock.now().timestamp())
    text = f"done <t:{now + 130}:R> started <t:{now - 600}:R> [look](https://example.org/a)"
    sent = await playground.slash(playground.ben, playground.lounge, "colour", {"name": text})
    await sent.answered()
    assert told(playground)[1] == "done in 2 min started 10 min ago [look]"


async def test_what_is_happening_right_now_is_now(playground: Playground, bot: SmallBot) -> None:
    now = round(playground.world.clock.now().timestamp())
    await playground.slash(playground.ben, playground.lounge, "colour", {"name": f"<t:{now}:R>"})
    event = await playground.wait_for(lambda e: "<t:" in e.text)
    playground.turn_clock_forward(now - playground.world.clock.now().timestamp())
    transcript = Transcript(playground.world, playground.world.clock.now())
    assert list(transcript.lines(event))[1].strip() == "now"
    playground.turn_clock_forward(3)
    assert list(transcript.lines(event))[1].strip() == "3 s ago"


def test_settings_survive_the_way_through_toml(tmp_path: Path) -> None:
    settings = {
        "storage": {"data_dir": 'C:\\Users\\"ä"\\data'},
        "defaults": {"seconds": 2.4, "steps": 8, "draft": True},
        "discord": {"guild_ids": [1, 2]},
    }
    write_config(tmp_path / "config.toml", settings)
    assert tomllib.loads((tmp_path / "config.toml").read_text(encoding="utf-8")) == settings
