"""From what somebody asks for to a row in the database, or to a sentence why not.

Decides: which wishes are taken, with which settings, and that nothing half-done stays of those that
are not. Refuses to know: interactions, messages, the generator. The picture is in the job's folder,
and on the disk, before the row is written, so a row always has its picture, even after a power cut.
A folder without a row is nobody's and goes at the next start; but one with a finished video was
somebody's before an older backup took the database's place, and goes when its days are over.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import aiohttp
import msgspec

from bot.config import Config
from bot.intake import Intake, IntakeError, attachment_origins, download
from bot.texts import Text, say
from bot.views import SMALL_PICTURE
from generator.protocol import JobRequest, RequestError, job_request
from storage.jobs import DuplicateJob, Job, JobStore, NewJob, StorageError, new_job_id

log = logging.getLogger(__name__)

RANDOM_SEEDS = 2**31
NEGATIVE_CFG_SCALE = 2.0
"""Real guidance for those who name what they do not want and whose operator has set none."""
MIB = 1 << 20
DAY_S = 24 * 3600.0
FINISHED = "framepack-*.mp4"
"""What the generator calls a video that is whole."""
FETCHED_AT_ONCE = 4
"""Pictures that are in memory at the same time, whole: a crowd must not fill it."""


class Refusal(Exception):
    """This wish is not taken; the text is one sentence for the asker."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody asks for: fields of a JobRequest; those that are missing the config decides."""

    prompt: str
    settings: dict[str, Any] = {}
    spoiler: bool = False


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for what, and where.

    `pictures` says for each file name of the request where it comes from: the address of Discord's
    attachment, or the clean picture of an earlier job. `request.image` is the first.
    `max_waiting` is how many unfinished jobs this person may have, `weight` how much of the GPU is
    theirs beside others.
    """

    interaction_id: int
    guild_id: int | None
    channel_id: int
    user_id: int
    request: JobRequest
    pictures: dict[str, str | Path]
    spoiler: bool = False
    max_waiting: int
    weight: float = 1.0


class Orders:
    """Takes wishes. The session is for downloads; whoever made it closes it."""

    def __init__(
        self,
        config: Config,
        store: JobStore,
        intake: Intake,
        session: aiohttp.ClientSession,
        jobs_dir: Path,
    ) -> None:
        self._config = config
        self._store = store
        self._intake = intake
        self._session = session
        self._jobs_dir = jobs_dir
        self._origins = attachment_origins(config.discord.api_url)
        self._fetching = asyncio.Semaphore(FETCHED_AT_ONCE)
        self._entering: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    def request(self, asked: Asked) -> JobRequest:
        """The settings of a job: what was asked for, else the configured defaults. Refusal."""
        self._check_limits(asked)
        settings: dict[str, Any] = msgspec.structs.asdict(self._config.defaults)
        settings["variant"] = self._config.generator.variant
        settings["seed"] = secrets.randbelow(RANDOM_SEEDS)
        settings |= asked.settings
        settings["prompt"] = asked.prompt.strip()
        if asked.settings.get("negative_prompt"):  # it counts only with real guidance
            settings["true_cfg_scale"] = max(settings["true_cfg_scale"], NEGATIVE_CFG_SCALE)
        try:
            return job_request(**settings)
        except RequestError as error:
            raise Refusal(say(Text.SETTING_WRONG, sentence=error)) from None

    async def take(self, wish: Wish, admit: Callable[[], Awaitable[object]]) -> Job:
        """The queued job. Refusal for the asker; DuplicateJob when it is a row already.

        Limits are looked at twice: before anything is downloaded, and (with `admit`, which raises
        Refusal) when the row is written, one wish of a person after the other. Else those who ask
        for ten at once get ten.
        """
        new = NewJob(
            id=new_job_id(),
            interaction_id=wish.interaction_id,
            guild_id=wish.guild_id,
            channel_id=wish.channel_id,
            user_id=wish.user_id,
            request=wish.request,
            spoiler=wish.spoiler,
            weight=wish.weight,
        )
        folder, taken = self._jobs_dir / new.id, False
        try:
            await self._check_share(wish)
            notes = []
            for name, source in wish.pictures.items():
                small = folder / SMALL_PICTURE if name == wish.request.image else None
                notes.append(await self._fetch_picture(source, folder / name, small))
            await asyncio.to_thread(_sync_names, folder)
            note = next(filter(None, notes), "")
            async with self._entering.setdefault(wish.user_id, asyncio.Lock()):
                await self._check_share(wish)
                await admit()
                job = await self._store.enqueue(msgspec.structs.replace(new, input_note=note))
                taken = True
        except DuplicateJob:
            raise
        except (IntakeError, StorageError, OSError) as error:
            raise _refusal(error) from error
        finally:
            if not taken:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        log.info("job %s taken from user %d", job.id, job.user_id)
        return job

    @property
    def crowded(self) -> bool:
        """Whether people wait for others' pictures to be taken."""
        return self._fetching.locked()

    def folder(self, job: Job) -> Path:
        """Where the job's files are."""
        return self._jobs_dir / job.id

    async def discard(self, job: Job) -> None:
        """Remove the folder of a job that is over or never began."""
        await self.remove_folders([job.id])

    async def remove_folders(self, ids: Sequence[str]) -> None:
        """Remove the folders of these jobs."""
        for job_id in ids:
            await asyncio.to_thread(shutil.rmtree, self._jobs_dir / job_id, ignore_errors=True)

    async def remove_strays(self) -> None:
        """At start: remove the folders that no row knows. May raise StorageError.

        Finished videos are left for `keep_days`, and the operator is told of them.
        """
        known, days, kept = await self._store.known_ids(), self._config.storage.keep_days, 0
        for folder in await asyncio.to_thread(_folders, self._jobs_dir):
            if folder.name in known:
                continue
            if await asyncio.to_thread(_has_video, folder, time.time() - days * DAY_S):
                kept += 1
                continue
            log.info("removing %s, which belongs to no job", folder)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if kept:
            log.warning(
                "%d finished videos in %s belong to no job, as after an older backup of the "
                "database was put back; each goes %g days after it was made, so copy what you want",
                kept,
                self._jobs_dir,
                days,
            )

    def _check_limits(self, asked: Asked) -> None:
        limits, length = self._config.limits, len(asked.prompt)
        if not asked.prompt.strip():
            raise Refusal(say(Text.PROMPT_EMPTY))
        if length > limits.max_prompt_chars:
            raise Refusal(say(Text.PROMPT_LONG, length=length, limit=limits.max_prompt_chars))
        seconds = asked.settings.get("seconds", 0)
        if seconds > limits.max_seconds:
            raise Refusal(say(Text.SECONDS_LONG, seconds=seconds, limit=limits.max_seconds))

    async def _check_share(self, wish: Wish) -> None:
        limit, own = wish.max_waiting, await self._store.unfinished_of(wish.user_id)
        if any(job.interaction_id == wish.interaction_id for job in own):
            raise DuplicateJob(f"interaction {wish.interaction_id} is a job already")
        count = len(own)
        if count >= limit:
            raise Refusal(say(Text.TOO_MANY_WAITING, count=count, limit=limit))

    async def _fetch_picture(
        self, source: str | Path, destination: Path, small: Path | None
    ) -> str:
        if isinstance(source, Path):  # it was made clean when it came
            await asyncio.to_thread(_copy, source, destination)
            if small is not None:
                with contextlib.suppress(IntakeError):  # an old job may have none
                    await asyncio.to_thread(_copy, source.with_name(small.name), small)
            return ""
        max_bytes = int(self._config.limits.max_attachment_mib * MIB)
        async with self._fetching:
            raw = await download(source, self._session, self._origins, max_bytes)
            return (await self._intake.accept(raw, destination, small)).note


