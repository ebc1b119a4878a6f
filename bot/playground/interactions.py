"""Interactions on Discord's side: sent once, answered once, then reachable until the token dies.

Decides: what an interaction carries, which answers it takes and when it is too late. Refuses to
know: HTTP, and how a person built the command. Source: Discord's API documentation, "Receiving and
Responding to Interactions".
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import timedelta
from enum import IntEnum

import msgspec

from bot.playground import errors, payloads, posting
from bot.playground.entities import (
    Channel,
    ChannelKind,
    EventKind,
    Message,
    MessageFlag,
    Payload,
    User,
)
from bot.playground.posting import Body, Origin
from bot.playground.state import Intent, World

ANSWER_WITHIN_S = 3.0
TOKEN_LIFE_S = 900.0


class InteractionKind(IntEnum):
    """Discord's interaction types."""

    COMMAND = 2
    COMPONENT = 3
    AUTOCOMPLETE = 4
    MODAL_SUBMIT = 5


class AnswerKind(IntEnum):
    """Discord's interaction callback types that the playground has."""

    MESSAGE = 4
    DEFERRED_MESSAGE = 5
    DEFERRED_UPDATE = 6
    UPDATE_MESSAGE = 7
    CHOICES = 8
    MODAL = 9


ALLOWED = {
    InteractionKind.COMMAND: {4, 5, 9},
    InteractionKind.COMPONENT: {4, 5, 6, 7, 9},
    InteractionKind.AUTOCOMPLETE: {8},
    InteractionKind.MODAL_SUBMIT: {4, 5, 6, 7},
}


