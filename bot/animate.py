"""The command /animate, and the way that every wish for a video takes, wherever it comes from.

Decides: in which order a wish is answered, taken, shown and confirmed. Refuses to know: how a
picture is checked, how jobs run, what requests look like.

The order: answer in words at once, then download and check, then the row, then the bot's own status
message, then the answer's final wording. From the row on nothing depends on the interaction's token
any more.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import discord
import msgspec
from discord import app_commands

from bot.desk import Desk, preferred_variant
from bot.gate import admit
from bot.options import options, pictures_of, settings_of, signature
from bot.orders import Asked, Refusal, Wish
from bot.posts import PostError
from bot.replies import Reply, missing_permissions
from bot.texts import Text, say
from bot.translator import said
from bot.views import message_link, shorten
from bot.words import QUICK_PROMPTS
from storage.community import Preset
from storage.jobs import DuplicateJob, Job, JobState, WrongState

log = logging.getLogger(__name__)

CHOICES_SHOWN = 25
CHOICE_LENGTH = 100
RECENT_JOBS = 50
AGAIN_MARK = "↺ "
"""Begins the value of a choice whose prompt is too long for Discord; the job's id follows."""

IMAGE = "input.png"


async def animate(
    desk: Desk,
    interaction: discord.Interaction[Any],
    asked: Asked,
    pictures: Mapping[str, str | Path],
) -> None:
    """Take a wish, or say in one sentence why not."""
    reply = Reply(interaction, desk.posts)
    if interaction.guild_id is None and not desk.config.discord.allow_dms:
        return await reply.refuse(say(Text.GUILD_ONLY))
    if missing := missing_permissions(interaction):
        return await reply.refuse(say(Text.MISSING_PERMISSIONS, names=", ".join(missing)))
    try:
        settings = {"variant": await preferred_variant(desk)} | asked.settings
        request = desk.orders.request(msgspec.structs.replace(asked, settings=settings))
        admitted = await admit(desk, interaction, request)
        await reply.answer(say(Text.TAKEN))
        job = await desk.orders.take(
            Wish(
                interaction_id=interaction.id,
                guild_id=interaction.guild_id,
                channel_id=interaction.channel_id or 0,
                user_id=interaction.user.id,
                request=request,
                pictures=dict(pictures),
                spoiler=asked.spoiler,
                max_waiting=admitted.max_waiting,
                weight=admitted.weight,
            ),
            partial(admit, desk, interaction, request),
        )
        if admitted.priority:
            await desk.community.prioritise(job.id, admitted.priority)
    except Refusal as refusal:
        return await reply.refuse(str(refusal))
    except DuplicateJob:
        return log.info("interaction %d was delivered twice", interaction.id)
    await _show_new_job(desk, reply, job)


async def _show_new_job(desk: Desk, reply: Reply, job: Job) -> None:
    places = {waiting.id: place for waiting, place in await desk.dispatcher.places()}
    desk.dispatcher.wake()
    try:
        message_id = await desk.publisher.post(job, places.get(job.id))
    except PostError as error:
        if error.passes:
            await reply.amend(say(Text.QUEUED_NO_LINK, job_id=job.id))
        else:
            await _take_back(desk, job)
            await reply.refuse(say(Text.CAN_NOT_POST, reason=error))
        return
    link = message_link(job.guild_id, job.channel_id, message_id)
    await reply.amend(say(Text.QUEUED, link=link))


async def _take_back(desk: Desk, job: Job) -> None:
    """A job that nobody could ever see is no job."""
    with contextlib.suppress(WrongState):
        if (await desk.dispatcher.cancel(job.id)).state is JobState.CANCELLED:
            await desk.orders.discard(job)


