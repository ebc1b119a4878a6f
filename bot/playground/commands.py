"""The commands that the bot registered.

Decides: what Discord accepts as a command, and which commands a person is offered where. Refuses to
know: what a person types into one. Source: Discord's API documentation, "Application Commands".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bot.playground import errors
from bot.playground.entities import Channel, ChannelKind, Payload, User
from bot.playground.errors import ClientRefused
from bot.playground.permissions import bits
from bot.playground.state import World

SLASH, USER_MENU, MESSAGE_MENU = 1, 2, 3
NAME = re.compile(r"^[-_'\w]{1,32}$")
MAX_COMMANDS, MAX_OPTIONS = {SLASH: 100, USER_MENU: 15, MESSAGE_MENU: 15}, 25
GUILD, BOT_DM = 0, 1


class Commands:
    """Registered commands, by server (None: everywhere)."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._by_scope: dict[int | None, list[Payload]] = {None: []}
        self._opened: set[str] = set()
        self.writes = 0

    def registered(self, guild_id: int | None) -> list[Payload]:
        """The commands of one scope as the API shows them."""
        return list(self._by_scope.get(guild_id, ()))

    def usable(self) -> list[Payload]:
        """Every command of the server, its own before the global ones."""
        return [*self.registered(self._world.guild.id), *self.registered(None)]

    def overwrite(self, guild_id: int | None, given: list[Payload]) -> list[Payload]:
        """Replace a scope's commands; equal names keep their ids. Raises ApiError 50035."""
        check_commands(given)
        known = {(c["name"], c["type"]): c["id"] for c in self.registered(guild_id)}
        scope: Payload = {"guild_id": str(guild_id)} if guild_id else {}
        self._by_scope[guild_id] = [self._complete(command, known) | scope for command in given]
        self.writes += 1
        return self.registered(guild_id)

    def open_to_everyone(self, name: str) -> None:
        """Let everybody use a command, as a server's admin may set whatever the bot's default."""
        self._opened.add(name)

    def find(self, name: str, kind: int, user: User, channel: Channel) -> Payload:
        """The command that a person can use here. Raises ClientRefused."""
        found = [c for c in self.usable() if c["name"] == name and c["type"] == kind]
        if not found:
            names = ", ".join(sorted(c["name"] for c in self.usable())) or "none"
            raise ClientRefused(f"there is no command {name!r}; registered are: {names}")
        command = found[0]
        self._check_place(command, user, channel)
        return command

    def _check_place(self, command: Payload, user: User, channel: Channel) -> None:
        name = command["name"]
        contexts = command.get("contexts")
        if channel.kind is ChannelKind.DM:
            is_open = BOT_DM in contexts if contexts else command.get("dm_permission") is not False
            if not is_open or command.get("guild_id"):
                raise ClientRefused(f"/{name} is not offered in direct messages")
            return
        if contexts and GUILD not in contexts:
            raise ClientRefused(f"/{name} is offered in direct messages only")
        if command.get("nsfw") and not channel.nsfw:
            raise ClientRefused(f"/{name} is offered in age-restricted channels only")
        held = self._world.permissions(channel, user)
        if not held & bits("use_application_commands"):
            raise ClientRefused(f"{user.name} may not use commands in #{channel.name}")
        needed = int(command.get("default_member_permissions") or 0)
        if held & needed != needed and name not in self._opened:
            raise ClientRefused(f"/{name} is not offered to {user.name}")

    def _complete(self, command: Payload, known: Mapping[tuple[str, int], str]) -> Payload:
        kind = command.get("type") or SLASH
        command_id = known.get((command["name"], kind)) or str(self._world.new_id())
        own: Payload = {"id": command_id, "application_id": str(self._world.bot.id), "type": kind}
        version = {"version": str(self._world.new_id())}
        needed = command.get("default_member_permissions")
        own["default_member_permissions"] = None if needed is None else str(needed)
        given = {key: value for key, value in command.items() if value is not None}
        return {"description": ""} | given | own | version


def check_commands(given: list[Payload]) -> None:
    """Refuse what Discord refuses about a list of commands. Raises ApiError 50035."""
    seen: set[tuple[str, int]] = set()
    for place, command in enumerate(given):
        kind, name = command.get("type") or SLASH, command["name"]
        if (name, kind) in seen:
            raise errors.invalid_form(
                f"{place}.name", "APPLICATION_COMMANDS_DUPLICATE_NAME", f"{name} is there twice"
            )
        seen.add((name, kind))
        if kind == SLASH:
            _check_slash(str(place), command)
    for kind, most in MAX_COMMANDS.items():
        if sum(1 for _, other in seen if other == kind) > most:
            raise errors.invalid_form("_", "MAX_COMMANDS", f"At most {most} of type {kind}")


def _check_slash(where: str, command: Payload) -> None:
    if not NAME.match(command["name"]) or command["name"] != command["name"].lower():
        raise errors.invalid_form(
            f"{where}.name", "APPLICATION_COMMAND_INVALID_NAME", "Command name is invalid"
        )
    if not 1 <= len(command.get("description") or "") <= 100:
        raise errors.invalid_form(
            f"{where}.description", "BASE_TYPE_BAD_LENGTH", "Must be between 1 and 100 in length."
        )
    options = command.get("options") or []
    if len(options) > MAX_OPTIONS:
        raise errors.invalid_form(f"{where}.options", "BASE_TYPE_MAX_LENGTH", "At most 25 options")
    required = [bool(option.get("required")) for option in options]
    if required != sorted(required, reverse=True):
        raise errors.invalid_form(
            f"{where}.options",
            "APPLICATION_COMMAND_OPTIONS_REQUIRED_INVALID",
            "Required options must be placed before non-required options",
        )
    for number, option in enumerate(options):
        _check_slash(f"{where}.options.{number}", option)
