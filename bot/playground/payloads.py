"""What exists on the playground as the JSON that Discord would send.

Decides: the fields of each object. Refuses to know: who receives it. Source: Discord's API
documentation and the fields that discord.py 2.7 reads. Attachments that an embed or a component
shows are left out of a message's `attachments`, as Discord does (discord-api-docs, issue 1340).
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bot.playground.entities import (
    Attachment,
    Channel,
    ChannelKind,
    Message,
    Payload,
    User,
)

if TYPE_CHECKING:
    from bot.playground.state import World

LINK = "attachment://"
LINK_LIFE_S = 86_400
JOINED_AT = "2026-01-01T00:00:00+00:00"
REPLY, COMMAND_ANSWER = 19, 20
FORWARD = 1
SNAPSHOT = (
    "type",
    "content",
    "embeds",
    "attachments",
    "components",
    "timestamp",
    "edited_timestamp",
    "flags",
    "mentions",
    "mention_roles",
)
"""What a forwarded copy keeps of its message; not who wrote it."""


def user(who: User) -> Payload:
    """A user object."""
    return {
        "id": str(who.id),
        "username": who.name,
        "global_name": who.name,
        "discriminator": "0",
        "avatar": None,
        "bot": who.bot,
        "flags": 0,
        "public_flags": 0,
        "primary_guild": None,
    }


def member(world: World, who: User, permissions: int | None = None) -> Payload:
    """A member object; with `permissions` only inside interactions."""
    body: Payload = {
        "user": user(who),
        "roles": [str(role) for role in world.guild.members.get(who.id, ())],
        "joined_at": JOINED_AT,
        "nick": None,
        "avatar": None,
        "banner": None,
        "communication_disabled_until": None,
        "premium_since": None,
        "pending": False,
        "deaf": False,
        "mute": False,
        "flags": 0,
    }
    if permissions is not None:
        body["permissions"] = str(permissions)
    return body


def channel(world: World, what: Channel) -> Payload:
    """A channel object: text, forum, thread or direct message."""
    body: Payload = {"id": str(what.id), "type": int(what.kind), "flags": 0}
    last = [message.id for message in world.messages_in(what.id)]
    body["last_message_id"] = str(last[-1]) if last else None
    if what.recipient_id is not None:
        return body | {"recipients": [user(world.users[what.recipient_id])]}
    body |= {"name": what.name, "guild_id": str(world.guild.id), "nsfw": what.nsfw}
    body["parent_id"] = str(what.parent_id) if what.parent_id else None
    if what.kind is ChannelKind.THREAD:
        return body | _thread(what, len(last))
    overwrites = [
        {
            "id": str(o.target_id),
            "type": int(o.is_member),
            "allow": str(o.allow),
            "deny": str(o.deny),
        }
        for o in what.overwrites
    ]
    body |= {"position": 0, "topic": None, "rate_limit_per_user": 0}
    if what.kind is ChannelKind.FORUM:
        body |= {"available_tags": [], "default_reaction_emoji": None, "default_sort_order": None}
    return body | {"permission_overwrites": overwrites}


def _thread(what: Channel, messages: int) -> Payload:
    return {
        "owner_id": str(what.owner_id),
        "member_count": 1,
        "message_count": messages,
        "total_message_sent": messages,
        "rate_limit_per_user": 0,
        "thread_metadata": {
            "archived": what.archived,
            "locked": False,
            "auto_archive_duration": 1440,
            "archive_timestamp": JOINED_AT,
        },
    }


def guild(world: World) -> Payload:
    """The server as GUILD_CREATE shows it; of the members only the bot, as without the intent."""
    roles = [
        {
            "id": str(role.id),
            "name": role.name,
            "permissions": str(role.permissions),
            "position": place,
            "color": 0,
            "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
            "hoist": False,
            "managed": False,
            "mentionable": False,
            "flags": 0,
        }
        for place, role in enumerate(world.guild.roles)
    ]
    own = [c for c in world.channels.values() if c.kind is not ChannelKind.DM]
    return {
        "id": str(world.guild.id),
        "name": world.guild.name,
        "owner_id": str(world.guild.owner_id),
        "unavailable": False,
        "premium_tier": world.guild.premium_tier,
        "preferred_locale": "en-US",
        "features": [],
        "emojis": [],
        "stickers": [],
        "roles": roles,
        "member_count": len(world.guild.members),
        "members": [member(world, world.bot)],
        "channels": [channel(world, c) for c in own if c.kind is not ChannelKind.THREAD],
        "threads": [channel(world, c) for c in own if c.kind is ChannelKind.THREAD],
        "presences": [],
        "voice_states": [],
    }


def attachment(world: World, file: Attachment) -> Payload:
    """An attachment object, its link signed and dated as Discord's are: for one day."""
    now_s = int(world.clock.now().timestamp())
    url = quote(file.url, safe=":/") + f"?ex={now_s + LINK_LIFE_S:x}&is={now_s:x}&hm=0"
    body: Payload = {
        "id": str(file.id),
        "filename": file.filename,
        "size": file.size,
        "url": url,
        "proxy_url": url,
        "content_type": file.content_type,
        "flags": 0,
    }
    if file.width is not None:
        body |= {"width": file.width, "height": file.height}
    if file.ephemeral:
        body["ephemeral"] = True
    if file.description is not None:
        body["description"] = file.description
    return body


