"""Answering an interaction, whatever has become of its token.

Decides: how long the first answer is worth waiting for, and where a sentence goes when the token is
dead. Refuses to know: what is said. An interaction is answered at once and in words, never
deferred: a deferred answer says "thinking…" for ever once the token (15 minutes) is dead. Source:
Discord's API documentation, "Receiving and Responding to Interactions".
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import aiohttp
import discord

from bot.posts import NOBODY, UPLOAD_TIMEOUT_S, PostError, Posts, opened
from bot.texts import Text, say
from bot.words import PERMISSIONS

log = logging.getLogger(__name__)

FIRST_ANSWER_WITHIN_S = 3.0
AMEND_WITHIN_S = 30.0
ALREADY_ANSWERED = 40060
"""The interaction was delivered twice, or the answer to our answer got lost: it is there."""

_LOST = (discord.DiscordException, aiohttp.ClientError, OSError)
"""What a request raises when the token is dead, the interaction answered, or Discord away."""


class Reply:
    """The one ephemeral answer to an interaction, and its later wording."""

    def __init__(
        self, interaction: discord.Interaction[Any], posts: Posts, *, answered: bool = False
    ) -> None:
        self._interaction = interaction
        self._posts = posts
        self._answered = answered
        self._unsure = False  # an answer was sent, and no receipt came

    async def answer(
        self,
        text: str,
        embed: discord.Embed | None = None,
        view: discord.ui.View | None = None,
    ) -> bool:
        """Answer for the asker's eyes only; False when that did not arrive in time."""
        shown = {"embed": embed, "view": view}
        fields: dict[str, Any] = {name: part for name, part in shown.items() if part is not None}
        try:
            async with asyncio.timeout(FIRST_ANSWER_WITHIN_S):
                await self._interaction.response.send_message(
                    text or None, ephemeral=True, allowed_mentions=NOBODY, **fields
                )
        except _LOST as error:
            if getattr(error, "code", None) != ALREADY_ANSWERED:
                log.info("interaction %d not answered: %r", self._interaction.id, error)
                self._unsure = True
                return False
            if self._unsure and not fields:  # what is there is our own, in other words
                self._answered = True
                return await self.amend(text)
        self._answered = True
        return True

    async def add(self, text: str, view: discord.ui.View | None = None) -> bool:
        """A further message below the answer, for the same eyes only; False when it did not
        arrive."""
        fields: dict[str, Any] = {} if view is None else {"view": view}
        try:
            async with asyncio.timeout(AMEND_WITHIN_S):
                await self._interaction.followup.send(
                    text, ephemeral=True, allowed_mentions=NOBODY, **fields
                )
        except _LOST as error:
            log.info("interaction %d not answered further: %r", self._interaction.id, error)
            return False
        return True

    async def replace(self, text: str) -> bool:
        """Let these words take the place of the message whose button was pressed."""
        try:
            async with asyncio.timeout(FIRST_ANSWER_WITHIN_S):
                await self._interaction.response.edit_message(
                    content=text, view=None, allowed_mentions=NOBODY
                )
        except _LOST as error:
            log.info("interaction %d not answered: %r", self._interaction.id, error)
            return False
        self._answered = True
        return True

    async def amend(self, text: str, *, file: Path | None = None, spoiler: bool = False) -> bool:
        """Replace the answer's words, and its file; False when the token is dead, the file can not
        be read, or Discord does not take it."""
        fields: dict[str, Any] = {}
        try:
            if file is not None:
                fields["attachments"] = [await opened(file, spoiler=spoiler)]
            async with asyncio.timeout(AMEND_WITHIN_S if file is None else UPLOAD_TIMEOUT_S):
                await self._interaction.edit_original_response(
                    content=text, allowed_mentions=NOBODY, **fields
                )
        except _LOST as error:
            log.info("answer to interaction %d not changed: %r", self._interaction.id, error)
            return False
        return True

    async def refuse(self, sentence: str) -> None:
        """Say why not: in the answer, else in the channel, where the asker is named, not pinged."""
        if await (self.amend(sentence) if self._answered else self.answer(sentence)):
            return
        channel_id = self._interaction.channel_id
        if channel_id is None:
            return
        owner = self._interaction.user.mention
        text = say(Text.REFUSED_IN_CHANNEL, owner=owner, sentence=sentence)
        try:
            await self._posts.post_text(channel_id, text, nonce=str(self._interaction.id))
        except PostError as error:
            log.warning("nobody could be told %r: %s", sentence, error)


def missing_permissions(interaction: discord.Interaction[Any]) -> list[str]:
    """Names of the permissions that a job in this channel needs and the bot does not have."""
    if interaction.guild_id is None:
        return []
    in_thread = isinstance(interaction.channel, discord.Thread)
    needed = [
        "view_channel",
        "send_messages_in_threads" if in_thread else "send_messages",
        "attach_files",
        "embed_links",
        "read_message_history",
    ]
    held = interaction.app_permissions
    return [say(PERMISSIONS[name]) for name in needed if not getattr(held, name)]
