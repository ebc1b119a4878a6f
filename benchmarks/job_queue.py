"""How long the queue's verbs take on 100,000 jobs: `python benchmarks/job_queue.py [--jobs N]`.

Measures, on a file in the system's temporary folder and with the pragmas of the product: claiming,
peeking and charging while all of the jobs wait, and opening the store as the bot does at its start.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import msgspec

from generator.protocol import Variant, job_request
from storage.jobs import JobStore, Short
from storage.schema import prepare

USERS = 2000
"""So that each has 50 jobs waiting: charging one touches the share of them all."""


def fill(path: Path, jobs: int, waiting: int) -> None:
    """Rows as the store writes them, in one transaction: the first are finished, the last wait."""
    prepare(path)
    request = msgspec.json.encode(job_request(prompt="a cat walks", seed=1)).decode()
    rows = (
        (f"j{n:09}", n, n % USERS, request, *(_WAITING if n >= jobs - waiting else _FINISHED))
        for n in range(jobs)
    )
    with closing(sqlite3.connect(path)) as database, database:
        database.executemany(
            "INSERT INTO jobs (id, interaction_id, user_id, request, state, delivery, ordinal,"
            " channel_id, created_ms) VALUES (?, ?, ?, ?, ?, ?, 0, 1, 0)",
            rows,
        )


SHORT = Short(seconds=30, speed=10, turn_s=300)
_WAITING = ("queued", "none")
_FINISHED = ("finished", "delivered")


Times = tuple[list[float], list[float]]
"""Milliseconds of each call, by the clock and of the processor, each sorted."""


async def timed(times: int, verb: Callable[[int], Awaitable[object]]) -> Times:
    """Call it so often. On a busy machine the clock counts the others' work as well."""
    clock, processor = [], []
    for n in range(times):
        began, worked = time.perf_counter(), time.process_time()
        await verb(n)
        clock.append(1000 * (time.perf_counter() - began))
        processor.append(1000 * (time.process_time() - worked))
    return sorted(clock), sorted(processor)


async def measure(path: Path, times: int) -> dict[str, Times]:
    async with await JobStore.open(path) as store:
        ids: list[str] = []

        async def claim(_: int) -> None:
            job = await store.claim_next(Variant.I2V, timedelta(minutes=2.5))
            assert job is not None
            ids.append(job.id)

        return {
            "claim_next": await timed(times, claim),
            "short_waiting": await timed(times, lambda _: store.short_waiting(SHORT)),
            "claim_short": await timed(times, lambda _: store.claim_short(SHORT)),
            "next_in_line": await timed(times, lambda _: store.next_in_line()),
            "charge": await timed(times, lambda n: store.charge(ids[n], 60)),
            "suspended": await timed(times, lambda n: store.suspended(ids[n], 0.5)),
            "claim_next, after turns": await timed(times, claim),
            "forget_served, nothing old": await timed(
                times, lambda _: store.forget_served(timedelta(hours=24))
            ),
        }


async def start(path: Path) -> float:
    """Seconds of what the bot asks of the store before it takes jobs."""
    began = time.perf_counter()
    async with await JobStore.open(path) as store:
        await store.requeue_running()
        await store.known_ids()
        await store.undelivered()
        await store.recent(50)
        return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=300)
    arguments = parser.parse_args()
    times = arguments.times
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bot.sqlite3"
        fill(path, arguments.jobs, arguments.jobs)
        table = asyncio.run(measure(path, times))
        start_s = min(asyncio.run(start(path)) for _ in range(3))
    print(f"{arguments.jobs:,} jobs wait, {arguments.times:,} calls each; milliseconds")
    print("| verb | p50 | p99 | p99 of the processor |\n|---|---|---|---|")
    for verb, (clock, processor) in table.items():
        p50, p99, cpu = clock[times // 2], clock[int(times * 0.99)], processor[int(times * 0.99)]
        print(f"| {verb} | {p50:.2f} | {p99:.2f} | {cpu:.2f} |")
    print(f"start: {start_s:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
