"""What Discord refuses about the form of a message, whoever sends it.

Decides: limits on text, embeds, components and nonce. Refuses to know: permissions, channels.
Source: Discord's API documentation (Message, Component Reference, Embed Limits).
"""

from __future__ import annotations

from collections import Counter

from bot.playground import errors
from bot.playground.entities import Message, MessageFlag, Payload
from bot.playground.payloads import links
from bot.playground.reading import ACTION_ROW, BUTTON, TEXT_DISPLAY, walk

CONTENT_LENGTH = 2000
EMBEDS, EMBED_TEXT = 10, 6000
V2_COMPONENTS, V2_TEXT = 40, 4000
ROWS = 5
LABEL_LENGTH = 80
NONCE_LENGTH = 25
FILES = 10


def check_request(payload: Payload) -> None:
    """Refuse a nonce that is too long. Raises ApiError 50035."""
    nonce = payload.get("nonce")
    if nonce is not None and len(str(nonce)) > NONCE_LENGTH:
        raise errors.invalid_form(
            "nonce", "NONCE_TYPE_TOO_LONG", f"Must be {NONCE_LENGTH} or fewer in length."
        )


def check_message(message: Message) -> None:
    """Refuse a message that Discord would not show. Raises ApiError 50035 or 50006."""
    if len(message.content) > CONTENT_LENGTH:
        raise _too_long("content", CONTENT_LENGTH)
    if len(message.attachments) > FILES:
        raise _too_long("attachments", FILES)
    _check_embeds(message)
    _check_components(message)
    is_v2 = bool(message.flags & MessageFlag.COMPONENTS_V2)
    if is_v2 and (message.content or message.embeds):
        raise errors.invalid_form(
            "content",
            "MESSAGE_CANNOT_USE_LEGACY_FIELDS_WITH_COMPONENTS_V2",
            "The 'content' field cannot be used when using MessageFlags.IS_COMPONENTS_V2",
        )
    parts = (message.content.strip(), message.embeds, message.attachments, message.components)
    if not any(parts) and not message.flags & MessageFlag.LOADING:
        raise errors.empty_message()


def _check_embeds(message: Message) -> None:
    if len(message.embeds) > EMBEDS:
        raise _too_long("embeds", EMBEDS)
    total = sum(_text_length(embed) for embed in message.embeds)
    if total > EMBED_TEXT:
        raise errors.invalid_form(
            "embeds", "MAX_EMBED_SIZE_EXCEEDED", f"Embed size exceeds maximum size of {EMBED_TEXT}"
        )


def _text_length(embed: Payload) -> int:
    texts = [embed.get("title"), embed.get("description")]
    texts += [embed.get("footer", {}).get("text"), embed.get("author", {}).get("name")]
    for field in embed.get("fields", ()):
        texts += [field["name"], field["value"]]
    return sum(len(text) for text in texts if text)


def _check_components(message: Message) -> None:
    parts = list(walk(message.components))
    is_v2 = bool(message.flags & MessageFlag.COMPONENTS_V2)
    if not is_v2:
        _check_rows(message.components)
    elif len(parts) > V2_COMPONENTS:
        raise _too_long("components", V2_COMPONENTS)
    if sum(len(p.get("content", "")) for p in parts if p["type"] == TEXT_DISPLAY) > V2_TEXT:
        raise _too_long("components", V2_TEXT)
    twice = [i for i, n in Counter(p.get("custom_id") for p in parts).items() if i and n > 1]
    if twice:
        raise errors.invalid_form(
            "components", "COMPONENT_CUSTOM_ID_DUPLICATED", f"Component custom id {twice[0]} twice"
        )
    for part in parts:
        if part["type"] == BUTTON and len(part.get("label") or "") > LABEL_LENGTH:
            raise _too_long("components.label", LABEL_LENGTH)
    missing = links(list(message.components)) - {file.filename for file in message.attachments}
    if missing:
        raise errors.invalid_form(
            "components",
            "UNFURLED_MEDIA_ITEM_REFERENCED_ATTACHMENT_NOT_FOUND",
            f"The referenced attachment was not found: {sorted(missing)[0]}",
        )


def _check_rows(components: tuple[Payload, ...]) -> None:
    if len(components) > ROWS:
        raise _too_long("components", ROWS)
    if any(part["type"] != ACTION_ROW for part in components):
        raise errors.invalid_form(
            "components", "UNION_TYPE_CHOICES", 'Value of field "type" must be one of (1,).'
        )


def _too_long(field: str, limit: int) -> errors.ApiError:
    return errors.invalid_form(
        field, "BASE_TYPE_MAX_LENGTH", f"Must be {limit:,} or fewer in length."
    )
