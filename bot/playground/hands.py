"""What a person does on the page, as calls of the playground.

Decides: how the page's requests (names, ids, texts, files) become commands, presses and forms, and
which sentence refuses them. Refuses to know: HTTP, and any command by name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from bot.playground.commands import MESSAGE_MENU
from bot.playground.entities import Channel, Message, Payload, Upload, User
from bot.playground.errors import ApiError, ClientRefused
from bot.playground.forms import OptionKind, Value, level_of
from bot.playground.interactions import Interaction
from bot.playground.permissions import MIB, bits
from bot.playground.reading import BUTTON, FILE_UPLOAD, STRING_SELECT, find_control, walk
from bot.playground.server import Playground
from bot.playground.view import View

CHOICES_WITHIN_S = 3.2


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a person did: the fields of the form, and its files by field."""

    fields: Payload
    files: dict[str, list[Upload]] = {}

    def text(self, name: str) -> str:
        """A field that is a text. Raises ClientRefused."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise ClientRefused(f"the field {name!r} is missing")
        return value

    def mapping(self, name: str) -> Payload:
        """A field that is an object; {} when it is not there."""
        value = self.fields.get(name)
        return value if isinstance(value, dict) else {}


class Hands:
    """One user's hands on the playground."""

    def __init__(self, discord: Playground, user: User) -> None:
        self._discord = discord
        self._world = discord.world
        self._user = user
        self._view = View(discord, user)

    async def do(self, verb: str, deed: Deed) -> Payload:
        """Do what the page asks; what it is told at once. Raises ClientRefused."""
        act = DEEDS.get(verb)
        if act is None:
            raise ClientRefused(f"nobody can {verb!r} here")
        if deed.files:
            self._check_sizes(deed)
        return await act(self, deed)

    async def slash(self, deed: Deed) -> Payload:
        """A slash command with its options."""
        options, files = self._options(deed)
        name = deed.text("command")
        sent = await self._discord.slash(self._user, self._channel(deed), name, options, files)
        return _sent(sent)

    async def autocomplete(self, deed: Deed) -> Payload:
        """The choices that the bot offers for the option that is being typed."""
        options, _ = self._options(deed, focused=deed.text("focused"))
        channel, name = self._channel(deed), deed.text("command")
        asked = await self._discord.autocomplete(
            self._user, channel, name, deed.text("focused"), options
        )
        try:
            await asked.answered(CHOICES_WITHIN_S)
        except TimeoutError:
            raise ClientRefused("loading options failed") from None
        return {"choices": asked.choices or []}

    async def menu(self, deed: Deed) -> Payload:
        """An entry of a message's menu."""
        message = self._message(deed)
        return _sent(await self._discord.message_command(self._user, message, deed.text("command")))

    async def press(self, deed: Deed) -> Payload:
        """A button, or the values chosen in a select."""
        message, custom_id = self._message(deed), deed.text("custom_id")
        control = find_control(message, custom_id)
        values = [str(value) for value in deed.fields.get("values") or ()]
        kind = control["type"] if control else BUTTON
        chosen: list[Any] = (
            list(values) if kind in (BUTTON, STRING_SELECT) else [self._found(v) for v in values]
        )
        return _sent(await self._discord.press(message, custom_id, self._user, chosen))

    async def modal(self, deed: Deed) -> Payload:
        """A modal that was filled in."""
        shown_by = self._discord.api.interactions.find(_number(deed.text("interaction_id")))
        if shown_by is None or shown_by.modal is None or shown_by.asked.user.id != self._user.id:
            raise ClientRefused("that form is gone")
        values: dict[str, Any] = dict(deed.mapping("values"))
        for part in walk(shown_by.modal["components"]):
            if part["type"] == FILE_UPLOAD and part["custom_id"] in deed.files:
                values[part["custom_id"]] = deed.files[part["custom_id"]]
            elif part["type"] in OBJECT_SELECTS and part["custom_id"] in values:
                values[part["custom_id"]] = [self._found(v) for v in values[part["custom_id"]]]
        return _sent(await self._discord.submit_modal(shown_by, values))

    async def say(self, deed: Deed) -> Payload:
        """A message of one's own."""
        channel = self._channel(deed)
        if not self._view.may_post(channel):
            raise ClientRefused(f"{self._user.name} may not write in #{channel.name}")
        files = [upload for uploads in deed.files.values() for upload in uploads]
        try:
            said = await self._discord.say(self._user, channel, deed.text("text"), files)
        except ApiError as error:
            raise ClientRefused(str(error.body["message"])) from None
        return {"message_id": str(said.id)}

    async def delete(self, deed: Deed) -> Payload:
        """Delete a message: one's own, or as a moderator."""
        message = self._message(deed)
        channel = self._world.channels[message.channel_id]
        held = self._world.permissions(channel, self._user)
        if message.author_id != self._user.id and not held & bits("manage_messages"):
            raise ClientRefused(f"{self._user.name} may not delete this message")
        self._discord.delete_message(message)
        return {}

    def _check_sizes(self, deed: Deed) -> None:
        limit = self._world.upload_limit(self._channel(deed))
        for upload in (upload for uploads in deed.files.values() for upload in uploads):
            if len(upload.data) > limit:
                raise ClientRefused(
                    f"{upload.filename} has {len(upload.data) / MIB:.1f} MiB; a file here may have"
                    f" at most {limit / MIB:g} MiB"
                )

    def _options(self, deed: Deed, focused: str = "") -> tuple[dict[str, Value], dict[str, Upload]]:
        """Options as the command's registered types want them."""
        root, *path = deed.text("command").split()
        offered = self._view.commands(self._channel(deed))
        command = next(
            (c for c in offered if c["name"] == root and c["type"] != MESSAGE_MENU), None
        )
        if command is None:
            raise ClientRefused(f"/{root} is not offered here")
        kinds = {o["name"]: OptionKind(o["type"]) for o in level_of(command, path)}
        given = {
            name: value if name == focused else self._value(name, kinds[name], value)
            for name, value in deed.mapping("options").items()
            if name in kinds
        }
        files = {name: uploads[0] for name, uploads in deed.files.items() if name in kinds}
        return given, files

    def _value(self, name: str, kind: OptionKind, value: Any) -> Value:
        try:
            if kind is OptionKind.INTEGER:
                return int(value)
            if kind is OptionKind.NUMBER:
                return float(value)
        except (TypeError, ValueError):
            raise ClientRefused(f"{name}: {value!r} is not a number") from None
        if kind in (OptionKind.USER, OptionKind.CHANNEL, OptionKind.ROLE, OptionKind.MENTIONABLE):
            return self._found(str(value))
        return bool(value) if kind is OptionKind.BOOLEAN else str(value)

    def _found(self, object_id: str) -> Value:
        """The user, channel or role with this id."""
        number, world = _number(object_id), self._world
        roles = {role.id: role for role in world.guild.roles}
        found = world.users.get(number) or world.channels.get(number) or roles.get(number)
        if found is None:
            raise ClientRefused(f"there is nothing with the id {object_id}")
        return found

    def _channel(self, deed: Deed) -> Channel:
        channel = self._world.channels.get(_number(deed.text("channel_id")))
        if channel is None or not self._view.sees(channel):
            raise ClientRefused("that channel is gone")
        return channel

    def _message(self, deed: Deed) -> Message:
        message = self._world.messages.get(_number(deed.text("message_id")))
        if message is None or not self._view.sees_message(message):
            raise ClientRefused("that message is gone")
        return message


OBJECT_SELECTS = (5, 6, 7, 8)
"""Selects of users, roles, either, and channels."""

DEEDS: dict[str, Callable[[Hands, Deed], Awaitable[Payload]]] = {
    "slash": Hands.slash,
    "autocomplete": Hands.autocomplete,
    "menu": Hands.menu,
    "press": Hands.press,
    "modal": Hands.modal,
    "say": Hands.say,
    "delete": Hands.delete,
}


def _sent(interaction: Interaction) -> Payload:
    return {"interaction_id": str(interaction.id)}


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ClientRefused(f"{text!r} is not an id") from None
