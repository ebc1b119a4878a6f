"""A finished video reaches its channel exactly once: on a clock that jumps, a real database."""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fake_posts import FakePosts
from virtual_time import now, now_s, open_store, run

from bot.delivery import FIT_ATTEMPTS, Delivery, Fit
from bot.fitting import FittingError, NoRoomError
from bot.posts import Trouble
from bot.publisher import Publisher
from generator.protocol import job_request
from storage.jobs import Delivery as Stand
from storage.jobs import Job, JobStore, NewJob

JOB = "abcdefgh23"
FLOOR_BYTES = 100_000


def write(file: Path, size_bytes: int) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(bytes(size_bytes))


@contextlib.asynccontextmanager
async def store_with_finished_job(folder: Path) -> AsyncIterator[JobStore]:
    async with open_store(folder / "bot.sqlite3") as store:
        request = job_request(prompt="a cat", seed=1)
        await store.enqueue(
            NewJob(id=JOB, interaction_id=1, guild_id=5, channel_id=1, user_id=7, request=request)
        )
        await store.claim_next()
        (folder / "jobs" / JOB).mkdir(parents=True)
        (folder / "jobs" / JOB / f"framepack-{JOB}.mp4").write_bytes(bytes(3 << 20))
        await store.finish(JOB, f"framepack-{JOB}.mp4")
        yield store


async def small_version(source: Path, destination: Path, limit_bytes: int) -> bool:
    """In ffmpeg's place: a file of exactly so many bytes."""
    if limit_bytes < FLOOR_BYTES:
        return False
    await asyncio.to_thread(write, destination, limit_bytes)
    return True


async def deliver(
    store: JobStore, posts: FakePosts, folder: Path, seconds: float = 0, fit: Fit = small_version
) -> Job:
    """Run a delivery until nothing is pending, or for so long."""
    publisher = Publisher(posts, store, folder / "jobs", clock=now)
    delivery = Delivery(posts, store, publisher, folder / "jobs", fit=fit)
    end = now_s() + seconds if seconds else float("inf")
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(delivery.run())
        while await store.undelivered() and now_s() < end:  # noqa: ASYNC110
            await asyncio.sleep(30)
        loop.cancel()
    job = await store.get(JOB)
    assert job is not None
    return job


def scene(test: Any) -> Any:
    """The test as a plain function, on the virtual clock, with its store and posts."""

    def wrapped(tmp_path: Path) -> None:
        async def go() -> None:
            async with store_with_finished_job(tmp_path) as store:
                await test(store, FakePosts(now), tmp_path)

        run(go())

    wrapped.__name__ = test.__name__
    return wrapped


@scene
async def test_the_video_is_a_reply_that_pings_only_its_owner(
    store: JobStore, posts: FakePosts, folder: Path
) -> None:
    job = await deliver(store, posts, folder)
    [message] = posts.files
    assert message.file == f"framepack-{JOB}.mp4"
    assert message.channel_id == 1
    assert message.ping == 7
    assert "<@7>" in message.text
    assert message.nonce == JOB
    assert job.delivery is Stand.DELIVERED
    assert job.result_message_id == message.message_id
    assert ("find", 1) not in posts.requests


@scene
async def test_what_is_delivered_is_never_delivered_again(
    store: JobStore, posts: FakePosts, folder: Path
) -> None:
    await deliver(store, posts, folder)
    await deliver(store, posts, folder)
    assert len(posts.files) == 1


@scene
async def test_trouble_is_waited_out_for_hours(
    store: JobStore, posts: FakePosts, folder: Path
) -> None:
    posts.faults.extend([Trouble.TRANSIENT] * 60)
    job = await deliver(store, posts, folder)
    assert job.delivery is Stand.DELIVERED
    assert len(posts.files) == 1
    assert now_s() > 3600


@scene
async def test_a_lost_answer_does_not_post_twice(
    store: JobStore, posts: FakePosts, folder: Path
) -> None:
    posts.lost_answers = 1
    job = await deliver(store, posts, folder)
    assert len(posts.files) == 1
    assert job.result_message_id == posts.files[0].message_id
    assert job.delivery_attempts == 2


