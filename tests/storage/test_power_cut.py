"""The power goes at any instant: what was promised is there, what was not is made again.

A disk keeps what was synced and any part of what was not. So of the write-ahead log everything up
to the last promise stands, and behind it whatever the test leaves: all, a torn piece, rubbish.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from new_jobs import new

from generator.protocol import ErrorKind
from storage.jobs import Delivery, Job, JobState, JobStore

DATABASE = "bot.sqlite3"
LOG = DATABASE + "-wal"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    async with await JobStore.open(tmp_path / DATABASE) as opened:
        yield opened


async def claimed(store: JobStore) -> None:
    await store.enqueue(new("j"))
    await store.claim_next()


async def finished(store: JobStore) -> None:
    await claimed(store)
    await store.finish("j", "v.mp4")


async def nothing(store: JobStore) -> None:
    pass


async def queued(store: JobStore) -> None:
    await store.enqueue(new("j"))


Verb = Callable[[JobStore], Awaitable[Any]]
PROMISES: dict[str, tuple[Verb, Verb]] = {
    "enqueue": (nothing, lambda s: s.enqueue(new("j"))),
    "request_cancel": (queued, lambda s: s.request_cancel("j")),
    "finish": (claimed, lambda s: s.finish("j", "v.mp4")),
    "fail": (claimed, lambda s: s.fail("j", ErrorKind.INPUT, "no")),
    "cancelled": (claimed, lambda s: s.cancelled("j")),
    "save_status_message": (queued, lambda s: s.save_status_message("j", 5)),
    "begin_delivery": (finished, lambda s: s.begin_delivery("j")),
    "mark_delivered": (finished, lambda s: s.mark_delivered("j", 6)),
    "mark_undeliverable": (finished, lambda s: s.mark_undeliverable("j", "no")),
}
REDOABLE: dict[str, tuple[Verb, Verb]] = {
    "claim_next": (queued, lambda s: s.claim_next()),
    "charge": (claimed, lambda s: s.charge("j", 60)),
    "suspended": (claimed, lambda s: s.suspended("j", 0.5)),
    "lost": (claimed, lambda s: s.lost("j", 0.5)),
    "forget_served": (claimed, lambda s: s.forget_served(timedelta(hours=1))),
    "waiting": (queued, lambda s: s.waiting()),
}


@pytest.mark.parametrize("verb", [*PROMISES, *REDOABLE])
async def test_promises_wait_for_the_disk_and_nothing_else_does(store: JobStore, verb: str) -> None:
    before, act = (PROMISES | REDOABLE)[verb]
    await before(store)
    said: dict[str, list[str]] = {"promises": [], "redoable": []}
    for name, heard in said.items():
        await getattr(store._connections, name).set_trace_callback(heard.append)
    await act(store)
    expected = "promises" if verb in PROMISES else "redoable"
    assert [name for name, heard in said.items() if heard] == [expected]


async def test_one_connection_syncs_each_commit_and_the_other_never(store: JobStore) -> None:
    found = {}
    for name in ("promises", "redoable"):
        database = getattr(store._connections, name)
        found[name] = [
            (await (await database.execute(f"PRAGMA {pragma}")).fetchone())[0]
            for pragma in ("synchronous", "wal_autocheckpoint")
        ]
    assert found == {"promises": [2, 1000], "redoable": [1, 0]}


class Machine:
    """A store whose disk is looked at after every verb."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder, self.draw = folder, draw
        self.synced = 0
        self.cuts: list[tuple[Path, int, dict[str, Any]]] = []
        self.promised: dict[str, Any] = {}

    async def run(self, store: JobStore, verbs: int) -> None:
        for _ in range(verbs):
            await self._one(store)
            log_bytes = (self.folder / LOG).stat().st_size
            copy = self.folder.parent / f"cut{len(self.cuts)}"
            copy.mkdir()
            for name in (DATABASE, LOG):
                shutil.copy(self.folder / name, copy)
            self.cuts.append((copy, min(self.synced, log_bytes), dict(self.promised)))

    async def _one(self, store: JobStore) -> None:
        jobs = {job.id: job for job in await store.recent(1000)}
        running = [job for job in jobs.values() if job.state is JobState.RUNNING]
        pending = [job for job in jobs.values() if job.delivery is Delivery.PENDING]
        dice = self.draw.random()
        if not jobs or dice < 0.2:
            name = f"j{len(jobs)}"
            await store.enqueue(new(name, user_id=len(jobs) % 3))
            return self._promise(name, JobState.QUEUED, 0, False)
        if pending and dice < 0.5:
            job = self.draw.choice(pending)
            if job.delivery_attempts and dice < 0.35:
                await store.mark_delivered(job.id, 99)
                return self._promise(job.id, job.state, job.delivery_attempts, True)
            begun = await store.begin_delivery(job.id)
            return self._promise(job.id, job.state, begun.delivery_attempts, False)
        if not running:
            await store.claim_next()
        elif dice < 0.7:
            await store.charge(running[0].id, 30)
        elif dice < 0.85:
            await store.suspended(running[0].id, dice)
        else:
            await store.finish(running[0].id, "v.mp4")
            self._promise(running[0].id, JobState.FINISHED, 0, False)

    def _promise(self, name: str, state: JobState, attempts: int, delivered: bool) -> None:
        self.promised[name] = (state, attempts, delivered)
        self.synced = (self.folder / LOG).stat().st_size


