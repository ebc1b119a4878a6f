"""The bot's own messages: how one gets to Discord, and what it means when it does not.

Decides: the requests (always with the bot's token, never an interaction's), their time limits, and
into which few kinds of trouble Discord's many errors fall. Refuses to know: jobs' states, when to
try again. Source: DISCORD.md's failure table, i.e. Discord's API documentation and discord.py 2.7.
"""

from __future__ import annotations

import asyncio
import functools
import io
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import aiohttp
import discord
import msgspec

from bot.buttons import to_view
from bot.speech import say
from bot.views import Card, to_embed
from bot.words import Word

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 60.0
UPLOAD_TIMEOUT_S = 300.0
HISTORY_SEARCHED = 1000
PICTURE_LIMIT_BYTES = 8 << 20
SPOILER_PREFIX = "SPOILER_"
BOOST_TIER = 2
"""The first tier with a larger upload limit."""

NOBODY = discord.AllowedMentions.none()
ATTACHED = re.compile(r"/attachments/\d+/(\d+)/([^/?#]+)")
"""The part of an address on Discord's CDN that says whose file it is: its id and its name."""


class Trouble(StrEnum):
    """What a failed request means for the next one."""

    TRANSIENT = "transient"
    MESSAGE_GONE = "message gone"
    CHANNEL_GONE = "channel gone"
    FORBIDDEN = "forbidden"
    TOO_LARGE = "too large"
    ARCHIVED = "archived"
    TEXT = "text"
    REFUSED = "refused"


class PostError(Exception):
    """A message did not get to Discord. The text is half a sentence without anybody's data."""

    def __init__(self, trouble: Trouble, reason: str) -> None:
        super().__init__(reason)
        self.trouble = trouble

    @property
    def passes(self) -> bool:
        """Whether the same request may do better later."""
        return self.trouble is Trouble.TRANSIENT


class ShownFile(msgspec.Struct, frozen=True, kw_only=True):
    """An attachment that an embed shows. To keep it, an edit needs its id only."""

    id: int
    filename: str

    def to_dict(self) -> dict[str, Any]:
        """As an edit lists it; discord.py asks an attachment for this."""
        return {"id": self.id, "filename": self.filename}


Kept = Mapping[Path, Any]
"""The attachment of each file that a message has now; an edit that does not list it drops it."""


class Posts(Protocol):
    """What publisher and delivery need of Discord. Everything raises PostError."""

    async def post_card(self, channel_id: int, card: Card, nonce: str) -> tuple[int, Kept]:
        """Post a status message; returns its id and files. The same nonce within minutes posts
        once."""
        ...

    async def edit_card(self, channel_id: int, message_id: int, card: Card, kept: Kept) -> Kept:
        """Make the message show this card; returns the files that it has now."""
        ...

    async def post_text(
        self,
        channel_id: int,
        text: str,
        *,
        nonce: str,
        file: Path | None = None,
        spoiler: bool = False,
        reply_to: int | None = None,
        ping: int | None = None,
    ) -> int:
        """Post a text; returns the message's id. Only the user `ping` is notified, if any.

        With `spoiler` the file is hidden until somebody clicks it.
        """
        ...

    async def delete(self, channel_id: int, message_id: int) -> None:
        """Delete one of the bot's own messages; that it is gone already is no error."""
        ...

    def upload_limit_bytes(self, guild_id: int | None) -> int | None:
        """What this server's boosts allow a file to have; None where they allow nothing more."""
        ...

    async def find(self, channel_id: int, marker: str, since: datetime) -> int | None:
        """The bot's own message since then with a file or a footer of this name."""
        ...

    async def open_dm(self, user_id: int) -> int:
        """The channel of the direct messages with this user."""
        ...


class DiscordPosts:
    """Posts through a logged-in client."""

    def __init__(self, client: discord.Client) -> None:
        self._client = client

    async def post_card(self, channel_id: int, card: Card, nonce: str) -> tuple[int, Kept]:
        """See Posts. A picture that can not be read is left out."""
        channel = self._client.get_partial_messageable(channel_id)
        files = await _files(card, {})
        card = _without_missing(card, files)
        fields: dict[str, Any] = {"embed": to_embed(card), "allowed_mentions": NOBODY}
        if files:
            fields["files"] = [*files.values()]
        if (view := to_view(card.actions, card.job_id)) is not None:
            fields["view"] = view
        async with _judged(REQUEST_TIMEOUT_S):
            message = await channel.send(nonce=nonce, **fields)
        return message.id, _kept(files, message)

    async def edit_card(self, channel_id: int, message_id: int, card: Card, kept: Kept) -> Kept:
        """See Posts. A picture that can not be read is left out."""
        files = await _files(card, kept)
        card = _without_missing(card, files)
        channel = self._client.get_partial_messageable(channel_id)
        async with _judged(REQUEST_TIMEOUT_S):
            message = await channel.get_partial_message(message_id).edit(
                embed=to_embed(card),
                view=to_view(card.actions, card.job_id),
                attachments=[*files.values()],
                allowed_mentions=NOBODY,
            )
        return _kept(files, message)

    async def post_text(
        self,
        channel_id: int,
        text: str,
        *,
        nonce: str,
        file: Path | None = None,
        spoiler: bool = False,
        reply_to: int | None = None,
        ping: int | None = None,
    ) -> int:
        """See Posts. A reply to a message that is gone becomes a plain message."""
        channel = self._client.get_partial_messageable(channel_id)
        fields: dict[str, Any] = {"allowed_mentions": NOBODY}
        if ping is not None:
            whom = discord.Object(ping)
            fields["allowed_mentions"] = discord.AllowedMentions(
                everyone=False, roles=False, users=[whom], replied_user=False
            )
        if reply_to is not None:
            fields["reference"] = discord.MessageReference(
                message_id=reply_to, channel_id=channel_id, fail_if_not_exists=False
            )
        if file is not None:
            fields["file"] = await opened(file, spoiler=spoiler)
        async with _judged(UPLOAD_TIMEOUT_S if file else REQUEST_TIMEOUT_S):
            message = await channel.send(text, nonce=nonce, **fields)
        return message.id

    async def find(self, channel_id: int, marker: str, since: datetime) -> int | None:
        """See Posts."""
        channel = self._client.get_partial_messageable(channel_id)
        me = self._client.user
        async with _judged(REQUEST_TIMEOUT_S):
            async for message in channel.history(
                limit=HISTORY_SEARCHED, after=since, oldest_first=True
            ):
                if me is not None and message.author.id == me.id and _bears(message, marker):
                    return message.id
        return None

    async def delete(self, channel_id: int, message_id: int) -> None:
        """See Posts."""
        channel = self._client.get_partial_messageable(channel_id)
        try:
            async with _judged(REQUEST_TIMEOUT_S):
                await channel.get_partial_message(message_id).delete()
        except PostError as error:
            if error.trouble not in (Trouble.MESSAGE_GONE, Trouble.CHANNEL_GONE):
                raise

    def upload_limit_bytes(self, guild_id: int | None) -> int | None:
        """See Posts."""
        guild = self._client.get_guild(guild_id) if guild_id is not None else None
        boosted = guild is not None and guild.premium_tier >= BOOST_TIER
        return guild.filesize_limit if guild is not None and boosted else None

    async def open_dm(self, user_id: int) -> int:
        """See Posts."""
        async with _judged(REQUEST_TIMEOUT_S):
            channel = await self._client.create_dm(discord.Object(user_id))
        return channel.id


