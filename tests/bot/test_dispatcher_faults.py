"""What goes wrong under a job, child, disk or error: an attempt or some time, never the queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from dispatcher_scene import scene
from fake_generator import video_bytes

from bot.dispatcher import MAX_ATTEMPTS
from bot.publisher import Publisher
from generator.protocol import ErrorKind
from storage.jobs import Job, JobState, JobStore, StorageError


async def test_a_child_that_dies_once_costs_an_attempt_not_the_job(tmp_path: Path) -> None:
    async with scene(tmp_path, "dies_once") as found:
        job = await found.ends(await found.ask())
    assert job.state is JobState.FINISHED
    assert (found.jobs_dir / job.id / str(job.video)).read_bytes() == video_bytes(4)


async def test_a_job_that_kills_every_child_fails_in_the_end(tmp_path: Path) -> None:
    async with scene(tmp_path, "dies") as found:
        bad = await found.ends(await found.ask())
    assert bad.state is JobState.FAILED
    assert bad.attempts == MAX_ATTEMPTS
    assert bad.error_kind is ErrorKind.INTERNAL
    assert f"broke down {MAX_ATTEMPTS} times" in (bad.error or "")


async def test_a_generator_that_is_restarted_on_purpose_costs_no_attempt(tmp_path: Path) -> None:
    async with scene(tmp_path, "--steps", "1000", "--step-s", "0.3") as found:
        job = await found.ask()
        await found.makes_progress(job)
        before = found.backend.pid
        await found.backend.close()  # as /admin generator restart does
        async with asyncio.timeout(20):
            while found.backend.pid in (None, before):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        again = await found.reaches(job, JobState.RUNNING)
        assert (again.attempts, again.error_kind) == (1, None)
        await found.dispatcher.cancel(job.id)
        await found.ends(job)


async def test_kill_dash_nine_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path, "--steps", "20", "--step-s", "0.05") as found:
        jobs = [await found.ask(), await found.ask()]
        await found.makes_progress(jobs[0])
        psutil.Process(found.backend.pid).kill()
        jobs = [await found.ends(job) for job in jobs]
    assert [job.state for job in jobs] == [JobState.FINISHED] * 2
    for job in jobs:
        assert (found.jobs_dir / job.id / str(job.video)).read_bytes() == video_bytes(20)


async def test_many_kills_cost_no_job_and_no_byte(tmp_path: Path) -> None:
    async with scene(tmp_path, "--steps", "40", "--step-s", "0.02") as found:
        job = await found.ask()
        for _ in range(8):
            furthest = found.dispatcher.progress.get(job.id)
            before = furthest.step if furthest else 0
            async with asyncio.timeout(20):
                while (p := found.dispatcher.progress.get(job.id)) is None or p.step <= before:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            psutil.Process(found.backend.pid).kill()
            await asyncio.sleep(0.1)
        job = await found.ends(job)
    assert job.state is JobState.FINISHED
    assert (found.jobs_dir / job.id / str(job.video)).read_bytes() == video_bytes(40)


async def test_a_failure_keeps_kind_and_sentence(tmp_path: Path) -> None:
    async with scene(tmp_path, "fails_memory") as found:
        job = await found.ends(await found.ask())
        async with asyncio.timeout(10):
            while await found.store.to_notice():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert (job.state, job.error_kind, job.error) == (
        JobState.FAILED,
        ErrorKind.MEMORY,
        "too big; ask for less",
    )
    [notice] = [message for message in found.posts.messages.values() if message.text]
    assert notice.ping == 7
    assert "There was not enough memory: too big; ask for less." in notice.text


async def test_finished_without_a_file_is_a_failure(tmp_path: Path) -> None:
    async with scene(tmp_path, "no_video") as found:
        job = await found.ends(await found.ask())
    assert job.state is JobState.FAILED
    assert "there is no video" in (job.error or "")


@pytest.mark.parametrize("how", ["model", "input", "internal", "says nothing"])
async def test_a_generator_that_can_not_be_started_costs_time_and_not_the_queue(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    def tries() -> int:
        return sum("can not be started" in record.getMessage() for record in caplog.records)

    marker = tmp_path / "broken"
    marker.write_text(how)
    async with scene(tmp_path, "--broken-while", str(marker)) as found:
        jobs = [await found.ask() for _ in range(2)]
        async with asyncio.timeout(20):
            while tries() < MAX_ATTEMPTS + 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        first = await found.reaches(jobs[0], JobState.QUEUED)
        assert (first.attempts, first.error_kind, first.worked_ms) == (0, None, 0)
        assert found.backend.trouble is not None
        assert [place.no_generator for _, place in await found.dispatcher.places()] == [True] * 2
        marker.unlink()
        ended = [await found.ends(job) for job in jobs]
    assert [(job.state, job.attempts) for job in ended] == [(JobState.FINISHED, 1)] * 2
    assert found.backend.trouble is None
    told = "\n".join(card.text for _, card in found.posts.cards)
    assert "what you asked for" not in told


async def test_the_longer_a_generator_can_not_be_started_the_less_often_it_is_tried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene(tmp_path, "dies_at_start") as found:
        job = await found.ask()
        async with asyncio.timeout(20):
            while "nothing starts for 0.8 s" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        waiting = await found.reaches(job, JobState.QUEUED)
        await found.dispatcher.cancel(waiting.id)
        assert (await found.ends(job)).state is JobState.CANCELLED
    assert all(f"nothing starts for {rest} s" in caplog.text for rest in (0.1, 0.2, 0.4))
    assert "exit code 3" in caplog.text


@pytest.mark.parametrize("verb", ["finish", "claim_next", "charge", "forget_served"])
async def test_a_full_disk_delays_and_loses_nothing(
    tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real: Callable = getattr(JobStore, verb)
    left = [3]

    async def full(self: JobStore, *arguments: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise StorageError("the disk is full")
        return await real(self, *arguments)

    monkeypatch.setattr(JobStore, verb, full)
    with caplog.at_level(logging.CRITICAL):
        async with scene(tmp_path) as found:
            job = await found.ends(await found.ask())
    assert (job.state, job.attempts) == (JobState.FINISHED, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
@pytest.mark.parametrize("returns", [True, False], ids=["there is space again", "there is none"])
async def test_a_disk_that_is_full_under_a_job_costs_time_and_not_the_queue(
    tmp_path: Path, returns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    marker = tmp_path / "full"
    words = ("--steps", "12", "--step-s", "0.03", "--full-while", str(marker))
    with caplog.at_level(logging.CRITICAL):
        async with scene(tmp_path, *words) as found:
            jobs = [await found.ask(), await found.ask()]
            await found.makes_progress(jobs[0])
            marker.touch()
            if returns:
                waiting = await found.reaches(jobs[0], JobState.QUEUED)
                assert waiting.error_kind is ErrorKind.DISK
                marker.unlink()
            ended = [await found.ends(job) for job in jobs]
    if returns:
        assert [(job.state, job.error_kind) for job in ended] == [(JobState.FINISHED, None)] * 2
        for job in ended:
            assert (found.jobs_dir / job.id / str(job.video)).read_bytes() == video_bytes(12)
    else:
        assert [(job.state, job.error_kind) for job in ended] == [
            (JobState.FAILED, ErrorKind.DISK)
        ] * 2
        assert all("is full; its operator must free some space" in (j.error or "") for j in ended)
        assert [job.attempts for job in ended] == [MAX_ATTEMPTS] * 2


async def test_an_unforeseen_error_does_not_end_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, left = Publisher.show, [1]

    def show(self: Publisher, job: Job, **news: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise ZeroDivisionError("nobody foresaw this")
        real(self, job, **news)

    monkeypatch.setattr(Publisher, "show", show)
    async with scene(tmp_path) as found:
        job = await found.ends(await found.ask())
    assert (job.state, job.attempts) == (JobState.FINISHED, 2)
    assert "nobody foresaw this" in caplog.text
