"""The state of the playground's Discord: one server, its channels, users and messages.

Decides: what exists, and which gateway event and which visible event each change causes. Refuses to
know: sockets, HTTP, what a request must be allowed to do. Single-threaded: one event loop owns it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import IntFlag

import msgspec

from bot.playground import errors, payloads
from bot.playground.entities import (
    DISCORD_EPOCH_MS,
    Attachment,
    Channel,
    ChannelKind,
    Event,
    EventKind,
    Guild,
    Message,
    Payload,
    Role,
    Upload,
    User,
    guess_content_type,
    picture_size,
)
from bot.playground.journal import Journal
from bot.playground.permissions import UPLOAD_LIMIT_BYTES, bits, permissions_in

EVERYONE_MAY = (
    "view_channel",
    "send_messages",
    "send_messages_in_threads",
    "embed_links",
    "attach_files",
    "read_message_history",
    "use_application_commands",
    "create_public_threads",
)


class Intent(IntFlag):
    """The gateway intents that decide whether a bot gets an event."""

    NONE = 0
    GUILDS = 1 << 0
    GUILD_MEMBERS = 1 << 1
    GUILD_PRESENCES = 1 << 8
    GUILD_MESSAGES = 1 << 9
    DIRECT_MESSAGES = 1 << 12
    MESSAGE_CONTENT = 1 << 15


class Clock:
    """The time on the playground: the real time, which can be turned forward."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def now(self) -> datetime:
        """The playground's time in UTC."""
        return datetime.now(UTC) + self._ahead

    @property
    def ahead_s(self) -> float:
        """How far it runs ahead of the real time."""
        return self._ahead.total_seconds()

    def turn_forward(self, seconds: float) -> None:
        """Let `seconds` have passed at once."""
        self._ahead += timedelta(seconds=seconds)


