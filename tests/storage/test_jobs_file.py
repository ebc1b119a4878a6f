"""The file under JobStore: full, spoiled, oddly named, read in part, or read from outside."""

from __future__ import annotations

import re
from pathlib import Path

import aiosqlite
import pytest
from new_jobs import new

from storage.jobs import JobState, JobStore, Short, StorageError, read_jobs


async def test_a_full_disk_is_one_sentence_and_the_store_lives_on(path: Path) -> None:
    async with await JobStore.open(path) as store:
        database = store._connections.promises
        await store.enqueue(new("j"))
        await database.execute_fetchall("PRAGMA max_page_count = 1")
        with pytest.raises(StorageError, match=r"the disk that holds .* is full; free some space"):
            for n in range(1000):
                await store.enqueue(new(f"k{n}"))
        kept = await store.known_ids()
        await database.execute_fetchall("PRAGMA max_page_count = 100000")
        assert (await store.enqueue(new("later"))).state is JobState.QUEUED
        assert await store.known_ids() == kept | {"later"}


async def test_a_row_that_is_no_job_is_one_sentence(store: JobStore, path: Path) -> None:
    await store.enqueue(new("j"))
    async with aiosqlite.connect(path) as other:
        await other.execute('UPDATE jobs SET request = \'{"prompt": "x"}\'')
        await other.commit()
    with pytest.raises(StorageError, match="job j in the database can not be read"):
        await store.get("j")


async def test_no_verb_of_a_busy_bot_reads_the_whole_table(path: Path) -> None:
    async with await JobStore.open(path) as store:
        said: list[str] = []
        database = store._connections.promises
        for connection in (store._connections.promises, store._connections.redoable):
            await connection.set_trace_callback(said.append)
        await store.enqueue(new("j"))
        await store.claim_next()
        await store.request_cancel("j")
        await store.requeue_running()
        for look in (store.waiting, store.running, store.undelivered, store.speed):
            await look()
        await store.short_waiting(Short(seconds=9, speed=10, turn_s=300))
        await store.unfinished_of(7)
        await store.recent(5)
        for connection in (store._connections.promises, store._connections.redoable):
            await connection.set_trace_callback(None)
        assert len(said) == 12
        for sql in said:
            plan = [row[3] for row in await database.execute_fetchall(f"EXPLAIN QUERY PLAN {sql}")]
            scans = [step for step in plan if step in ("SCAN jobs", "SCAN served")]
            newest = re.search(r"ORDER BY number DESC LIMIT \d+\)?$", sql)
            assert not scans or newest, (sql, plan)


async def test_the_queue_is_read_from_outside_while_the_bot_runs(
    store: JobStore, path: Path
) -> None:
    await store.enqueue(new("a"))
    await store.enqueue(new("b"))
    claimed = await store.claim_next()
    assert read_jobs(path) == [claimed, await store.get("b")]


async def test_reading_after_the_bot_ended_leaves_the_rows_alone(path: Path) -> None:
    async with await JobStore.open(path) as store:
        job = await store.enqueue(new("a"))
    assert read_jobs(path) == [job]
    assert read_jobs(path) == [job]


def test_reading_where_there_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"there is no database at .*the bot makes it"):
        read_jobs(tmp_path / "bot.sqlite3")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "bot.sqlite3").write_bytes(b"")
    with pytest.raises(StorageError, match="older framepack-bot"):
        read_jobs(tmp_path / "bot.sqlite3")


async def test_a_path_of_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "päth ?#%20&mode=x" / "bot.sqlite3"
    async with await JobStore.open(path) as store:
        job = await store.enqueue(new("a"))
        assert read_jobs(path) == [job]
