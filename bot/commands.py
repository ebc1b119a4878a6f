"""The slash commands about jobs, but for /animate: /cancel and /queue.

Decides: who may cancel what, and which commands there are. Refuses to know: how jobs run, what
requests look like.
"""

from __future__ import annotations

from typing import Any

import discord
from discord import app_commands

from bot.animate import animate_command
from bot.desk import Desk
from bot.replies import Reply
from bot.texts import STATES, Text, say
from bot.views import cancel_choice, plain, queue_embed, shorten
from storage.jobs import Job, JobState, UnknownJob, WrongState

CHOICES_SHOWN = 25


async def cancel(desk: Desk, interaction: discord.Interaction[Any], job_id: str | None) -> None:
    """Cancel the named job, or the asker's newest, and say what became of it."""
    reply = Reply(interaction, desk.posts)
    if job_id is None:
        own = await desk.store.unfinished_of(interaction.user.id)
        if not own:
            await reply.answer(say(Text.CANCEL_NOTHING))
            return
        job: Job | None = own[-1]
    else:
        job = await desk.store.get(job_id.strip().lower())
    if job is None:
        await reply.answer(say(Text.CANCEL_UNKNOWN, job_id=shorten(plain(job_id or ""), 40)))
        return
    if not may_cancel(interaction, job):
        await reply.answer(say(Text.CANCEL_NOT_YOURS, owner=f"<@{job.user_id}>"))
        return
    await reply.answer(await _cancel(desk, job))


async def _cancel(desk: Desk, job: Job) -> str:
    try:
        job = await desk.dispatcher.cancel(job.id)
    except WrongState as error:
        return say(Text.CANCEL_OVER, job_id=job.id, state=STATES[error.job.state])
    except UnknownJob:
        return say(Text.CANCEL_UNKNOWN, job_id=job.id)
    running = job.state is JobState.RUNNING
    return say(Text.CANCELLED_RUNNING if running else Text.CANCELLED_QUEUED, job_id=job.id)


def may_cancel(interaction: discord.Interaction[Any], job: Job) -> bool:
    """The owner; on the same server also whoever may manage messages where the command is used."""
    if interaction.user.id == job.user_id:
        return True
    same_guild = job.guild_id is not None and interaction.guild_id == job.guild_id
    return same_guild and interaction.permissions.manage_messages


async def cancel_choices(
    desk: Desk, interaction: discord.Interaction[Any], typed: str
) -> list[app_commands.Choice[str]]:
    """The asker's unfinished jobs, newest first, that contain what was typed."""
    own = await desk.store.unfinished_of(interaction.user.id)
    choices = [app_commands.Choice(name=cancel_choice(job), value=job.id) for job in reversed(own)]
    return [c for c in choices if typed.lower() in c.name.lower()][:CHOICES_SHOWN]


async def queue(desk: Desk, interaction: discord.Interaction[Any]) -> None:
    """Show everybody's place and estimate."""
    reply = Reply(interaction, desk.posts)
    running, places = await desk.store.running(), await desk.dispatcher.places()
    if not running and not places:
        await reply.answer(say(Text.QUEUE_EMPTY))
        return
    progress = desk.dispatcher.progress
    shown = queue_embed([(job, progress.get(job.id)) for job in running], places)
    await reply.answer("", embed=shown)


def build_commands(desk: Desk) -> list[app_commands.Command[Any, ..., None]]:
    """The commands as discord.py registers them, their ranges from the protocol and the config."""
    contexts = app_commands.AppCommandContext(
        guild=True, dm_channel=desk.config.discord.allow_dms, private_channel=False
    )
    installs = app_commands.AppInstallationType(guild=True, user=False)
    commands = [animate_command(desk), _cancel_command(desk), _queue_command(desk)]
    for command in commands:
        command.allowed_contexts, command.allowed_installs = contexts, installs
    return commands


def _cancel_command(desk: Desk) -> app_commands.Command[Any, ..., None]:
    async def callback(interaction: discord.Interaction[Any], job: str | None = None) -> None:
        await cancel(desk, interaction, job)

    async def choices(
        interaction: discord.Interaction[Any], typed: str
    ) -> list[app_commands.Choice[str]]:
        return await cancel_choices(desk, interaction, typed)

    described = app_commands.describe(job=say(Text.CANCEL_JOB))
    command: app_commands.Command[Any, ..., None] = app_commands.Command(
        name="cancel", description=say(Text.CANCEL), callback=described(callback)
    )
    command.autocomplete("job")(choices)
    return command


def _queue_command(desk: Desk) -> app_commands.Command[Any, ..., None]:
    async def callback(interaction: discord.Interaction[Any]) -> None:
        await queue(desk, interaction)

    return app_commands.Command(name="queue", description=say(Text.QUEUE), callback=callback)
