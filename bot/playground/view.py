"""What one person sees of the playground, as the JSON that the page draws.

Decides: which channels, messages and events a user gets to see. Refuses to know: sockets, and how
anything looks. Messages, commands and modals are Discord's own JSON; only what Discord's client
would add from elsewhere (who it is for, what is pending) is added here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bot.playground import payloads
from bot.playground.commands import MESSAGE_MENU, SLASH
from bot.playground.entities import (
    Channel,
    ChannelKind,
    Event,
    EventKind,
    Message,
    Payload,
    User,
)
from bot.playground.errors import ClientRefused
from bot.playground.interactions import Interaction, InteractionKind
from bot.playground.journal import RestCall
from bot.playground.permissions import bits
from bot.playground.server import Playground
from bot.playground.state import World


class View:
    """The playground through one user's eyes, from now on."""

    def __init__(self, discord: Playground, user: User) -> None:
        self.discord = discord
        self.user = user
        self._world = discord.world
        self._events_told = len(discord.events)
        self._calls_told = len(discord.calls)
        self._pending: dict[int, Interaction] = {}

    def everything(self) -> Payload:
        """All that a page needs which has just been opened."""
        world = self._world
        self._events_told, self._calls_told = len(self.discord.events), len(self.discord.calls)
        calls = self.discord.calls
        visible = [m for m in world.messages.values() if self.sees_message(m)]
        return {
            "kind": "everything",
            "me": str(self.user.id),
            "bot": str(world.bot.id),
            "messages": [self.message(m) for m in visible],
            "calls": [
                call_line(n, calls[n]) for n in range(max(0, len(calls) - CALLS), len(calls))
            ],
            "place": self.place(),
        }

    def place(self) -> Payload:
        """The server around the messages."""
        world = self._world
        channels = [c for c in world.channels.values() if self.sees(c)]
        return {
            "guild": {"id": str(world.guild.id), "name": world.guild.name},
            "tier": world.guild.premium_tier,
            "is_member": world.is_member,
            "online": self.discord.gateway.is_connected,
            "faults": [fault.name for fault in self.discord.faults.waiting],
            "ahead_s": world.clock.ahead_s,
            "now_ms": int(world.clock.now().timestamp() * 1000),
            "users": [self._user(user) for user in world.users.values()],
            "roles": [{"id": str(role.id), "name": role.name} for role in world.guild.roles],
            "channels": [self._channel(channel) for channel in channels],
        }

    def sees(self, channel: Channel) -> bool:
        """Whether this user has the channel in the list."""
        if channel.kind is ChannelKind.DM:
            return channel.recipient_id == self.user.id
        return bool(self._world.permissions(channel, self.user) & bits("view_channel"))

    def sees_message(self, message: Message) -> bool:
        """Whether this user may read the message."""
        channel = self._world.channels.get(message.channel_id)
        if channel is None or message.ephemeral_for not in (None, self.user.id):
            return False
        return self.sees(channel)

    def may_post(self, channel: Channel) -> bool:
        """Whether this user may write there."""
        return _may_write(self._world, channel, self.user)

    def message(self, message: Message) -> Payload:
        """A message as Discord's JSON."""
        return payloads.message(self._world, message) | {"pings": [str(i) for i in message.pings]}

    def commands(self, channel: Channel) -> list[Payload]:
        """The slash and message commands that this user is offered in a channel."""
        commands = self.discord.api.commands
        offered = []
        for command in commands.usable():
            try:
                if command["type"] in (SLASH, MESSAGE_MENU):
                    commands.find(command["name"], command["type"], self.user, channel)
                    offered.append(command)
            except ClientRefused:
                continue
        return offered

    def news(self) -> Iterator[Payload]:
        """What happened since the last time."""
        while self._events_told < len(self.discord.events):
            self._events_told += 1
            event = self.discord.events[self._events_told - 1]
            yield from NEWS.get(event.kind, _place)(self, event)
        for interaction in [i for i in self._pending.values() if i.answer is not None]:
            del self._pending[interaction.id]
            yield {"kind": "answered", "id": str(interaction.id)}
            if interaction.modal is not None:
                yield {"kind": "modal", "id": str(interaction.id), "modal": interaction.modal}
        while self._calls_told < len(self.discord.calls):
            self._calls_told += 1
            yield call_line(self._calls_told - 1, self.discord.calls[self._calls_told - 1])

    def wait_for(self, interaction: Interaction) -> None:
        """Tell of this interaction's answer once it is there."""
        self._pending[interaction.id] = interaction

    def _user(self, user: User) -> Payload:
        guild = self._world.guild
        role = (
            "owner" if user.id == guild.owner_id else "member" if user.id in guild.members else ""
        )
        return payloads.user(user) | {"role": role, "dms_open": user.dms_open}

    def _channel(self, channel: Channel) -> Payload:
        world = self._world
        return payloads.channel(world, channel) | {
            "name": world.bot.name if channel.kind is ChannelKind.DM else channel.name,
            "may_post": self.may_post(channel),
            "may_delete": bool(world.permissions(channel, self.user) & bits("manage_messages")),
            "bot_may_post": _may_write(world, channel, world.bot),
            "upload_limit": world.upload_limit(channel),
        }


