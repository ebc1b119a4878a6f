"""Runs jobs in a child process and hides its life: handshake, framing, restart, kill, close.

Decides: when a child is started, replaced or killed, and what its end means for the job it had.
Refuses to know: Discord, SQL, what a job is worth (that a lost job is tried again is the
dispatcher's decision). The child is anything that speaks `generator.protocol` on stdin and stdout.

Nothing here needs a signal: a child ends because its stdin closes, which also happens when the bot
itself is killed. `terminate` and `kill` are for children that do not listen.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol

import msgspec

from bot.child import BackendError, Child
from generator.protocol import (
    TERMINAL,
    Broken,
    Cancel,
    Cancelled,
    Event,
    Finish,
    Generate,
    Measured,
    Ready,
    Suspend,
    Unload,
)

__all__ = ["Backend", "BackendError", "LocalBackend", "Lost", "generator_command"]

log = logging.getLogger(__name__)

MEASURED_WITHIN_S = 5.0
MACHINE_SETTINGS = (
    *("model", "device", "dtype", "placement", "storage", "attention", "compile"),
    "preserve_vram_gib",
)
"""What of the generator's settings `serve` and `check` are both told."""
SECRET_VARIABLES = ("DISCORD_TOKEN", "DISCORD_TOKEN_FILE")


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """The child ended under this job: nobody knows whether a second try would do better.

    `closed`: it did not break, but was ended by `close()`.
    """

    job_id: str
    message: str
    closed: bool = False


class Backend(Protocol):
    """Where generation happens. One job at a time."""

    async def start(self) -> Ready:
        """Be ready for jobs. BackendError says in one sentence why not."""
        ...

    def run(self, order: Generate) -> AsyncGenerator[Event | Lost, None]:
        """The job's events; the last, and only the last, is one of TERMINAL or Lost.

        Raises BackendError before the first event when no child can be started.
        """
        ...

    async def cancel(self, job_id: str) -> None:
        """Make this job end with Cancelled soon. Anything but the running job is ignored."""
        ...

    async def suspend(self, job_id: str) -> None:
        """End this job's turn soon, if it can be. Anything but the running job is ignored.

        Idempotent. The job may also come to its end, or need long until it can be stopped.
        """
        ...

    async def finish(self, job_id: str) -> None:
        """Make this job end with the video of its finished sections. Otherwise as `suspend`."""
        ...

    async def unload(self) -> None:
        """Have VRAM and pinned RAM given back after the running job; the next one loads anew.

        Idempotent. It does nothing where nothing was started.
        """
        ...

    async def close(self) -> None:
        """End what was started, within `close_timeout_s`. May be called twice."""
        ...