@scene
async def test_a_crash_between_post_and_record_does_not_post_twice(
    store: JobStore, posts: FakePosts, folder: Path
) -> None:
    await store.begin_delivery(JOB)
    await posts.post_text(1, "", nonce=JOB, file=Path(f"framepack-{JOB}.mp4"))
    job = await deliver(store, posts, folder)
    assert len(posts.files) == 1
    assert job.delivery is Stand.DELIVERED


@scene
async def test_a_crash_before_the_post_posts_once(
    store: JobStore, posts: FakePosts, folder: Path
) -> None:
    await store.begin_delivery(JOB)
    await deliver(store, posts, folder)
    assert len(posts.files) == 1


@pytest.mark.parametrize("trouble", [Trouble.CHANNEL_GONE, Trouble.FORBIDDEN])
def test_a_closed_channel_means_a_direct_message(tmp_path: Path, trouble: Trouble) -> None:
    @scene
    async def test(store: JobStore, posts: FakePosts, folder: Path) -> None:
        posts.closed_channels[1] = trouble
        job = await deliver(store, posts, folder)
        assert job.delivery is Stand.DELIVERED
        assert [message.channel_id for message in posts.files] == [7000]
        assert posts.files[0].reply_to is None

    test(tmp_path)


@scene
async def test_nowhere_to_go_keeps_the_file_and_says_so(
    store: JobStore, posts: FakePosts, folder: Path
) -> None:
    posts.closed_channels = {1: Trouble.CHANNEL_GONE, 7000: Trouble.FORBIDDEN}
    job = await deliver(store, posts, folder)
    assert job.delivery is Stand.UNDELIVERABLE
    assert f"`/show {JOB}` shows it to you" in (job.error or "")
    assert f"in my data folder as `jobs/{JOB}/framepack-{JOB}.mp4`" in (job.error or "")
    assert (folder / "jobs" / JOB / f"framepack-{JOB}.mp4").is_file()
    assert len(posts.requests) == 3


@scene
async def test_too_large_is_said_in_the_channel(
    store: JobStore, posts: FakePosts, folder: Path
) -> None:
    posts.faults.extend([Trouble.TOO_LARGE] * 3)
    job = await deliver(store, posts, folder)
    assert job.delivery is Stand.UNDELIVERABLE
    [message] = posts.messages.values()
    assert "with 3.0 MiB it is too large for Discord here" in message.text
    assert f"`jobs/{JOB}/framepack-{JOB}.mp4`" in message.text
    assert str(folder) not in message.text + (job.error or "")


@scene
async def test_a_full_disk_is_waited_out_and_the_video_is_not_called_too_large(
    store: JobStore, posts: FakePosts, folder: Path
) -> None:
    posts.boosted[5] = 1 << 20
    full_until_s = now_s() + 3600

    async def fit(source: Path, destination: Path, limit_bytes: int) -> bool:
        if now_s() < full_until_s:
            raise NoRoomError("the disk has 0.1 MiB free")
        return await small_version(source, destination, limit_bytes)

    job = await deliver(store, posts, folder, fit=fit)
    assert now_s() >= full_until_s
    assert job.delivery is Stand.DELIVERED
    [message] = posts.messages.values()
    assert message.file == f"framepack-{JOB}.mp4"


@pytest.mark.parametrize(
    "trouble", [FittingError("ffmpeg ended with -9"), PermissionError(13, "it is held")]
)
@pytest.mark.parametrize("times", [1, FIT_ATTEMPTS - 1, FIT_ATTEMPTS])
def test_trouble_of_ffmpeg_is_no_size_until_it_stays(
    tmp_path: Path, trouble: Exception, times: int
) -> None:
    @scene
    async def test(store: JobStore, posts: FakePosts, folder: Path) -> None:
        posts.boosted[5] = 1 << 20
        left = [trouble] * times

        async def fit(source: Path, destination: Path, limit_bytes: int) -> bool:
            if left:
                raise left.pop()
            return await small_version(source, destination, limit_bytes)

        job = await deliver(store, posts, folder, fit=fit)
        [message] = posts.messages.values()
        if times < FIT_ATTEMPTS:
            assert job.delivery is Stand.DELIVERED
            assert message.file == f"framepack-{JOB}.mp4"
        else:
            assert job.delivery is Stand.UNDELIVERABLE
            assert "too large for Discord here" in message.text

    test(tmp_path)