class World:
    """All that exists, and the changes to it that are not about messages."""

    def __init__(self, origin: str, send: Callable[[str, Payload, Intent], None]) -> None:
        self.origin = origin
        self.clock = Clock()
        self.journal = Journal()
        self.send = send
        self.upload_limit_bytes: int | None = None
        self.users: dict[int, User] = {}
        self.channels: dict[int, Channel] = {}
        self.messages: dict[int, Message] = {}
        self.files: dict[int, bytes] = {}
        self.attachments: dict[int, Attachment] = {}
        self.is_member = True
        self._last_id = 0
        self.bot = self.add_user("FramePack", bot=True)
        admin = self.add_user("ada")
        guild_id = self.new_id()
        everyone = Role(id=guild_id, name="@everyone", permissions=bits(*EVERYONE_MAY))
        bot_role = Role(id=self.new_id(), name="FramePack", permissions=0)
        self.guild = Guild(
            id=guild_id,
            name="Playground",
            owner_id=admin.id,
            roles=(everyone, bot_role),
            members={admin.id: (), self.bot.id: (bot_role.id,)},
        )

    def new_id(self) -> int:
        """A snowflake of the playground's clock, larger than every one before."""
        milliseconds = int(self.clock.now().timestamp() * 1000) - DISCORD_EPOCH_MS
        self._last_id = max(self._last_id + 1, milliseconds << 22)
        return self._last_id

    def show(self, kind: EventKind, **facts: object) -> None:
        """Record something that a person can notice."""
        event: Payload = {"kind": kind, "at": self.clock.now(), **facts}
        self.journal.record(Event(**event))

    # -- users and the server -------------------------------------------------------------

    def add_user(self, name: str, *, bot: bool = False) -> User:
        """A new user who is on no server yet."""
        user = User(id=self.new_id(), name=name, bot=bot)
        self.users[user.id] = user
        return user

    def join(self, user: User, *role_ids: int) -> None:
        """Make a user a member with these roles, or change a member's roles."""
        members = {**self.guild.members, user.id: role_ids}
        self.guild = msgspec.structs.replace(self.guild, members=members)

    def user(self, user_id: int) -> User:
        """The user with this id. Raises ApiError 10013."""
        if user_id not in self.users:
            raise errors.unknown_user()
        return self.users[user_id]

    def upload_limit(self, channel: Channel) -> int:
        """Bytes that one file in this channel may have."""
        if self.upload_limit_bytes is not None:
            return self.upload_limit_bytes
        tier = 0 if channel.kind is ChannelKind.DM else self.guild.premium_tier
        return UPLOAD_LIMIT_BYTES[tier]

    # -- channels -------------------------------------------------------------------------

    def add_channel(
        self, name: str, kind: ChannelKind = ChannelKind.TEXT, *, nsfw: bool = False
    ) -> Channel:
        """A new channel of the server, open to everybody."""
        channel = Channel(id=self.new_id(), kind=kind, name=name, nsfw=nsfw)
        self._announce_channel("CHANNEL_CREATE", channel)
        return channel

    def add_thread(self, parent: Channel, name: str, owner: User, thread_id: int = 0) -> Channel:
        """A new public thread; `thread_id` is that of the message it hangs on, if any."""
        thread = Channel(
            id=thread_id or self.new_id(),
            kind=ChannelKind.THREAD,
            name=name,
            parent_id=parent.id,
            owner_id=owner.id,
            nsfw=parent.nsfw,
        )
        self._announce_channel("THREAD_CREATE", thread)
        return thread

    def open_dm(self, user: User) -> Channel:
        """The direct messages between the bot and a user: the same channel each time."""
        for channel in self.channels.values():
            if channel.recipient_id == user.id:
                return channel
        channel = Channel(
            id=self.new_id(), kind=ChannelKind.DM, name=user.name, recipient_id=user.id
        )
        self.channels[channel.id] = channel
        return channel

    def change_channel(self, channel: Channel) -> None:
        """Put a changed channel in the place of the one with its id."""
        is_thread = channel.kind is ChannelKind.THREAD
        self._announce_channel("THREAD_UPDATE" if is_thread else "CHANNEL_UPDATE", channel)

    def delete_channel(self, channel: Channel) -> None:
        """Remove a channel or thread with its messages and threads."""
        self.channels = {
            i: c for i, c in self.channels.items() if channel.id not in (i, c.parent_id)
        }
        self.messages = {i: m for i, m in self.messages.items() if m.channel_id in self.channels}
        is_thread = channel.kind is ChannelKind.THREAD
        name = "THREAD_DELETE" if is_thread else "CHANNEL_DELETE"
        self.send(name, payloads.channel(self, channel), Intent.GUILDS)
        self.show(EventKind.CHANNEL_DELETED, channel_id=channel.id, text=channel.name)

    def channel(self, channel_id: int) -> Channel:
        """The channel with this id. Raises ApiError 10003, or 50001 when the bot was kicked."""
        if channel_id not in self.channels:
            raise errors.unknown_channel()
        channel = self.channels[channel_id]
        if channel.kind is not ChannelKind.DM and not self.is_member:
            raise errors.missing_access()
        return channel

    def permissions(self, channel: Channel, user: User) -> int:
        """What a user may do in a channel or thread, as permission bits."""
        carrier = self.channels.get(channel.parent_id or 0, channel)
        return permissions_in(self.guild, carrier, user.id)

    def _announce_channel(self, event: str, channel: Channel) -> None:
        is_new = channel.id not in self.channels
        self.channels[channel.id] = channel
        self.send(event, payloads.channel(self, channel), Intent.GUILDS)
        if is_new:
            self.show(EventKind.CHANNEL_CREATED, channel_id=channel.id, text=channel.name)

    # -- messages and files ---------------------------------------------------------------

    def messages_in(self, channel_id: int) -> Iterator[Message]:
        """What everybody sees in a channel, oldest first."""
        for message in self.messages.values():
            if message.channel_id == channel_id and message.ephemeral_for is None:
                yield message

    def store(self, upload: Upload, folder: str, *, ephemeral: bool = False) -> Attachment:
        """Keep an uploaded file where the CDN serves it; `folder` is the URL's first part."""
        new_id = self.new_id()
        filename = upload.filename.replace(" ", "_")
        width, height = picture_size(upload.data) or (None, None)
        attachment = Attachment(
            id=new_id,
            filename=filename,
            size=len(upload.data),
            content_type=upload.content_type or guess_content_type(filename),
            url=f"{self.origin}/{folder}/{new_id}/{filename}",
            width=width,
            height=height,
            ephemeral=ephemeral,
        )
        self.files[new_id] = upload.data
        self.attachments[new_id] = attachment
        return attachment
