"""What a person fills in, as Discord's client checks and sends it.

Decides: whether the values of a command, a select or a modal are allowed, and the interaction data
that they become. Refuses to know: the bot's commands by name; everything comes from what the bot
registered or showed. Source: Discord's API documentation, "Interaction Data" and "Component
Reference".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

from bot.playground import payloads
from bot.playground.entities import Channel, Message, Payload, Role, Upload, User
from bot.playground.errors import ClientRefused
from bot.playground.reading import (
    ACTION_ROW,
    BUTTON,
    CHANNEL_SELECT,
    CHECKBOX,
    CHECKBOX_GROUP,
    FILE_UPLOAD,
    LABEL,
    LINK_BUTTON_STYLE,
    RADIO_GROUP,
    STRING_SELECT,
    TEXT_DISPLAY,
    TEXT_INPUT,
    USER_SELECT,
    find_control,
    walk,
)
from bot.playground.state import World

Value = str | int | float | bool | User | Channel | Role | Upload
ModalValue = str | bool | list[str] | list[Upload]
TEXT_INPUT_LENGTH = 4000
OPTION_LENGTH = 6000


class OptionKind(IntEnum):
    """Discord's types of command options."""

    SUBCOMMAND = 1
    GROUP = 2
    STRING = 3
    INTEGER = 4
    BOOLEAN = 5
    USER = 6
    CHANNEL = 7
    ROLE = 8
    MENTIONABLE = 9
    NUMBER = 10
    ATTACHMENT = 11


TYPES: dict[OptionKind, tuple[type, ...]] = {
    OptionKind.STRING: (str,),
    OptionKind.INTEGER: (int,),
    OptionKind.BOOLEAN: (bool,),
    OptionKind.USER: (User,),
    OptionKind.CHANNEL: (Channel,),
    OptionKind.ROLE: (Role,),
    OptionKind.MENTIONABLE: (User, Role),
    OptionKind.NUMBER: (int, float),
    OptionKind.ATTACHMENT: (Upload,),
}