SHOWS_MESSAGE = {AnswerKind.MESSAGE, AnswerKind.UPDATE_MESSAGE}
DEFERS = {AnswerKind.DEFERRED_MESSAGE, AnswerKind.DEFERRED_UPDATE}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what where: the part of an interaction that is known when it is sent."""

    kind: InteractionKind
    user: User
    channel: Channel
    data: Payload
    message: Message | None = None
    command_name: str | None = None


class Interaction:
    """One interaction as the person who caused it sees it."""

    def __init__(self, world: World, asked: Asked, token_life_s: float) -> None:
        self._world = world
        self.asked = asked
        self.id = world.new_id()
        self.token = secrets.token_urlsafe(32)
        self.sent_at = world.clock.now()
        self.expires_at = self.sent_at + timedelta(seconds=token_life_s)
        self.answer: AnswerKind | None = None
        self.response_time_s: float | None = None
        self.has_failed = False
        self.choices: list[Payload] | None = None
        self.modal: Payload | None = None
        self.original_id: int | None = None
        self.message_ids: set[int] = set()

    @property
    def response(self) -> Message | None:
        """The answer as it stands now; None while there is none, or when it was deleted."""
        return self._world.messages.get(self.original_id or 0)

    async def answered(self, timeout_s: float = ANSWER_WITHIN_S + 1) -> Interaction:
        """Wait for the first answer. Raises TimeoutError."""
        await self._world.journal.until(lambda: self.answer, timeout_s)
        return self

    def kill_token(self, after_s: float = 0.0) -> None:
        """Let the token die: from `after_s` seconds on every use answers 401/50027."""
        self.expires_at = self._world.clock.now() + timedelta(seconds=after_s)

    def origin(self, flags: int) -> Origin:
        """The source of a message with these flags that answers this interaction."""
        is_ephemeral = bool(flags & MessageFlag.EPHEMERAL)
        return Origin(
            interaction_id=self.id,
            asker_id=self.asked.user.id,
            command_name=self.asked.command_name,
            ephemeral_for=self.asked.user.id if is_ephemeral else None,
        )


class Interactions:
    """Every interaction of this playground, found by its token."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._by_token: dict[str, Interaction] = {}
        self._by_id: dict[int, Interaction] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self.token_life_s = TOKEN_LIFE_S
        self.answer_within_s = ANSWER_WITHIN_S
        self.deliveries_of_next = 1

    def send(self, asked: Asked) -> Interaction:
        """Send an interaction to the bot, `deliveries_of_next` times with one id and token."""
        interaction = Interaction(self._world, asked, self.token_life_s)
        self._by_token[interaction.token] = self._by_id[interaction.id] = interaction
        payload = self._payload(interaction)
        self._world.show(
            EventKind.INTERACTION_SENT,
            channel_id=asked.channel.id,
            user_id=asked.user.id,
            interaction_id=interaction.id,
            text=asked.command_name or str(asked.data.get("custom_id", "")),
        )
        deliveries, self.deliveries_of_next = self.deliveries_of_next, 1
        for _ in range(deliveries):
            self._world.send("INTERACTION_CREATE", payload, Intent.NONE)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self.answer_within_s, self._give_up, interaction)
        self._timers.add(timer)
        return interaction

    def find(self, interaction_id: int) -> Interaction | None:
        """The interaction with this id."""
        return self._by_id.get(interaction_id)

    def kill_tokens(self) -> None:
        """Let the token of every interaction so far die."""
        for interaction in self._by_token.values():
            interaction.kill_token()

    def close(self) -> None:
        """Wait for no answer any more."""
        for timer in self._timers:
            timer.cancel()

    def callback(self, interaction_id: int, token: str, body: Body) -> tuple[Interaction, Payload]:
        """Take the bot's first answer. Raises ApiError 10062, 40060 or the message's own."""
        interaction = self._by_token.get(token)
        if interaction is None or interaction.id != interaction_id:
            raise errors.unknown_interaction()
        if interaction.answer is not None:
            raise errors.already_acknowledged()
        now = self._world.clock.now()
        waited_s = (now - interaction.sent_at).total_seconds()
        if waited_s > self.answer_within_s or now >= interaction.expires_at:
            raise errors.unknown_interaction()
        kind = body.payload.get("type")
        if kind not in ALLOWED[interaction.asked.kind]:
            raise errors.invalid_form("type", "BASE_TYPE_CHOICES", f"Type {kind} is not allowed.")
        answer = AnswerKind(kind)
        ANSWERS[answer](self._world, interaction, _inner(body))
        interaction.answer, interaction.response_time_s = answer, waited_s
        self._world.journal.wake()
        return interaction, self._callback_answer(interaction, answer)

    def webhook(self, token: str) -> Interaction:
        """The answered interaction behind a webhook route. Raises ApiError 50027 or 10015."""
        interaction = self._by_token.get(token)
        if interaction is None or self._world.clock.now() >= interaction.expires_at:
            raise errors.dead_token()
        if interaction.answer is None:
            raise errors.unknown_webhook()
        return interaction

    def message_of(self, interaction: Interaction, name: str) -> Message:
        """One of an interaction's messages: `@original` or an id. Raises ApiError 10008."""
        message_id = interaction.original_id if name == "@original" else int(name)
        message = self._world.messages.get(message_id or 0)
        if message is None or message.id not in interaction.message_ids:
            raise errors.unknown_message()
        return message

    def follow_up(self, interaction: Interaction, body: Body) -> Message:
        """A further message, or the awaited one when the answer was only "thinking"."""
        original = interaction.response
        if original is not None and original.flags & MessageFlag.LOADING:
            return posting.edit(self._world, original, body)
        return _post(self._world, interaction, body)

    def _give_up(self, interaction: Interaction) -> None:
        if interaction.answer is None:
            interaction.has_failed = True
            self._world.show(
                EventKind.INTERACTION_FAILED,
                channel_id=interaction.asked.channel.id,
                user_id=interaction.asked.user.id,
                interaction_id=interaction.id,
                text="The application did not respond",
            )

    def _payload(self, interaction: Interaction) -> Payload:
        world, asked = self._world, interaction.asked
        permissions = world.permissions(asked.channel, asked.user)
        place = payloads.channel(world, asked.channel) | {"permissions": str(permissions)}
        body: Payload = {
            "id": str(interaction.id),
            "application_id": str(world.bot.id),
            "type": int(asked.kind),
            "token": interaction.token,
            "version": 1,
            "data": asked.data,
            "channel_id": str(asked.channel.id),
            "channel": place,
            "app_permissions": str(world.permissions(asked.channel, world.bot)),
            "locale": asked.user.locale,
            "entitlements": [],
            "attachment_size_limit": world.upload_limit(asked.channel),
        }
        if asked.message is not None:
            body["message"] = payloads.message(world, asked.message)
        if asked.channel.kind is ChannelKind.DM:
            owners = {"1": str(asked.user.id)}
            who: Payload = {"user": payloads.user(asked.user), "context": 1}
            return body | who | {"authorizing_integration_owners": owners}
        guild_id = str(world.guild.id)
        return body | {
            "member": payloads.member(world, asked.user, permissions),
            "context": 0,
            "guild_id": guild_id,
            "guild": {"id": guild_id, "locale": "en-US", "features": []},
            "guild_locale": "en-US",
            "authorizing_integration_owners": {"0": guild_id},
        }

    def _callback_answer(self, interaction: Interaction, answer: AnswerKind) -> Payload:
        facts: Payload = {"id": str(interaction.id), "type": int(interaction.asked.kind)}
        body: Payload = {"interaction": facts}
        message = interaction.response
        if message is not None and answer in SHOWS_MESSAGE | DEFERS:
            facts |= {
                "response_message_id": str(message.id),
                "response_message_loading": bool(message.flags & MessageFlag.LOADING),
                "response_message_ephemeral": message.ephemeral_for is not None,
            }
        if message is not None and answer in SHOWS_MESSAGE:
            shown = payloads.message(self._world, message)
            body["resource"] = {"type": int(answer), "message": shown}
        return body


