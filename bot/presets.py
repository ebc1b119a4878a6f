"""/presets: settings under a name, one's own or the whole server's.

Decides: which settings of a job a preset keeps, what it may be called, who may change which.
Refuses to know: how a preset is stored, and used (`bot.animate` does).
"""

from __future__ import annotations

import re
from typing import Any

import discord
import msgspec
from discord import app_commands

from bot.animate import preset_choices, with_preset
from bot.config import Config
from bot.desk import Desk, preferred_variant
from bot.jobs import show_choices
from bot.options import SETTINGS
from bot.orders import Refusal
from bot.replies import Reply
from bot.texts import Text, say
from bot.translator import said
from bot.views import plain
from generator.protocol import Variant
from storage.community import Preset, Scope
from storage.jobs import Job

MOST_PRESETS = 25
KEPT = ({*SETTINGS.values()} | {"step_cache"}) - {"seed", "end_strength"}
"""Fields of a JobRequest that belong to a preset."""

NAME = re.compile(r"[\w][\w -]{0,31}")


def kept_settings(job: Job, config: Config, preferred: Variant) -> dict[str, Any]:
    """What makes this job's settings different from those that everybody gets."""
    usual: dict[str, Any] = msgspec.structs.asdict(config.defaults)
    usual["variant"] = preferred
    given = {name: getattr(job.request, name) for name in sorted(KEPT)}
    return {name: value for name, value in given.items() if value != usual.get(name)}


def settings_text(settings: dict[str, Any]) -> str:
    """The settings on one line, as the options are called."""
    names = {field: option for option, field in SETTINGS.items()}
    shown = [f"{names.get(key, key)}: {plain(str(value))}" for key, value in settings.items()]
    return " · ".join(shown) or say(Text.PRESET_USUAL)


class Presets:
    """The verbs of /presets."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def list(self, interaction: discord.Interaction[Any]) -> None:
        """One's own presets and the server's."""
        found = await self._desk.community.presets(interaction.user.id, interaction.guild_id)
        lines = [
            say(
                Text.PRESET_LINE,
                name=preset.name,
                settings=settings_text(preset.settings),
                whose=say(Text.PRESET_SERVERS) if preset.scope is Scope.GUILD else "",
            )
            for preset in found
        ]
        shown = "\n".join(lines)[:4000] or say(Text.PRESETS_EMPTY)
        embed = discord.Embed(title=say(Text.PRESETS_TITLE), description=shown)
        await Reply(interaction, self._desk.posts).answer("", embed=embed)

    async def show(self, interaction: discord.Interaction[Any], name: str) -> None:
        """One preset's settings."""
        reply = Reply(interaction, self._desk.posts)
        try:
            preset = await with_preset(self._desk, interaction, name)
        except Refusal as refusal:
            return await reply.refuse(str(refusal))
        await reply.answer(
            say(
                Text.PRESET_LINE,
                name=preset.name,
                settings=settings_text(preset.settings),
                whose=say(Text.PRESET_SERVERS) if preset.scope is Scope.GUILD else "",
            )
        )

    async def save(
        self, interaction: discord.Interaction[Any], name: str, job_id: str | None, *, server: bool
    ) -> None:
        """Keep the settings of one of the asker's jobs under a name."""
        reply = Reply(interaction, self._desk.posts)
        try:
            scope, owner_id = self._whose(interaction, server=server)
            job = await self._job(interaction.user.id, job_id)
            name = name.strip().lower()
            if NAME.fullmatch(name) is None:
                raise Refusal(say(Text.PRESET_NAME))
            known = await self._desk.community.presets(interaction.user.id, interaction.guild_id)
            names = {preset.name for preset in known if preset.scope is scope} | {name}
            if len(names) > MOST_PRESETS:
                raise Refusal(say(Text.PRESET_FULL, limit=MOST_PRESETS))
        except Refusal as refusal:
            return await reply.refuse(str(refusal))
        preferred = await preferred_variant(self._desk)
        settings = kept_settings(job, self._desk.config, preferred)
        await self._desk.community.save_preset(
            Preset(scope=scope, owner_id=owner_id, name=name, settings=settings)
        )
        await reply.answer(say(Text.PRESET_SAVED, name=name, settings=settings_text(settings)))

    async def delete(
        self, interaction: discord.Interaction[Any], name: str, *, server: bool
    ) -> None:
        """Forget a preset."""
        reply = Reply(interaction, self._desk.posts)
        try:
            scope, owner_id = self._whose(interaction, server=server)
        except Refusal as refusal:
            return await reply.refuse(str(refusal))
        name = name.strip().lower()
        gone = await self._desk.community.delete_preset(scope, owner_id, name)
        text = Text.PRESET_DELETED if gone else Text.PRESET_NOT_THERE
        await reply.answer(say(text, name=plain(name[:32])))

    def _whose(self, interaction: discord.Interaction[Any], *, server: bool) -> tuple[Scope, int]:
        if not server:
            return Scope.USER, interaction.user.id
        if interaction.guild_id is None or not interaction.permissions.manage_guild:
            raise Refusal(say(Text.PRESET_ADMINS))
        return Scope.GUILD, interaction.guild_id

    async def _job(self, user_id: int, job_id: str | None) -> Job:
        if job_id is None:
            newest = await self._desk.community.jobs_of(user_id, 1)
            if not newest:
                raise Refusal(say(Text.JOBS_NONE))
            return newest[0]
        job = await self._desk.store.get(job_id.strip().lower())
        if job is None or job.user_id != user_id:
            raise Refusal(say(Text.CANCEL_UNKNOWN, job_id=plain(job_id[:40])))
        return job


def presets_group(desk: Desk) -> app_commands.Group:
    """/presets as discord.py registers it."""
    group = app_commands.Group(name="presets", description=said(Text.PRESETS))
    presets = Presets(desk)

    @group.command(name="list", description=said(Text.PRESETS_LIST))
    async def list_all(interaction: discord.Interaction[Any]) -> None:
        await presets.list(interaction)

    @group.command(name="show", description=said(Text.PRESETS_SHOW))
    @app_commands.describe(name=said(Text.PRESETS_NAME))
    async def show(interaction: discord.Interaction[Any], name: str) -> None:
        await presets.show(interaction, name)

    @group.command(name="save", description=said(Text.PRESETS_SAVE))
    @app_commands.describe(
        name=said(Text.PRESETS_NAME), job=said(Text.PRESETS_JOB), server=said(Text.PRESETS_SERVER)
    )
    async def save(
        interaction: discord.Interaction[Any],
        name: str,
        job: str | None = None,
        server: bool = False,
    ) -> None:
        await presets.save(interaction, name, job, server=server)

    @group.command(name="delete", description=said(Text.PRESETS_DELETE))
    @app_commands.describe(name=said(Text.PRESETS_NAME), server=said(Text.PRESETS_SERVER))
    async def delete(
        interaction: discord.Interaction[Any], name: str, server: bool = False
    ) -> None:
        await presets.delete(interaction, name, server=server)

    async def names(
        interaction: discord.Interaction[Any], typed: str
    ) -> list[app_commands.Choice[str]]:
        return await preset_choices(desk, interaction, typed)

    async def finished(
        interaction: discord.Interaction[Any], typed: str
    ) -> list[app_commands.Choice[str]]:
        return await show_choices(desk, interaction, typed)

    show.autocomplete("name")(names)
    delete.autocomplete("name")(names)
    save.autocomplete("job")(finished)
    return group
