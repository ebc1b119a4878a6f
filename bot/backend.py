"""Runs jobs in a child process and hides its life: handshake, framing, restart, kill, close.

Decides: when a child is started, replaced or killed, and what its end means for the job it had.
Refuses to know: Discord, SQL, what a job is worth (that a lost job is tried again is the
dispatcher's decision). The child is anything that speaks `generator.protocol` on stdin and stdout.

Nothing here needs a signal: a child ends because its stdin closes, which also happens when the bot
itself is killed. `terminate` and `kill` are for children that do not listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import msgspec

from generator.protocol import (
    PROTOCOL_VERSION,
    TERMINAL,
    Broken,
    Cancel,
    Cancelled,
    ErrorKind,
    Event,
    FromGenerator,
    Generate,
    Ready,
    ToGenerator,
    decode_from_generator,
    encode_line,
)

log = logging.getLogger(__name__)
child_log = logging.getLogger("generator")

LINE_LIMIT = 1 << 20
"""The longest line a child may say, in bytes; asyncio's own limit of 64 KiB is too small."""
GARBAGE_LIMIT = 100
STDERR_LINE_LENGTH = 2000
STDERR_LINES_PER_S = 100
SECRET_VARIABLES = ("DISCORD_TOKEN", "DISCORD_TOKEN_FILE")


class BackendError(Exception):
    """The generator can not take jobs. The text is one sentence for whoever runs the bot."""

    def __init__(self, message: str, kind: ErrorKind = ErrorKind.INTERNAL) -> None:
        super().__init__(message)
        self.kind = kind


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """The child ended under this job: nobody knows whether a second try would do better."""

    job_id: str
    message: str


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

    async def close(self) -> None:
        """End what was started, within `close_timeout_s`. May be called twice."""
        ...


class LocalBackend:
    """A backend in a child process over pipes. Use it as an async context manager.

    A dead child is replaced when the next job comes. `close` first closes the child's stdin and
    waits, then terminates, then kills it: half of `close_timeout_s` for the first.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        start_timeout_s: float = 120.0,
        cancel_grace_s: float = 30.0,
        close_timeout_s: float = 8.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._command = tuple(command)
        self._start_timeout_s = start_timeout_s
        self._cancel_grace_s = cancel_grace_s
        self._close_timeout_s = close_timeout_s
        source = os.environ if environ is None else environ
        self._environ = {k: v for k, v in source.items() if k not in SECRET_VARIABLES}
        self._group = asyncio.TaskGroup()
        self._child: _Child | None = None
        self._current: str | None = None
        self._cancel_asked = False

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
    def pid(self) -> int | None:
        """The process id of the living child, if there is one."""
        return self._child.process.pid if self._child and self._child.alive else None

    async def start(self) -> Ready:
        """See Backend.start. The same child's Ready again when it is already up."""
        if self._child is not None and self._child.alive and self._child.ready is not None:
            return self._child.ready
        child = self._child = await _Child.spawn(self._command, self._environ, self._group)
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
            yield Lost(job_id=order.job_id, message=reason)

    async def cancel(self, job_id: str) -> None:
        """See Backend.cancel. The child is killed when it does not stop within the grace time."""
        if job_id != self._current or self._cancel_asked:
            return
        self._cancel_asked = True
        if self._child is not None and self._child.ready is not None:
            await self._child.say(Cancel(job_id=job_id))
        self._group.create_task(self._kill_after_grace(job_id))

    async def close(self) -> None:
        """See Backend.close."""
        if self._child is not None:
            await self._child.end(self._close_timeout_s)

    async def _start_for_job(self) -> None:
        started = False
        try:
            await self.start()
            started = True
        finally:
            if not started:
                self._current = None

    async def _next_event(self, child: _Child, job_id: str) -> Event | None:
        """The job's next event; what belongs to another job is dropped. None: the child ended."""
        while (message := await child.hear()) is not None:
            if isinstance(message, Ready | Broken) or message.job_id != job_id:
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


