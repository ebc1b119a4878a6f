"""What a channel shows, as lines a person reads in a terminal.

Decides: how an event becomes lines; of an edit only what changed is told. Refuses to know: where
lines go, which bot it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from bot.playground.entities import Event, EventKind, Message
from bot.playground.reading import controls, plain_text
from bot.playground.state import World

USER = re.compile(r"<@!?(\d+)>")
CHANNEL = re.compile(r"<#(\d+)>")
TIME = re.compile(r"<t:(\d+):R>")
MASKED_LINK = re.compile(r"\[([^\]]+)\]\(https?://[^)]+\)")
LINK = re.compile(r"https?://\S*?/channels/\d+/\d+/(\d+)")
MIB = 2**20


class Transcript:
    """Turns the events of one playground into lines, times counted from `started`."""

    def __init__(self, world: World, started: datetime) -> None:
        self._world = world
        self._started = started
        self._shown: dict[int, Message] = {}
        self._told = 0

    def new_lines(self, events: list[Event]) -> Iterator[str]:
        """The lines for what was added to `events` since the last time."""
        while self._told < len(events):
            self._told += 1
            yield from self.lines(events[self._told - 1])

    def lines(self, event: Event) -> Iterator[str]:
        """The lines for one event; none when it shows nothing new."""
        tell = TELLERS.get(event.kind)
        if tell is None:
            return
        for number, line in enumerate(tell(self, event)):
            time = self._time(event.at) if number == 0 else " " * 8
            yield f"{time}  {line}"

    def typed(self, user: str, text: str) -> str:
        """A line for what a person typed."""
        return f"{self._time(self._world.clock.now())}  {user} types {text}"

    def _time(self, at: datetime) -> str:
        minutes, seconds = divmod((at - self._started).total_seconds(), 60)
        return f"{int(minutes):3}:{seconds:04.1f}"

    def created(self, event: Event) -> Iterator[str]:
        message = event.message
        assert message is not None
        self._shown[message.id] = message
        yield f"{self._who(message)}{self._reply(message)}"
        for line in plain_text(message).split("\n"):
            if line.strip():
                yield f"  {self._readable(line)}"
        yield from self._files(message)
        yield from self._buttons(message)

    def edited(self, event: Event) -> Iterator[str]:
        message = event.message
        assert message is not None
        before = self._shown.get(message.id)
        self._shown[message.id] = message
        old = set(plain_text(before).split("\n")) if before else set()
        changed = [
            self._readable(line)
            for line in plain_text(message).split("\n")
            if line.strip() and line not in old
        ]
        had = {file.id for file in before.attachments} if before else set()
        files = [file.filename for file in message.attachments if file.id not in had]
        changed += [f"[{name}]" for name in files]
        if changed:
            yield f"{self._who(message)} edits: {' · '.join(changed)}"

    def deleted(self, event: Event) -> Iterator[str]:
        assert event.message is not None
        yield f"{self._who(event.message)}: the message is deleted"

    def failed(self, event: Event) -> Iterator[str]:
        yield f"Discord: {event.text}"

    def modal(self, event: Event) -> Iterator[str]:
        yield f"{self._world.bot.name} opens the form “{event.text}”"

    def _who(self, message: Message) -> str:
        name = self._world.users[message.author_id].name
        if message.ephemeral_for is None:
            return name
        return f"{name} (only {self._world.users[message.ephemeral_for].name} sees this)"

    def _reply(self, message: Message) -> str:
        parts = []
        reply_to = message.reply_to_id or 0
        target = self._shown.get(reply_to) or self._world.messages.get(reply_to)
        if target is not None:
            parts.append(f"replies to {self._world.users[target.author_id].name}")
        others = [self._world.users[i].name for i in message.pings if i != message.author_id]
        if others:
            parts.append(f"notifies {', '.join(others)}")
        return f" ({', '.join(parts)})" if parts else ""

    def _files(self, message: Message) -> Iterator[str]:
        for file in message.attachments:
            size = f"{file.size / MIB:.2f} MiB" if file.size >= MIB else f"{file.size:,} bytes"
            yield f"  [{file.filename}, {size}]"

    def _buttons(self, message: Message) -> Iterator[str]:
        labels = [f"({part['label']})" for part in controls(message) if part.get("label")]
        if labels:
            yield f"  {' '.join(labels)}"

    def _readable(self, text: str) -> str:
        """Mentions, times and links to messages as Discord would show them."""
        users, channels = self._world.users, self._world.channels
        text = text.removeprefix("-# ")  # small print
        text = USER.sub(lambda m: f"@{users[int(m[1])].name}" if int(m[1]) in users else m[0], text)
        text = CHANNEL.sub(
            lambda m: f"#{channels[int(m[1])].name}" if int(m[1]) in channels else m[0], text
        )
        text = TIME.sub(lambda m: self._relative(int(m[1])), text)
        return LINK.sub("[link to the message]", MASKED_LINK.sub(r"[\1]", text))

    def _relative(self, at_s: int) -> str:
        away_s = round(at_s - self._world.clock.now().timestamp())
        amount = abs(away_s)
        if amount == 0:
            return "now"
        words = f"{amount} s" if amount < 60 else f"{amount // 60} min"
        return f"in {words}" if away_s >= 0 else f"{words} ago"


TELLERS = {
    EventKind.MESSAGE_CREATED: Transcript.created,
    EventKind.MESSAGE_EDITED: Transcript.edited,
    EventKind.MESSAGE_DELETED: Transcript.deleted,
    EventKind.INTERACTION_FAILED: Transcript.failed,
    EventKind.MODAL_SHOWN: Transcript.modal,
}