def _inner(body: Body) -> Body:
    return Body(payload=body.payload.get("data") or {}, uploads=body.uploads)


def _post(world: World, interaction: Interaction, body: Body) -> Message:
    origin = interaction.origin(int(body.payload.get("flags") or 0))
    message = posting.post(world, interaction.asked.channel, world.bot, body, origin)
    interaction.message_ids.add(message.id)
    return message


def _answer_with_message(world: World, interaction: Interaction, body: Body) -> None:
    interaction.original_id = _post(world, interaction, body).id


def _answer_later(world: World, interaction: Interaction, body: Body) -> None:
    flags = int(body.payload.get("flags") or 0) | MessageFlag.LOADING
    _answer_with_message(world, interaction, Body(payload={"flags": int(flags)}))


def _accept_update(world: World, interaction: Interaction, body: Body) -> None:
    if interaction.asked.message is None:
        raise errors.invalid_form("type", "BASE_TYPE_CHOICES", "There is no message to update.")
    interaction.original_id = interaction.asked.message.id
    interaction.message_ids.add(interaction.original_id)


def _update_message(world: World, interaction: Interaction, body: Body) -> None:
    _accept_update(world, interaction, body)
    if interaction.response is None:
        raise errors.unknown_message()
    posting.edit(world, interaction.response, body)


def _offer_choices(world: World, interaction: Interaction, body: Body) -> None:
    interaction.choices = list(body.payload.get("choices") or ())


def _show_modal(world: World, interaction: Interaction, body: Body) -> None:
    interaction.modal = body.payload
    world.show(
        EventKind.MODAL_SHOWN,
        channel_id=interaction.asked.channel.id,
        user_id=interaction.asked.user.id,
        interaction_id=interaction.id,
        text=str(body.payload.get("title", "")),
    )


ANSWERS: dict[AnswerKind, Callable[[World, Interaction, Body], None]] = {
    AnswerKind.MESSAGE: _answer_with_message,
    AnswerKind.DEFERRED_MESSAGE: _answer_later,
    AnswerKind.DEFERRED_UPDATE: _accept_update,
    AnswerKind.UPDATE_MESSAGE: _update_message,
    AnswerKind.CHOICES: _offer_choices,
    AnswerKind.MODAL: _show_modal,
}
