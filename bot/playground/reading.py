"""A message as a person reads it.

Decides: the text and the controls of a message, whichever generation of components it uses.
Refuses to know: who sees it. Source: Discord's API documentation, "Component Reference".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bot.playground.entities import Message, Payload

ACTION_ROW, BUTTON, STRING_SELECT, TEXT_INPUT = 1, 2, 3, 4
USER_SELECT, CHANNEL_SELECT = 5, 8
TEXT_DISPLAY, LABEL, FILE_UPLOAD = 10, 18, 19
RADIO_GROUP, CHECKBOX_GROUP, CHECKBOX = 21, 22, 23
LINK_BUTTON_STYLE = 5


def walk(components: Iterable[Payload]) -> Iterator[Payload]:
    """Every component, containers before what is in them, in reading order."""
    for component in components:
        yield component
        yield from walk(component.get("components", ()))
        for key in ("component", "accessory"):
            if isinstance(component.get(key), dict):
                yield from walk((component[key],))


def controls(message: Message) -> list[Payload]:
    """The buttons and selects that a person could use, disabled ones included."""
    return [part for part in walk(message.components) if part.get("custom_id")]


def find_control(message: Message, custom_id: str) -> Payload | None:
    """The button or select with this custom_id."""
    return next((part for part in controls(message) if part["custom_id"] == custom_id), None)


def plain_text(message: Message) -> str:
    """All text of a message, line by line: content, embeds, text components."""
    lines = [message.content]
    for embed in message.embeds:
        lines += _embed_lines(embed)
    lines += [
        part.get("content", "") for part in walk(message.components) if part["type"] == TEXT_DISPLAY
    ]
    return "\n".join(line for line in lines if line)


def _embed_lines(embed: Payload) -> Iterator[str]:
    yield embed.get("author", {}).get("name", "")
    yield embed.get("title", "")
    yield embed.get("description", "")
    for field in embed.get("fields", ()):
        yield f"{field['name']}: {field['value']}"
    yield embed.get("footer", {}).get("text", "")
