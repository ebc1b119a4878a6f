"""Holds what the playground answers against the response schemas of Discord's OpenAPI document.

Decides: which schema an answer must meet. Refuses to know: how the answer came about.
Source: tests/data/discord-openapi-responses.json (MIT; how it was made stands in it).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

DOCUMENT = Path(__file__).parent / "data" / "discord-openapi-responses.json"
MESSAGES = "/channels/{channel_id}/messages"
ORIGINAL = "/webhooks/{webhook_id}/{webhook_token}/messages/@original"
FOLLOWUP = "/webhooks/{webhook_id}/{webhook_token}/messages/{message_id}"
CALLBACK = "/interactions/{interaction_id}/{interaction_token}/callback"
CHANNELS = ("GuildChannelResponse", "PrivateChannelResponse", "ThreadResponse")

ANSWERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("GET", "/users/@me"): ("UserPIIResponse",),
    ("GET", "/users/{user_id}"): ("UserResponse",),
    ("POST", "/users/@me/channels"): ("PrivateChannelResponse",),
    ("GET", "/gateway/bot"): ("GatewayBotResponse",),
    ("GET", "/applications/@me"): ("PrivateApplicationResponse",),
    ("GET", "/oauth2/applications/@me"): ("PrivateApplicationResponse",),
    ("GET", "/guilds/{guild_id}/members/{user_id}"): ("GuildMemberResponse",),
    ("GET", "/channels/{channel_id}"): CHANNELS,
    ("PATCH", "/channels/{channel_id}"): CHANNELS,
    ("POST", "/channels/{channel_id}/threads"): ("CreatedThreadResponse",),
    ("POST", MESSAGES): ("MessageResponse",),
    ("GET", MESSAGES + "/{message_id}"): ("MessageResponse",),
    ("PATCH", MESSAGES + "/{message_id}"): ("MessageResponse",),
    ("POST", MESSAGES + "/{message_id}/threads"): ("ThreadResponse",),
    ("POST", "/webhooks/{webhook_id}/{webhook_token}"): ("MessageResponse",),
    ("GET", ORIGINAL): ("MessageResponse",),
    ("PATCH", ORIGINAL): ("MessageResponse",),
    ("GET", FOLLOWUP): ("MessageResponse",),
    ("PATCH", FOLLOWUP): ("MessageResponse",),
    ("POST", CALLBACK): ("InteractionCallbackResponse",),
}
LISTS: dict[tuple[str, str], str] = {
    ("GET", MESSAGES): "MessageResponse",
    ("GET", "/applications/{application_id}/commands"): "ApplicationCommandResponse",
    ("PUT", "/applications/{application_id}/commands"): "ApplicationCommandResponse",
    ("PUT", "/applications/{application_id}/guilds/{guild_id}/commands"): (
        "ApplicationCommandResponse"
    ),
}


@cache
def _components() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    return document["components"]


@cache
def _validator(name: str) -> Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": _components()}
    return Draft202012Validator(schema)


def covers(method: str, route: str) -> bool:
    """Whether the document describes this route's answer."""
    return (method, route) in ANSWERS or (method, route) in LISTS


def answer_problems(method: str, route: str, status: int, answer: Any) -> list[str]:
    """What Discord's document says against this answer, each with the path to it; [] is good."""
    if answer is None or status == 0:
        return []
    if status == 429:
        return _against(("RatelimitedResponse",), answer, f"{method} {route} 429")
    if status >= 400:
        # the document has numbers as codes inside `errors`, where Discord sends words
        answer = {key: value for key, value in answer.items() if key != "errors"}
        return _against(("ErrorResponse",), answer, f"{method} {route} {status}")
    if (method, route) in LISTS:
        name = LISTS[method, route]
        return [p for one in answer for p in _against((name,), one, f"{method} {route}")]
    return _against(ANSWERS.get((method, route), ()), answer, f"{method} {route}")


def _against(names: tuple[str, ...], answer: Any, where: str) -> list[str]:
    """The problems with the schema that fits best."""
    found = [list(_validator(name).iter_errors(answer)) for name in names]
    if not found:
        return []
    return [
        f"{where}: {'.'.join(map(str, error.absolute_path)) or 'answer'}: {error.message[:300]}"
        for error in map(_deepest, min(found, key=len))
    ]


def _deepest(error: Any) -> Any:
    while error.context:
        error = max(error.context, key=lambda inner: len(inner.absolute_path))
    return error
