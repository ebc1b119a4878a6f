"""The slash commands: /animate, /cancel, /queue, and the Cancel button's press.

Decides: in which order a wish is answered, taken, shown and confirmed; who may cancel what. Refuses
to know: how a picture is checked, how jobs run, what requests look like.

The order of /animate: answer in words at once, then download and check, then the row, then the
bot's own status message, then the answer's final wording. From the row on nothing depends on the
interaction's token any more.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from typing import Any

import discord
import msgspec
from discord import app_commands

from bot.config import Config
from bot.dispatcher import Dispatcher
from bot.orders import Asked, Orders, Refusal, Wish
from bot.posts import PostError, Posts
from bot.publisher import Publisher
from bot.replies import Reply, missing_permissions
from bot.texts import STATES, Text, say
from bot.views import cancel_choice, plain, queue_embed, shorten
from generator.protocol import limits
from storage.jobs import DuplicateJob, Job, JobState, JobStore, UnknownJob, WrongState

log = logging.getLogger(__name__)

CHOICES_SHOWN = 25


class Desk(msgspec.Struct, frozen=True, kw_only=True):
    """What the commands work with."""

    config: Config
    store: JobStore
    orders: Orders
    posts: Posts
    publisher: Publisher
    dispatcher: Dispatcher


async def animate(
    desk: Desk,
    interaction: discord.Interaction[Any],
    image: discord.Attachment,
    asked: Asked,
) -> None:
    """Take a wish, or say in one sentence why not."""
    reply = Reply(interaction, desk.posts)
    if interaction.guild_id is None and not desk.config.discord.allow_dms:
        return await reply.refuse(say(Text.GUILD_ONLY))
    if missing := missing_permissions(interaction):
        return await reply.refuse(say(Text.MISSING_PERMISSIONS, names=", ".join(missing)))
    try:
        request = desk.orders.request(asked)
        await reply.answer(say(Text.TAKEN))
        job = await desk.orders.take(
            Wish(
                interaction_id=interaction.id,
                guild_id=interaction.guild_id,
                channel_id=interaction.channel_id or 0,
                user_id=interaction.user.id,
                request=request,
                picture_url=image.url,
            )
        )
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
    where = f"{job.guild_id or '@me'}/{job.channel_id}/{message_id}"
    await reply.amend(say(Text.QUEUED, link=f"https://discord.com/channels/{where}"))


async def _take_back(desk: Desk, job: Job) -> None:
    """A job that nobody could ever see is no job."""
    with contextlib.suppress(WrongState):
        if (await desk.dispatcher.cancel(job.id)).state is JobState.CANCELLED:
            await desk.orders.discard(job)


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
    if not _may_cancel(interaction, job):
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


def _may_cancel(interaction: discord.Interaction[Any], job: Job) -> bool:
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


async def stumbled(desk: Desk, interaction: discord.Interaction[Any], error: BaseException) -> None:
    """An error that nobody foresaw: the asker gets a number, the log the number and the trace."""
    error_id = secrets.token_hex(4)
    log.error("error %s in interaction %d", error_id, interaction.id, exc_info=error)
    reply = Reply(interaction, desk.posts, answered=interaction.response.is_done())
    await reply.refuse(say(Text.INTERNAL, error_id=error_id))


def build_commands(desk: Desk) -> list[app_commands.Command[Any, ..., None]]:
    """The commands as discord.py registers them, their ranges from the protocol and the config."""
    contexts = app_commands.AppCommandContext(
        guild=True, dm_channel=desk.config.discord.allow_dms, private_channel=False
    )
    installs = app_commands.AppInstallationType(guild=True, user=False)
    commands = [_animate_command(desk), _cancel_command(desk), _queue_command(desk)]
    for command in commands:
        command.allowed_contexts, command.allowed_installs = contexts, installs
    return commands


def _animate_command(desk: Desk) -> app_commands.Command[Any, ..., None]:
    settings, bounds = desk.config.limits, limits("seconds")
    seconds_low, seconds_high = float(bounds.low), float(min(bounds.high, settings.max_seconds))
    steps_bounds, seed_bounds = limits("steps"), limits("seed")

    async def callback(
        interaction: discord.Interaction[Any],
        image: discord.Attachment,
        prompt: str,
        seconds: float | None = None,
        seed: int | None = None,
        steps: int | None = None,
    ) -> None:
        asked = Asked(prompt=prompt, seconds=seconds, seed=seed, steps=steps)
        await animate(desk, interaction, image, asked)

    ranged = app_commands.Range
    callback.__annotations__ |= {
        "interaction": discord.Interaction,
        "image": discord.Attachment,
        "prompt": ranged[str, 1, settings.max_prompt_chars],
        "seconds": ranged[float, seconds_low, seconds_high] | None,
        "seed": ranged[int, int(seed_bounds.low), int(seed_bounds.high)] | None,
        "steps": ranged[int, int(steps_bounds.low), int(steps_bounds.high)] | None,
    }
    defaults = desk.config.defaults
    described = app_commands.describe(
        image=say(Text.ANIMATE_IMAGE),
        prompt=say(Text.ANIMATE_PROMPT),
        seconds=say(
            Text.ANIMATE_SECONDS, low=seconds_low, high=seconds_high, default=defaults.seconds
        ),
        seed=say(Text.ANIMATE_SEED),
        steps=say(
            Text.ANIMATE_STEPS,
            low=steps_bounds.low,
            high=steps_bounds.high,
            default=defaults.steps,
        ),
    )
    return app_commands.Command(
        name="animate", description=say(Text.ANIMATE), callback=described(callback)
    )


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
