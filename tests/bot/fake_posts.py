"""A Discord that is a list: `Posts` for tests, with faults on request."""

import asyncio
from collections import deque
from datetime import datetime
from pathlib import Path
from typing import Any

import discord
import msgspec

from bot.posts import Kept, PostError, Trouble
from bot.views import Card


class Posted(msgspec.Struct, kw_only=True):
    channel_id: int
    message_id: int
    text: str = ""
    file: str | None = None
    size_bytes: int = 0
    spoiler: bool = False
    reply_to: int | None = None
    ping: int | None = None
    nonce: str = ""
    cards: list[tuple[float, Card]] = msgspec.field(default_factory=list)


def size_bytes(file: Path | None) -> int:
    return file.stat().st_size if file and file.is_file() else 0


class FakePosts:
    """`faults` are raised by the next requests, one each; None lets one pass.

    `effects` are faults that are raised after the request took effect: the answer got lost.
    """

    def __init__(self, clock: Any, latency_s: float = 0.0) -> None:
        self.clock, self.latency_s = clock, latency_s
        self.messages: dict[int, Posted] = {}
        self.faults: deque[Trouble | None] = deque()
        self.lost_answers = 0
        self.requests: list[tuple[str, int]] = []
        self.closed_channels: dict[int, Trouble] = {}
        self.in_flight: set[int] = set()
        self.boosted: dict[int, int] = {}

    @property
    def cards(self) -> list[tuple[float, Card]]:
        return [entry for message in self.messages.values() for entry in message.cards]

    @property
    def files(self) -> list[Posted]:
        return [message for message in self.messages.values() if message.file]

    async def _request(self, what: str, channel_id: int) -> None:
        self.requests.append((what, channel_id))
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if (closed := self.closed_channels.get(channel_id)) is not None:
            raise PostError(closed, "Discord answered so")
        if self.faults and (fault := self.faults.popleft()) is not None:
            raise PostError(fault, "Discord answered so")

    def _new(self, **fields: Any) -> int:
        message_id = discord.utils.time_snowflake(self.clock()) + len(self.messages)
        self.messages[message_id] = Posted(message_id=message_id, **fields)
        if self.lost_answers:
            self.lost_answers -= 1
            raise PostError(Trouble.TRANSIENT, "the connection to Discord broke")
        return message_id

    async def post_card(self, channel_id: int, card: Card, nonce: str) -> tuple[int, Kept]:
        await self._request("post_card", channel_id)
        stamp = asyncio.get_running_loop().time()
        message_id = self._new(channel_id=channel_id, nonce=nonce, cards=[(stamp, card)])
        return message_id, dict.fromkeys(card.files, "attached")

    async def edit_card(self, channel_id: int, message_id: int, card: Card, kept: Kept) -> Kept:
        assert message_id not in self.in_flight, "two requests for one message"
        self.in_flight.add(message_id)
        try:
            await self._request("edit_card", channel_id)
        finally:
            self.in_flight.discard(message_id)
        if message_id not in self.messages:
            raise PostError(Trouble.MESSAGE_GONE, "Discord answered 404/10008")
        stamp = asyncio.get_running_loop().time()
        self.messages[message_id].cards.append((stamp, card))
        return dict.fromkeys(card.files, "attached")

    async def post_text(
        self,
        channel_id: int,
        text: str,
        *,
        nonce: str,
        file: Path | None = None,
        spoiler: bool = False,
        reply_to: int | None = None,
        ping: int | None = None,
    ) -> int:
        await self._request("post_file" if file else "post_text", channel_id)
        assert len(nonce) <= 25
        return self._new(
            channel_id=channel_id,
            text=text,
            file=file.name if file else None,
            size_bytes=size_bytes(file),
            spoiler=spoiler,
            reply_to=reply_to if reply_to in self.messages else None,
            ping=ping,
            nonce=nonce,
        )

    async def find(self, channel_id: int, marker: str, since: datetime) -> int | None:
        await self._request("find", channel_id)
        for message in self.messages.values():
            footers = [card.footer for _, card in message.cards]
            if message.channel_id == channel_id and marker in [message.file, *footers]:
                return message.message_id
        return None

    async def delete(self, channel_id: int, message_id: int) -> None:
        await self._request("delete", channel_id)
        self.messages.pop(message_id, None)

    def upload_limit_bytes(self, guild_id: int | None) -> int | None:
        return self.boosted.get(guild_id or 0)

    async def open_dm(self, user_id: int) -> int:
        await self._request("open_dm", user_id)
        return user_id * 1000