def tear(copy: Path, synced: int, draw: random.Random) -> None:
    """Leave of what was not synced any part, and perhaps a torn piece."""
    raw = (copy / LOG).read_bytes()
    kept = draw.randint(synced, len(raw))
    rubbish = draw.randbytes(draw.choice([0, 0, len(raw) - kept]))
    (copy / LOG).write_bytes(raw[:kept] + rubbish)


def is_kept(job: Job | None, promise: tuple[JobState, int, bool]) -> bool:
    """Whether the row says at least what was promised."""
    state, attempts, delivered = promise
    if job is None:
        return False
    if state is JobState.FINISHED:
        is_delivered = job.delivery is Delivery.DELIVERED
        return (
            job.state is state
            and (is_delivered or not delivered)
            and (job.delivery_attempts >= attempts)
        )
    return job.state in (JobState.QUEUED, JobState.FINISHED)


@pytest.mark.parametrize("seed", range(3))
async def test_after_a_power_cut_no_promise_is_broken_and_the_rest_goes_on(
    tmp_path: Path, seed: int
) -> None:
    folder, draw = tmp_path / "live", random.Random(seed)
    machine = Machine(folder, draw)
    async with await JobStore.open(folder / DATABASE) as store:
        await machine.run(store, 30)
    for copy, synced, promised in machine.cuts:
        tear(copy, synced, draw)
        async with await JobStore.open(copy / DATABASE) as after:
            await after.requeue_running()
            for name, promise in promised.items():
                job = await after.get(name)
                assert is_kept(job, promise), (copy.name, name, promise, job)
            while (job := await after.claim_next()) is not None:  # everything that waits goes on
                await after.finish(job.id, "v.mp4")
            assert all(job.state is JobState.FINISHED for job in await after.recent(1000))


async def test_a_cut_before_the_last_promise_would_be_seen(tmp_path: Path) -> None:
    """The other way round: a disk that had not synced the promise makes the check above fail."""
    folder = tmp_path / "live"
    async with await JobStore.open(folder / DATABASE) as store:
        before = (folder / LOG).stat().st_size
        await store.enqueue(new("j"))
        for name in (DATABASE, LOG):
            shutil.copy(folder / name, tmp_path)
    raw = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(raw[:before])
    async with await JobStore.open(tmp_path / DATABASE) as after:
        assert not is_kept(await after.get("j"), (JobState.QUEUED, 0, False))
