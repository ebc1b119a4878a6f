"""Brings each finished video to its channel, exactly once, however long that takes.

Decides: in which order a delivery is written down and posted, when it is tried again, how much
smaller a video gets that Discord does not take, where else it may go. Refuses to know: how a video
was made or is made smaller, how a request is made.

A delivery is counted on the row before anything is posted. So a first attempt needs no look-up, and
every later one, also after a crash in the middle, first searches the channel for the file's name;
the nonce, which is the job's id, covers the minutes in which the history may lag behind.
"""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from bot.fitting import FILLED, FittingError, NoRoomError, fit
from bot.posts import PostError, Posts, Trouble
from bot.publisher import Publisher
from bot.texts import Text, say
from bot.views import part_sentence, small_print
from storage.jobs import Job, JobStore, StorageError, WrongState

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 300.0
UPLOADS_AT_ONCE = 2
CLOCK_SLACK = timedelta(minutes=5)
MIB = 1 << 20
SAFE_LIMIT_BYTES = 10 * MIB
FITTED_NAME = "fitted"
SMALLER = 0.7
"""What a video that Discord refused shrinks to, of its own size."""
UPLOADS_TRIED = 3
"""Sizes of one video that are offered to one channel before it is kept."""
FIT_ATTEMPTS = 8
"""Deliveries until ffmpeg that fails counts as a video that can not be made smaller: four minutes.
It may have been killed for want of memory, or another program held its files."""

Fit = Callable[[Path, Path, int], Awaitable[bool]]


