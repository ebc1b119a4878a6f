"""What is thrown away, and when: the data folder neither grows for ever nor loses what is wanted.

Decides: which folders and rows go. Of jobs that failed or were cancelled only the pictures stay; of
all jobs everything goes after `keep_days`, and the oldest folders go first where all together take
more than `keep_gib`. What is queued, running or not yet delivered is never touched. Refuses to
know: what the files mean.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from bot.config import StorageConfig
from storage.community import Community
from storage.jobs import Job, JobState, JobStore, StorageError, utc_now

log = logging.getLogger(__name__)

EVERY_S = 3600.0
GIB = 1 << 30
PICTURES = (".png", ".jpg", ".webp")
"""What a job can be asked for again with."""


class Retention:
    """Sweeps the jobs folder every hour. `run()` works until cancelled."""

    def __init__(
        self,
        store: JobStore,
        community: Community,
        jobs_dir: Path,
        config: StorageConfig,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._community = community
        self._jobs_dir = jobs_dir
        self._config = config
        self._clock = clock

    async def run(self) -> None:
        """Sweep now and every hour, until cancelled."""
        while True:
            try:
                await self.sweep()
            except (StorageError, OSError) as error:
                log.error("old jobs can not be removed: %s", error)
            await asyncio.sleep(EVERY_S)

    async def sweep(self) -> None:
        """Remove what is too old or too much. May raise StorageError and OSError."""
        await self._community.forget_spent()
        before = self._clock() - timedelta(days=self._config.keep_days)
        over = await self._store.ended()
        young = [job for job in over if job.ended_at is None or job.ended_at >= before]
        old = [job for job in over if job.ended_at is not None and job.ended_at < before]
        await asyncio.to_thread(self._remove_files, old, young)
        # After the files: a folder without a row would be a stray, a row without a folder is fine.
        if old:
            rows = await self._store.forget_ended(before)
            log.info("%d jobs were older than %g days", rows, self._config.keep_days)

    def _remove_files(self, old: list[Job], young: list[Job]) -> None:
        for job in old:
            shutil.rmtree(self._jobs_dir / job.id, ignore_errors=True)
        for job in young:
            if job.state is not JobState.FINISHED:
                _keep_pictures_only(self._jobs_dir / job.id)
        self._make_room(young)

    def _make_room(self, young: list[Job]) -> None:
        """Remove the folders that are over, oldest first, until all together are small enough."""
        total = sum(_size(folder) for folder in _folders(self._jobs_dir))
        limit = self._config.keep_gib * GIB
        for job in young:
            if total <= limit:
                return
            folder = self._jobs_dir / job.id
            total -= _size(folder)
            if folder.exists():
                log.info("%s goes: all jobs together may take %g GiB", job.id, limit / GIB)
                shutil.rmtree(folder, ignore_errors=True)


def _keep_pictures_only(folder: Path) -> None:
    for path in folder.glob("*"):
        is_picture = path.suffix in PICTURES and not path.name.startswith("preview")
        if path.is_file() and not is_picture:
            path.unlink(missing_ok=True)


def _folders(jobs_dir: Path) -> list[Path]:
    return [entry for entry in jobs_dir.iterdir() if entry.is_dir()] if jobs_dir.is_dir() else []


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
