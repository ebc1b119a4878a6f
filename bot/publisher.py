"""Keeps each job's status message up to date, as slowly as Discord wants it.

Decides: when a status message is posted and edited. Newest news wins, one request in flight per
message, at most one edit in 5 s (in 60 s once the message is 55 minutes old, because of Discord's
30046) and only when something changed; the last state always gets its edit. A message that answers
401, 403 or 404 is left alone from then on: such answers count towards a ban. Refuses to know: how a
card looks, what a request is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import discord
import msgspec

from bot.posts import Kept, PostError, Posts, Trouble
from bot.speech import ENGLISH, speaking
from bot.texts import Text, say
from bot.views import Card, Place, status_card
from generator.protocol import Progress
from storage.jobs import Delivery, Job, JobState, JobStore, StorageError, utc_now

log = logging.getLogger(__name__)

EDIT_GAP_S = 5.0
OLD_EDIT_GAP_S = 60.0
OLD_AFTER_S = 55 * 60.0
QUIET_GAP_S = 1.25
"""Between two edits of messages that nobody watches closely: waiting jobs, and after a restart.

With one running job's edits that makes one a second, which is what Discord takes in one channel.
"""

FRESH = timedelta(minutes=1)
"""A job older than this may have a status message that nobody wrote down: the bot was killed."""
ARCHIVED_TRIES = 10

FINAL_TROUBLE = (Trouble.MESSAGE_GONE, Trouble.CHANNEL_GONE, Trouble.FORBIDDEN)


class News(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a card is made of, apart from the time."""

    job: Job
    progress: Progress | None = None
    place: Place | None = None


class _Message:
    """One job's status message: what it should show, what it shows, when it may change."""

    def __init__(self, news: News) -> None:
        self.wanted = news
        self.shown: News | None = None
        self.card: Card | None = None
        self.message_id = news.job.status_message_id
        self.kept: Kept = {}
        self.show_prompt = True
        self.may_exist = False
        self.stopped = False
        self.deleted = False
        self.failures = 0
        self.next_at = 0.0
        self.changed = asyncio.Event()
        self.in_flight = asyncio.Lock()

    @property
    def due(self) -> bool:
        return not self.stopped and self.wanted != self.shown

    @property
    def over(self) -> bool:
        return self.stopped or (is_last(self.wanted.job) and not self.due)


