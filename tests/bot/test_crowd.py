"""Many people at once, and a generator that is slow to start. Never timed: benchmarks do that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from edit_log import EditLog, read_edits
from live import Live, fake_command, with_limits

from bot import orders, publisher
from bot.app import StartError, run_bot
from bot.orders import FETCHED_AT_ONCE
from bot.playground import Interaction, Playground, plain_text
from bot.playground.journal import RestCall
from storage.jobs import JobState

CROWD = 40
SLOW_EDITS = "PATCH /channels/*/messages/*"


@pytest.fixture
def live(
    points_at_playground: Playground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Live]:
    monkeypatch.setattr(publisher, "EDIT_GAP_S", 0.5)
    monkeypatch.setattr(publisher, "QUIET_GAP_S", 0.1)
    yield Live(points_at_playground, tmp_path)


async def everybody_asks(live: Live, count: int) -> list[Interaction]:
    world = live.playground.world
    people = [world.add_user(f"person{n}") for n in range(count)]
    for person in people:
        world.join(person)
    return [await live.animate(person) for person in people]


async def test_of_a_crowd_everybody_is_answered_and_nothing_is_lost(live: Live) -> None:
    live.playground.faults.inject(SLOW_EDITS, latency_s=0.3, times=None)
    async with live.running("--steps", "4", "--step-s", "0.2"):
        asked = await everybody_asks(live, CROWD)
        for interaction in asked:
            await live.answer_says(interaction, "Your video is in the queue")
        jobs = live.jobs()
        assert len(jobs) == CROWD
        assert {job.interaction_id for job in jobs} == {interaction.id for interaction in asked}
        places = [m for m in live.posts() if "in the queue" in plain_text(m)]
        assert len({job.status_message_id for job in jobs}) == CROWD
        assert len(places) > CROWD / 2
        await live.until(lambda: sum(job.state is JobState.FINISHED for job in live.jobs()) >= 4)
        await live.until(lambda: read_edits(live.playground.calls).count >= 4)
    found = read_edits(live.playground.calls)
    assert (found.overlapping, found.idle) == (0, 0), found


async def test_only_a_few_pictures_are_in_memory_at_once(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, most, download = 0, 0, orders.download

    async def counted(*arguments: object) -> bytes:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            await asyncio.sleep(0.01)
            return await download(*arguments)  # type: ignore[arg-type]
        finally:
            at_once -= 1

    monkeypatch.setattr(orders, "download", counted)
    async with live.running("--steps", "1000", "--step-s", "0.1"):
        for interaction in await everybody_asks(live, 3 * FETCHED_AT_ONCE):
            await live.answer_says(interaction, "Your video is in the queue")
    assert most == FETCHED_AT_ONCE


async def test_people_are_served_while_the_generator_starts(live: Live) -> None:
    async with live.running("slow_start"):
        asked = await live.animate()
        await live.answer_says(asked, "Your video is in the queue")
        await live.status_says("Next in the queue")
        assert [job.state for job in live.jobs()] == [JobState.QUEUED]


async def test_a_generator_that_can_not_start_leaves_the_queue_as_it_is(live: Live) -> None:
    async with live.running("slow_start"):
        await live.answer_says(await live.animate(), "Your video is in the queue")
    with pytest.raises(StartError, match="the model folder has no vae"):
        await run_bot(live.config, live.playground.token, command=fake_command("broken"))
    assert [job.state for job in live.jobs()] == [JobState.QUEUED]


async def test_commands_are_registered_only_when_they_changed(live: Live) -> None:
    def registered() -> int:
        calls = live.playground.calls
        return sum(call.method == "PUT" and call.route.endswith("/commands") for call in calls)

    async with live.running():
        assert registered() == 1
        assert (live.folder / "commands.sha256").is_file()
    async with live.running():
        assert registered() == 1
    async with live.running(config=with_limits(live.config, max_seconds=3.0)):
        assert registered() == 2


BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def call(method: str, after_s: float, text: str, *files: str) -> RestCall:
    """One request about message 7, which takes half a second."""
    path = "/channels/1/messages"
    return RestCall(
        at=BEGAN + timedelta(seconds=after_s),
        method=method,
        path=path if method == "POST" else f"{path}/7",
        route="",
        query={},
        body={"embeds": [{"title": text}]},
        files=tuple((name, 9) for name in files),
        status=200,
        answer={"id": "7"},
        duration_s=0.5,
    )


def test_the_log_of_edits_sees_what_it_is_for() -> None:
    """What the crowd's test counts would be seen if it happened."""
    good = [call("POST", 0, "a"), call("PATCH", 1, "b"), call("PATCH", 2, "c")]
    assert read_edits(good) == EditLog(count=2, overlapping=0, idle=0)
    assert read_edits([*good, call("PATCH", 2.2, "d")]).overlapping == 1
    assert read_edits([*good, call("PATCH", 3, "c")]).idle == 1
    assert read_edits([good[0], call("PATCH", 1, "a")]).idle == 1
    assert read_edits([*good, call("PATCH", 3, "c", "preview.webp")]).idle == 0