async def with_preset(desk: Desk, interaction: discord.Interaction[Any], name: str) -> Preset:
    """The preset of this name: one's own, else the server's. Refusal when there is none."""
    known = await desk.community.presets(interaction.user.id, interaction.guild_id)
    for preset in known:
        if preset.name == name.strip().lower():
            return preset
    names = ", ".join(f"`{preset.name}`" for preset in known)
    raise Refusal(say(Text.PRESET_UNKNOWN, names=names or say(Text.PRESET_NONE)))


async def full_prompt(desk: Desk, interaction: discord.Interaction[Any], typed: str) -> str:
    """What was typed, or the long prompt of one's own that a choice stands for."""
    if not typed.startswith(AGAIN_MARK):
        return typed
    job = await desk.store.get(typed.removeprefix(AGAIN_MARK).strip())
    own = job is not None and job.user_id == interaction.user.id
    return job.request.prompt if job is not None and own else typed


async def prompt_choices(
    desk: Desk, interaction: discord.Interaction[Any], typed: str
) -> list[app_commands.Choice[str]]:
    """One's own recent prompts that contain what was typed, then a few to begin with."""
    values: dict[str, str] = {}
    for job in await desk.community.jobs_of(interaction.user.id, RECENT_JOBS):
        prompt = job.request.prompt
        short = len(prompt) <= CHOICE_LENGTH
        values.setdefault(prompt, prompt if short else AGAIN_MARK + job.id)
    quick = map(say, QUICK_PROMPTS)
    values |= {prompt: prompt for prompt in quick if prompt not in values}
    return _choices(values, typed)


async def preset_choices(
    desk: Desk, interaction: discord.Interaction[Any], typed: str
) -> list[app_commands.Choice[str]]:
    """One's own presets and the server's that contain what was typed."""
    known = await desk.community.presets(interaction.user.id, interaction.guild_id)
    return _choices({preset.name: preset.name for preset in reversed(known)}, typed)


def _choices(values: Mapping[str, str], typed: str) -> list[app_commands.Choice[str]]:
    return [
        app_commands.Choice(name=shorten(name, CHOICE_LENGTH), value=value)
        for name, value in values.items()
        if typed.lower() in name.lower()
    ][:CHOICES_SHOWN]


async def _from_command(
    desk: Desk, interaction: discord.Interaction[Any], given: Mapping[str, Any]
) -> None:
    """The options of /animate become a wish."""
    settings = settings_of(desk.config, given)
    try:
        if given.get("preset"):
            settings = (await with_preset(desk, interaction, given["preset"])).settings | settings
    except Refusal as refusal:
        return await Reply(interaction, desk.posts).refuse(str(refusal))
    asked = Asked(
        prompt=await full_prompt(desk, interaction, given["prompt"]),
        settings=settings,
        spoiler=bool(given.get("spoiler")),
    )
    await animate(desk, interaction, asked, pictures_of(IMAGE, given))


def animate_command(desk: Desk) -> app_commands.Command[Any, ..., None]:
    """/animate as discord.py registers it."""
    shown = options(desk.config)

    async def callback(interaction: discord.Interaction[Any], **given: Any) -> None:
        await _from_command(desk, interaction, given)

    callback.__signature__ = signature(shown)  # type: ignore[attr-defined]
    app_commands.describe(**{option.name: option.text for option in shown})(callback)
    app_commands.choices(
        **{
            option.name: [
                app_commands.Choice(name=text, value=str(value))
                for value, text in option.choices.items()
            ]
            for option in shown
            if option.choices
        }
    )(callback)
    command: app_commands.Command[Any, ..., None] = app_commands.Command(
        name="animate", description=said(Text.ANIMATE), callback=callback
    )

    async def prompts(
        interaction: discord.Interaction[Any], typed: str
    ) -> list[app_commands.Choice[str]]:
        return await prompt_choices(desk, interaction, typed)

    async def presets(
        interaction: discord.Interaction[Any], typed: str
    ) -> list[app_commands.Choice[str]]:
        return await preset_choices(desk, interaction, typed)

    command.autocomplete("prompt")(prompts)
    command.autocomplete("preset")(presets)
    return command