class LocalBackend:
    """A backend in a child process over pipes. Use it as an async context manager.

    A dead child is replaced when the next job comes. One that says nothing for `silence_limit_s`
    while it has a job is killed, and so is one that takes more than `memory_limit_gib` (0: more
    than the machine bears). `close` first closes the child's stdin and waits, then terminates, then
    kills it: half of `close_timeout_s` for the first.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        start_timeout_s: float = 120.0,
        cancel_grace_s: float = 30.0,
        silence_limit_s: float = 1800.0,
        close_timeout_s: float = 8.0,
        memory_limit_gib: float = 0.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._command = tuple(command)
        self._start_timeout_s = start_timeout_s
        self._cancel_grace_s = cancel_grace_s
        self._silence_limit_s = silence_limit_s
        self._close_timeout_s = close_timeout_s
        self._memory_limit_gib = memory_limit_gib
        source = os.environ if environ is None else environ
        self._environ = {k: v for k, v in source.items() if k not in SECRET_VARIABLES}
        self._group = asyncio.TaskGroup()
        self._child: Child | None = None
        self._current: str | None = None
        self._cancel_asked = False
        self._ready_since: datetime | None = None
        self._trouble: str | None = None
        self._closed: Child | None = None
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> LocalBackend:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
        await self._group.__aexit__(None, None, None)  # its tasks end with the child

    @property
    def ready(self) -> Ready | None:
        """What the living child said of itself; None while there is none."""
        return self._child.ready if self._child and self._child.alive else None

    @property
    def ready_since(self) -> datetime | None:
        """When the child that was started last got ready."""
        return self._ready_since

    @property
    def pid(self) -> int | None:
        """The process id of the living child, if there is one."""
        return self._child.process.pid if self._child and self._child.alive else None

    @property
    def trouble(self) -> str | None:
        """Why the last start failed, in one sentence; None when it did not."""
        return self._trouble

    @property
    def starting(self) -> bool:
        """Whether a child is being started and is not ready yet."""
        return self._starting.locked()

    async def start(self) -> Ready:
        """See Backend.start. The same child's Ready again when it is already up.

        Whoever asks while a child starts waits for that one.
        """
        async with self._starting:
            ready = self.ready
            if ready is not None:
                return ready
            try:
                ready = await self._start_child()
            except BackendError as error:
                self._trouble = str(error)
                raise
            self._trouble = None
            return ready

    async def _start_child(self) -> Ready:
        child = self._child = await Child.spawn(
            self._command, self._environ, self._group, self._memory_limit_gib
        )
        try:
            async with asyncio.timeout(self._start_timeout_s):
                ready = await child.handshake()
        except TimeoutError:
            raise BackendError(
                f"the generator did not become ready within {self._start_timeout_s:g} s; "
                "raise generator.start_timeout_s, or look into the log for what it waits for"
            ) from None
        finally:
            if child.ready is None:
                await child.end(0.0)
        self._ready_since = datetime.now(UTC)
        log.info("generator ready: %s on %s (%s)", ready.model, ready.device_name, ready.placement)
        return ready

    async def run(self, order: Generate) -> AsyncGenerator[Event | Lost, None]:
        """See Backend.run."""
        if self._current is not None and self._child is not None:
            log.warning("job %s was abandoned; its generator is replaced", self._current)
            await self._child.end(0.0)
        self._current, self._cancel_asked = order.job_id, False
        await self._start_for_job()
        child = self._child
        assert child is not None
        if self._cancel_asked:
            self._current = None
            yield Cancelled(job_id=order.job_id)
            return
        await child.say(order)
        while (event := await self._next_event(child, order.job_id)) is not None:
            if isinstance(event, TERMINAL):
                self._current = None
            yield event
            if isinstance(event, TERMINAL):
                return
        reason = await child.obituary()
        self._current = None
        if self._cancel_asked:
            yield Cancelled(job_id=order.job_id)
        else:
            log.warning("the generator ended under job %s: %s", order.job_id, reason)
            yield Lost(job_id=order.job_id, message=reason, closed=child is self._closed)

    async def cancel(self, job_id: str) -> None:
        """See Backend.cancel. The child is killed when it does not stop within the grace time."""
        if job_id != self._current or self._cancel_asked:
            return
        self._cancel_asked = True
        if self._child is not None and self._child.ready is not None:
            await self._child.say(Cancel(job_id=job_id))
        self._group.create_task(self._kill_after_grace(job_id))

    async def suspend(self, job_id: str) -> None:
        """See Backend.suspend."""
        if job_id == self._current and not self._cancel_asked and self._child is not None:
            await self._child.say(Suspend(job_id=job_id))

    async def finish(self, job_id: str) -> None:
        """See Backend.finish."""
        if job_id == self._current and not self._cancel_asked and self._child is not None:
            await self._child.say(Finish(job_id=job_id))

    async def measure(self) -> Measured | None:
        """What memory the living child holds and leaves; None without one, or without an answer."""
        if self._child is None or self.ready is None:
            return None
        return await self._child.measure(MEASURED_WITHIN_S)

    async def unload(self) -> None:
        """See Backend.unload."""
        if self._child is not None and self._child.ready is not None:
            await self._child.say(Unload())

    async def close(self) -> None:
        """See Backend.close."""
        if self._child is not None:
            self._closed = self._child
            await self._child.end(self._close_timeout_s)

    async def _start_for_job(self) -> None:
        started = False
        try:
            await self.start()
            started = True
        finally:
            if not started:
                self._current = None

    async def _next_event(self, child: Child, job_id: str) -> Event | None:
        """The job's next event; what belongs to another job is dropped. None: the child ended.

        One that hangs is killed, which is such an end.
        """
        while (message := await child.hear_within(self._silence_limit_s)) is not None:
            if isinstance(message, Ready | Broken | Measured) or message.job_id != job_id:
                log.warning("unexpected %s from the generator", type(message).__name__)
                continue
            return message
        return None

    async def _kill_after_grace(self, job_id: str) -> None:
        child, deadline = self._child, asyncio.get_running_loop().time() + self._cancel_grace_s
        while self._current == job_id and child is not None and child.alive:
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                log.warning("job %s did not stop in %g s; killed", job_id, self._cancel_grace_s)
                await child.end(0.0)
                return
            await child.wait_ended(min(left_s, 0.25))


def generator_command(**options: str | float | bool | Path) -> list[str]:
    """The command line of the project's own generator: `serve` with these options."""
    return [sys.executable, "-m", "generator", "serve", *generator_words(options)]


def generator_words(options: Mapping[str, str | float | bool | Path]) -> list[str]:
    """Options as words of a command line; one that is true is its name alone."""
    command: list[str] = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            command.append(option)
        elif value is not False:
            command += [option, str(value)]
    return command
