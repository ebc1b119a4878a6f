"""/admin as Discord is told about it.

Decides: names, options and their ranges. Refuses to know: what the verbs do and who may use them
(`bot.admin`). The default permission only hides the commands from most people.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import discord
import msgspec
from discord import app_commands

from bot.admin import Office
from bot.desk import Desk
from bot.texts import Text
from bot.translator import said
from bot.words import Word
from generator.protocol import Variant
from storage.community import Rules

Interaction = discord.Interaction[Any]
Channel = app_commands.AppCommandChannel
MOST_BLOCKED = 500
OPTIONS = {
    "reason": Word.OPTION_REASON,
    "job": Word.OPTION_JOB,
    "place": Word.OPTION_PLACE,
    "user": Word.OPTION_USER,
    "waiting": Word.OPTION_WAITING,
    "per_day": Word.OPTION_PER_DAY,
    "level": Word.OPTION_LEVEL,
    "seconds": Word.OPTION_SECONDS,
    "nsfw_only": Word.OPTION_NSFW,
    "channel": Word.OPTION_CHANNEL,
    "role": Word.OPTION_ROLE,
    "block": Word.OPTION_BLOCK,
    "log_channel": Word.OPTION_LOG,
    "name": Word.OPTION_VARIANT,
    "days": Word.OPTION_DAYS,
}


class Place(app_commands.Transformer):
    """A channel where jobs can be asked for, or that holds posts or threads where they can."""

    @property
    def type(self) -> discord.AppCommandOptionType:
        """A channel."""
        return discord.AppCommandOptionType.channel

    @property
    def channel_types(self) -> list[discord.ChannelType]:
        """Which are offered. Discord's document of its API does not admit media channels."""
        return [discord.ChannelType.text, discord.ChannelType.news, discord.ChannelType.forum]

    async def transform(self, interaction: Interaction, value: Any, /) -> Channel:
        """The channel as it comes; only its id is used."""
        assert isinstance(value, Channel)
        return value


def admin_group(desk: Desk) -> app_commands.Group:
    """/admin with its subcommands."""
    office = Office(desk)
    group = app_commands.Group(
        name="admin",
        description=said(Text.ADMIN),
        guild_only=True,
        default_permissions=discord.Permissions(manage_guild=True),
    )
    for part in (_queue(office), _user(office), _limits(office), _generator(office)):
        group.add_command(part)

    @group.command(name="stats", description=said(Text.ADMIN_STATS_TEXT))
    async def stats(interaction: Interaction, days: app_commands.Range[int, 1, 3650] = 30) -> None:
        await office.look(interaction, lambda: office.statistics(_guild(interaction), days))

    @group.command(name="audit", description=said(Text.ADMIN_AUDIT_TEXT))
    async def audit(interaction: Interaction) -> None:
        await office.look(interaction, lambda: office.audit(_guild(interaction)))

    for command in group.walk_commands():
        _describe(command)
    return group


def _describe(command: app_commands.Command[Any, ..., Any] | app_commands.Group) -> None:
    """Give a command's options their texts."""
    if isinstance(command, app_commands.Command):
        names = [option.name for option in command.parameters]
        app_commands.describe(**{name: said(OPTIONS[name]) for name in names})(command)


def _guild(interaction: Interaction) -> int:
    return interaction.guild_id or 0


