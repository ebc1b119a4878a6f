"""Presets, rules, standings, switches, the audit, and what an admin changes about jobs."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from generator.protocol import ErrorKind, job_request
from storage.community import Community, Preset, Rules, Scope, Standing, Switch
from storage.jobs import JobStore, NewJob, StorageError, new_job_id
from storage.schema import prepare

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
GUILD, BEN, CLEO = 5, 7, 8


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


class Room:
    """Both stores on one file, and a clock that is moved by hand."""

    def __init__(self, store: JobStore, community: Community, clock: Clock) -> None:
        self.store, self.community, self.clock = store, community, clock
        self.asked = 0

    async def enqueue(self, user: int = BEN) -> str:
        self.asked += 1
        job = await self.store.enqueue(
            NewJob(
                id=new_job_id(),
                interaction_id=self.asked,
                guild_id=GUILD,
                channel_id=1,
                user_id=user,
                request=job_request(prompt="a cat", seed=1, seconds=2),
            )
        )
        return job.id


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    path, clock = tmp_path / "bot.sqlite3", Clock()
    async with (
        await JobStore.open(path, clock=clock) as store,
        await Community.open(path, clock=clock) as community,
    ):
        yield Room(store, community, clock)


async def test_own_presets_stand_before_the_servers(room: Room) -> None:
    keep = room.community
    await keep.save_preset(
        Preset(scope=Scope.GUILD, owner_id=GUILD, name="calm", settings={"motion_bias": 2.0})
    )
    mine = Preset(scope=Scope.USER, owner_id=BEN, name="wild", settings={"steps": 30})
    await keep.save_preset(mine)
    await keep.save_preset(Preset(scope=Scope.USER, owner_id=BEN, name="wild", settings={}))
    await keep.save_preset(mine)
    assert [p.name for p in await keep.presets(BEN, GUILD)] == ["wild", "calm"]
    assert (await keep.presets(BEN, GUILD))[0] == mine
    assert [p.name for p in await keep.presets(CLEO, None)] == []
    assert await keep.delete_preset(Scope.USER, BEN, "wild")
    assert not await keep.delete_preset(Scope.USER, BEN, "wild")


async def test_rules_and_standings_are_what_was_saved(room: Room, tmp_path: Path) -> None:
    keep = room.community
    assert await keep.rules(GUILD) == Rules()
    rules = Rules(max_per_day=3, channels=(1, 2), blocked=("gore",), nsfw_only=True)
    await keep.save_rules(GUILD, rules)
    assert await keep.rules(GUILD) == rules
    await keep.save_standing(GUILD, BEN, Standing(banned=True, reason="spam"))
    assert (await keep.standing(GUILD, BEN)).reason == "spam"
    assert await keep.standing(GUILD, CLEO) == Standing()
    await keep.turn(Switch.DRAINING, on=True)
    async with await Community.open(tmp_path / "bot.sqlite3") as reopened:
        assert await reopened.rules(GUILD) == rules
        assert await reopened.standing(GUILD, BEN) == await keep.standing(GUILD, BEN)
        assert await reopened.switches() == {Switch.DRAINING}


async def test_rules_that_can_not_be_read_are_one_sentence_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "bot.sqlite3"
    prepare(path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute('INSERT INTO rules VALUES (1, \'{"max_per_day": "many"}\')')
    with pytest.raises(StorageError, match=r"a server's rules in .* can not be read"):
        await Community.open(path)


async def test_while_paused_nothing_is_claimed(room: Room) -> None:
    first = await room.enqueue()
    await room.community.turn(Switch.PAUSED, on=True)
    await room.community.turn(Switch.PAUSED, on=True)
    assert await room.community.switches() == {Switch.PAUSED}
    assert await room.store.claim_next() is None
    await room.community.turn(Switch.PAUSED, on=False)
    claimed = await room.store.claim_next()
    assert claimed is not None and claimed.id == first
    await room.store.note_sections(first, 2, 5)
    await room.store.request_finish(first)
    await room.store.suspended(first, 0.4)
    await room.store.request_cancel(first)
    anew = await room.community.retry(first)
    assert anew is not None
    assert (anew.turns, anew.furthest, anew.sections_made, anew.finish_requested) == (
        0,
        0,
        0,
        False,
    )


async def test_erasing_is_no_way_around_the_days_limit(room: Room) -> None:
    done = await room.enqueue()
    await room.store.claim_next()
    await room.store.finish(done, "a.mp4")
    await room.store.mark_delivered(done, 99)
    before = await room.community.counted_today(BEN, GUILD)
    assert await room.community.erase(BEN) == [done]
    assert await room.community.counted_today(BEN, GUILD) == before != []
    room.clock.now += timedelta(days=1, seconds=1)
    assert await room.community.counted_today(BEN, GUILD) == []
    await room.community.forget_spent()
    with closing(sqlite3.connect(room.community._path)) as database:
        assert database.execute("SELECT count(*) FROM spent").fetchone() == (0,)


async def test_a_preference_stays(room: Room) -> None:
    assert await room.community.preference("variant") is None
    await room.community.prefer("variant", "f1")
    await room.community.prefer("variant", "i2v")
    assert await room.community.preference("variant") == "i2v"


async def test_a_larger_priority_goes_first(room: Room) -> None:
    first, second = await room.enqueue(), await room.enqueue(CLEO)
    top = await room.community.top_priority()
    assert await room.community.prioritise(second, top + 1)
    assert [job.id for job in await room.store.waiting()] == [second, first]
    claimed = await room.store.claim_next()
    assert claimed is not None and claimed.id == second
    assert not await room.community.prioritise(second, 0)


async def test_a_failed_or_cancelled_job_gives_its_share_back(room: Room) -> None:
    delivered, failed, cancelled = [await room.enqueue() for _ in range(3)]
    await room.store.claim_next()
    await room.store.finish(delivered, "a.mp4")
    await room.store.claim_next()
    await room.store.fail(failed, ErrorKind.MEMORY, "too big")
    await room.store.request_cancel(cancelled)
    room.clock.now += timedelta(hours=1)
    await room.enqueue()
    times = [START, START + timedelta(hours=1)]
    assert await room.community.counted_today(BEN, GUILD) == times
    assert await room.community.counted_today(CLEO, GUILD) == []
    room.clock.now = START + timedelta(hours=24, seconds=1)
    assert await room.community.counted_today(BEN, GUILD) == times[1:]


async def test_a_failed_job_can_be_retried_and_a_finished_one_not(room: Room) -> None:
    first, second = await room.enqueue(), await room.enqueue()
    await room.store.claim_next()
    await room.store.fail(first, ErrorKind.MEMORY, "too big")
    again = await room.community.retry(first)
    assert again is not None
    assert (again.state, again.error, again.attempts) == ("queued", None, 0)
    assert await room.community.retry(second) is None
    claimed = await room.store.claim_next()
    assert claimed is not None and claimed.id == first


async def test_a_retried_job_has_the_share_that_a_new_one_would_have(room: Room) -> None:
    failed, other = await room.enqueue(), await room.enqueue()
    await room.store.claim_next()
    await room.store.charge(failed, 30)
    await room.store.fail(failed, ErrorKind.MEMORY, "too big")
    room.clock.now += timedelta(hours=20)
    await room.store.claim_next()
    await room.store.charge(other, 500)
    again = await room.community.retry(failed)
    fresh = await room.store.get(await room.enqueue())
    assert again is not None and fresh is not None
    assert again.share_ms == fresh.share_ms == 530_000
    room.clock.now += timedelta(hours=10)
    await room.store.forget_served(timedelta(hours=24))
    assert [job.share_ms for job in await room.store.waiting()] == [500_000] * 2


async def test_erasing_keeps_what_still_runs_and_the_others(room: Room) -> None:
    done, running, other = await room.enqueue(), await room.enqueue(), await room.enqueue(CLEO)
    await room.store.claim_next()
    await room.store.finish(done, "a.mp4")
    await room.store.mark_delivered(done, 99)
    await room.store.claim_next()
    await room.community.save_preset(
        Preset(scope=Scope.USER, owner_id=BEN, name="wild", settings={})
    )
    assert await room.community.erase(BEN) == [done]
    assert {job.id for job in await room.store.recent(9)} == {running, other}
    assert await room.community.presets(BEN, GUILD) == []


async def test_statistics_and_audit(room: Room) -> None:
    done, failed = await room.enqueue(), await room.enqueue()
    room.clock.now += timedelta(seconds=10)
    await room.store.claim_next()
    room.clock.now += timedelta(seconds=30)
    await room.store.finish(done, "a.mp4")
    await room.store.claim_next()
    await room.store.fail(failed, ErrorKind.MEMORY, "too big")
    found = await room.community.statistics(GUILD, START - timedelta(days=1))
    assert found.jobs == {"finished": 1, "failed": 1}
    assert found.failures == {"memory": 1}
    assert (found.video_s, found.mean_wait_s, found.mean_work_s) == (2.0, 10.0, 30.0)
    await room.community.note(GUILD, BEN, "queue pause", "", "a new GPU")
    [row] = await room.community.audit(GUILD, 10)
    assert (row.actor_id, row.action, row.reason) == (BEN, "queue pause", "a new GPU")
    assert row.at == START + timedelta(seconds=40)
