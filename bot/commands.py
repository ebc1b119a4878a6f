"""Which commands there are, and what Discord is told about them.

Decides: names, options and where each command may be used. Refuses to know: what they do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import discord
from discord import app_commands

from bot import jobs
from bot.admin_commands import admin_group
from bot.animate import animate_command
from bot.desk import Desk
from bot.menu import menu_command
from bot.presets import presets_group
from bot.replies import Reply
from bot.texts import Text, say
from bot.translator import said

AnyCommand = app_commands.Command[Any, ..., None] | app_commands.Group | app_commands.ContextMenu
Choices = list[app_commands.Choice[str]]
Completion = Callable[[Desk, discord.Interaction[Any], str], Awaitable[Choices]]


def build_commands(desk: Desk) -> list[AnyCommand]:
    """The commands as discord.py registers them, their ranges from the protocol and the config."""
    contexts = app_commands.AppCommandContext(
        guild=True, dm_channel=desk.config.discord.allow_dms, private_channel=False
    )
    installs = app_commands.AppInstallationType(guild=True, user=False)
    commands: list[AnyCommand] = [
        animate_command(desk),
        menu_command(desk),
        *_about_jobs(desk),
        presets_group(desk),
        admin_group(desk),
        *_about_bot(desk),
    ]
    for command in commands:
        command.allowed_installs = installs
        if command.name != "admin":
            command.allowed_contexts = contexts
    return commands


def _about_jobs(desk: Desk) -> list[AnyCommand]:
    async def cancel(interaction: discord.Interaction[Any], job: str | None = None) -> None:
        await jobs.cancel(desk, interaction, job)

    async def show(interaction: discord.Interaction[Any], job: str) -> None:
        await jobs.show(desk, interaction, job)

    async def queue(interaction: discord.Interaction[Any]) -> None:
        await jobs.queue(desk, interaction)

    async def own(interaction: discord.Interaction[Any]) -> None:
        await jobs.list_own(desk, interaction)

    app_commands.describe(job=said(Text.CANCEL_JOB))(cancel)
    app_commands.describe(job=said(Text.CANCEL_JOB))(show)
    cancelling = app_commands.Command[Any, ..., None](
        name="cancel", description=said(Text.CANCEL), callback=cancel
    )
    showing = app_commands.Command[Any, ..., None](
        name="show", description=said(Text.SHOW), callback=show
    )
    complete(desk, cancelling, "job", jobs.cancel_choices)
    complete(desk, showing, "job", jobs.show_choices)
    return [
        cancelling,
        showing,
        app_commands.Command(name="queue", description=said(Text.QUEUE), callback=queue),
        app_commands.Command(name="jobs", description=said(Text.JOBS), callback=own),
    ]


def _about_bot(desk: Desk) -> list[AnyCommand]:
    async def tell(interaction: discord.Interaction[Any]) -> None:
        await Reply(interaction, desk.posts).answer(say(Text.HELP_TEXT))

    async def privacy(
        interaction: discord.Interaction[Any], delete_everything: bool = False
    ) -> None:
        await jobs.privacy(desk, interaction, delete=delete_everything)

    app_commands.describe(delete_everything=said(Text.PRIVACY_DELETE))(privacy)
    return [
        app_commands.Command(name="help", description=said(Text.HELP), callback=tell),
        app_commands.Command(name="privacy", description=said(Text.PRIVACY), callback=privacy),
    ]


def complete(
    desk: Desk, command: app_commands.Command[Any, ..., None], option: str, choices: Completion
) -> None:
    """Offer these choices while somebody types this option."""

    async def offered(interaction: discord.Interaction[Any], typed: str) -> Choices:
        return await choices(desk, interaction, typed)

    command.autocomplete(option)(offered)