def _queue(office: Office) -> app_commands.Group:
    group = app_commands.Group(name="queue", description=said(Text.ADMIN_QUEUE_TEXT))

    @group.command(name="list", description=said(Text.ADMIN_LIST_TEXT))
    async def list_all(interaction: Interaction) -> None:
        await office.look(interaction, office.queue)

    @group.command(name="pause", description=said(Text.ADMIN_PAUSE_TEXT))
    async def pause(interaction: Interaction, reason: str | None = None) -> None:
        await office.act(interaction, "queue pause", "", reason, lambda: office.switch(paused=True))

    @group.command(name="resume", description=said(Text.ADMIN_RESUME_TEXT))
    async def resume(interaction: Interaction, reason: str | None = None) -> None:
        await office.act(
            interaction,
            "queue resume",
            "",
            reason,
            lambda: office.switch(paused=False, draining=False),
        )

    @group.command(name="drain", description=said(Text.ADMIN_DRAIN_TEXT))
    async def drain(interaction: Interaction, reason: str | None = None) -> None:
        await office.act(
            interaction, "queue drain", "", reason, lambda: office.switch(draining=True)
        )

    @group.command(name="clear", description=said(Text.ADMIN_CLEAR_TEXT))
    async def clear(interaction: Interaction, reason: str | None = None) -> None:
        guild_id, actor_id = _guild(interaction), interaction.user.id
        deed = partial(office.clear, guild_id, actor_id)
        await office.act(interaction, "queue clear", "", reason, deed)

    @group.command(name="move", description=said(Text.ADMIN_MOVE_TEXT))
    async def move(
        interaction: Interaction,
        job: str,
        place: app_commands.Range[int, 1, 1000] = 1,
        reason: str | None = None,
    ) -> None:
        guild_id = _guild(interaction)
        await office.act(
            interaction, "queue move", job, reason, lambda: office.move(guild_id, job, place)
        )

    @group.command(name="remove", description=said(Text.ADMIN_REMOVE_TEXT))
    async def remove(interaction: Interaction, job: str, reason: str | None = None) -> None:
        guild_id, actor_id = _guild(interaction), interaction.user.id
        await office.act(
            interaction, "queue remove", job, reason, lambda: office.remove(guild_id, job, actor_id)
        )

    @group.command(name="retry", description=said(Text.ADMIN_RETRY_TEXT))
    async def retry(interaction: Interaction, job: str, reason: str | None = None) -> None:
        guild_id = _guild(interaction)
        await office.act(
            interaction, "queue retry", job, reason, lambda: office.retry(guild_id, job)
        )

    return group


def _user(office: Office) -> app_commands.Group:
    group = app_commands.Group(name="user", description=said(Text.ADMIN_USER_TEXT))

    async def change(
        interaction: Interaction,
        verb: str,
        user: discord.User,
        reason: str | None,
        changes: dict[str, Any],
    ) -> None:
        await office.act(
            interaction,
            f"user {verb}",
            f"<@{user.id}>",
            reason,
            lambda: office.change_standing(_guild(interaction), user.id, changes),
        )

    @group.command(name="ban", description=said(Text.ADMIN_BAN_TEXT))
    async def ban(interaction: Interaction, user: discord.User, reason: str | None = None) -> None:
        await change(interaction, "ban", user, reason, {"banned": True, "reason": reason or ""})

    @group.command(name="unban", description=said(Text.ADMIN_UNBAN_TEXT))
    async def unban(
        interaction: Interaction, user: discord.User, reason: str | None = None
    ) -> None:
        await change(interaction, "unban", user, reason, {"banned": False, "reason": ""})

    @group.command(name="quota", description=said(Text.ADMIN_QUOTA_TEXT))
    async def quota(
        interaction: Interaction,
        user: discord.User,
        waiting: app_commands.Range[int, 0, 1000] | None = None,
        per_day: app_commands.Range[int, 0, 10000] | None = None,
        reason: str | None = None,
    ) -> None:
        limits = {"max_waiting": waiting, "max_per_day": per_day}
        await change(interaction, "quota", user, reason, limits)

    @group.command(name="priority", description=said(Text.ADMIN_PRIORITY_TEXT))
    async def priority(
        interaction: Interaction,
        user: discord.User,
        level: app_commands.Range[int, -100, 100],
        reason: str | None = None,
    ) -> None:
        await change(interaction, "priority", user, reason, {"priority": level})

    @group.command(name="jobs", description=said(Text.ADMIN_JOBS_TEXT))
    async def jobs(interaction: Interaction, user: discord.User) -> None:
        await office.look(interaction, lambda: office.jobs_of(_guild(interaction), user.id))

    return group


