"""When status messages are edited, on a clock that jumps and a real database."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from fake_posts import FakePosts
from virtual_time import now, now_s, open_store, run

from bot.buttons import Action
from bot.posts import PostError, Trouble
from bot.publisher import Publisher
from bot.views import Place
from generator.protocol import ErrorKind, Progress, Stage, job_request
from storage.jobs import Job, JobStore, NewJob, new_job_id


class Scene:
    def __init__(self, store: JobStore, posts: FakePosts, folder: Path) -> None:
        self.store, self.posts = store, posts
        self.publisher = Publisher(posts, store, folder, clock=now)
        self._interactions = iter(range(1, 10_000))

    async def job(self, channel_id: int = 1) -> Job:
        return await self.store.enqueue(
            NewJob(
                id=new_job_id(),
                interaction_id=next(self._interactions),
                guild_id=5,
                channel_id=channel_id,
                user_id=7,
                request=job_request(prompt="a cat", seed=1),
            )
        )

    async def posted(self) -> Job:
        await self.publisher.post(await self.job())
        return (await self.store.recent(1))[0]

    async def running(self) -> Job:
        await self.posted()
        job = await self.store.claim_next()
        assert job is not None
        self.publisher.show(job)
        return job

    def step(self, job: Job, number: int, preview: str | None = None) -> None:
        progress = Progress(
            job_id=job.id, stage=Stage.SAMPLING, step=number, steps=1000, preview=preview
        )
        self.publisher.show(job, progress=progress)


@contextlib.asynccontextmanager
async def scene(folder: Path, latency_s: float = 0.0) -> AsyncIterator[Scene]:
    async with open_store(folder / "bot.sqlite3") as store:
        scene = Scene(store, FakePosts(now, latency_s), folder)
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(scene.publisher.run())
            yield scene
            loop.cancel()


def on_the_loop(tmp_path: Path, latency_s: float = 0.0) -> Callable:
    """Run a coroutine that takes a Scene, on the virtual clock."""

    def decorate(test: Callable) -> None:
        async def go() -> None:
            async with scene(tmp_path, latency_s) as found:
                await test(found)

        run(go())

    return decorate


def gaps(posts: FakePosts) -> list[float]:
    stamps = [stamp for stamp, _ in posts.cards]
    return [later - earlier for earlier, later in itertools.pairwise(stamps)]


def test_the_id_is_on_the_row_when_post_returns(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        job = await scene.job()
        message_id = await scene.publisher.post(job, Place(position=2))
        saved = await scene.store.get(job.id)
        assert saved is not None
        assert saved.status_message_id == message_id
        assert "Position 2 in the queue" in scene.posts.cards[0][1].text


def test_at_most_one_edit_in_five_seconds_and_the_newest_wins(tmp_path: Path) -> None:
    @on_the_loop(tmp_path, latency_s=0.3)
    async def _(scene: Scene) -> None:
        job = await scene.running()
        for number in range(1, 601):
            scene.step(job, number)
            await asyncio.sleep(0.1)
        await asyncio.sleep(6)
        assert min(gaps(scene.posts)) >= 5.0
        assert 11 <= len(scene.posts.cards) <= 14
        assert "step 600 of 1000" in scene.posts.cards[-1][1].text


def test_nothing_new_means_no_edit(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        job = await scene.running()
        for _ in range(100):
            scene.step(job, 3)
            await asyncio.sleep(1)
        assert len(scene.posts.cards) == 2


def test_news_that_reads_the_same_means_no_edit(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        job = await scene.posted()
        starts_at = now() + timedelta(seconds=1000)
        for number in range(20):
            about = starts_at + timedelta(seconds=5 * (number % 7))
            scene.publisher.show(job, place=Place(position=2, starts_at=about))
            await asyncio.sleep(10)
        assert len(scene.posts.cards) == 2
        scene.publisher.show(job, place=Place(position=2, starts_at=starts_at))
        later = starts_at + timedelta(seconds=500)
        scene.publisher.show(job, place=Place(position=2, starts_at=later))
        await asyncio.sleep(10)
        assert f"starts <t:{round(later.timestamp())}:R>" in scene.posts.cards[-1][1].text


def test_edits_slow_down_after_55_minutes(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        job = await scene.running()
        await asyncio.sleep(56 * 60)
        scene.step(job, 1)
        await asyncio.sleep(10)
        before = len(scene.posts.cards)
        for number in range(600):
            scene.step(job, number)
            await asyncio.sleep(1)
        assert 9 <= len(scene.posts.cards) - before <= 11
        assert min(gaps(scene.posts)[before:]) >= 60.0


@pytest.mark.parametrize("trouble", [Trouble.MESSAGE_GONE, Trouble.CHANNEL_GONE, Trouble.FORBIDDEN])
def test_edits_stop_after_the_first_refusal(tmp_path: Path, trouble: Trouble) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        job = await scene.running()
        scene.posts.faults.append(trouble)
        for number in range(100):
            scene.step(job, number)
            await asyncio.sleep(1)
        await scene.store.request_cancel(job.id)
        scene.publisher.show(await scene.store.cancelled(job.id))
        await asyncio.sleep(100)
        assert len(scene.posts.requests) == 2
        forgotten = await scene.store.get(job.id)
        assert forgotten is not None
        assert (forgotten.status_message_id is None) == (trouble is Trouble.MESSAGE_GONE)


def test_trouble_that_passes_only_delays(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        job = await scene.running()
        scene.posts.faults.extend([Trouble.TRANSIENT] * 3)
        scene.publisher.show(await scene.store.fail(job.id, ErrorKind.INPUT, "no"))
        await asyncio.sleep(200)
        assert scene.posts.cards[-1][1].title == "No video"
        assert len(scene.posts.requests) == 5


def test_the_last_state_gets_its_edit_even_if_it_comes_at_once(tmp_path: Path) -> None:
    @on_the_loop(tmp_path, latency_s=2)
    async def _(scene: Scene) -> None:
        job = await scene.running()
        scene.step(job, 1)
        await asyncio.sleep(5.5)  # an edit is in flight now
        scene.publisher.show(await scene.store.fail(job.id, ErrorKind.INPUT, "no"))
        await asyncio.sleep(60)
        assert scene.posts.cards[-1][1].title == "No video"
        assert scene.posts.cards[-1][1].actions == (Action.AGAIN, Action.EDIT, Action.DELETE)


def test_a_post_that_fails_is_tried_again_by_the_loop(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        job = await scene.job()
        scene.posts.faults.extend([Trouble.TRANSIENT] * 2)
        with pytest.raises(PostError):
            await scene.publisher.post(job)
        await asyncio.sleep(120)
        assert len(scene.posts.messages) == 1
        saved = await scene.store.get(job.id)
        assert saved is not None
        assert saved.status_message_id in scene.posts.messages


def test_a_post_whose_answer_got_lost_is_found_instead_of_repeated(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        job = await scene.job()
        scene.posts.lost_answers = 1
        with pytest.raises(PostError):
            await scene.publisher.post(job)
        scene.publisher.show(await scene.store.fail(job.id, ErrorKind.INPUT, "no"))
        await asyncio.sleep(120)
        assert len(scene.posts.messages) == 1
        assert scene.posts.cards[-1][1].title == "No video"
        saved = await scene.store.get(job.id)
        assert saved is not None
        assert saved.status_message_id in scene.posts.messages


def test_text_that_automod_stops_is_shown_without_the_prompt(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        scene.posts.faults.append(Trouble.TEXT)
        await scene.publisher.post(await scene.job())
        assert "a cat" not in scene.posts.cards[0][1].text


def test_a_deleted_message_is_left_alone(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        job = await scene.running()
        message_id = next(iter(scene.posts.messages))
        await scene.publisher.message_deleted(message_id)
        requests = len(scene.posts.requests)
        scene.step(job, 1)
        await asyncio.sleep(60)
        assert len(scene.posts.requests) == requests
        forgotten = await scene.store.get(job.id)
        assert forgotten is not None
        assert forgotten.status_message_id is None


def test_waiting_jobs_and_a_restart_share_one_slow_lane(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        jobs = [await scene.posted() for _ in range(20)]
        restarted = Publisher(scene.posts, scene.store, tmp_path, clock=now)
        before, began = len(scene.posts.cards), now_s()
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(restarted.run())
            for position, job in enumerate(jobs, start=1):
                restarted.show(job, place=Place(position=position))
            await asyncio.sleep(120)
            loop.cancel()
        stamps = sorted(stamp for stamp, _ in scene.posts.cards)[before:]
        assert len(stamps) == 20
        assert all(b - a >= 1.0 for a, b in itertools.pairwise(stamps))
        assert stamps[-1] - began < 40


def test_a_preview_stays_until_there_is_a_newer_one(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        job = await scene.running()
        for number, preview in enumerate(["a.webp", "a.webp", "b.webp"]):
            scene.step(job, number, preview)
            await asyncio.sleep(6)
        names = [card.picture.name for _, card in scene.posts.cards if card.picture]
        assert names == ["a.webp", "a.webp", "b.webp"]


def test_after_a_restart_a_deleted_message_stays_deleted(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        job = await scene.running()
        message_id = next(iter(scene.posts.messages))
        await scene.publisher.message_deleted(message_id)
        del scene.posts.messages[message_id]
        requests = len(scene.posts.requests)
        restarted = Publisher(scene.posts, scene.store, tmp_path, clock=now)
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(restarted.run())
            [again] = await scene.store.running()
            restarted.show(again)
            scene.publisher, before = restarted, scene.publisher
            scene.step(again, 1)
            await asyncio.sleep(60)
            assert len(scene.posts.requests) == requests
            restarted.show(await scene.store.fail(job.id, ErrorKind.MEMORY, "ask for less"))
            await asyncio.sleep(60)
            scene.publisher = before
            loop.cancel()
        [message] = scene.posts.messages.values()
        assert [card.title for _, card in message.cards] == ["No video"]
        told = await scene.store.get(job.id)
        assert told is not None
        assert (told.status_message_id, told.status_deleted) == (message.message_id, False)


def test_a_deleted_message_is_replaced_only_to_tell_of_a_failure(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        for fails in (True, False):
            job = await scene.running()
            saved = await scene.store.get(job.id)
            assert saved is not None and saved.status_message_id is not None
            await scene.publisher.message_deleted(saved.status_message_id)
            del scene.posts.messages[saved.status_message_id]
            if fails:
                ended = await scene.store.fail(job.id, ErrorKind.MEMORY, "ask for less")
            else:
                await scene.store.request_cancel(job.id)
                ended = await scene.store.cancelled(job.id)
            scene.publisher.show(ended)
            await asyncio.sleep(120)
        [message] = scene.posts.messages.values()
        assert [card.title for _, card in message.cards] == ["No video"]


def test_a_server_that_was_left_is_left_alone(tmp_path: Path) -> None:
    @on_the_loop(tmp_path)
    async def _(scene: Scene) -> None:
        job = await scene.running()
        requests = len(scene.posts.requests)
        scene.publisher.leave_alone(job)
        scene.step(job, 1)
        scene.publisher.show(await scene.store.fail(job.id, ErrorKind.INPUT, "no"))
        await asyncio.sleep(120)
        assert len(scene.posts.requests) == requests