def message(world: World, what: Message, *, with_reply: bool = True) -> Payload:
    """A message object as REST answers with it."""
    by_name = {file.filename: attachment(world, file) for file in what.attachments}
    embeds = resolve(list(what.embeds), by_name)
    components = resolve(list(what.components), by_name)
    shown = links([*what.embeds, *what.components])
    body: Payload = {
        "id": str(what.id),
        "channel_id": str(what.channel_id),
        "type": 0,
        "author": user(world.users[what.author_id]),
        "content": what.content,
        "timestamp": _iso(what.created_at),
        "edited_timestamp": _iso(what.edited_at) if what.edited_at else None,
        "embeds": [{"type": "rich", **embed} for embed in embeds],
        "components": components,
        "attachments": [file for name, file in by_name.items() if name not in shown],
        "flags": int(what.flags),
        "mentions": [user(world.users[i]) for i in what.pings],
        "mention_roles": [],
        "mention_everyone": False,
        "pinned": False,
        "tts": False,
    }
    if what.nonce is not None:
        body["nonce"] = what.nonce
    body |= _asked_by(world, what) | _forwarded(world, what)
    return body | (_reply(world, what) if with_reply else {})


def gateway_message(world: World, what: Message) -> Payload:
    """A message as MESSAGE_CREATE and MESSAGE_UPDATE show it."""
    body = message(world, what)
    if world.channels[what.channel_id].kind is not ChannelKind.DM:
        body["guild_id"] = str(world.guild.id)
        body["member"] = member(world, world.users[what.author_id])
        del body["member"]["user"]
    return body


def _asked_by(world: World, what: Message) -> Payload:
    if what.interaction_id is None or what.asker_id is None:
        return {}
    asker = user(world.users[what.asker_id])
    facts: Payload = {"id": str(what.interaction_id), "type": 2, "user": asker}
    owners = {"0": str(world.guild.id)}
    return {
        "type": COMMAND_ANSWER if what.command_name else REPLY,
        "interaction": facts | {"name": what.command_name or ""},
        "interaction_metadata": facts | {"authorizing_integration_owners": owners},
        "webhook_id": str(world.bot.id),
        "application_id": str(world.bot.id),
    }


def _forwarded(world: World, what: Message) -> Payload:
    source = what.forwarded
    if source is None:
        return {}
    body = message(world, source, with_reply=False)
    reference: Payload = {"type": FORWARD, "message_id": body["id"]}
    reference["channel_id"] = body["channel_id"]
    copy = {name: body[name] for name in SNAPSHOT}
    return {"message_reference": reference, "message_snapshots": [{"message": copy}]}


def _reply(world: World, what: Message) -> Payload:
    if what.reply_to_id is None:
        return {}
    target = world.messages.get(what.reply_to_id)
    reference = {"type": 0, "message_id": str(what.reply_to_id), "channel_id": str(what.channel_id)}
    if world.channels[what.channel_id].kind is not ChannelKind.DM:
        reference["guild_id"] = str(world.guild.id)
    shown = message(world, target, with_reply=False) if target else None
    return {"type": REPLY, "message_reference": reference, "referenced_message": shown}


def links(value: Any) -> set[str]:
    """The file names that `attachment://` links in embeds or components point at."""
    if isinstance(value, str):
        return {value.removeprefix(LINK)} if value.startswith(LINK) else set()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set[str]().union(*(links(part) for part in parts))


def resolve(value: Any, by_name: dict[str, Payload]) -> Any:
    """The same embeds or components with `attachment://` links turned into the CDN's."""
    if isinstance(value, list):
        return [resolve(part, by_name) for part in value]
    if not isinstance(value, dict):
        return value
    url = value.get("url")
    file = by_name.get(url.removeprefix(LINK)) if isinstance(url, str) else None
    if file is None or not str(url).startswith(LINK):
        return {key: resolve(part, by_name) for key, part in value.items()}
    media = {key: file.get(key) for key in ("url", "proxy_url", "width", "height", "content_type")}
    return {**value, **media, "attachment_id": file["id"], "id": file["id"]}


def _iso(when: datetime) -> str:
    return when.isoformat()