class Form:
    """One person's input; collects the objects behind ids in `resolved` while it is filled."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.resolved: Payload = {}

    def command(
        self, command: Payload, path: list[str], given: Mapping[str, Value], focused: str = ""
    ) -> Payload:
        """The data of a slash command. `path` names its subcommand, if any.

        With `focused` it is an autocomplete request: nothing is required, and the focused option
        may hold anything. Raises ClientRefused.
        """
        level = _subcommand(command, path)
        schema = {option["name"]: option for option in level.get("options") or ()}
        unknown = [name for name in given if name not in schema]
        if unknown:
            raise ClientRefused(f"/{command['name']} has no option {unknown[0]!r}")
        missing = [n for n, option in schema.items() if option.get("required") and n not in given]
        if missing and not focused:
            raise ClientRefused(f"/{command['name']} needs the option {missing[0]!r}")
        options = [self._option(schema[n], value, n == focused) for n, value in given.items()]
        kinds = (OptionKind.SUBCOMMAND, OptionKind.GROUP)
        for kind, name in zip(kinds, reversed(path), strict=False):
            options = [{"name": name, "type": int(kind), "options": options}]
        return self._named(command) | {"options": options, "resolved": self.resolved}

    def message_menu(self, command: Payload, target: Message) -> Payload:
        """The data of a message command on `target`."""
        shown = payloads.message(self._world, target)
        resolved = {"messages": {str(target.id): shown}}
        return self._named(command) | {"target_id": str(target.id), "resolved": resolved}

    def control(self, message: Message, custom_id: str, values: Iterable[Value]) -> Payload:
        """The data of a pressed button or a used select. Raises ClientRefused."""
        control = find_control(message, custom_id)
        if control is None:
            raise ClientRefused(f"the message has no button or menu {custom_id!r}")
        if control.get("disabled"):
            raise ClientRefused(f"{control.get('label') or custom_id!r} is disabled")
        data = {"custom_id": custom_id, "component_type": control["type"], "id": control.get("id")}
        if control["type"] == BUTTON:
            if control.get("style") == LINK_BUTTON_STYLE:
                raise ClientRefused("a link button sends nothing to the bot")
            return data
        chosen = self._chosen(control, list(values))
        return data | {"values": chosen} | ({"resolved": self.resolved} if self.resolved else {})

    def modal(self, modal: Payload, given: Mapping[str, ModalValue]) -> Payload:
        """The data of a submitted modal; `given` maps custom_ids to values."""
        fields = [part for part in walk(modal["components"]) if part.get("custom_id")]
        unknown = set(given) - {part["custom_id"] for part in fields}
        if unknown:
            raise ClientRefused(f"the modal has no field {sorted(unknown)[0]!r}")
        answers = [self._modal_part(part, given) for part in modal["components"]]
        for number, part in enumerate(walk(answers), start=1):
            part["id"] = number
        return {"custom_id": modal["custom_id"], "components": answers, "resolved": self.resolved}

    def _named(self, command: Payload) -> Payload:
        data = {key: command[key] for key in ("id", "name", "type")}
        return data | ({"guild_id": command["guild_id"]} if command.get("guild_id") else {})

    def _option(self, option: Payload, value: Value, is_focused: bool) -> Payload:
        filled: Payload = {"name": option["name"], "type": option["type"]}
        if is_focused:
            return filled | {"value": value, "focused": True}
        _check_option(option, value)
        return filled | {"value": self._reference(value)}

    def _reference(self, value: Value) -> Any:
        """The value itself, or the id of an object that goes into `resolved`."""
        world = self._world
        if isinstance(value, Upload):
            folder = f"ephemeral-attachments/{world.bot.id}"
            file = world.store(value, folder, ephemeral=True)
            return self._resolve("attachments", file.id, payloads.attachment(world, file))
        if isinstance(value, User):
            body = payloads.member(world, value, 0)
            del body["user"]
            self._resolve("members", value.id, body)
            return self._resolve("users", value.id, payloads.user(value))
        if isinstance(value, Channel):
            body = payloads.channel(world, value) | {"permissions": "0"}
            return self._resolve("channels", value.id, body)
        if isinstance(value, Role):
            roles = payloads.guild(world)["roles"]
            body = next(role for role in roles if role["id"] == str(value.id))
            return self._resolve("roles", value.id, body)
        return value

    def _resolve(self, kind: str, object_id: int, body: Payload) -> str:
        self.resolved.setdefault(kind, {})[str(object_id)] = body
        return str(object_id)

    def _chosen(self, control: Payload, values: list[Any]) -> list[str]:
        """What a select sends. Users and channels go by their ids."""
        low, high = _span(control)
        if not low <= len(values) <= high:
            raise ClientRefused(f"{len(values)} values chosen; {low} to {high} are allowed")
        if control["type"] == STRING_SELECT:
            offered = {option["value"] for option in control["options"]}
            wrong = [value for value in values if value not in offered]
            if wrong:
                raise ClientRefused(f"{wrong[0]!r} is not among the choices")
            return values
        assert USER_SELECT <= control["type"] <= CHANNEL_SELECT
        return [self._reference(value) for value in values]

    def _modal_part(self, part: Payload, given: Mapping[str, ModalValue]) -> Payload:
        if part["type"] == TEXT_DISPLAY:
            return {"type": TEXT_DISPLAY}
        if part["type"] == LABEL:
            field = part["component"]
            return {"type": LABEL, "component": self._field(field, given)}
        assert part["type"] == ACTION_ROW
        fields = [self._field(field, given) for field in part["components"]]
        return {"type": ACTION_ROW, "components": fields}

    def _field(self, field: Payload, given: Mapping[str, ModalValue]) -> Payload:
        name, kind = field["custom_id"], field["type"]
        answer: Payload = {"type": kind, "custom_id": name}
        value: Any = given.get(name)
        if kind == TEXT_INPUT:
            return answer | {"value": _typed(field, value)}
        if kind == CHECKBOX:
            return answer | {"value": bool(field.get("default") if value is None else value)}
        if kind == RADIO_GROUP:
            return answer | {"value": value}
        if value is None and field.get("required", True):
            raise ClientRefused(f"the field {name!r} needs a value")
        if kind == FILE_UPLOAD:
            return answer | {"values": self._files(field, value or [])}
        if kind == CHECKBOX_GROUP:
            return answer | {"values": value or []}
        return answer | {"values": self._chosen(field, value) if value else []}

    def _files(self, field: Payload, uploads: list[Upload]) -> list[str]:
        low, high = _span(field)
        if uploads and not low <= len(uploads) <= high:
            raise ClientRefused(f"{len(uploads)} files chosen; {low} to {high} are allowed")
        return [str(self._reference(upload)) for upload in uploads]


def _subcommand(command: Payload, path: list[str]) -> Payload:
    level = command
    for part in path:
        groups = [o for o in level.get("options") or () if o["type"] <= OptionKind.GROUP]
        found = [option for option in groups if option["name"] == part]
        if not found:
            raise ClientRefused(f"/{command['name']} has no subcommand {part!r}")
        level = found[0]
    if any(option["type"] <= OptionKind.GROUP for option in level.get("options") or ()):
        raise ClientRefused(f"/{command['name']} needs a subcommand")
    return level


def level_of(command: Payload, path: list[str]) -> list[Payload]:
    """The options of a command or of its subcommand. Raises ClientRefused."""
    return list(_subcommand(command, path).get("options") or ())


def _span(field: Payload) -> tuple[int, int]:
    """How few and how many values a select or upload takes."""
    low, high = field.get("min_values"), field.get("max_values")
    return 1 if low is None else low, 1 if high is None else high


def _check_option(option: Payload, value: Value) -> None:
    name, kind = option["name"], OptionKind(option["type"])
    is_bool_as_number = isinstance(value, bool) and kind is not OptionKind.BOOLEAN
    if not isinstance(value, TYPES[kind]) or is_bool_as_number:
        raise ClientRefused(f"{name}: {value!r} is not a value of type {kind.name.lower()}")
    choices = [choice["value"] for choice in option.get("choices") or ()]
    if choices and value not in choices:
        raise ClientRefused(f"{name}: {value!r} is not among the choices {choices}")
    if isinstance(value, str):
        low, high = option.get("min_length") or 0, option.get("max_length") or OPTION_LENGTH
        if not low <= len(value) <= high:
            raise ClientRefused(f"{name}: {len(value)} characters; {low} to {high} are allowed")
    elif isinstance(value, int | float):
        low, high = option.get("min_value"), option.get("max_value")
        if (low is not None and value < low) or (high is not None and value > high):
            raise ClientRefused(f"{name}: {value} is not between {low} and {high}")


def _typed(field: Payload, value: str | None) -> str:
    name, text = field["custom_id"], value if value is not None else field.get("value") or ""
    if not text and field.get("required", True):
        raise ClientRefused(f"the field {name!r} needs a text")
    low, high = field.get("min_length") or 0, field.get("max_length") or TEXT_INPUT_LENGTH
    if text and not low <= len(text) <= high:
        raise ClientRefused(f"{name!r}: {len(text)} characters; {low} to {high} are allowed")
    return text
