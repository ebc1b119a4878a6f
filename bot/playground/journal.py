"""Everything that happened on the playground, and waiting for more of it.

Decides: the order of events and REST calls, and how long somebody waits. Refuses to know: what the
entries mean. Bodies are kept whole, file contents and credentials are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import TypeVar

import msgspec

from bot.playground.entities import Event, Payload

Found = TypeVar("Found")
EVENTS_IN_TIMEOUT_TEXT = 5


class RestCall(msgspec.Struct, frozen=True, kw_only=True):
    """One request and its answer. `route` is the path's template as Discord documents it.

    `status` 0 means that the connection was dropped; `fault` names the injected fault, if any.
    `files` holds (name, bytes) of each uploaded file.
    """

    at: datetime
    method: str
    path: str
    route: str
    query: dict[str, str]
    body: Payload | list[Payload] | None
    files: tuple[tuple[str, int], ...]
    status: int
    answer: Payload | list[Payload] | None
    duration_s: float
    fault: str = ""


class Journal:
    """The playground's events and REST calls in order; both lists only grow."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.calls: list[RestCall] = []
        self._waiting: set[asyncio.Future[None]] = set()

    def record(self, entry: Event | RestCall) -> None:
        """Append, and wake everybody who waits."""
        if isinstance(entry, Event):
            self.events.append(entry)
        else:
            self.calls.append(entry)
        self.wake()

    def wake(self) -> None:
        """Let everybody who waits look again."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def until(self, look: Callable[[], Found | None], timeout_s: float) -> Found:
        """The first truthy value of `look`, asked now and after each change.

        Raises TimeoutError that names the last events.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not (found := look()):
                    await self.changed()
                return found
        except TimeoutError:
            last = [f"{e.kind} {e.text}".strip() for e in self.events[-EVENTS_IN_TIMEOUT_TEXT:]]
            raise TimeoutError(
                f"not seen within {timeout_s:g} s; {len(self.events)} events,"
                f" the last: {', '.join(last) or 'none'}"
            ) from None

    async def watch(self, start: int = 0) -> AsyncIterator[Event]:
        """Every event from number `start` on, without end."""
        while True:
            while start < len(self.events):
                yield self.events[start]
                start += 1
            await self.changed()

    async def changed(self) -> None:
        """Wait for the next entry, or for the next `wake`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)
