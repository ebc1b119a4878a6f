"""A copy made while somebody writes is whole; a damaged file is found before it is used."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from new_jobs import new

from storage.jobs import JobState, JobStore, StorageError
from storage.reading import back_up, read_jobs
from storage.schema import migrations, prepare


async def test_a_backup_is_consistent_while_the_bot_writes(tmp_path: Path) -> None:
    path, stop = tmp_path / "bot.sqlite3", asyncio.Event()

    async def write(store: JobStore) -> None:
        number = 0
        while not stop.is_set():
            await store.enqueue(new(f"n{number}"))
            await store.claim_next()
            await store.charge(f"n{number}", 1)
            await store.finish(f"n{number}", "v.mp4")
            number += 1

    async with await JobStore.open(path) as store:
        writer = asyncio.ensure_future(write(store))
        counts = []
        for number in range(5):
            await asyncio.sleep(0.1)
            copy = tmp_path / f"copy{number}.sqlite3"
            counts.append(await asyncio.to_thread(back_up, path, copy))
            jobs = read_jobs(copy)
            assert len(jobs) == counts[-1]
            assert all(job.state is JobState.FINISHED for job in jobs[:-1])
        stop.set()
        await writer
    assert 0 < counts[0] < counts[-1]
    async with await JobStore.open(copy) as restored:
        assert len(await restored.recent(10_000)) == counts[-1]
    if os.name == "posix":
        assert copy.stat().st_mode & 0o777 == 0o600


def test_a_backup_overwrites_nothing_and_needs_a_database(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no database"):
        back_up(tmp_path / "bot.sqlite3", tmp_path / "copy")
    prepare(tmp_path / "bot.sqlite3")
    (tmp_path / "copy").write_text("mine")
    with pytest.raises(StorageError, match="exists already"):
        back_up(tmp_path / "bot.sqlite3", tmp_path / "copy")
    with pytest.raises(StorageError, match="nowhere"):
        back_up(tmp_path / "bot.sqlite3", tmp_path / "nowhere" / "copy")
    assert (tmp_path / "copy").read_text() == "mine"
    assert not (tmp_path / "copy.part").exists()


async def test_a_damaged_file_is_refused_at_start(tmp_path: Path) -> None:
    path = tmp_path / "bot.sqlite3"
    async with await JobStore.open(path) as store:
        for number in range(200):
            await store.enqueue(new(f"n{number}"))
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2 // 4096 * 4096
    raw[middle : middle + 8192] = os.urandom(8192)
    path.write_bytes(raw)
    with pytest.raises(StorageError, match="is damaged; move it away and put a backup"):
        await JobStore.open(path)


@pytest.mark.parametrize("version", range(1, len(migrations())))
async def test_jobs_of_every_earlier_version_are_still_jobs(tmp_path: Path, version: int) -> None:
    path = tmp_path / "bot.sqlite3"
    prepare(path, migrations()[:version])
    request = '{"prompt":"a cat","seed":1}'
    with closing(sqlite3.connect(path)) as database, database:
        for number, state in enumerate(("queued", "running", "failed", "cancelled")):
            database.execute(
                "INSERT INTO jobs (id, interaction_id, ordinal, channel_id, user_id, request,"
                " state, created_ms, attempts) VALUES (?, ?, 0, 1, 7, ?, ?, 1, 2)",
                (f"j{number}", number, request, state),
            )
    async with await JobStore.open(path) as store:
        await store.requeue_running()
        jobs = await store.recent(10)
        assert [job.state for job in reversed(jobs)] == ["queued", "queued", "failed", "cancelled"]
        claimed = await store.claim_next()
        assert claimed is not None and claimed.id == "j0"
        await store.charge("j0", 5)
        assert (await store.suspended("j0", 0.5)).worked_ms == 5000


def test_a_start_does_not_wait_for_a_check_that_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bot.sqlite3"
    prepare(path)
    with closing(sqlite3.connect(path)) as database, database:
        database.executemany(
            "INSERT INTO audit (at_ms, guild_id, actor_id, action, target, reason)"
            " VALUES (0, 0, 0, ?, '', '')",
            [(f"a{n}",) for n in range(20_000)],
        )
    monkeypatch.setattr("storage.schema.CHECKED_S", 0.0)
    with caplog.at_level("INFO"):
        prepare(path)
    assert "a backup checks it" in caplog.text
