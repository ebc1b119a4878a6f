"""Whose job ends without a video is mentioned, once: on a clock that jumps, a real database."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fake_posts import FakePosts
from virtual_time import now, now_s, open_store, run

from bot.notices import Notices
from bot.posts import Trouble
from generator.protocol import ErrorKind, job_request
from storage.jobs import JobStore, NewJob, StorageError

JOB = "abcdefgh23"


class Scene:
    def __init__(self, store: JobStore, posts: FakePosts) -> None:
        self.store, self.posts = store, posts

    async def job(self) -> None:
        request = job_request(prompt="a cat", seed=1)
        await self.store.enqueue(
            NewJob(id=JOB, interaction_id=1, guild_id=5, channel_id=1, user_id=7, request=request)
        )
        status = await self.posts.post_text(1, "its card", nonce="status")
        await self.store.save_status_message(JOB, status)

    async def failed(self) -> None:
        await self.job()
        await self.store.claim_next()
        await self.store.fail(JOB, ErrorKind.MEMORY, "needs 9 GiB of /a/b; ask for less.")

    async def notices(self, seconds: float = 10) -> list[Any]:
        """What a bot that runs for so long leaves in the channel besides the card."""
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(Notices(self.posts, self.store).run())
            await asyncio.sleep(seconds)
            loop.cancel()
        return [message for message in self.posts.messages.values() if message.nonce != "status"]


def scene(test: Any) -> Any:
    """The test as a plain function, on the virtual clock, with its store and posts."""

    def wrapped(tmp_path: Path) -> None:
        async def go() -> None:
            async with open_store(tmp_path / "bot.sqlite3") as store:
                await test(Scene(store, FakePosts(now)))

        run(go())

    wrapped.__name__ = test.__name__
    return wrapped


@scene
async def test_a_failure_is_a_reply_that_pings_its_owner_once(scene: Scene) -> None:
    await scene.failed()
    [notice] = await scene.notices()
    [status, *_] = scene.posts.messages
    assert (notice.channel_id, notice.reply_to, notice.ping) == (1, status, 7)
    assert notice.nonce == f"{JOB}-failed"
    assert notice.text.startswith(
        f"<@7> there is no video of `{JOB}`. There was not enough memory: needs 9 GiB of b; "
        "ask for less.\n"
    )
    assert len(await scene.notices()) == 1  # of a bot that was started again


@scene
async def test_who_cancels_is_not_told(scene: Scene) -> None:
    await scene.job()
    await scene.store.request_cancel(JOB)
    assert await scene.notices() == []


@scene
async def test_whose_job_an_admin_removed_is_told_also_when_it_still_ran(scene: Scene) -> None:
    await scene.job()
    await scene.store.claim_next()
    await scene.store.request_cancel(JOB, notice=True)
    await scene.store.request_cancel(JOB)
    assert await scene.notices() == []
    await scene.store.cancelled(JOB)
    [notice] = await scene.notices()
    assert f"<@7> those who run this server have taken your job `{JOB}`" in notice.text
    assert notice.ping == 7


@scene
async def test_trouble_that_passes_is_waited_out(scene: Scene) -> None:
    await scene.failed()
    scene.posts.faults.extend([Trouble.TRANSIENT] * 12)
    assert await scene.notices(600) == []
    assert len(await scene.notices(3600)) == 1


@pytest.mark.parametrize("trouble", [Trouble.CHANNEL_GONE, Trouble.FORBIDDEN, Trouble.TEXT])
def test_a_refusal_is_taken_for_an_answer(tmp_path: Path, trouble: Trouble) -> None:
    @scene
    async def test(scene: Scene) -> None:
        await scene.failed()
        before = len(scene.posts.requests)
        scene.posts.closed_channels[1] = trouble
        for _ in range(2):
            assert await scene.notices(3600) == []
        assert len(scene.posts.requests) == before + 1

    test(tmp_path)


@scene
async def test_a_disk_that_is_full_after_the_post_does_not_repeat_it(scene: Scene) -> None:
    await scene.failed()
    real, until_s = scene.store.noticed, now_s() + 3600

    async def full(job_id: str) -> Any:
        if now_s() < until_s:
            raise StorageError("the disk is full")
        return await real(job_id)

    scene.store.noticed = full  # type: ignore[method-assign]
    assert len(await scene.notices(2 * 3600)) == 1
    assert await scene.store.to_notice() == []
