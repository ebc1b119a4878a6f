"""What people do about jobs that are there: look, cancel, show again, have all of them forgotten.

Decides: who may see and cancel what, and what the answers say. Refuses to know: how jobs run, how
commands are registered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import discord
from discord import app_commands

from bot.buttons import Action, to_view
from bot.delivery import FITTED_NAME
from bot.desk import Desk
from bot.replies import Reply
from bot.texts import Text, say
from bot.views import (
    cancel_choice,
    message_link,
    part_sentence,
    plain,
    queue_embed,
    shorten,
    small_print,
)
from bot.words import STATES
from storage.jobs import Delivery, Job, JobState, UnknownJob, WrongState, utc_now

log = logging.getLogger(__name__)

ALL = "all"
CHOICES_SHOWN = 25
JOBS_SHOWN = 15
JOBS_SEARCHED = 100
PROMPT_SHOWN = 60
MESSAGE_LENGTH = 2000
MIB = 1 << 20


async def cancel(desk: Desk, interaction: discord.Interaction[Any], job_id: str | None) -> None:
    """Cancel the named job, all of the asker's, or the newest, and say what became of it.

    Of a job that has finished sections it is asked first whether they shall be sent.
    """
    reply = Reply(interaction, desk.posts)
    if job_id is not None and job_id.strip().lower() == ALL:
        return await _cancel_all(desk, interaction)
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
    if has_something_to_send(job):
        view = to_view((Action.FINISH, Action.STOP), job.id)
        await reply.answer(_question(job), view=view)
        return
    await reply.answer(await _cancel(desk, job))


def has_something_to_send(job: Job) -> bool:
    """Whether sections of an unfinished job are finished that nobody asked for yet."""
    is_over = job.state not in (JobState.QUEUED, JobState.RUNNING) or job.cancel_requested
    return not is_over and job.sections_made > 0 and not job.finish_requested


def _question(job: Job) -> str:
    return say(
        Text.FINISH_END if job.request.variant.grows_backward else Text.FINISH_BEGINNING,
        job_id=job.id,
        made=job.sections_made,
        sections=job.sections,
    )


async def decide(
    desk: Desk, interaction: discord.Interaction[Any], job: Job, *, send: bool
) -> None:
    """The answer to the question of `cancel`: send what is done, or nothing."""
    reply = Reply(interaction, desk.posts)
    if not may_cancel(interaction, job):
        await reply.replace(say(Text.CANCEL_NOT_YOURS, owner=f"<@{job.user_id}>"))
        return
    if not send:
        await reply.replace(await _cancel(desk, job))
        return
    try:
        job = await desk.dispatcher.finish_early(job.id)
    except WrongState as error:
        state = STATES[error.job.state]
        await reply.replace(say(Text.CANCEL_OVER, job_id=job.id, state=state))
        return
    running = job.state is JobState.RUNNING
    text = Text.FINISHING_RUNNING if running else Text.FINISHING_QUEUED
    await reply.replace(say(text, job_id=job.id))


async def _cancel_all(desk: Desk, interaction: discord.Interaction[Any]) -> None:
    """Cancel what has nothing to show yet; of each other job ask whether it shall be sent."""
    reply = Reply(interaction, desk.posts)
    answers, asking = [], []
    for job in await desk.store.unfinished_of(interaction.user.id):
        if has_something_to_send(job):
            asking.append(job)
        else:
            answers.append(await _cancel(desk, job))
    if not answers and not asking:
        await reply.answer(say(Text.CANCEL_NOTHING))
        return
    if asking:
        answers.append(say(Text.CANCEL_ALL_ASKS, count=len(asking)))
    await reply.answer(shorten("\n".join(answers), MESSAGE_LENGTH))
    for job in asking:
        await reply.add(_question(job), view=to_view((Action.FINISH, Action.STOP), job.id))


async def _cancel(desk: Desk, job: Job) -> str:
    try:
        job = await desk.dispatcher.cancel(job.id)
    except WrongState as error:
        return say(Text.CANCEL_OVER, job_id=job.id, state=STATES[error.job.state])
    except UnknownJob:
        return say(Text.CANCEL_UNKNOWN, job_id=job.id)
    text = Text.CANCELLED_BETWEEN if job.turns else Text.CANCELLED_QUEUED
    running = job.state is JobState.RUNNING
    return say(Text.CANCELLED_RUNNING if running else text, job_id=job.id)


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
    if len(own) > 1:
        choices.append(app_commands.Choice(name=say(Text.CANCEL_ALL, count=len(own)), value=ALL))
    return [c for c in choices if typed.lower() in c.name.lower()][:CHOICES_SHOWN]


async def queue(desk: Desk, interaction: discord.Interaction[Any]) -> None:
    """Show everybody's place and estimate, and name those of this server and the asker.

    Who else uses the bot, and where, is not for others to know.
    """
    reply = Reply(interaction, desk.posts)
    running, places = await desk.store.running(), await desk.dispatcher.places()
    if not running and not places:
        await reply.answer(say(Text.QUEUE_EMPTY))
        return
    progress = desk.dispatcher.progress
    at_work = [(job, progress.get(job.id)) for job in running]
    asker_id, guild_id = interaction.user.id, interaction.guild_id

    def named(job: Job) -> bool:
        return job.user_id == asker_id or (guild_id is not None and job.guild_id == guild_id)

    shown = queue_embed(at_work, places, utc_now(), named=named)
    await reply.answer("", embed=shown)


async def list_own(desk: Desk, interaction: discord.Interaction[Any]) -> None:
    """Show the asker's newest jobs, each with a link to its messages."""
    reply = Reply(interaction, desk.posts)
    found = await desk.community.jobs_of(interaction.user.id, JOBS_SHOWN)
    if not found:
        await reply.answer(say(Text.JOBS_NONE))
        return
    lines = [_job_line(job) for job in found]
    shown = discord.Embed(title=say(Text.JOBS_TITLE), description="\n".join(lines))
    await reply.answer("", embed=shown)