def _may_write(world: World, channel: Channel, user: User) -> bool:
    if channel.kind in (ChannelKind.DM, ChannelKind.FORUM):
        return channel.kind is ChannelKind.DM
    is_thread = channel.kind is ChannelKind.THREAD
    needed = bits("send_messages_in_threads" if is_thread else "send_messages")
    return world.permissions(channel, user) & needed == needed


CALLS = 300
"""How many calls of the past a page that opens is told of."""


def call_line(number: int, call: RestCall) -> Payload:
    """One line of the REST log; the bodies are asked for by number."""
    return {
        "kind": "call",
        "number": number,
        "at_ms": int(call.at.timestamp() * 1000),
        "method": call.method,
        "path": call.path,
        "status": call.status,
        "took_ms": round(call.duration_s * 1000),
        "fault": call.fault,
        "files": [{"name": name, "size": size} for name, size in call.files],
    }


def _place(view: View, event: Event) -> Iterator[Payload]:
    yield {"kind": "place", "place": view.place()}


def _message(view: View, event: Event) -> Iterator[Payload]:
    assert event.message is not None
    if view.sees_message(event.message):
        yield {"kind": "message", "message": view.message(event.message)}


def _gone(view: View, event: Event) -> Iterator[Payload]:
    assert event.message is not None
    yield {"kind": "gone", "id": str(event.message.id)}


def _sent(view: View, event: Event) -> Iterator[Payload]:
    interaction = view.discord.api.interactions.find(event.interaction_id or 0)
    if interaction is None or interaction.asked.user.id != view.user.id:
        return
    asked = interaction.asked
    if asked.kind is not InteractionKind.AUTOCOMPLETE:
        view.wait_for(interaction)
        yield {
            "kind": "asked",
            "id": str(interaction.id),
            "channel_id": str(asked.channel.id),
            "message_id": str(asked.message.id) if asked.message else None,
            "command": asked.command_name or "",
            "is_command": asked.kind is InteractionKind.COMMAND,
        }


def _failed(view: View, event: Event) -> Iterator[Payload]:
    if event.user_id == view.user.id:
        yield {"kind": "failed", "id": str(event.interaction_id), "text": event.text}


def _typing(view: View, event: Event) -> Iterator[Payload]:
    yield {"kind": "typing", "channel_id": str(event.channel_id)}


def _commands(view: View, event: Event) -> Iterator[Payload]:
    yield {"kind": "commands"}


def _nothing(view: View, event: Event) -> Iterator[Payload]:
    return iter(())


NEWS: dict[EventKind, Callable[[View, Event], Iterator[Payload]]] = {
    EventKind.MESSAGE_CREATED: _message,
    EventKind.MESSAGE_EDITED: _message,
    EventKind.MESSAGE_DELETED: _gone,
    EventKind.INTERACTION_SENT: _sent,
    EventKind.INTERACTION_FAILED: _failed,
    EventKind.MODAL_SHOWN: _nothing,
    EventKind.TYPING: _typing,
    EventKind.COMMANDS_REGISTERED: _commands,
}
"""What each kind of event tells a page; of the others it is told the whole place again."""