class _Child:
    """One process: its lines in, its lines out, its stderr in the log, its end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.ready: Ready | None = None
        self._garbage = 0
        self._last_words: deque[str] = deque(maxlen=20)

    @classmethod
    async def spawn(
        cls, command: Sequence[str], environ: Mapping[str, str], group: asyncio.TaskGroup
    ) -> _Child:
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                limit=LINE_LIMIT,
                env=dict(environ),
                **_own_group(),
            )
        except OSError as error:
            raise BackendError(
                f"the generator could not be started: {error.strerror or error} ({command[0]})"
            ) from error
        child = cls(process)
        group.create_task(child._drain_stderr(), name=f"stderr of {process.pid}")
        return child

    @property
    def alive(self) -> bool:
        """False as soon as its stdout has ended, which is seen before its exit code."""
        ended = self.process.stdout is not None and self.process.stdout.at_eof()
        return self.process.returncode is None and not ended

    async def handshake(self) -> Ready:
        message = await self.hear()
        if message is None:
            raise BackendError(f"the generator ended at its start: {await self.obituary()}")
        if isinstance(message, Broken):
            raise BackendError(message.message, message.kind)
        if not isinstance(message, Ready):
            raise BackendError(f"the generator said {type(message).__name__} instead of Ready")
        if message.protocol_version != PROTOCOL_VERSION:
            raise BackendError(
                f"the generator speaks protocol {message.protocol_version}, the bot "
                f"{PROTOCOL_VERSION}; install both from the same release"
            )
        self.ready = message
        return message

    async def say(self, message: ToGenerator) -> None:
        """Write a line. A child that is gone is no error here: `hear` will tell."""
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError, RuntimeError):
            self.process.stdin.write(encode_line(message))
            await self.process.stdin.drain()

    async def hear(self) -> FromGenerator | None:
        """The next message, None at the end. A child that only talks rubbish is killed."""
        assert self.process.stdout is not None
        while self._garbage < GARBAGE_LIMIT:
            try:
                line = await self.process.stdout.readline()
            except ValueError:  # longer than LINE_LIMIT; the reader has dropped it
                self._note_garbage(b"a line of more than 1 MiB")
                continue
            if not line.endswith(b"\n"):
                return None
            try:
                return decode_from_generator(line)
            except msgspec.MsgspecError:
                self._note_garbage(line)
        await self.end(0.0)
        return None

    async def obituary(self) -> str:
        """How the child ended, in half a sentence, with its last line on stderr."""
        await self.end(2.0)
        last = f"; its last words: {self._last_words[-1]}" if self._last_words else ""
        return f"exit code {self.process.returncode}{last}"

    async def end(self, patience_s: float) -> None:
        """Close stdin, wait, terminate, wait, kill. Returns when the process is gone."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        if patience_s > 0 and await self.wait_ended(patience_s / 2):
            return
        if patience_s > 0:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            if await self.wait_ended(patience_s / 2):
                return
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def wait_ended(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self.process.wait()
        except TimeoutError:
            return False
        return True

    def _note_garbage(self, line: bytes) -> None:
        self._garbage += 1
        log.warning("not a message from the generator: %r", line[:200])

    async def _drain_stderr(self) -> None:
        """Log each line, cut and rationed: a library in a loop must not fill the disk."""
        assert self.process.stderr is not None
        loop, rest = asyncio.get_running_loop(), b""
        second, logged, dropped = -1, 0, 0
        while chunk := await self.process.stderr.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > STDERR_LINE_LENGTH:
                lines, rest = [*lines, rest], b""
            if int(loop.time()) != second:
                if dropped:
                    child_log.warning("(%d lines left out)", dropped)
                second, logged, dropped = int(loop.time()), 0, 0
            for line in lines:
                text = line.decode("utf-8", "replace").rstrip()[:STDERR_LINE_LENGTH]
                if text:
                    self._last_words.append(text)
                    logged += 1
                    if logged <= STDERR_LINES_PER_S:
                        child_log.info("%s", text)
                    else:
                        dropped += 1
        if dropped:
            child_log.warning("(%d lines left out)", dropped)


def _own_group() -> dict[str, Any]:
    """Ctrl-C in a terminal is for the bot; the child ends when the bot closes its stdin."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def generator_command(**options: str | float | Path) -> list[str]:
    """The command line of the project's own generator: `serve` with these options."""
    command = [sys.executable, "-m", "generator", "serve"]
    for name, value in options.items():
        command += ["--" + name.replace("_", "-"), str(value)]
    return command
