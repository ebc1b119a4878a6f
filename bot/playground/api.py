"""The REST API's routes without HTTP: a call goes in, a reply comes out.

Decides: which routes there are, and the permissions that each needs. Refuses to know: sockets,
faults, logging. Route templates are spelled as in Discord's OpenAPI document. Source: Discord's API
documentation, one section per route.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from bot.playground import errors, payloads, posting
from bot.playground.commands import Commands
from bot.playground.entities import Channel, ChannelKind, EventKind, Message, Payload
from bot.playground.interactions import Interactions
from bot.playground.limits import RateLimits
from bot.playground.permissions import bits
from bot.playground.posting import Body
from bot.playground.state import World

HISTORY_DEFAULT, HISTORY_MAX = 50, 100


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request: the parts of its path by name, its query, its JSON and files."""

    params: dict[str, str]
    query: dict[str, str]
    json: Any
    body: Body

    def number(self, name: str) -> int:
        """A path parameter that is a snowflake. Raises ApiError 50035."""
        try:
            return int(self.params[name])
        except ValueError:
            text = f'Value "{self.params[name]}" is not snowflake.'
            raise errors.invalid_form(name, "NUMBER_TYPE_COERCE", text) from None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A success: 200 with JSON, or 204 without."""

    status: int = 200
    json: Any = None


class Api:
    """The routes' shared ground: the world, its commands and interactions."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.commands = Commands(world)
        self.interactions = Interactions(world)
        self.limits = RateLimits(world.clock)

    def channel(self, call: Call, *needed: str) -> Channel:
        """The path's channel, if the bot may see it and has these permissions there."""
        channel = self.world.channel(call.number("channel_id"))
        held = self.world.permissions(channel, self.world.bot)
        if not held & bits("view_channel"):
            raise errors.missing_access()
        if held & bits(*needed) != bits(*needed):
            raise errors.missing_permissions()
        return channel

    def message(self, call: Call) -> Message:
        """The path's message as the bot can see it. Raises ApiError 10008."""
        message = self.world.messages.get(call.number("message_id"))
        place = call.number("channel_id")
        if message is None or message.channel_id != place or message.ephemeral_for is not None:
            raise errors.unknown_message()
        return message


Handler = Callable[[Api, Call], Reply]
NOTHING = Reply(status=204)


def me(api: Api, call: Call) -> Reply:
    own: Payload = {"verified": True, "email": None, "locale": "en-US", "mfa_enabled": True}
    return Reply(json=payloads.user(api.world.bot) | own)


def application(api: Api, call: Call) -> Reply:
    world = api.world
    owner = payloads.user(world.users[world.guild.owner_id])
    return Reply(
        json={
            "id": str(world.bot.id),
            "name": world.bot.name,
            "description": "",
            "icon": None,
            "verify_key": "0" * 64,
            "owner": owner,
            "team": None,
            "bot": payloads.user(world.bot),
        }
        | APPLICATION
    )


APPLICATION: Payload = {
    "type": None,
    "hook": True,
    "storefront_available": False,
    "flags": 0,
    "flags_new": "0",
    "eligible_oauth2_scopes": ["bot", "applications.commands"],
    "bot_public": False,
    "bot_require_code_grant": False,
    "redirect_uris": [],
    "interactions_endpoint_url": None,
    "role_connections_verification_url": None,
    "approximate_guild_count": 1,
    "approximate_user_install_count": 0,
    "approximate_user_authorization_count": 0,
    "explicit_content_filter": 0,
    "event_webhooks_status": 1,
    "integration_types_config": {"0": {}},
}
"""What is the same for every bot of the playground."""


def gateway(api: Api, call: Call) -> Reply:
    url = f"{api.world.origin.replace('http', 'ws', 1)}/gateway"
    limit = {"total": 1000, "remaining": 999, "reset_after": 14_400_000, "max_concurrency": 1}
    return Reply(json={"url": url, "shards": 1, "session_start_limit": limit})


def list_commands(api: Api, call: Call) -> Reply:
    return Reply(json=api.commands.registered(_scope(api, call)))


def put_commands(api: Api, call: Call) -> Reply:
    written = api.commands.overwrite(_scope(api, call), call.json or [])
    names = ", ".join(command["name"] for command in written)
    api.world.show(EventKind.COMMANDS_REGISTERED, user_id=api.world.bot.id, text=names)
    return Reply(json=written)


def _scope(api: Api, call: Call) -> int | None:
    if call.number("application_id") != api.world.bot.id:
        raise errors.ApiError(404, 10002, "Unknown Application")
    if "guild_id" not in call.params:
        return None
    return _guild_id(api, call)


def _guild_id(api: Api, call: Call) -> int:
    if call.number("guild_id") != api.world.guild.id:
        raise errors.unknown_guild()
    if not api.world.is_member:
        raise errors.missing_access()
    return api.world.guild.id


def get_guild(api: Api, call: Call) -> Reply:
    _guild_id(api, call)
    return Reply(json=payloads.guild(api.world))