def _limits(office: Office) -> app_commands.Group:
    group = app_commands.Group(name="limits", description=said(Text.ADMIN_LIMITS_TEXT))

    @group.command(name="show", description=said(Text.ADMIN_LIMITS_SHOW))
    async def show(interaction: Interaction) -> None:
        await office.look(interaction, lambda: office.show_limits(_guild(interaction)))

    @group.command(name="set", description=said(Text.ADMIN_LIMITS_SET))
    async def set_some(
        interaction: Interaction,
        waiting: app_commands.Range[int, 0, 1000] | None = None,
        per_day: app_commands.Range[int, 0, 10000] | None = None,
        seconds: app_commands.Range[float, 0.1, 120.0] | None = None,
        nsfw_only: bool | None = None,
        channel: app_commands.Transform[Channel, Place] | None = None,
        role: discord.Role | None = None,
        block: app_commands.Range[str, 1, 100] | None = None,
        log_channel: discord.TextChannel | None = None,
        reason: str | None = None,
    ) -> None:
        given = {
            "max_waiting": waiting,
            "max_per_day": per_day,
            "max_seconds": seconds,
            "nsfw_only": nsfw_only,
            "log_channel": log_channel.id if log_channel else None,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        more = {
            "channels": channel.id if channel else None,
            "roles": role.id if role else None,
            "blocked": block,
        }

        def change(rules: Rules) -> Rules:
            return toggled(msgspec.structs.replace(rules, **changes), more)

        told = {**changes, **{name: value for name, value in more.items() if value is not None}}
        target = " ".join(f"{name}={value}" for name, value in told.items())
        await office.act(
            interaction,
            "limits set",
            target,
            reason,
            lambda: office.change_rules(_guild(interaction), change),
        )

    @group.command(name="reset", description=said(Text.ADMIN_LIMITS_RESET))
    async def reset(interaction: Interaction, reason: str | None = None) -> None:
        await office.act(
            interaction,
            "limits reset",
            "",
            reason,
            lambda: office.change_rules(_guild(interaction), lambda _: Rules()),
        )

    return group


def toggled(rules: Rules, entries: dict[str, Any]) -> Rules:
    """The rules with each entry added to its list, or taken away if it is there already."""
    for name, entry in entries.items():
        if entry is None:
            continue
        listed = getattr(rules, name)
        without = tuple(other for other in listed if other != entry)
        changed = without if entry in listed else (*listed, entry)[-MOST_BLOCKED:]
        rules = msgspec.structs.replace(rules, **{name: changed})
    return rules


def _generator(office: Office) -> app_commands.Group:
    group = app_commands.Group(name="generator", description=said(Text.ADMIN_GENERATOR_TEXT))

    @group.command(name="status", description=said(Text.ADMIN_STATUS_TEXT))
    async def status(interaction: Interaction) -> None:
        await office.look(interaction, office.generator_status)

    @group.command(name="variant", description=said(Text.ADMIN_VARIANT_TEXT))
    async def variant(
        interaction: Interaction, name: Variant | None = None, reason: str | None = None
    ) -> None:
        if name is None:
            return await office.look(interaction, lambda: office.variant(None))
        await office.act(
            interaction, "generator variant", name.value, reason, lambda: office.variant(name)
        )

    @group.command(name="restart", description=said(Text.ADMIN_RESTART_TEXT))
    async def restart(interaction: Interaction, reason: str | None = None) -> None:
        await office.act(interaction, "generator restart", "", reason, office.restart)

    @group.command(name="unload", description=said(Text.ADMIN_UNLOAD_TEXT))
    async def unload(interaction: Interaction, reason: str | None = None) -> None:
        await office.act(interaction, "generator unload", "", reason, office.unload)

    return group