class Publisher:
    """Status messages of all jobs that are not over. `run()` makes the edits until cancelled."""

    def __init__(
        self,
        posts: Posts,
        store: JobStore,
        jobs_dir: Path,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._posts = posts
        self._store = store
        self._jobs_dir = jobs_dir
        self._clock = clock
        self._messages: dict[str, _Message] = {}
        self._new: asyncio.Queue[_Message] = asyncio.Queue()
        self._quiet = asyncio.Lock()

    async def post(self, job: Job, place: Place | None = None) -> int:
        """Post the status message of a new job; returns its id, which is on the row by then.

        Raises PostError: after trouble that passes, `run()` goes on trying; after any other the
        job has no status message.
        """
        message = self._message(News(job=job, place=place))
        with speaking(ENGLISH):  # everybody reads it, not only who asked for it
            try:
                await self._update(message)
            except PostError as error:
                if error.trouble is not Trouble.TEXT:
                    raise
                await self._update(message)  # now without the prompt
        if message.message_id is None:  # the loop was faster, and had trouble of its own
            trouble = Trouble.FORBIDDEN if message.stopped else Trouble.TRANSIENT
            raise PostError(trouble, "Discord does not take the status message")
        return message.message_id

    def show(
        self, job: Job, *, progress: Progress | None = None, place: Place | None = None
    ) -> None:
        """Newest news of a job. Returns at once; the edit comes when its time has come."""
        if self._is_left_alone(job):
            return
        news = News(job=job, progress=progress, place=place)
        message = self._message(news)
        if place is not None:
            steady = place.steadied(message.wanted.place, self._clock())
            news = msgspec.structs.replace(news, place=steady)
        message.wanted = news
        message.changed.set()

    def leave_alone(self, job: Job) -> None:
        """The bot can not reach this job's channel any more: no further requests for it."""
        message = self._message(News(job=job))
        message.stopped = True
        message.changed.set()

    async def message_deleted(self, message_id: int) -> None:
        """Somebody deleted a message; if it was a status message, it is not edited again."""
        for message in list(self._messages.values()):
            if message.message_id == message_id:
                await self._stop(message, Trouble.MESSAGE_GONE)

    async def run(self) -> None:
        """Edit messages until cancelled, each in its own rhythm."""
        async with asyncio.TaskGroup() as group:
            while True:
                message = await self._new.get()
                group.create_task(self._keep_up(message), name=message.wanted.job.id)

    def _is_left_alone(self, job: Job) -> bool:
        """Whether the job's message is not to be touched; its end is the end of remembering that.

        A failure is news that its owner has not seen: if the message was deleted it gets a new one.
        """
        message = self._messages.get(job.id)
        stopped = job.status_deleted if message is None else message.stopped
        if not stopped:
            return False
        if not is_last(job):
            return True
        deleted = job.status_deleted if message is None else message.deleted
        self._messages.pop(job.id, None)
        return not (deleted and job.state is JobState.FAILED)

    def _message(self, news: News) -> _Message:
        message = self._messages.get(news.job.id)
        if message is None:
            message = self._messages[news.job.id] = _Message(news)
            if message.message_id is not None:
                message.next_at = self._monotonic() + QUIET_GAP_S
            else:
                message.may_exist = self._clock() - news.job.created_at > FRESH
            self._new.put_nowait(message)
        return message

    async def _keep_up(self, message: _Message) -> None:
        while not message.over:
            await message.changed.wait()
            message.changed.clear()
            while message.due:
                await asyncio.sleep(message.next_at - self._monotonic())
                try:
                    await self._update_gently(message)
                except PostError as error:
                    log.info("status message of %s: %s", message.wanted.job.id, error)
        if is_last(message.wanted.job):
            self._messages.pop(message.wanted.job.id, None)

    async def _update_gently(self, message: _Message) -> None:
        if message.wanted.job.state is not JobState.QUEUED and message.shown is not None:
            return await self._update(message)
        async with self._quiet:
            await self._update(message)
            await asyncio.sleep(QUIET_GAP_S)

    async def _update(self, message: _Message) -> None:
        """Bring the message to the newest news, once. PostError when that did not work."""
        async with message.in_flight:
            if not message.due or self._monotonic() < message.next_at:
                return
            news, card = message.wanted, self._card(message)
            if card == message.card:
                message.shown = news
                return
            try:
                await self._send(message, card)
            except PostError as error:
                await self._note_trouble(message, news, error)
                raise
            message.shown, message.card, message.failures = news, card, 0
            message.next_at = self._monotonic() + self._gap_s(message)

    async def _send(self, message: _Message, card: Card) -> None:
        job = message.wanted.job
        if message.message_id is None and message.may_exist:
            await self._save_id(message, await self._find(job))
        if message.message_id is None:
            message.may_exist = True
            card = msgspec.structs.replace(card, picture=None)
            nonce = f"{job.id}-status"
            posted, message.kept = await self._posts.post_card(job.channel_id, card, nonce)
            await self._save_id(message, posted)
        else:
            message.kept = await self._posts.edit_card(
                job.channel_id, message.message_id, card, message.kept
            )

    async def _save_id(self, message: _Message, message_id: int | None) -> None:
        message.message_id = message_id
        if message_id is not None:
            job_id = message.wanted.job.id
            with _logged("its status message can not be saved", job_id):
                await self._store.save_status_message(job_id, message_id)

    async def _find(self, job: Job) -> int | None:
        """The status message that an earlier, interrupted post may have left."""
        try:
            footer = say(Text.CARD_FOOTER, job_id=job.id)
            return await self._posts.find(job.channel_id, footer, job.created_at - FRESH)
        except PostError as error:
            if error.trouble is Trouble.TRANSIENT:
                raise
            return None  # posting will tell

    async def _note_trouble(self, message: _Message, news: News, error: PostError) -> None:
        message.changed.set()
        archived = error.trouble is Trouble.ARCHIVED and message.failures >= ARCHIVED_TRIES
        if archived or error.trouble in FINAL_TROUBLE:
            return await self._stop(message, error.trouble)
        if error.trouble is Trouble.TEXT and message.show_prompt:
            message.show_prompt = False
            return
        if error.trouble in (Trouble.TRANSIENT, Trouble.ARCHIVED):
            message.failures += 1
        else:
            log.error("the status message of %s was refused: %s", news.job.id, error)
            message.shown = news
        message.next_at = self._monotonic() + self._gap_s(message)

    async def _stop(self, message: _Message, trouble: Trouble) -> None:
        message.stopped = True
        message.deleted = trouble is Trouble.MESSAGE_GONE
        message.changed.set()
        job_id = message.wanted.job.id
        if is_last(message.wanted.job):
            self._messages.pop(job_id, None)
        if message.deleted and message.message_id is not None:
            with _logged("its status message can not be forgotten", job_id):
                await self._store.forget_status_message(job_id)

    def _card(self, message: _Message) -> Card:
        news = message.wanted
        return status_card(
            news.job,
            self._clock(),
            progress=news.progress,
            place=news.place,
            folder=self._jobs_dir / news.job.id,
            show_prompt=message.show_prompt,
        )

    def _gap_s(self, message: _Message) -> float:
        gap_s = EDIT_GAP_S
        if message.message_id is not None:
            posted = discord.utils.snowflake_time(message.message_id)
            if (self._clock() - posted).total_seconds() >= OLD_AFTER_S:
                gap_s = OLD_EDIT_GAP_S
        slower = 2.0 ** min(10, max(0, message.failures - 1))
        return min(gap_s * slower, OLD_EDIT_GAP_S)

    def _monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def is_last(job: Job) -> bool:
    """True when nothing about this job will change any more."""
    if job.state is JobState.FINISHED:
        return job.delivery is not Delivery.PENDING
    return job.state in (JobState.FAILED, JobState.CANCELLED)


@contextmanager
def _logged(what: str, job_id: str) -> Iterator[None]:
    """Storage that fails here costs a lookup after a restart, not the bot."""
    try:
        yield
    except StorageError as error:
        log.error("job %s: %s: %s", job_id, what, error)
