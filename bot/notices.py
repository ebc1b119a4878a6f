"""Mentions the owner of each job that ends without a video; a card that is edited notifies nobody.

Decides: in what words, and when it is tried again. Refuses to know: whose job is owed a notice (the
row says so), what becomes of its card.

The row says so until the notice is posted or refused for good, so a restart forgets none; the nonce
covers a bot that is killed between the post and the row.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from bot.posts import PostError, Posts
from bot.speech import say
from bot.texts import Text
from bot.views import failure_sentence, shorten
from bot.words import Word
from generator.protocol import ErrorKind
from storage.jobs import Job, JobState, JobStore, StorageError, UnknownJob

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 300.0
MESSAGE_LENGTH = 2000


class Notices:
    """Posts what JobStore.to_notice() lists. `run()` works until cancelled; `wake()` tells it."""

    def __init__(self, posts: Posts, store: JobStore) -> None:
        self._posts = posts
        self._store = store
        self._wake = asyncio.Event()
        self._posted: set[str] = set()  # and not yet written down

    def wake(self) -> None:
        """A job may have ended without a video."""
        self._wake.set()

    async def run(self) -> None:
        """Post until cancelled; first what an earlier run of the bot left over."""
        pause_s = FIRST_PAUSE_S
        while True:
            self._wake.clear()
            if await self._post_all():
                pause_s = FIRST_PAUSE_S
                await self._wake.wait()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _post_all(self) -> bool:
        """Try each notice that is due once; False when one of them is worth another try."""
        try:
            done = [await self._settle(job) for job in await self._store.to_notice()]
        except StorageError as error:
            log.error("who is to be told that there is no video can not be written down: %s", error)
            return False
        return all(done)

    async def _settle(self, job: Job) -> bool:
        if job.id not in self._posted:
            try:
                await self._post(job)
            except PostError as error:
                log.warning("nobody is told that %s has no video: %s", job.id, error)
                if error.passes:
                    return False
            self._posted.add(job.id)
        with contextlib.suppress(UnknownJob):  # erased meanwhile
            await self._store.noticed(job.id)
        self._posted.discard(job.id)
        return True

    async def _post(self, job: Job) -> None:
        await self._posts.post_text(
            job.channel_id,
            shorten(_words(job), MESSAGE_LENGTH),
            nonce=f"{job.id}-failed",
            reply_to=job.status_message_id,
            ping=job.user_id,
        )


def _words(job: Job) -> str:
    if job.state is JobState.CANCELLED:
        return say(Word.NOTICE_REMOVED, user=job.user_id, job_id=job.id)
    kind = job.error_kind or ErrorKind.INTERNAL
    reason = failure_sentence(kind, job.error or say(Text.UNKNOWN_FAILURE)).rstrip(".") + "."
    return say(Word.NOTICE_FAILED, user=job.user_id, job_id=job.id, reason=reason)
