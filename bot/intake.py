"""A picture that somebody attached becomes a safe input.png, or a sentence why not.

Decides: where pictures may be downloaded from, and the life of the one process that opens them: its
limits, its restart after a kill, what is cleaned up. Refuses to know: formats (`bot.picture` does),
jobs, Discord's objects. Nothing heavy happens on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
from yarl import URL

from bot.backend import SECRET_VARIABLES
from bot.child import own_group
from bot.config import Limits
from bot.picture_messages import Answer, Clean, Order, PictureLimits, Refused, Trouble, Up
from bot.speech import say
from bot.words import Word

log = logging.getLogger(__name__)

DISCORD_ORIGINS = (
    "https://cdn.discordapp.com",
    "https://media.discordapp.net",
    "https://images-ext-1.discordapp.net",  # Discord's copies of pictures behind links
    "https://images-ext-2.discordapp.net",
)
PICTURE_PROCESS = (sys.executable, "-m", "bot.picture")
START_TIMEOUT_S = 60.0
CHUNK_BYTES = 1 << 16
RETRY_PAUSES_S = (0.5, 2.0)
DOWNLOAD_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=10, sock_read=15)


class IntakeError(Exception):
    """No picture, and not for the picture's sake; the text is one sentence for the asker."""


class RefusedPicture(IntakeError):
    """This picture is not accepted; the text says why, with the numbers, and what to do."""


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The clean PNG, as it was written. `sha256` is of its bytes, `note` for the asker or ""."""

    width: int
    height: int
    note: str
    sha256: str


def picture_limits(limits: Limits) -> PictureLimits:
    """The configured limits of pictures; the others have their defaults."""
    return PictureLimits(
        max_bytes=int(limits.max_attachment_mib * 2**20),
        max_pixels=int(limits.max_picture_megapixels * 1e6),
        timeout_s=limits.picture_timeout_s,
        memory_mib=limits.picture_memory_mib,
    )


class Intake:
    """One reusable process that opens pictures, one at a time. Use it as `async with`.

    Entering starts the process and raises IntakeError if it can not start. A process that is killed
    over a picture, or was killed from outside, is replaced when the next picture comes.
    """

    def __init__(self, limits: PictureLimits) -> None:
        self._limits = limits
        self._turn = asyncio.Lock()
        self._child: _Child | None = None

    async def __aenter__(self) -> Self:
        self._child = await _Child.start(self._limits)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._replace(None)

    async def accept(
        self, raw: bytes | Path, destination: Path, small: Path | None = None
    ) -> Accepted:
        """Make `destination` a clean RGB PNG of these bytes, or of this file's.

        A file `small` becomes a little JPEG of it.
        The folder is made where it is missing. Raises RefusedPicture, or IntakeError when the disk
        or the process fails; then there is no file at `destination` that was not there before.
        """
        if isinstance(raw, Path):
            raw = await asyncio.to_thread(_read, raw, self._limits.max_bytes)
        if len(raw) > self._limits.max_bytes:
            raise too_many_bytes(len(raw), self._limits.max_bytes)
        part = destination.with_name(destination.name + ".part")
        async with self._turn:
            try:
                order = Order(
                    destination=str(part),
                    small="" if small is None else str(small),
                    size_bytes=len(raw),
                )
                answer = await self._ask(order, raw)
                if isinstance(answer, Clean):
                    part.replace(destination)
            except OSError as error:
                answer = Trouble(reason=error.strerror or str(error))
            finally:
                with contextlib.suppress(OSError):  # its folder may be none
                    part.unlink()
        match answer:
            case Clean():
                return Accepted(
                    width=answer.width, height=answer.height, note=answer.note, sha256=answer.sha256
                )
            case Refused():
                sentence = _sentence(answer)
                log.info("picture refused: %s %s", sentence, answer.detail)
                raise RefusedPicture(sentence)
            case _:
                log.error("picture process: %s", answer.reason)
                raise IntakeError(say(Word.PICTURE_NOT_STORED, reason=answer.reason))

    async def _ask(self, order: Order, raw: bytes) -> Clean | Refused | Trouble:
        """The verdict. A process that had died between two pictures does not count against one."""
        child, is_new = self._child, False
        while True:
            if child is None or not child.alive:
                child, is_new = await _Child.start(self._limits), True
                await self._replace(child)
            try:
                answer = await self._ask_child(child, order, raw)
            except BaseException:
                await self._replace(None)
                raise
            if answer is None and not is_new:
                child = None
                continue
            if answer is None or (isinstance(answer, Refused) and answer.exhausted):
                await self._replace(None)
            return answer or Refused(text=Word.PICTURE_KILLED.name)

    async def _ask_child(
        self, child: _Child, order: Order, raw: bytes
    ) -> Clean | Refused | Trouble | None:
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await child.ask(order, raw)
        except TimeoutError:
            await self._replace(None)
            slow = {"limit": self._limits.timeout_s}
            return Refused(text=Word.PICTURE_SLOW.name, values=slow)

    async def _replace(self, child: _Child | None) -> None:
        old, self._child = self._child, child
        if old is not None and old is not child:
            await old.end()


class _Child:
    """The picture process: orders in, answers out."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, limits: PictureLimits) -> _Child:
        pipe = asyncio.subprocess.PIPE
        command = (*PICTURE_PROCESS, msgspec.json.encode(limits).decode())
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=pipe, env=_environ(), **own_group()
            )
        except OSError as error:
            raise IntakeError(
                f"the process that opens pictures can not be started: {error.strerror or error}"
            ) from error
        child = cls(process)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                up = await child._hear()
        except BaseException:
            await child.end()
            raise
        if not isinstance(up, Up):
            raise IntakeError(
                f"the process that opens pictures ended at its start: {await child.end()}"
            )
        if up.no_memory_limit:
            log.warning("pictures are opened without a memory limit: %s", up.no_memory_limit)
        return child

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, order: Order, raw: bytes) -> Clean | Refused | Trouble | None:
        """The answer to one order; None when the process ended instead."""
        stdin, view = self._process.stdin, memoryview(raw)
        assert stdin is not None
        try:
            stdin.write(msgspec.json.encode(order) + b"\n")
            for start in range(0, len(raw), CHUNK_BYTES):
                stdin.write(view[start : start + CHUNK_BYTES])
                await stdin.drain()
        except (ConnectionError, RuntimeError):
            return None
        answer = await self._hear()
        return None if isinstance(answer, Up) else answer

    async def end(self) -> str:
        """Kill the process, which keeps nothing, and say how it ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        _, stderr = await self._process.communicate()
        words = stderr.decode("utf-8", "replace").strip().splitlines()
        return words[-1] if words else f"exit code {self._process.returncode}"

    async def _hear(self) -> Answer | None:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        return _answers.decode(line) if line.endswith(b"\n") else None


_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def _sentence(answer: Refused) -> str:
    """What the picture process found, in the language of whoever sent the picture."""
    values: dict[str, object] = dict(answer.values)
    if answer.what:
        values["what"] = Word[answer.what]
    return say(Word[answer.text], **values)


def _environ() -> dict[str, str]:
    """The bot's own without its secrets; one malloc arena, for each counts in the memory limit."""
    kept = {key: value for key, value in os.environ.items() if key not in SECRET_VARIABLES}
    return kept | {"MALLOC_ARENA_MAX": "1"}


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise IntakeError(f"{path} can not be read: {error.strerror or error}") from None


