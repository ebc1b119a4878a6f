"""What an operator lets go wrong with one click.

Decides: which mishaps there are, what each is called and what it does. Refuses to know: HTTP, and
how the bot copes; that is to be watched. Those that are met by the bot's next request say so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from bot.playground.entities import Channel, ChannelKind, Message, Payload, User
from bot.playground.errors import ClientRefused
from bot.playground.server import Playground

MESSAGES = "* /channels/*/messages*"
NEW_MESSAGES = "POST /channels/*/messages"
NEEDED = "send_messages send_messages_in_threads embed_links attach_files"
LATE_S, RETRY_AFTER_S = 5.0, 3.0


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """Where the operator clicked."""

    discord: Playground
    user: User
    channel: Channel


class Mishap(msgspec.Struct, frozen=True, kw_only=True):
    """One button of the drawer."""

    name: str
    group: str
    label: str
    about: str
    happen: Callable[[Scene], Awaitable[str]]

    def shown(self) -> Payload:
        """The button as the page draws it."""
        return {n: getattr(self, n) for n in ("name", "group", "label", "about")}


def _fault(pattern: str, told: str, **details: object) -> Callable[[Scene], Awaitable[str]]:
    async def happen(scene: Scene) -> str:
        scene.discord.faults.inject(pattern, **details)  # type: ignore[arg-type]
        return told

    return happen


def _status(status: int, **details: object) -> Callable[[Scene], Awaitable[str]]:
    told = f"The bot's next request about a message is answered with {status}."
    return _fault(MESSAGES, told, status=status, **details)


async def _too_large(scene: Scene) -> str:
    scene.discord.faults.too_large(NEW_MESSAGES)
    return "The bot's next new message is refused as too large."


async def _clear(scene: Scene) -> str:
    scene.discord.faults.clear()
    return "No request meets a fault any more."


async def _delete_message(scene: Scene) -> str:
    message = _newest_of_bot(scene)
    scene.discord.delete_message(message)
    return "A moderator deleted the bot's newest message here."


def _newest_of_bot(scene: Scene) -> Message:
    own = scene.discord.bot.id
    found = [m for m in scene.discord.messages(scene.channel) if m.author_id == own]
    if not found:
        raise ClientRefused("the bot has no message in this channel that could be deleted")
    return next((m for m in reversed(found) if m.components), found[-1])


async def _purge(scene: Scene) -> str:
    if scene.channel.kind is ChannelKind.DM:
        raise ClientRefused("direct messages can not be purged; open a channel first")
    return f"A moderator deleted all {scene.discord.purge(scene.channel)} messages here at once."


async def _delete_channel(scene: Scene) -> str:
    if scene.channel.kind is ChannelKind.DM:
        raise ClientRefused("direct messages can not be deleted; open a channel first")
    scene.discord.delete_channel(scene.channel)
    return f"#{scene.channel.name} and everything in it is gone."


async def _new_channel(scene: Scene) -> str:
    names = {channel.name for channel in scene.discord.world.channels.values()}
    name = next(n for n in (f"channel-{i}" for i in range(1, 1000)) if n not in names)
    scene.discord.add_channel(name)
    return f"#{name} is there."


async def _forbid(scene: Scene) -> str:
    place = _with_permissions(scene)
    scene.discord.permit(place, scene.discord.bot, deny=NEEDED)
    return f"The bot may not post in #{place.name} any more."


async def _allow(scene: Scene) -> str:
    place = _with_permissions(scene)
    scene.discord.permit(place, scene.discord.bot)
    return f"The bot may post in #{place.name} again."


def _with_permissions(scene: Scene) -> Channel:
    if scene.channel.kind is ChannelKind.DM:
        raise ClientRefused("direct messages have no permissions; open a channel first")
    return scene.discord.world.channels.get(scene.channel.parent_id or 0, scene.channel)


async def _close_dms(scene: Scene) -> str:
    is_open = scene.discord.world.users[scene.user.id].dms_open
    scene.discord.close_dms(scene.user, closed=is_open)
    return f"{scene.user.name} takes {'no' if is_open else 'again'} direct messages."


async def _kill_tokens(scene: Scene) -> str:
    scene.discord.api.interactions.kill_tokens()
    return "The tokens of all interactions so far are dead."


async def _twice(scene: Scene) -> str:
    scene.discord.deliver_next_twice()
    return "The next interaction reaches the bot twice."


async def _drop_gateway(scene: Scene) -> str:
    await scene.discord.drop_gateway()
    return "The gateway connection is cut; the bot may resume its session."


async def _forget_session(scene: Scene) -> str:
    await scene.discord.drop_gateway(resumable=False)
    return "The gateway connection is cut and its session forgotten."


async def _reconnect(scene: Scene) -> str:
    scene.discord.gateway.ask_to_reconnect()
    return "Discord asked the bot to reconnect."


async def _outage(scene: Scene) -> str:
    scene.discord.server_outage()
    return "The server is unavailable; “Bot is back” ends it."


async def _kick(scene: Scene) -> str:
    scene.discord.kick_bot()
    return "The bot was removed from the server; “Bot is back” brings it back."


async def _invite(scene: Scene) -> str:
    scene.discord.invite_bot()
    return "The bot is on the server."


def _forward(seconds: int, told: str) -> Callable[[Scene], Awaitable[str]]:
    async def happen(scene: Scene) -> str:
        scene.discord.turn_clock_forward(seconds)
        return f"{told} passed on Discord's clock."

    return happen


def _tier(tier: int) -> Callable[[Scene], Awaitable[str]]:
    async def happen(scene: Scene) -> str:
        scene.discord.set_boost_tier(tier)
        limit_mib = scene.discord.world.upload_limit(scene.channel) >> 20
        return f"Boost tier {tier}: a file here may have {limit_mib} MiB."

    return happen


def _mishap(
    group: str, name: str, label: str, about: str, happen: Callable[[Scene], Awaitable[str]]
) -> Mishap:
    return Mishap(group=group, name=name, label=label, about=about, happen=happen)


NEXT, PLACE, GATEWAY, TIME = (
    "The next request",
    "Messages and places",
    "Connection",
    "Clock, limits",
)

MISHAPS = {
    mishap.name: mishap
    for mishap in (
        _mishap(NEXT, "429", "429", "Rate limited: come back in 3 s",
                _status(429, retry_after_s=RETRY_AFTER_S)),
        _mishap(NEXT, "500", "500", "Internal server error", _status(500)),
        _mishap(NEXT, "502", "502", "Bad gateway", _status(502)),
        _mishap(NEXT, "503", "503", "Unavailable; discord.py does not retry it", _status(503)),
        _mishap(NEXT, "413", "413", "File too large (new message)", _too_large),
        _mishap(NEXT, "drop", "Dropped", "The connection breaks before the request counts",
                _fault(MESSAGES, "The connection of the bot's next request breaks.", drop=True)),
        _mishap(NEXT, "lost", "Answer lost", "The request counts, but its answer never arrives",
                _fault(MESSAGES, "The bot's next request counts, but its answer is lost.",
                       drop=True, applied=True)),
        _mishap(NEXT, "late", "5 s late", "A slow answer",
                _fault(MESSAGES, "The bot's next request is answered after 5 s.",
                       latency_s=LATE_S)),
        _mishap(NEXT, "clear", "All well", "Take back what no request has met yet", _clear),
        _mishap(PLACE, "delete-message", "Delete message", "The bot's newest message here",
                _delete_message),
        _mishap(PLACE, "purge", "Purge channel", "All messages here at once", _purge),
        _mishap(PLACE, "delete-channel", "Delete channel", "The one that is open", _delete_channel),
        _mishap(PLACE, "new-channel", "New channel", "An empty one, open to all", _new_channel),
        _mishap(PLACE, "forbid", "Take permissions", "The bot may not post here", _forbid),
        _mishap(PLACE, "allow", "Give permissions", "The bot may post here again", _allow),
        _mishap(PLACE, "dms", "Close or open DMs", "Whether you take direct messages", _close_dms),
        _mishap(GATEWAY, "resume", "Cut, resumable", "The bot comes back with RESUME",
                _drop_gateway),
        _mishap(GATEWAY, "identify", "Cut, forgotten", "The bot must IDENTIFY anew",
                _forget_session),
        _mishap(GATEWAY, "reconnect", "Ask to reconnect", "Op 7, as before a deploy", _reconnect),
        _mishap(GATEWAY, "outage", "Server outage", "The server is unavailable for a while",
                _outage),
        _mishap(GATEWAY, "kick", "Kick the bot", "It is removed from the server", _kick),
        _mishap(GATEWAY, "invite", "Bot is back", "Ends an outage, or invites it again", _invite),
        _mishap(TIME, "tokens", "Tokens die", "As 15 minutes after each command", _kill_tokens),
        _mishap(TIME, "twice", "Deliver twice", "The next interaction arrives twice", _twice),
        _mishap(TIME, "minute", "+1 min", "Discord's clock goes forward",
                _forward(60, "One minute")),
        _mishap(TIME, "quarter", "+15 min", "Tokens of today's commands are dead",
                _forward(900, "15 minutes")),
        _mishap(TIME, "hour", "+1 h", "Old messages: edits are rationed (30046)",
                _forward(3600, "One hour")),
        _mishap(TIME, "tier-0", "No boosts", "10 MiB a file", _tier(0)),
        _mishap(TIME, "tier-2", "Boost tier 2", "50 MiB a file", _tier(2)),
        _mishap(TIME, "tier-3", "Boost tier 3", "100 MiB a file", _tier(3)),
    )
}  # fmt: skip
"""The drawer's buttons in their order."""