def get_member(api: Api, call: Call) -> Reply:
    _guild_id(api, call)
    user = api.world.user(call.number("user_id"))
    if user.id not in api.world.guild.members:
        raise errors.ApiError(404, 10007, "Unknown Member")
    return Reply(json=payloads.member(api.world, user))


def get_user(api: Api, call: Call) -> Reply:
    return Reply(json=payloads.user(api.world.user(call.number("user_id"))))


def open_dm(api: Api, call: Call) -> Reply:
    user = api.world.user(int(call.json["recipient_id"]))
    return Reply(json=payloads.channel(api.world, api.world.open_dm(user)))


def get_channel(api: Api, call: Call) -> Reply:
    return Reply(json=payloads.channel(api.world, api.channel(call)))


def patch_channel(api: Api, call: Call) -> Reply:
    channel = api.channel(call)
    changes = {key: call.json[key] for key in ("name", "nsfw") if key in call.json}
    if channel.kind is ChannelKind.THREAD and "archived" in call.json:
        changes["archived"] = call.json["archived"]
    changed = msgspec.structs.replace(channel, **changes)
    api.world.change_channel(changed)
    return Reply(json=payloads.channel(api.world, changed))


def typing(api: Api, call: Call) -> Reply:
    channel = api.channel(call, "send_messages")
    api.world.show(EventKind.TYPING, channel_id=channel.id, user_id=api.world.bot.id)
    return NOTHING


def list_messages(api: Api, call: Call) -> Reply:
    """Newest first, `before`, `after` or around a snowflake."""
    channel = api.channel(call)
    if not api.world.permissions(channel, api.world.bot) & bits("read_message_history"):
        return Reply(json=[])
    limit = int(call.query.get("limit", HISTORY_DEFAULT))
    if not 1 <= limit <= HISTORY_MAX:
        raise errors.invalid_form(
            "limit", "NUMBER_TYPE_MAX", f"int value should be between 1 and {HISTORY_MAX}."
        )
    chosen = _history(list(api.world.messages_in(channel.id)), call.query, limit)
    return Reply(json=[payloads.message(api.world, m) for m in reversed(chosen)])


def _history(messages: list[Message], query: dict[str, str], limit: int) -> list[Message]:
    if "before" in query:
        return [m for m in messages if m.id < int(query["before"])][-limit:]
    if "after" in query:
        return [m for m in messages if m.id > int(query["after"])][:limit]
    if "around" in query:
        middle, half = int(query["around"]), limit // 2
        older = [m for m in messages if m.id < middle][-half:] if half else []
        newer = [m for m in messages if m.id >= middle]
        return (older + newer[: half + 1])[:limit]
    return messages[-limit:]


def get_message(api: Api, call: Call) -> Reply:
    api.channel(call, "read_message_history")
    return Reply(json=payloads.message(api.world, api.message(call)))


def post_message(api: Api, call: Call) -> Reply:
    channel = _writable(api, call)
    if channel.archived:
        api.world.change_channel(msgspec.structs.replace(channel, archived=False))
    message = posting.post(api.world, channel, api.world.bot, call.body)
    return Reply(json=payloads.message(api.world, message))


def _writable(api: Api, call: Call) -> Channel:
    """The path's channel, if this message may be posted there."""
    channel = api.channel(call)
    if channel.kind is ChannelKind.FORUM:
        raise errors.ApiError(400, 50008, "Cannot send messages in a non-text channel")
    if channel.recipient_id and not api.world.users[channel.recipient_id].dms_open:
        raise errors.cannot_message_user()
    is_thread = channel.kind is ChannelKind.THREAD
    needed = ["send_messages_in_threads" if is_thread else "send_messages"]
    api.channel(call, *needed, *_needed_for(call.body))
    if call.body.payload.get("message_reference"):
        held = api.world.permissions(channel, api.world.bot)
        if not held & bits("read_message_history"):
            raise errors.reply_needs_history()
    return channel


def _needed_for(body: Body) -> list[str]:
    needed = ["attach_files"] if body.uploads else []
    return needed + (["embed_links"] if body.payload.get("embeds") else [])


def patch_message(api: Api, call: Call) -> Reply:
    channel = api.channel(call, *_needed_for(call.body))
    message = api.message(call)
    if message.author_id != api.world.bot.id:
        raise errors.not_the_author()
    if channel.archived:
        raise errors.archived_thread()
    edited = posting.edit(api.world, message, call.body)
    return Reply(json=payloads.message(api.world, edited))


def delete_message(api: Api, call: Call) -> Reply:
    api.channel(call)
    message = api.message(call)
    if message.author_id != api.world.bot.id:
        api.channel(call, "manage_messages")
    posting.delete(api.world, message)
    return NOTHING