async def _files(card: Card, kept: Kept) -> dict[Path, Any]:
    """What the card needs: as the message has it, else from the disk, where it is there."""
    found = {}
    for path in card.files:
        file = kept.get(path) or await asyncio.to_thread(_picture, path)
        if file is not None:
            found[path] = file
    return found


def _without_missing(card: Card, files: Mapping[Path, Any]) -> Card:
    return msgspec.structs.replace(
        card,
        picture=card.picture if card.picture in files else None,
        small_picture=card.small_picture if card.small_picture in files else None,
    )


def _kept(files: Mapping[Path, Any], message: discord.Message) -> Kept:
    """Those of the files that the message has now, by Discord's answer.

    What an embed shows is not among a message's attachments (discord-api-docs, issue 1340), though
    it is one and goes with an edit that does not list it: the embed's address has its id.
    """
    attached: dict[str, Any] = {file.filename: file for file in message.attachments}
    for embed in message.embeds:
        for shown in (embed.image.url, embed.thumbnail.url):
            if found := ATTACHED.search(shown or ""):
                file = ShownFile(id=int(found[1]), filename=unquote(found[2]))
                attached[file.filename] = file
    return {path: attached[path.name] for path in files if path.name in attached}


async def opened(file: Path, *, spoiler: bool) -> discord.File:
    """The file, to be attached; whoever sends it closes it. OSError. Cancelled, none stays open."""
    work = functools.partial(discord.File, file, file.name, spoiler=spoiler)
    opening = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:  # the thread opens it all the same
        opening.add_done_callback(_close)
        raise


def _close(opening: asyncio.Future[discord.File]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _picture(path: Path) -> discord.File | None:
    try:
        if path.stat().st_size > PICTURE_LIMIT_BYTES:
            return None
        # Bytes, not an open file: an edit that is given up before it is sent has nothing to close.
        return discord.File(io.BytesIO(path.read_bytes()), path.name)
    except OSError as error:
        log.debug("picture %s can not be read: %s", path.name, error)
        return None


def _bears(message: discord.Message, marker: str) -> bool:
    names = (marker, SPOILER_PREFIX + marker)
    return any(attachment.filename in names for attachment in message.attachments) or any(
        embed.footer.text == marker for embed in message.embeds
    )


@asynccontextmanager
async def _judged(timeout_s: float) -> AsyncIterator[None]:
    """Turn whatever a request raises into a PostError."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except discord.HTTPException as error:
        raise PostError(judge(error), _reason(error)) from error
    except discord.RateLimited as error:
        raise PostError(Trouble.TRANSIENT, say(Word.PATIENCE, seconds=error.retry_after)) from error
    except TimeoutError as error:
        raise PostError(Trouble.TRANSIENT, say(Word.SILENT)) from error
    except (aiohttp.ClientError, OSError) as error:
        raise PostError(Trouble.TRANSIENT, say(Word.BROKEN)) from error


def judge(error: discord.HTTPException) -> Trouble:
    """What an answer of Discord means.

    Codes: 10008 unknown message, 40005 too large, 50035 invalid form, 50083 archived thread,
    200000 and 200001 stopped by AutoMod.
    """
    if error.status >= 500 or error.status in (408, 429):
        return Trouble.TRANSIENT
    if error.status == 404:
        return Trouble.MESSAGE_GONE if error.code == 10008 else Trouble.CHANNEL_GONE
    if error.status in (401, 403):
        return Trouble.FORBIDDEN
    if error.status == 413 or error.code == 40005:
        return Trouble.TOO_LARGE
    if error.code in (50035, 200000, 200001):
        return Trouble.TEXT
    return Trouble.ARCHIVED if error.code == 50083 else Trouble.REFUSED


def _reason(error: discord.HTTPException) -> str:
    number = f"{error.status}/{error.code}" if error.code else str(error.status)
    return say(Word.ANSWERED, number=number)