class _Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a video goes, and with what words."""

    channel_id: int
    guild_id: int | None
    text: str
    reply_to: int | None = None
    ping: int | None = None


class Delivery:
    """Posts what JobStore.undelivered() lists. `run()` works until cancelled; `wake()` tells it."""

    def __init__(
        self,
        posts: Posts,
        store: JobStore,
        publisher: Publisher,
        jobs_dir: Path,
        *,
        limit_bytes: int = SAFE_LIMIT_BYTES,
        fit: Fit = fit,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._fit = fit
        self._posts = posts
        self._store = store
        self._publisher = publisher
        self._jobs_dir = jobs_dir
        self._wake = asyncio.Event()
        self._busy: set[str] = set()
        self._uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)

    def wake(self) -> None:
        """A job has finished."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver until cancelled; first what an earlier run of the bot left over."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                for job in await self._undelivered():
                    if job.id not in self._busy:
                        self._busy.add(job.id)
                        group.create_task(self._persist(job), name=f"delivery of {job.id}")
                await self._wake.wait()

    async def _undelivered(self) -> list[Job]:
        while True:
            try:
                return await self._store.undelivered()
            except StorageError as error:
                log.error("the undelivered jobs can not be read: %s", error)
                await asyncio.sleep(FIRST_PAUSE_S)

    async def _persist(self, job: Job) -> None:
        """Try until the video is delivered or known to be undeliverable."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with self._uploads:
                    job = await self._attempt(job)
                break
            except WrongState as error:
                job = error.job
                break
            except (PostError, StorageError, OSError) as error:
                log.warning("delivery of %s: %s; again in %g s", job.id, error, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self._busy.discard(job.id)
        self._publisher.show(job)

    async def _attempt(self, job: Job) -> Job:
        """One try. PostError, StorageError, and OSError of a held file: it is worth another one."""
        job = await self._store.begin_delivery(job.id)
        file = self._jobs_dir / job.id / (job.video or "")
        if job.video is None or not _is_there(file):
            return await self._give_up(job, say(Text.REASON_FILE_GONE))
        in_channel = _Target(
            channel_id=job.channel_id,
            guild_id=job.guild_id,
            text=say(Text.DELIVERED, user=job.user_id, settings=_settings(job)),
            reply_to=job.status_message_id,
            ping=job.user_id,
        )
        try:
            return await self._post(job, file, in_channel)
        except PostError as error:
            return await self._otherwise(job, file, error)

    async def _post(self, job: Job, file: Path, target: _Target) -> Job:
        message_id = None
        if job.delivery_attempts > 1:
            message_id = await self._find(job, file, target.channel_id)
        if message_id is None:
            message_id = await self._upload(job, file, target)
        delivered = await self._store.mark_delivered(job.id, message_id)
        log.info("job %s delivered as message %d", job.id, message_id)
        return delivered

    async def _upload(self, job: Job, file: Path, target: _Target) -> int:
        """Post the video, smaller and smaller while it is too large. PostError."""
        limit = self._posts.upload_limit_bytes(target.guild_id) or self._limit_bytes
        for _ in range(UPLOADS_TRIED):
            sent = await self._fitted(job, file, limit)
            text = target.text
            if sent is not file:
                sizes = {"was": _size_mib(file), "size": _size_mib(sent)}
                text += "\n" + say(Text.MADE_SMALLER, **sizes)
            try:
                return await self._posts.post_text(
                    target.channel_id,
                    text,
                    nonce=job.id,
                    file=sent,
                    spoiler=job.spoiler,
                    reply_to=target.reply_to,
                    ping=target.ping,
                )
            except PostError as error:
                if error.trouble is not Trouble.TOO_LARGE:
                    raise
                limit = int(min(limit, _size_bytes(sent)) * SMALLER)
                log.info("job %s: Discord refuses its size; %d bytes come next", job.id, limit)
        raise PostError(Trouble.TOO_LARGE, say(Text.REFUSED_SIZES, count=UPLOADS_TRIED))

    async def _fitted(self, job: Job, file: Path, limit_bytes: int) -> Path:
        """The file, or a version of it that is small enough. PostError when there is none (yet)."""
        if _size_bytes(file) <= limit_bytes:
            return file
        budget = int(limit_bytes * FILLED)
        smaller = file.parent / f"{FITTED_NAME}-{budget}" / file.name
        try:
            if smaller.is_file() or await self._fit(file, smaller, budget):
                return smaller
        except (FittingError, OSError) as error:
            if isinstance(error, NoRoomError) or job.delivery_attempts < FIT_ATTEMPTS:
                raise PostError(Trouble.TRANSIENT, str(error)) from error
            log.error("%s could not be made smaller: %s", file.name, error)
        raise PostError(Trouble.TOO_LARGE, say(Text.NO_SMALLER))

    async def _find(self, job: Job, file: Path, channel_id: int) -> int | None:
        """The message of an earlier attempt whose answer was lost."""
        try:
            return await self._posts.find(channel_id, file.name, _ended(job) - CLOCK_SLACK)
        except PostError as error:
            if error.trouble is Trouble.TRANSIENT:
                raise
            return None  # posting will tell

    async def _otherwise(self, job: Job, file: Path, error: PostError) -> Job:
        """What to do with a video that the channel does not take."""
        if error.trouble is Trouble.TRANSIENT:
            raise error
        if error.trouble is Trouble.TOO_LARGE:
            return await self._say_too_large(job, file)
        try:
            channel_id = await self._posts.open_dm(job.user_id)
            text = say(Text.DELIVERED_DM, channel=job.channel_id, settings=_settings(job))
            target = _Target(channel_id=channel_id, guild_id=None, text=text)
            return await self._post(job, file, target)
        except PostError as second:
            if second.trouble is Trouble.TRANSIENT:
                raise
            path = self._shown_path(file)
            why = f"{error}; {second}"
            reason = say(Text.REASON_NOWHERE, reason=why, job_id=job.id, path=path)
            return await self._give_up(job, reason)

    async def _say_too_large(self, job: Job, file: Path) -> Job:
        size, path = _size_mib(file), self._shown_path(file)
        try:
            await self._posts.post_text(
                job.channel_id,
                say(Text.TOO_LARGE, user=job.user_id, size=size, path=path),
                nonce=f"{job.id}-large",
                reply_to=job.status_message_id,
                ping=job.user_id,
            )
        except PostError as error:
            if error.trouble is Trouble.TRANSIENT:
                raise
            log.warning("job %s: nobody could be told that it is too large: %s", job.id, error)
        return await self._give_up(job, say(Text.REASON_TOO_LARGE, size=size, path=path))

    async def _give_up(self, job: Job, reason: str) -> Job:
        log.error("job %s is undeliverable: %s", job.id, reason)
        return await self._store.mark_undeliverable(job.id, reason)

    def _shown_path(self, file: Path) -> str:
        """The file's place below the data folder: enough for the operator, nothing for others."""
        return file.relative_to(self._jobs_dir.parent).as_posix()


def _settings(job: Job) -> str:
    """The settings in small print, after what part of the video it is."""
    return "\n".join(line for line in (part_sentence(job), small_print(job)) if line)


def _is_there(file: Path) -> bool:
    """Whether there is such a file. OSError where that can not be told, which is not that it is
    gone: later Pythons' `is_file` makes no difference."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _size_bytes(file: Path) -> int:
    return file.stat().st_size


def _size_mib(file: Path) -> float:
    return _size_bytes(file) / MIB


def _ended(job: Job) -> datetime:
    return job.ended_at or job.created_at
