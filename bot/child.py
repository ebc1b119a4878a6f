"""One generator process: its lines in, its lines out, its stderr in the log, its end.

Decides: framing, what a child is killed for, how its stderr is rationed. Refuses to know: jobs, and
when a child is wanted (`bot.backend` does).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bot.child_memory import GIB, limit_bytes, taken_bytes
from generator.protocol import (
    PROTOCOL_VERSION,
    Broken,
    ErrorKind,
    FromGenerator,
    Measure,
    Measured,
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
MEMORY_LOOK_S = 1.0


class BackendError(Exception):
    """The generator can not take jobs. The text is one sentence for whoever runs the bot."""

    def __init__(self, message: str, kind: ErrorKind = ErrorKind.INTERNAL) -> None:
        super().__init__(message)
        self.kind = kind


class Child:
    """One process: its lines in, its lines out, its stderr in the log, its end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.ready: Ready | None = None
        self._garbage = 0
        self._last_words: deque[str] = deque(maxlen=20)
        self._ear = asyncio.Lock()
        self._overheard: deque[FromGenerator] = deque()
        self._measured: asyncio.Future[Measured] | None = None

    @classmethod
    async def spawn(
        cls,
        command: Sequence[str],
        environ: Mapping[str, str],
        group: asyncio.TaskGroup,
        memory_limit_gib: float = 0.0,
    ) -> Child:
        """Start it. A child that takes more memory is killed; 0 GiB: more than the machine bears.

        BackendError when it can not be started.
        """
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                limit=LINE_LIMIT,
                env=dict(environ),
                **own_group(),
            )
        except OSError as error:
            raise BackendError(
                f"the generator could not be started: {error.strerror or error} ({command[0]})"
            ) from error
        child = cls(process)
        group.create_task(child._drain_stderr(), name=f"stderr of {process.pid}")
        limit = limit_bytes(memory_limit_gib)
        group.create_task(child._watch_memory(limit), name=f"memory of {process.pid}")
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
        """The next message, None at the end; what answers `measure` is not among them."""
        async with self._ear:
            while True:
                message = self._overheard.popleft() if self._overheard else await self._read()
                if not isinstance(message, Measured):
                    return message
                self._note_measured(message)

    async def measure(self, within_s: float) -> Measured | None:
        """What the child says of its memory; None when it says nothing in that time.

        Whoever listens to a job takes the answer; while nobody does, this listens.
        """
        if self._measured is None or self._measured.done():
            self._measured = asyncio.get_running_loop().create_future()
        answer = self._measured
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.say(Measure())
                while not answer.done() and self.alive:
                    if self._ear.locked():
                        await asyncio.wait([answer], timeout=0.05)
                    else:
                        await self._overhear()
        return answer.result() if answer.done() else None

    async def _overhear(self) -> None:
        """Take one message; what is not for us, `hear` finds."""
        async with self._ear:
            message = await self._read()
        if isinstance(message, Measured):
            self._note_measured(message)
        elif message is not None:
            self._overheard.append(message)

    def _note_measured(self, message: Measured) -> None:
        if self._measured is not None and not self._measured.done():
            self._measured.set_result(message)

    async def _read(self) -> FromGenerator | None:
        """A line, None at the end. A child that only talks rubbish is killed."""
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

    async def hear_within(self, limit_s: float) -> FromGenerator | None:
        """The next message; a child that says nothing for so long is killed."""
        try:
            async with asyncio.timeout(limit_s):
                return await self.hear()
        except TimeoutError:
            log.error("the generator has said nothing for %g s; killed", limit_s)
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

    async def _watch_memory(self, limit: int) -> None:
        """Kill it before it takes the machine along. Ends with the process."""
        while not await self.wait_ended(MEMORY_LOOK_S):
            taken = taken_bytes(self.process.pid)
            if taken > limit:
                words = f"it took {taken / GIB:.1f} GiB of memory, {limit / GIB:.1f} are allowed"
                log.error("the generator is killed: %s (generator.memory_limit_gib)", words)
                self._last_words.append(words)
                await self.end(0.0)

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


def own_group() -> dict[str, Any]:
    """Ctrl-C in a terminal is for the bot; the child ends when the bot closes its stdin."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