def too_many_bytes(size_bytes: int, max_bytes: int) -> RefusedPicture:
    """The refusal of a file that is too large."""
    mib = {"size": size_bytes / 2**20, "limit": max_bytes / 2**20}
    return RefusedPicture(say(Word.PICTURE_BYTES, **mib))


def attachment_origins(api_url: str) -> frozenset[str]:
    """Scheme, host and port of where attachments may lie: Discord's CDN and a configured API."""
    own = {str(URL(api_url).origin())} if api_url else set()
    return frozenset(DISCORD_ORIGINS) | own


async def download(
    url: str, session: aiohttp.ClientSession, origins: frozenset[str], max_bytes: int
) -> bytes:
    """The bytes behind an attachment's address, at most `max_bytes` of them.

    Follows no redirect and tries again when the server stumbles. Raises RefusedPicture for another
    origin or a file too large, IntakeError when the server does not hand it out.
    """
    address = _checked_address(url, origins)
    for pause_s in (*RETRY_PAUSES_S, None):
        try:
            return await _fetch(address, session, max_bytes)
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning("picture not downloaded: %r", error)
        if pause_s is not None:
            await asyncio.sleep(pause_s)
    raise IntakeError(say(Word.PICTURE_UNREACHABLE))


def _checked_address(url: str, origins: frozenset[str]) -> URL:
    try:
        address = URL(url, encoded=True)  # signed: it must arrive as it is
        known = str(address.origin()) in origins and address.user is None
    except ValueError:
        known = False
    if not known:
        raise RefusedPicture(say(Word.PICTURE_ELSEWHERE))
    return address


async def _fetch(address: URL, session: aiohttp.ClientSession, max_bytes: int) -> bytes:
    async with session.get(
        address,
        allow_redirects=False,
        timeout=DOWNLOAD_TIMEOUT,
        headers={"Accept-Encoding": "identity"},
    ) as response:
        if response.status >= 500:
            response.raise_for_status()
        if response.status != 200:
            raise IntakeError(say(Word.PICTURE_REFUSED, status=response.status))
        if (response.content_length or 0) > max_bytes:
            raise too_many_bytes(response.content_length or 0, max_bytes)
        body = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            body += chunk
            if len(body) > max_bytes:
                raise too_many_bytes(len(body), max_bytes)
        return bytes(body)
