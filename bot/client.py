"""The Discord client: what is registered when, and which events matter.

Decides: intents, command sync, what a deleted message or a lost server means. Refuses to know: what
the commands do. Nothing starts in `on_ready`, which fires again with every new session.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import discord
import msgspec
from discord import app_commands

from bot.buttons import Action, JobButton
from bot.commands import build_commands
from bot.config import Config
from bot.desk import Desk, stumbled
from bot.posts import NOBODY
from bot.presses import pressed
from bot.replies import Reply
from bot.speech import listen
from bot.texts import Text, say
from bot.translator import Translator
from storage.jobs import JobState, WrongState

log = logging.getLogger(__name__)

LONGEST_RATE_LIMIT_S = 60.0
SYNC_FILE = "commands.sha256"


class Client(discord.Client):
    """One connection to Discord. `desk` is set before `login()`, which registers the commands."""

    desk: Desk

    def __init__(self, config: Config) -> None:
        intents = discord.Intents.none()
        intents.guilds = intents.guild_messages = True
        intents.dm_messages = config.discord.allow_dms
        discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False  # it never speaks
        super().__init__(
            intents=intents,
            allowed_mentions=NOBODY,
            max_messages=None,
            max_ratelimit_timeout=LONGEST_RATE_LIMIT_S,
            chunk_guilds_at_startup=False,
        )
        self.tree = Tree(self)

    async def setup_hook(self) -> None:
        """Register buttons and commands, and sync the commands if they have changed."""
        self.add_dynamic_items(JobButton)
        for command in build_commands(self.desk):
            self.tree.add_command(command)
        await self.tree.set_translator(Translator())
        await sync_commands(self, self.desk.config)

    async def pressed(
        self, interaction: discord.Interaction[Any], action: Action, job_id: str
    ) -> None:
        """A job's button was pressed."""
        listen(interaction.locale.value)
        try:
            await pressed(self.desk, interaction, action, job_id)
        except Exception as error:
            await stumbled(self.desk, interaction, error)

    async def on_raw_message_delete(self, event: discord.RawMessageDeleteEvent) -> None:
        """A status message that is gone is not edited any more; its job goes on."""
        await self.desk.publisher.message_deleted(event.message_id)

    async def on_raw_bulk_message_delete(self, event: discord.RawBulkMessageDeleteEvent) -> None:
        """As for one message."""
        for message_id in event.message_ids:
            await self.desk.publisher.message_deleted(message_id)

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        """The bot was removed from a server: what waits there would reach nobody."""
        desk = self.desk
        for job in [*await desk.store.running(), *await desk.store.waiting()]:
            if job.guild_id != guild.id:
                continue
            desk.publisher.leave_alone(job)
            if job.state is JobState.QUEUED:
                log.info("job %s is cancelled: the bot has left its server", job.id)
                with contextlib.suppress(WrongState):
                    await desk.dispatcher.cancel(job.id)


class Tree(app_commands.CommandTree[Client]):
    """The commands of one client, and the place where their errors arrive."""

    async def interaction_check(self, interaction: discord.Interaction[Client], /) -> bool:
        """Have whoever asks answered in their own language."""
        listen(interaction.locale.value)
        return True

    async def on_error(
        self, interaction: discord.Interaction[Client], error: app_commands.AppCommandError, /
    ) -> None:
        """Tell the asker what can be told."""
        desk = self.client.desk
        if isinstance(error, app_commands.CommandSignatureMismatch | app_commands.CommandNotFound):
            log.warning("%s", error)
            return await Reply(interaction, desk.posts).refuse(say(Text.COMMAND_CHANGED))
        cause = error.original if isinstance(error, app_commands.CommandInvokeError) else error
        await stumbled(desk, interaction, cause)


async def sync_commands(client: Client, config: Config) -> None:
    """Register the commands if they are not those that were registered last.

    What was registered last is kept as a hash in the data folder, and where. With `guild_ids` they
    are registered on these servers only, at once; else everywhere. A server that is listed no more
    loses its own: it would show each command twice.
    """
    file = config.storage.data_dir / SYNC_FILE
    tree, translator = client.tree, Translator()
    payload = [
        await command.get_translated_payload(tree, translator) for command in tree.get_commands()
    ]
    place = [client.application_id, config.discord.api_url, config.discord.guild_ids]
    encoded = msgspec.json.encode([payload, place], order="sorted")
    digest = hashlib.sha256(encoded).hexdigest()
    ids = config.discord.guild_ids
    last, known_ids = _read(file)
    if last == digest:
        if known_ids != set(ids):
            _write(file, digest, ids)  # an older bot kept the hash only
        return log.info("the commands are registered already")
    for guild_id in known_ids - set(ids):
        with contextlib.suppress(discord.Forbidden, discord.NotFound):  # it is not there any more
            await tree.sync(guild=discord.Object(guild_id))
    guilds = [discord.Object(guild_id) for guild_id in ids]
    for guild in guilds:
        client.tree.copy_global_to(guild=guild)
        await client.tree.sync(guild=guild)
    if guilds:
        client.tree.clear_commands(guild=None)
    await client.tree.sync()
    _write(file, digest, ids)
    log.info("%d commands registered", len(payload))


def _read(file: Path) -> tuple[str, set[int]]:
    """The hash, "" if there is none, and the servers that have commands of their own."""
    try:
        digest, *ids = file.read_text(encoding="ascii").split()
        return digest, {int(guild_id) for guild_id in ids}
    except (OSError, ValueError):
        return "", set()


def _write(file: Path, digest: str, guild_ids: Iterable[int]) -> None:
    """Keep them; if that fails the commands are registered once more next time."""
    part = file.with_name(file.name + ".part")
    try:
        part.write_text("\n".join([digest, *map(str, guild_ids)]), encoding="ascii")
        part.replace(file)
    except OSError as error:
        log.warning("%s can not be written: %s", file, error)


def login_sentence(error: Exception, api_url: str) -> str:
    """Why the bot can not log in, in one sentence for whoever runs it."""
    where = api_url or "Discord"
    match error:
        case discord.LoginFailure():
            return (
                "Discord does not accept the bot's token; copy it again from "
                "discord.com/developers/applications → your application → Bot → Reset Token"
            )
        case discord.PrivilegedIntentsRequired():
            return (
                "Discord refuses the bot's intents; it needs none of the privileged ones, so check "
                "that the token belongs to this bot"
            )
        case discord.Forbidden():
            return (
                f"{where} refuses to register the commands ({error}); check that the bot is on "
                "every server of discord.guild_ids, invited with the scope applications.commands"
            )
        case aiohttp.ClientError() | OSError():
            return (
                f"{where} can not be reached ({error or type(error).__name__}); check the network, "
                "and discord.api_url in the config"
            )
    return f"{where} does not let the bot in: {error}"
