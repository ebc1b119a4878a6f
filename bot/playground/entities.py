"""What exists on the playground's Discord: users, channels, messages, attachments.

Decides: which facts of a Discord object the playground keeps. An edit replaces the whole value, so
whoever holds one holds a snapshot that stays as it was seen. Refuses to know: JSON, sockets, who
may do what. Source: Discord's API documentation (Resources), as far as a bot of this kind uses it.
"""

from __future__ import annotations

import io
import mimetypes
from datetime import datetime
from enum import IntEnum, IntFlag, StrEnum
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

Payload = dict[str, Any]
"""A JSON object as Discord sends or receives it."""

DISCORD_EPOCH_MS = 1_420_070_400_000
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
TRACK_HEADERS = (88, 100)
"""Bytes from a track header's name on to its end, for its two versions."""
CONTENT_TYPES = {".mp4": "video/mp4", ".webp": "image/webp", ".heic": "image/heic"}
"""Those that some systems' own tables lack."""


class ChannelKind(IntEnum):
    """Discord's channel types that the playground has."""

    TEXT = 0
    DM = 1
    THREAD = 11
    FORUM = 15


class MessageFlag(IntFlag):
    """Discord's message flags that the playground acts on."""

    SUPPRESS_EMBEDS = 1 << 2
    EPHEMERAL = 1 << 6
    LOADING = 1 << 7
    SUPPRESS_NOTIFICATIONS = 1 << 12
    COMPONENTS_V2 = 1 << 15


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person or a bot. `dms_open` False refuses the bot's direct messages (50007).

    `locale` is the language that the user's Discord is set to.
    """

    id: int
    name: str
    bot: bool = False
    dms_open: bool = True
    locale: str = "en-US"

    @property
    def mention(self) -> str:
        """The text that pings this user."""
        return f"<@{self.id}>"


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """A set of permissions that members share."""

    id: int
    name: str
    permissions: int


class Overwrite(msgspec.Struct, frozen=True, kw_only=True):
    """What one channel allows and denies one role or one member."""

    target_id: int
    is_member: bool
    allow: int = 0
    deny: int = 0


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A text channel, forum, thread (`parent_id` set) or direct message (`recipient_id` set)."""

    id: int
    kind: ChannelKind
    name: str
    parent_id: int | None = None
    owner_id: int | None = None
    recipient_id: int | None = None
    nsfw: bool = False
    archived: bool = False
    overwrites: tuple[Overwrite, ...] = ()


class Guild(msgspec.Struct, frozen=True, kw_only=True):
    """The one server. `members` maps a user's id to the ids of the roles that the user has."""

    id: int
    name: str
    owner_id: int
    premium_tier: int = 0
    roles: tuple[Role, ...] = ()
    members: dict[int, tuple[int, ...]] = {}


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the playground's CDN serves. Only pictures and films have width and height."""

    id: int
    filename: str
    size: int
    content_type: str
    url: str
    width: int | None = None
    height: int | None = None
    ephemeral: bool = False
    description: str | None = None


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """A file on its way to the playground. `content_type` is what the sender claims."""

    filename: str
    data: bytes
    content_type: str | None = None

    @classmethod
    def read(cls, path: Path) -> Upload:
        """The file at `path`, under its own name. Raises OSError."""
        return cls(filename=path.name, data=path.read_bytes())


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it stood at one moment.

    `embeds` and `components` are as the bot sent them, `attachment://` links included.
    `pings` are the users whom posting it notified; an edit notifies nobody. `ephemeral_for` is the
    only user who sees it, or None. `forwarded` is the message that this one is a copy of.
    """

    id: int
    channel_id: int
    author_id: int
    created_at: datetime
    content: str = ""
    embeds: tuple[Payload, ...] = ()
    components: tuple[Payload, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    flags: MessageFlag = MessageFlag(0)
    edited_at: datetime | None = None
    reply_to_id: int | None = None
    pings: tuple[int, ...] = ()
    nonce: str | None = None
    ephemeral_for: int | None = None
    interaction_id: int | None = None
    command_name: str | None = None
    asker_id: int | None = None
    forwarded: Message | None = None


class EventKind(StrEnum):
    """What a person looking at the playground can notice."""

    MESSAGE_CREATED = "message_created"
    MESSAGE_EDITED = "message_edited"
    MESSAGE_DELETED = "message_deleted"
    CHANNEL_CREATED = "channel_created"
    CHANNEL_DELETED = "channel_deleted"
    TYPING = "typing"
    INTERACTION_SENT = "interaction_sent"
    INTERACTION_FAILED = "interaction_failed"
    MODAL_SHOWN = "modal_shown"
    COMMANDS_REGISTERED = "commands_registered"
    BOT_ONLINE = "bot_online"
    BOT_OFFLINE = "bot_offline"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened in view of the channel (or, if ephemeral, of one user)."""

    kind: EventKind
    at: datetime
    channel_id: int | None = None
    message: Message | None = None
    user_id: int | None = None
    interaction_id: int | None = None
    text: str = ""


def guess_content_type(filename: str) -> str:
    """The media type that a file's name promises."""
    known = CONTENT_TYPES.get(Path(filename).suffix.lower())
    return known or mimetypes.guess_type(filename)[0] or "application/octet-stream"


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels from a picture's or film's header, None for anything else."""
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as picture:
            return picture.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Warning):
        return film_size(data)


def film_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels from an MP4's first track that has any (ISO 14496-12, `tkhd`)."""
    at = data.find(b"tkhd") if data[4:8] == b"ftyp" else -1
    while at > 0:
        end = at - 4 + int.from_bytes(data[at - 4 : at], "big")
        width, height = (int.from_bytes(data[n : n + 2], "big") for n in (end - 8, end - 4))
        if end - at in TRACK_HEADERS and width and height:
            return width, height
        at = data.find(b"tkhd", at + 4)
    return None
