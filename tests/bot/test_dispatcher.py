"""The dispatcher with a real child process and a real database; only Discord is a list."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_generator import DRAWN_S, video_bytes
from fake_posts import FakePosts

from bot.backend import LocalBackend
from bot.delivery import Delivery
from bot.dispatcher import MAX_ATTEMPTS, Dispatcher
from bot.publisher import Publisher
from bot.turns import TurnsConfig
from generator.protocol import ErrorKind, job_request
from storage.community import Community, Switch
from storage.jobs import (
    Job,
    JobState,
    JobStore,
    NewJob,
    StorageError,
    WrongState,
    new_job_id,
    utc_now,
)

LONG_TURNS = TurnsConfig()
FAKE = Path(__file__).resolve().parent.parent / "fake_generator.py"


class Scene:
    def __init__(
        self, store: JobStore, backend: LocalBackend, folder: Path, turns: TurnsConfig
    ) -> None:
        self.store, self.backend, self.jobs_dir = store, backend, folder / "jobs"
        self.posts = FakePosts(utc_now)
        self.publisher = Publisher(self.posts, store, self.jobs_dir)
        self.delivery = Delivery(self.posts, store, self.publisher, self.jobs_dir)
        self.dispatcher = Dispatcher(
            store,
            backend,
            self.publisher,
            self.delivery,
            self.jobs_dir,
            turns=turns,
            pause_s=0.05,
        )
        self._interactions = iter(range(1, 10_000))

    async def ask(self, seconds: float = 5.0, user_id: int = 7) -> Job:
        new = NewJob(
            id=new_job_id(),
            interaction_id=next(self._interactions),
            guild_id=5,
            channel_id=1,
            user_id=user_id,
            request=job_request(prompt="a cat", seed=1, seconds=seconds),
        )
        (self.jobs_dir / new.id).mkdir(parents=True)
        (self.jobs_dir / new.id / "input.png").write_bytes(b"png")
        job = await self.store.enqueue(new)
        self.dispatcher.wake()
        return job

    async def reaches(self, job: Job, *states: JobState, timeout_s: float = 20) -> Job:
        async with asyncio.timeout(timeout_s):
            while True:
                now = await self.store.get(job.id)
                assert now is not None
                if now.state in states:
                    return now
                await asyncio.sleep(0.02)

    async def ends(self, job: Job) -> Job:
        return await self.reaches(job, JobState.FINISHED, JobState.FAILED, JobState.CANCELLED)

    async def makes_progress(self, job: Job) -> None:
        async with asyncio.timeout(20):
            while job.id not in self.dispatcher.progress:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def scene(
    folder: Path, *words: str, turns: TurnsConfig = LONG_TURNS, **options: float
) -> AsyncIterator[Scene]:
    command = [sys.executable, str(FAKE), *words]
    async with (
        await JobStore.open(folder / "bot.sqlite3") as store,
        LocalBackend(command, start_timeout_s=10, **options) as backend,
    ):
        scene = Scene(store, backend, folder, turns)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(part.run())
                for part in (scene.publisher, scene.delivery, scene.dispatcher)
            ]
            yield scene
            for task in tasks:
                task.cancel()


async def test_jobs_run_in_order_and_each_is_delivered_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        jobs = [await found.ask() for _ in range(3)]
        ended = [await found.ends(job) for job in jobs]
        async with asyncio.timeout(10):
            while await found.store.undelivered():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert [job.state for job in ended] == [JobState.FINISHED] * 3
    starts = [job.started_at for job in ended]
    assert starts == sorted(starts)
    assert [message.file for message in found.posts.files] == [
        f"framepack-{job.id}.mp4" for job in jobs
    ]


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


async def test_kill_dash_nine_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path, "--steps", "20", "--step-s", "0.05") as found:
        jobs = [await found.ask(), await found.ask()]
        await found.makes_progress(jobs[0])
        psutil.Process(found.backend.pid).kill()
        jobs = [await found.ends(job) for job in jobs]
    assert [job.state for job in jobs] == [JobState.FINISHED] * 2
    for job in jobs:
        assert (found.jobs_dir / job.id / str(job.video)).read_bytes() == video_bytes(20)


async def test_a_failure_keeps_kind_and_sentence(tmp_path: Path) -> None:
    async with scene(tmp_path, "fails_memory") as found:
        job = await found.ends(await found.ask())
    assert (job.state, job.error_kind, job.error) == (
        JobState.FAILED,
        ErrorKind.MEMORY,
        "too big; ask for less",
    )


async def test_finished_without_a_file_is_a_failure(tmp_path: Path) -> None:
    async with scene(tmp_path, "no_video") as found:
        job = await found.ends(await found.ask())
    assert job.state is JobState.FAILED
    assert "there is no video" in (job.error or "")


async def test_a_broken_generator_fails_jobs_and_the_bot_lives(tmp_path: Path) -> None:
    async with scene(tmp_path, "broken") as found:
        jobs = [await found.ends(await found.ask()) for _ in range(2)]
    assert [(job.state, job.error_kind) for job in jobs] == [(JobState.FAILED, ErrorKind.MODEL)] * 2
    assert "whoever runs me finds the reason" in (jobs[0].error or "")


async def test_a_generator_that_does_not_start_is_tried_a_few_times(tmp_path: Path) -> None:
    async with scene(tmp_path, "dies_at_start") as found:
        job = await found.ends(await found.ask())
    assert (job.state, job.attempts) == (JobState.FAILED, MAX_ATTEMPTS)


async def test_cancel_while_queued(tmp_path: Path) -> None:
    async with scene(tmp_path, "--steps", "1000", "--step-s", "0.02") as found:
        first, second = await found.ask(), await found.ask()
        await found.makes_progress(first)
        assert (await found.dispatcher.cancel(second.id)).state is JobState.CANCELLED
        await found.dispatcher.cancel(first.id)
        assert (await found.ends(first)).state is JobState.CANCELLED
        with pytest.raises(WrongState):
            await found.dispatcher.cancel(first.id)


async def test_cancel_right_after_the_claim(tmp_path: Path) -> None:
    async with scene(tmp_path, "--steps", "1000") as found:
        job = await found.ask()
        await found.reaches(job, JobState.RUNNING)
        await found.dispatcher.cancel(job.id)
        assert (await found.ends(job)).state is JobState.CANCELLED
        after = await found.ask()
        await found.makes_progress(after)
        await found.dispatcher.cancel(after.id)
        await found.ends(after)


async def test_who_ignores_cancel_is_killed_and_the_next_job_runs(tmp_path: Path) -> None:
    async with scene(
        tmp_path, "ignores_cancel", "--steps", "2", "--step-s", "0.8", cancel_grace_s=0.2
    ) as found:
        first, second = await found.ask(), await found.ask()
        await found.makes_progress(first)
        await found.dispatcher.cancel(first.id)
        assert (await found.ends(first)).state is JobState.CANCELLED
        assert (await found.ends(second)).state is JobState.FINISHED


async def test_places_and_estimates(tmp_path: Path) -> None:
    async with scene(tmp_path, "--steps", "3", "--step-s", "0.1") as found:
        assert await found.dispatcher.places() == []
        await found.ends(await found.ask(seconds=1))
        running = await found.ask(seconds=1)
        waiting = [await found.ask(seconds=2), await found.ask(seconds=4)]
        await found.makes_progress(running)
        places = await found.dispatcher.places()
        assert [(job.id, place.position) for job, place in places] == [
            (waiting[0].id, 1),
            (waiting[1].id, 2),
        ]
        first, second = (place.starts_at for _, place in places)
        assert first is not None and second is not None
        speed = await found.store.speed()
        assert speed is not None
        assert (second - first).total_seconds() == pytest.approx(2 * speed, abs=1e-3)
        for job in [running, *waiting]:
            await found.ends(job)


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
                await found.reaches(jobs[0], JobState.QUEUED)
                marker.unlink()
            ended = [await found.ends(job) for job in jobs]
    if returns:
        assert [job.state for job in ended] == [JobState.FINISHED] * 2
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


SHORT_TURNS = TurnsConfig(sections=1, minutes=0)
"""The fake makes a section of five steps."""


async def test_a_long_job_gives_way_at_a_step_and_goes_on_to_the_same_bytes(
    tmp_path: Path,
) -> None:
    words = ("--steps", "60", "--step-s", "0.03", "--section-steps", "5")
    async with scene(tmp_path, *words, turns=SHORT_TURNS) as found:
        long = await found.ask(user_id=1)
        await found.makes_progress(long)
        short = await found.ends(await found.ask(user_id=2))
        long = await found.ends(long)
        pids = {found.backend.pid}
    assert long.turns >= 1
    assert short.turns >= 1  # as both were served alike, they took turns
    for job in (long, short):
        assert job.state is JobState.FINISHED
        assert (found.jobs_dir / job.id / str(job.video)).read_bytes() == video_bytes(60)
        assert job.worked_ms > 1000
    titles = [card.title for _, card in found.posts.cards if long.id in card.footer]
    assert len(pids) == 1
    assert set(titles) <= {
        "Waiting in the queue",
        "Making the video",
        "Waiting for its next turn",
        "Finished; the video is on its way",
        "Finished",
    }


async def test_a_short_job_goes_before_long_ones(tmp_path: Path) -> None:
    words = ("--steps-per-second", "10", "--step-s", "0.01", "--section-steps", "2")
    turns = TurnsConfig(sections=1, minutes=1.5 / 60)
    async with scene(tmp_path, *words, turns=turns) as found:
        await found.ends(await found.ask(seconds=1, user_id=3))  # now the speed is known
        long = await found.ask(seconds=20, user_id=1)
        await found.makes_progress(long)
        other = await found.ask(seconds=20, user_id=2)
        short = await found.ends(await found.ask(seconds=1, user_id=3))
        ended = [await found.ends(job) for job in (long, other)]
    assert short.turns == 0
    assert all(job.turns >= 1 for job in ended)
    assert short.started_at < ended[1].started_at  # though it came later
    for job in ended:
        assert (found.jobs_dir / job.id / str(job.video)).read_bytes() == video_bytes(200)


async def test_who_waits_is_read_only_when_a_turn_may_be_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, read = JobStore.next_in_line, []

    async def counted(self: JobStore) -> Job | None:
        read.append(True)
        return await real(self)

    async def never(self: JobStore, short: object) -> list[Job]:
        raise AssertionError("the short jobs were read")

    words = ("--steps", "50", "--step-s", "0.01", "--section-steps", "50")
    async with scene(tmp_path, *words, turns=TurnsConfig(sections=1, minutes=5)) as found:
        await found.ends(await found.ask(user_id=1))  # now the speed is known
        running = await found.ask(user_id=1)
        await found.makes_progress(running)
        before = len(read)
        monkeypatch.setattr(JobStore, "next_in_line", counted)
        monkeypatch.setattr(JobStore, "short_waiting", never)
        await found.ends(running)
    assert len(read) == before


async def test_a_job_is_not_put_aside_for_one_of_the_same_user(tmp_path: Path) -> None:
    words = ("--steps", "20", "--step-s", "0.01", "--section-steps", "2")
    async with scene(tmp_path, *words, turns=SHORT_TURNS) as found:
        jobs = [await found.ask(user_id=1) for _ in range(3)]
        ended = [await found.ends(job) for job in jobs]
    assert [job.turns for job in ended] == [0, 0, 0]


LONG = ("--steps", "400", "--step-s", "0.02", "--section-steps", "5")


async def has_sections(found: Scene, job: Job, count: int) -> Job:
    async with asyncio.timeout(20):
        while (now := await found.store.get(job.id)) is None or now.sections_made < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return now


async def test_the_running_job_ends_with_its_finished_sections(tmp_path: Path) -> None:
    async with scene(tmp_path, *LONG) as found:
        job = await found.ask()
        with pytest.raises(WrongState):
            await found.dispatcher.finish_early(job.id)
        running = await has_sections(found, job, 2)
        assert running.sections == 80
        await found.dispatcher.finish_early(job.id)
        await found.dispatcher.finish_early(job.id)
        ended = await found.ends(job)
        assert ended.state is JobState.FINISHED
        assert 2 <= ended.sections_made < 80
        async with asyncio.timeout(10):
            while await found.store.undelivered():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    [posted] = found.posts.files
    assert f"the last {ended.sections_made} of 80 sections" in posted.text


async def test_a_job_that_waits_for_its_next_turn_ends_with_its_finished_sections(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, *LONG, turns=SHORT_TURNS) as found:
        one, other = await found.ask(user_id=1), await found.ask(user_id=2)
        await found.makes_progress(one)
        waiting = await found.reaches(one, JobState.QUEUED)
        assert waiting.sections_made >= 1
        await found.dispatcher.finish_early(one.id)
        ended = await found.ends(one)
        assert (ended.state, ended.sections_made) == (JobState.FINISHED, waiting.sections_made)
        await found.dispatcher.cancel(other.id)
        await found.ends(other)


async def test_who_waits_behind_what_is_done_waits_for_its_frames(tmp_path: Path) -> None:
    async with scene(tmp_path, *LONG, turns=SHORT_TURNS) as found:
        measured = await found.ask(user_id=1)
        await has_sections(found, measured, 1)
        await found.dispatcher.finish_early(measured.id)
        await found.ends(measured)
        await found.store.charge(measured.id, 3600)  # so the other one is not put aside for this
        one = await found.ask(user_id=1)
        await found.makes_progress(one)
        other = await found.ask(user_id=2)
        await found.reaches(one, JobState.QUEUED)
        running = await found.store.running()
        assert [job.id for job in running] == [other.id]
        behind = await found.ask(user_id=1)
        one = await found.store.request_finish(one.id)
        places = await found.dispatcher.places()
        assert [job.id for job, _ in places] == [one.id, behind.id]
        first, second = (place.starts_at for _, place in places)
        assert first is not None and second is not None
        frames_s = DRAWN_S * one.sections_made
        assert (second - first).total_seconds() == pytest.approx(frames_s, abs=1e-3)
        for job in (one, other, behind):
            await found.dispatcher.cancel(job.id)
            await found.ends(job)


async def test_what_is_to_be_sent_survives_a_kill_and_a_restart(tmp_path: Path) -> None:
    async with scene(tmp_path, *LONG) as found:
        job = await found.ask()
        await has_sections(found, job, 2)
        await found.store.request_finish(job.id)  # and the bot ends before the child hears of it
    async with await JobStore.open(tmp_path / "bot.sqlite3") as store:
        [again] = await store.requeue_running()
    assert again.finish_requested
    async with scene(tmp_path, *LONG) as found:
        ended = await found.ends(job)
    assert ended.state is JobState.FINISHED
    assert 2 <= ended.sections_made < 80


async def test_while_paused_no_time_is_promised(tmp_path: Path) -> None:
    async with (
        scene(tmp_path) as found,
        await Community.open(tmp_path / "bot.sqlite3") as community,
    ):
        await found.ends(await found.ask())
        await community.turn(Switch.PAUSED, on=True)
        await found.ask()
        await found.ask()
        places = [place for _, place in await found.dispatcher.places()]
        assert [(place.paused, place.starts_at) for place in places] == [(True, None)] * 2
        await community.turn(Switch.PAUSED, on=False)
        # The first of them may run already; the last one waits in any case.
        *_, (_, place) = await found.dispatcher.places()
        assert place.starts_at is not None


async def test_a_job_cancelled_between_its_turns_is_over(tmp_path: Path) -> None:
    words = ("--steps", "200", "--step-s", "0.02", "--section-steps", "2")
    async with scene(tmp_path, *words, turns=SHORT_TURNS) as found:
        one, other = await found.ask(user_id=1), await found.ask(user_id=2)
        await found.makes_progress(one)
        await found.reaches(one, JobState.QUEUED)
        waiting = await found.store.get(one.id)
        assert waiting is not None
        await found.dispatcher.cancel(one.id)
        assert (await found.ends(one)).state is JobState.CANCELLED
        await found.dispatcher.cancel(other.id)
        await found.ends(other)


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


async def test_a_crowd_that_asks_for_places_has_the_queue_read_but_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(tmp_path, "--steps", "1000", "--step-s", "0.1") as found:
        await found.reaches(await found.ask(), JobState.RUNNING)
        read, waiting = 0, found.store.waiting

        async def counted() -> list[Job]:
            nonlocal read
            read += 1
            return await waiting()

        jobs = [await found.ask(user_id=number) for number in range(30)]
        monkeypatch.setattr(found.store, "waiting", counted)
        answers = await asyncio.gather(*(found.dispatcher.places() for _ in jobs))
        assert read == 2
        assert all(len(places) == len(jobs) for places in answers)

        async def is_there(number: int) -> bool:
            job = await found.ask(user_id=100 + number)
            return job.id in [place.id for place, _ in await found.dispatcher.places()]

        assert all(await asyncio.gather(*map(is_there, range(30))))