@scene
async def test_a_video_over_the_limit_is_made_to_fit(
    store: JobStore, posts: FakePosts, folder: Path
) -> None:
    posts.boosted[5] = 2 << 20
    job = await deliver(store, posts, folder)
    [message] = posts.files
    assert message.size_bytes == int((2 << 20) * 0.97)
    assert message.file == f"framepack-{JOB}.mp4"
    assert "3.0 MiB became 1.9 MiB" in message.text
    assert job.delivery is Stand.DELIVERED
    assert (folder / "jobs" / JOB / f"framepack-{JOB}.mp4").stat().st_size == 3 << 20


@scene
async def test_a_refused_size_becomes_one_step_smaller(
    store: JobStore, posts: FakePosts, folder: Path
) -> None:
    posts.faults.append(Trouble.TOO_LARGE)
    await deliver(store, posts, folder)
    [message] = posts.files
    assert message.size_bytes == int(int((3 << 20) * 0.7) * 0.97)
    assert "seed 1" in message.text
    assert "became" in message.text


@scene
async def test_what_can_not_be_made_small_enough_is_kept_and_said(
    store: JobStore, posts: FakePosts, folder: Path
) -> None:
    posts.boosted[5] = FLOOR_BYTES // 2
    job = await deliver(store, posts, folder)
    assert (job.delivery, job.delivery_attempts) == (Stand.UNDELIVERABLE, 1)
    [message] = posts.messages.values()
    assert f"`jobs/{JOB}/framepack-{JOB}.mp4`" in message.text


@scene
async def test_a_missing_file_ends_it(store: JobStore, posts: FakePosts, folder: Path) -> None:
    (folder / "jobs" / JOB / f"framepack-{JOB}.mp4").unlink()
    job = await deliver(store, posts, folder)
    assert job.delivery is Stand.UNDELIVERABLE
    assert posts.requests == []


@pytest.mark.parametrize("where", ["looked for", "opened"])
def test_a_file_that_another_program_holds_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """As a sync program does on Windows: it is no reason to end, nor to call the file gone."""
    held_until_s = 3600.0
    stat = Path.stat

    def held_stat(path: Path, **options: Any) -> os.stat_result:
        if where == "looked for" and path.suffix == ".mp4" and now_s() < held_until_s:
            raise PermissionError(errno.EACCES, "held by another program")
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", held_stat)

    @scene
    async def test(store: JobStore, posts: FakePosts, folder: Path) -> None:
        post = posts.post_text

        async def post_text(*words: Any, **options: Any) -> int:
            if where == "opened" and options.get("file") and now_s() < held_until_s:
                raise PermissionError(errno.EACCES, "held by another program")
            return await post(*words, **options)

        monkeypatch.setattr(posts, "post_text", post_text)
        job = await deliver(store, posts, folder)
        assert now_s() >= held_until_s
        assert job.delivery is Stand.DELIVERED
        assert len(posts.files) == 1

    test(tmp_path)


@scene
async def test_a_channel_that_is_down_does_not_hold_up_others(
    store: JobStore, posts: FakePosts, folder: Path
) -> None:
    posts.closed_channels[1] = Trouble.TRANSIENT
    other = "zzzzzzzz22"
    request = job_request(prompt="a dog", seed=1)
    await store.enqueue(
        NewJob(id=other, interaction_id=2, guild_id=5, channel_id=2, user_id=8, request=request)
    )
    await store.claim_next()
    (folder / "jobs" / other).mkdir()
    (folder / "jobs" / other / f"framepack-{other}.mp4").write_bytes(b"x")
    await store.finish(other, f"framepack-{other}.mp4")
    await deliver(store, posts, folder, seconds=60)
    assert [message.channel_id for message in posts.files] == [2]