def _job_line(job: Job) -> str:
    message_id = job.result_message_id or job.status_message_id
    link = message_link(job.guild_id, job.channel_id, message_id) if message_id else ""
    return say(
        Text.JOBS_LINE,
        job_id=job.id,
        state=STATES[job.state],
        prompt=plain(shorten(job.request.prompt, PROMPT_SHOWN)),
        link=say(Text.LINK, url=link) if link else "",
    )


async def show(desk: Desk, interaction: discord.Interaction[Any], job_id: str) -> None:
    """Show a finished job's video again to somebody who may see it where it is."""
    reply, job = Reply(interaction, desk.posts), await desk.store.get(job_id.strip().lower())
    if job is None or not _may_see(interaction, job):
        await reply.answer(say(Text.CANCEL_UNKNOWN, job_id=shorten(plain(job_id), 40)))
        return
    if job.state is not JobState.FINISHED:
        await reply.answer(say(Text.SHOW_NOT_YET, job_id=job.id, state=STATES[job.state]))
        return
    lines = [line for line in (part_sentence(job), small_print(job)) if line]
    if job.result_message_id is not None and job.delivery is Delivery.DELIVERED:
        lines.insert(0, message_link(job.guild_id, job.channel_id, job.result_message_id))
    await reply.answer(say(Text.SHOW_LOOKING))
    here, there = (_limit_bytes(desk, g) for g in (interaction.guild_id, job.guild_id))
    folder, name = desk.orders.folder(job), job.video or ""
    file = await asyncio.to_thread(_best_file, folder, name, here, there)
    if file is None:
        lines.insert(0, say(Text.SHOW_GONE))
    if not await reply.amend("\n".join(lines), file=file, spoiler=job.spoiler) and file:
        await reply.amend("\n".join([*lines, say(Text.SHOW_REFUSED)]))


def _limit_bytes(desk: Desk, guild_id: int | None) -> int:
    """What a file may have on this server."""
    boosted = desk.posts.upload_limit_bytes(guild_id)
    return boosted or int(desk.config.limits.upload_limit_mib * MIB)


def _best_file(folder: Path, name: str, here_bytes: int, there_bytes: int) -> Path | None:
    """The largest version of the video that may be posted here and that Discord has not refused.

    What is within the limit where the job was delivered was offered to Discord there; that there
    is a smaller version shows that it was refused.
    """
    versions = [folder / name, *folder.glob(f"{FITTED_NAME}-*/{name}")]
    sizes = {file: file.stat().st_size for file in versions if name and file.is_file()}
    least = min(sizes.values(), default=0)
    fitting = [
        file
        for file, size_bytes in sizes.items()
        if size_bytes <= here_bytes and (size_bytes == least or size_bytes > there_bytes)
    ]
    return max(fitting, key=lambda file: sizes[file], default=None)


def _may_see(interaction: discord.Interaction[Any], job: Job) -> bool:
    """The owner; else whoever may read the channel that the job was asked for in."""
    if interaction.user.id == job.user_id or interaction.channel_id == job.channel_id:
        return True
    guild, viewer = interaction.guild, interaction.user
    if guild is None or guild.id != job.guild_id or not isinstance(viewer, discord.Member):
        return False
    channel = guild.get_channel_or_thread(job.channel_id)
    if channel is None or (isinstance(channel, discord.Thread) and channel.is_private()):
        return False
    rights = channel.permissions_for(viewer)
    return rights.view_channel and rights.read_message_history


async def show_choices(
    desk: Desk, interaction: discord.Interaction[Any], typed: str
) -> list[app_commands.Choice[str]]:
    """The asker's finished jobs, newest first, that contain what was typed."""
    own = await desk.community.jobs_of(interaction.user.id, JOBS_SEARCHED)
    done = [job for job in own if job.state is JobState.FINISHED]
    choices = [app_commands.Choice(name=cancel_choice(job), value=job.id) for job in done]
    return [c for c in choices if typed.lower() in c.name.lower()][:CHOICES_SHOWN]


async def privacy(desk: Desk, interaction: discord.Interaction[Any], *, delete: bool) -> None:
    """Say what is kept of the asker, or delete it."""
    reply = Reply(interaction, desk.posts)
    if not delete:
        await reply.answer(say(Text.PRIVACY_KEPT))
        return
    await reply.answer(say(Text.PRIVACY_WORKING))
    user_id = interaction.user.id
    for job in await desk.store.unfinished_of(user_id):
        await _cancel(desk, job)
    # Files first: of a bot that is killed here a finished video would stay, which no row knows.
    over = [job.id for job in await desk.store.ended() if job.user_id == user_id]
    await desk.orders.remove_folders(over)
    gone = await desk.community.erase(user_id)
    await desk.orders.remove_folders(gone)  # what was over in between
    log.info("user %d had %d jobs erased", user_id, len(gone))
    left: Sequence[Job] = await desk.community.jobs_of(user_id, JOBS_SEARCHED)
    text = say(Text.PRIVACY_DELETED, count=len(gone))
    if left:
        text += " " + say(Text.PRIVACY_LEFT, count=len(left))
    await reply.amend(text)