def start_thread(api: Api, call: Call) -> Reply:
    """A thread of its own, a forum post, or one on a message."""
    parent = api.channel(call, "create_public_threads")
    message_id = call.number("message_id") if "message_id" in call.params else 0
    if message_id:
        api.message(call)
    thread = api.world.add_thread(parent, call.json["name"], api.world.bot, message_id)
    shown = payloads.channel(api.world, thread)
    if parent.kind is ChannelKind.FORUM:
        first = Body(payload=call.json.get("message") or {}, uploads=call.body.uploads)
        posted = posting.post(api.world, thread, api.world.bot, first)
        shown["message"] = payloads.message(api.world, posted)
    return Reply(status=201, json=shown)


def answer_interaction(api: Api, call: Call) -> Reply:
    interaction_id, token = call.number("interaction_id"), call.params["interaction_token"]
    _, answer = api.interactions.callback(interaction_id, token, call.body)
    wants_it = call.query.get("with_response", "").lower() in ("1", "true")
    return Reply(json=answer) if wants_it else NOTHING


def follow_up(api: Api, call: Call) -> Reply:
    interaction = api.interactions.webhook(call.params["webhook_token"])
    message = api.interactions.follow_up(interaction, call.body)
    return Reply(json=payloads.message(api.world, message))


def get_answer(api: Api, call: Call) -> Reply:
    return Reply(json=payloads.message(api.world, _answer(api, call)))


def patch_answer(api: Api, call: Call) -> Reply:
    edited = posting.edit(api.world, _answer(api, call), call.body)
    return Reply(json=payloads.message(api.world, edited))


def delete_answer(api: Api, call: Call) -> Reply:
    posting.delete(api.world, _answer(api, call))
    return NOTHING


def _answer(api: Api, call: Call) -> Message:
    interaction = api.interactions.webhook(call.params["webhook_token"])
    return api.interactions.message_of(interaction, call.params.get("message_id", "@original"))


COMMANDS = "/applications/{application_id}/commands"
GUILD_COMMANDS = "/applications/{application_id}/guilds/{guild_id}/commands"
MESSAGES = "/channels/{channel_id}/messages"
MESSAGE = "/channels/{channel_id}/messages/{message_id}"
WEBHOOK = "/webhooks/{webhook_id}/{webhook_token}"
ORIGINAL = "/webhooks/{webhook_id}/{webhook_token}/messages/@original"
FOLLOWUP = "/webhooks/{webhook_id}/{webhook_token}/messages/{message_id}"
CALLBACK = "/interactions/{interaction_id}/{interaction_token}/callback"

ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/users/@me"): me,
    ("POST", "/users/@me/channels"): open_dm,
    ("GET", "/users/{user_id}"): get_user,
    ("GET", "/applications/@me"): application,
    ("GET", "/oauth2/applications/@me"): application,
    ("GET", "/gateway"): gateway,
    ("GET", "/gateway/bot"): gateway,
    ("GET", COMMANDS): list_commands,
    ("PUT", COMMANDS): put_commands,
    ("GET", GUILD_COMMANDS): list_commands,
    ("PUT", GUILD_COMMANDS): put_commands,
    ("GET", "/guilds/{guild_id}"): get_guild,
    ("GET", "/guilds/{guild_id}/members/{user_id}"): get_member,
    ("GET", "/channels/{channel_id}"): get_channel,
    ("PATCH", "/channels/{channel_id}"): patch_channel,
    ("POST", "/channels/{channel_id}/typing"): typing,
    ("GET", MESSAGES): list_messages,
    ("POST", MESSAGES): post_message,
    ("GET", MESSAGE): get_message,
    ("PATCH", MESSAGE): patch_message,
    ("DELETE", MESSAGE): delete_message,
    ("POST", "/channels/{channel_id}/threads"): start_thread,
    ("POST", "/channels/{channel_id}/messages/{message_id}/threads"): start_thread,
    ("POST", CALLBACK): answer_interaction,
    ("POST", WEBHOOK): follow_up,
    ("GET", ORIGINAL): get_answer,
    ("PATCH", ORIGINAL): patch_answer,
    ("DELETE", ORIGINAL): delete_answer,
    ("GET", FOLLOWUP): get_answer,
    ("PATCH", FOLLOWUP): patch_answer,
    ("DELETE", FOLLOWUP): delete_answer,
}
NEEDS_NO_TOKEN = {CALLBACK, WEBHOOK, ORIGINAL, FOLLOWUP, "/gateway"}
"""Routes whose path holds the secret, or that hold none."""


def major_parameter(params: dict[str, str]) -> str:
    """What separates the rate limit buckets of one route."""
    names = ("channel_id", "guild_id", "webhook_id", "webhook_token")
    return "/".join(params[name] for name in names if name in params)


def edit_wait_s(api: Api, call: Call) -> float | None:
    """Seconds until an old message may be edited again (30046); None means now."""
    message = api.world.messages.get(call.number("message_id"))
    if message is None:
        return None
    return api.limits.edit_wait(message.id, api.world.clock.now() - message.created_at)


def rate_limited(wait_s: float, code: int = 0) -> Payload:
    """The JSON of a 429."""
    text = "You are being rate limited."
    if code == 30046:
        text = "Maximum number of edits to messages older than 1 hour reached. Try again later."
    return {"message": text, "code": code, "retry_after": wait_s, "global": False}