def _copy(source: Path, destination: Path) -> None:
    """Copy a picture so that it survives a power cut."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, destination)
    except FileNotFoundError:
        raise IntakeError(say(Text.PICTURE_GONE)) from None
    with destination.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_names(folder: Path) -> None:
    """Have the names in a job's new folder, and its own name, survive a power cut."""
    if sys.platform == "win32":
        return  # folders can not be opened there, and NTFS keeps a journal of names
    for each in (folder, folder.parent):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _folders(jobs_dir: Path) -> list[Path]:
    jobs_dir.mkdir(parents=True, exist_ok=True)
    return [entry for entry in jobs_dir.iterdir() if entry.is_dir()]


def _has_video(folder: Path, since_s: float) -> bool:
    """Whether there is a finished video that is not older than this."""
    with contextlib.suppress(OSError):
        return any(file.stat().st_mtime >= since_s for file in folder.glob(FINISHED))
    return False


def _refusal(error: Exception) -> Refusal:
    """What the asker is told of an error; the operator finds the rest in the log."""
    if isinstance(error, IntakeError):
        sentence = str(error)
        return Refusal(sentence[:1].upper() + sentence[1:] + ("" if sentence[-1:] == "." else "."))
    log.error("a job could not be taken: %s", error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    full = full or (isinstance(error, StorageError) and "is full" in str(error))
    return Refusal(say(Text.DISK_FULL if full else Text.STORE_FAILED))
