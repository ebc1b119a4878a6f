"""What a sweep removes, and above all what it does not."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bot.config import StorageConfig
from bot.instance import sole_instance
from bot.retention import GIB, Retention
from generator.protocol import ErrorKind, job_request
from storage.community import Community
from storage.jobs import JobStore, NewJob


class Scene:
    def __init__(self, store: JobStore, community: Community, folder: Path) -> None:
        self.community = community
        self.store, self.jobs_dir = store, folder / "jobs"
        self.count = 0

    async def job(self, end: str, kib: int = 1) -> str:
        self.count += 1
        name = f"{end}{self.count}"
        new = NewJob(
            id=name,
            interaction_id=self.count,
            guild_id=None,
            channel_id=1,
            user_id=1,
            request=job_request(prompt="a cat", seed=1),
        )
        folder = self.jobs_dir / name
        folder.mkdir(parents=True)
        for file in ("input.png", "sections.bin", "preview-1.webp"):
            (folder / file).write_bytes(bytes(1024 * kib))
        await self.store.enqueue(new)
        if end == "queued":
            return name
        await self.store.claim_next()
        match end:
            case "failed":
                await self.store.fail(name, ErrorKind.INTERNAL, "no")
            case "cancelled":
                await self.store.cancelled(name)
            case "pending" | "delivered":
                await self.store.finish(name, "v.mp4")
        if end == "delivered":
            await self.store.mark_delivered(name, 1)
        return name

    def folders(self) -> set[str]:
        return {path.name for path in self.jobs_dir.iterdir()}

    async def sweep(self, *, days: float = 30, gib: float = 1, later_days: float = 0) -> None:
        now = datetime.now(UTC) + timedelta(days=later_days)
        config = StorageConfig(keep_days=days, keep_gib=gib)
        await Retention(
            self.store, self.community, self.jobs_dir, config, clock=lambda: now
        ).sweep()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    path = tmp_path / "bot.sqlite3"
    async with await JobStore.open(path) as store, await Community.open(path) as community:
        yield Scene(store, community, tmp_path)


async def test_after_the_days_folder_and_row_go_but_not_of_what_is_wanted(scene: Scene) -> None:
    for end in ("delivered", "failed", "cancelled", "pending", "running"):
        await scene.job(end)
    await scene.job("queued")
    await scene.sweep(days=30, later_days=29)
    assert len(scene.folders()) == 6
    await scene.sweep(days=30, later_days=31)
    assert scene.folders() == {"pending4", "running5", "queued6"}
    assert await scene.store.known_ids() == {"pending4", "running5", "queued6"}


async def test_what_failed_keeps_its_picture_only(scene: Scene) -> None:
    failed, cancelled, done = [await scene.job(end) for end in ("failed", "cancelled", "delivered")]
    await scene.sweep()
    for name, files in ((failed, 1), (cancelled, 1), (done, 3)):
        assert len(list((scene.jobs_dir / name).iterdir())) == files
    assert (scene.jobs_dir / failed / "input.png").exists()


async def test_the_oldest_goes_first_when_there_is_too_much(scene: Scene) -> None:
    pending = await scene.job("pending", kib=100)
    jobs = [await scene.job("delivered", kib=100) for _ in range(4)]
    await scene.sweep(gib=950 * 1024 / GIB)  # each folder has 300 KiB
    assert scene.folders() == {pending, *jobs[2:]}
    assert await scene.store.known_ids() == {pending, *jobs}
    await scene.sweep(gib=1024 / GIB)
    assert scene.folders() == {pending}


async def test_what_was_erased_counts_for_a_day_and_is_forgotten_then(
    scene: Scene, tmp_path: Path
) -> None:
    path = tmp_path / "bot.sqlite3"

    def counted() -> int:
        with contextlib.closing(sqlite3.connect(path)) as database:
            return int(database.execute("SELECT count(*) FROM spent").fetchone()[0])

    await scene.job("delivered")
    await scene.community.erase(1)
    await scene.sweep()
    assert counted() == 1
    tomorrow = datetime.now(UTC) + timedelta(days=1, seconds=1)
    async with await Community.open(path, clock=lambda: tomorrow) as later:
        scene.community = later
        await scene.sweep()
    assert counted() == 0


@pytest.mark.skipif(os.name != "posix", reason="Windows' user folders are private anyway")
def test_the_data_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.mkdir(mode=0o755)
    for folder in (new, old):
        with sole_instance(folder):
            assert folder.stat().st_mode & 0o777 == 0o700
