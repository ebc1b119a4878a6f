"""Messages appear, change and go.

Decides: how a request body becomes a message: which files stay on an edit, whom a new message
pings, when a nonce means "the same message again". Refuses to know: HTTP, permissions.
Source: Discord's API documentation (Message; "Uploading Files"; "Allowed Mentions").
"""

from __future__ import annotations

import re

import msgspec

from bot.playground import errors, payloads
from bot.playground.checks import check_message, check_request
from bot.playground.entities import (
    Attachment,
    Channel,
    ChannelKind,
    EventKind,
    Message,
    MessageFlag,
    Payload,
    Upload,
    User,
)
from bot.playground.reading import plain_text, walk
from bot.playground.state import Intent, World

MENTION = re.compile(r"<@!?(\d+)>")
NONCE_LIFE_S = 300.0
SET_BY_BOT = (
    MessageFlag.SUPPRESS_EMBEDS
    | MessageFlag.EPHEMERAL
    | MessageFlag.SUPPRESS_NOTIFICATIONS
    | MessageFlag.COMPONENTS_V2
)


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """A request's JSON and the files beside it, by the number in `files[n]`."""

    payload: Payload
    uploads: dict[int, Upload] = {}


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The interaction that a message answers; `ephemeral_for` is set when only one user sees it."""

    interaction_id: int
    asker_id: int
    command_name: str | None = None
    ephemeral_for: int | None = None


def post(
    world: World, channel: Channel, author: User, body: Body, origin: Origin | None = None
) -> Message:
    """Put a new message into a channel and tell everybody who may see it.

    The same enforced nonce from the same author answers with the message that is already there.
    Raises ApiError 50035, 50006 or 40005.
    """
    check_request(body.payload)
    if (known := _same_nonce(world, channel, author, body.payload)) is not None:
        return known
    message = Message(
        id=world.new_id(),
        channel_id=channel.id,
        author_id=author.id,
        created_at=world.clock.now(),
        flags=MessageFlag(body.payload.get("flags") or 0) & (SET_BY_BOT | MessageFlag.LOADING),
        nonce=None if body.payload.get("nonce") is None else str(body.payload["nonce"]),
        reply_to_id=_reply_target(world, channel, body.payload),
        interaction_id=origin.interaction_id if origin else None,
        asker_id=origin.asker_id if origin else None,
        command_name=origin.command_name if origin else None,
        ephemeral_for=origin.ephemeral_for if origin else None,
    )
    message = _with_body(world, channel, message, body)
    pings = _pings(world, message, body.payload.get("allowed_mentions"))
    message = msgspec.structs.replace(message, pings=pings)
    check_message(message)
    world.messages[message.id] = message
    _tell(world, "MESSAGE_CREATE", message)
    _show(world, EventKind.MESSAGE_CREATED, message)
    return message


def forward(world: World, channel: Channel, author: User, target: Message) -> Message:
    """Put a copy of a message, as it stands now, into a channel in the name of another author."""
    message = Message(
        id=world.new_id(),
        channel_id=channel.id,
        author_id=author.id,
        created_at=world.clock.now(),
        forwarded=target,
    )
    world.messages[message.id] = message
    _tell(world, "MESSAGE_CREATE", message)
    _show(world, EventKind.MESSAGE_CREATED, message)
    return message


def edit(world: World, message: Message, body: Body) -> Message:
    """Change a message; what the body does not name stays. Raises ApiError as `post` does."""
    channel = world.channels[message.channel_id]
    v2 = MessageFlag(body.payload.get("flags") or 0) & MessageFlag.COMPONENTS_V2
    flags = (message.flags | v2) & ~MessageFlag.LOADING
    edited = msgspec.structs.replace(message, flags=flags, edited_at=world.clock.now())
    edited = _with_body(world, channel, edited, body)
    check_message(edited)
    world.messages[message.id] = edited
    _tell(world, "MESSAGE_UPDATE", edited)
    _show(world, EventKind.MESSAGE_EDITED, edited)
    return edited


def delete(world: World, message: Message) -> None:
    """Remove a message."""
    del world.messages[message.id]
    if message.ephemeral_for is None:
        body: Payload = {"id": str(message.id), "channel_id": str(message.channel_id)}
        is_dm = world.channels[message.channel_id].kind is ChannelKind.DM
        if not is_dm:
            body["guild_id"] = str(world.guild.id)
        world.send("MESSAGE_DELETE", body, _intent(is_dm))
    _show(world, EventKind.MESSAGE_DELETED, message)


def delete_all(world: World, channel: Channel) -> int:
    """Remove everything that all see in a channel with one event; the number of messages."""
    gone = list(world.messages_in(channel.id))
    for message in gone:
        del world.messages[message.id]
        _show(world, EventKind.MESSAGE_DELETED, message)
    ids = [str(message.id) for message in gone]
    body: Payload = {"ids": ids, "channel_id": str(channel.id), "guild_id": str(world.guild.id)}
    world.send("MESSAGE_DELETE_BULK", body, Intent.GUILD_MESSAGES)
    return len(gone)


def _intent(is_dm: bool) -> Intent:
    return Intent.DIRECT_MESSAGES if is_dm else Intent.GUILD_MESSAGES


def _tell(world: World, event: str, message: Message) -> None:
    if message.ephemeral_for is None:
        is_dm = world.channels[message.channel_id].kind is ChannelKind.DM
        world.send(event, payloads.gateway_message(world, message), _intent(is_dm))


def _show(world: World, kind: EventKind, message: Message) -> None:
    text = plain_text(message).split("\n", 1)[0][:80]
    world.show(
        kind,
        channel_id=message.channel_id,
        message=message,
        user_id=message.author_id,
        interaction_id=message.interaction_id,
        text=text,
    )


def _with_body(world: World, channel: Channel, message: Message, body: Body) -> Message:
    payload = body.payload
    changes: Payload = {"attachments": _files(world, channel, message, body)}
    if "content" in payload:
        changes["content"] = payload["content"] or ""
    if "embeds" in payload:
        changes["embeds"] = tuple(payload["embeds"] or ())
    if "components" in payload:
        changes["components"] = _numbered(payload["components"] or [])
    return msgspec.structs.replace(message, **changes)


def _files(world: World, channel: Channel, message: Message, body: Body) -> tuple[Attachment, ...]:
    """Kept files in their order, then new ones; without a list all old files stay."""
    limit = world.upload_limit(channel)
    if any(len(upload.data) > limit for upload in body.uploads.values()):
        raise errors.too_large()
    listed = body.payload.get("attachments")
    described = {str(entry["id"]): entry for entry in listed or ()}
    kept = [f for f in message.attachments if listed is None or str(f.id) in described]
    added = []
    for number, upload in sorted(body.uploads.items()):
        entry = described.get(str(number), {})
        named = msgspec.structs.replace(upload, filename=entry.get("filename") or upload.filename)
        stored = world.store(
            msgspec.structs.replace(named, content_type=None),
            f"attachments/{channel.id}",
            ephemeral=message.ephemeral_for is not None,
        )
        added.append(msgspec.structs.replace(stored, description=entry.get("description")))
    return (*kept, *added)


def _numbered(components: list[Payload]) -> tuple[Payload, ...]:
    """The components with an `id` each, as Discord gives them out."""
    copied: list[Payload] = msgspec.json.decode(msgspec.json.encode(components))
    taken = {part["id"] for part in walk(copied) if part.get("id")}
    free = (number for number in range(1, 10_000) if number not in taken)
    for part in walk(copied):
        if not part.get("id"):
            part["id"] = next(free)
        for described in (part, *part.get("items", ())):
            if "media" in described:
                described.setdefault("description", None)
                described.setdefault("spoiler", False)
    return tuple(copied)


def _same_nonce(world: World, channel: Channel, author: User, payload: Payload) -> Message | None:
    nonce = payload.get("nonce")
    if nonce is None or not payload.get("enforce_nonce"):
        return None
    now = world.clock.now()
    for message in reversed(list(world.messages_in(channel.id))):
        if (now - message.created_at).total_seconds() > NONCE_LIFE_S:
            return None
        if message.nonce == str(nonce) and message.author_id == author.id:
            return message
    return None


def _reply_target(world: World, channel: Channel, payload: Payload) -> int | None:
    reference = payload.get("message_reference")
    if not reference:
        return None
    target = world.messages.get(int(reference["message_id"]))
    if target is not None and target.channel_id == channel.id and target.ephemeral_for is None:
        return target.id
    if reference.get("fail_if_not_exists", True):
        raise errors.invalid_form("message_reference", "REPLIES_UNKNOWN_MESSAGE", "Unknown message")
    return None


def _pings(world: World, message: Message, allowed: Payload | None) -> tuple[int, ...]:
    """The users whom this new message notifies, in the order of their mention."""
    mentioned = [int(found) for found in MENTION.findall(plain_text(message))]
    users = allowed.get("users") or () if allowed else ()
    named = {int(user_id) for user_id in users}
    everybody = allowed is None or "users" in (allowed.get("parse") or ())
    pings = [i for i in mentioned if i in world.users and (everybody or i in named)]
    target = world.messages.get(message.reply_to_id or 0)
    if target is not None and (allowed is None or allowed.get("replied_user")):
        pings.append(target.author_id)
    return tuple(dict.fromkeys(pings))
