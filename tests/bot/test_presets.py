"""Presets, and the menu's entry with its form."""

from __future__ import annotations

import discord
import simcord
from simcord_scene import Scene, jobs

from bot.client import Client
from storage.community import Community
from storage.jobs import JobStore


async def test_a_jobs_settings_are_saved_shown_used_and_deleted(
    scene: Scene, store: JobStore, community: Community
) -> None:
    nothing = await scene.ben.slash(scene.channel, "presets save", name="wild")
    assert nothing.response.content.startswith("You have no jobs yet")
    await scene.animate(motion=7, steps=9, seed=4)
    saved = await scene.ben.slash(scene.channel, "presets save", name=" Wild ")
    assert "`wild`: motion: 7.0 · steps: 9." in saved.response.content
    shown = await scene.ben.slash(scene.channel, "presets show", name="wild")
    assert "steps: 9" in shown.response.content
    await scene.animate(preset="wild")
    request = (await jobs(store))[-1].request
    assert (request.motion_bias, request.steps) == (7, 9)
    assert request.seed != 4
    gone = await scene.ben.slash(scene.channel, "presets delete", name="wild")
    assert gone.response.content == "Deleted the preset `wild`."
    assert await community.presets(scene.ben.id, scene.guild.id) == []


async def test_a_servers_presets_are_for_those_who_manage_it(
    simcord_env: simcord.Env, scene: Scene, community: Community
) -> None:
    boss = scene.guild.create_role("boss", permissions=discord.Permissions(manage_guild=True))
    ada = scene.guild.add_member(simcord_env.create_user("ada"), roles=[boss])
    for who in (scene.ben, ada):
        await scene.animate(who, steps=9)
        await who.slash(scene.channel, "presets save", name="house", server=True)
    [preset] = await community.presets(scene.cleo.id, scene.guild.id)
    assert (preset.name, preset.owner_id) == ("house", scene.guild.id)
    listed = await scene.cleo.slash(scene.channel, "presets list")
    assert "`house` (this server's) — steps: 9" in (listed.response.embeds[0].description or "")
    refused = await scene.ben.slash(scene.channel, "presets delete", name="house", server=True)
    assert "Manage Server" in refused.response.content


async def test_a_strange_name_or_somebody_elses_job_is_refused(
    scene: Scene, store: JobStore
) -> None:
    await scene.animate()
    [job] = await jobs(store)
    refused = await scene.ben.slash(scene.channel, "presets save", name="@everyone")
    assert "1 to 32 letters" in refused.response.content
    refused = await scene.cleo.slash(scene.channel, "presets save", name="x", job=job.id)
    assert refused.response.content == f"I know no job `{job.id}`."


def test_what_discord_is_told_fits_its_limits(simcord_bot: Client) -> None:
    """Descriptions of 1 to 100 characters, at most 25 options and 8000 characters a command."""
    from bot.commands import build_commands

    for command in build_commands(simcord_bot.desk):
        simcord_bot.tree.add_command(command)
        payload = command.to_dict(simcord_bot.tree)
        texts = [payload.get("description"), *_descriptions(payload)]
        assert all(1 <= len(text) <= 100 for text in texts if text is not None), payload["name"]
        assert sum(len(text or "") for text in texts) < 8000
        assert len(payload.get("options", [])) <= 25


def _descriptions(payload: dict) -> list[str]:
    inner = payload.get("options", [])
    return [text for o in inner for text in (o["description"], *_descriptions(o))]
