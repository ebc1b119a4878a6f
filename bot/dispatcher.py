"""The one loop that gives jobs to the generator: claim, run, record, tell.

Decides: which job runs when, what each end of it means for its row, what is tried again. Refuses to
know: how messages look or travel, how the child lives, how long a turn is. Events are recorded
first and told second.

A job whose turn is over while others have more right goes back to the queue and on from its last
step later. A child that dies under a job has told nothing about whose fault it was, so the job goes
back as well; it fails with a sentence after `MAX_ATTEMPTS` times in which it got no further. So
does a job that found no space on the disk, after longer and longer pauses: the next one would find
none either, and in one bad minute everybody's job would be gone. A generator that does not start at
all is never a job's fault: jobs wait until it does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import msgspec

from bot.backend import Backend, BackendError, Lost
from bot.delivery import Delivery
from bot.notices import Notices
from bot.publisher import Publisher
from bot.texts import Text, say
from bot.turns import Turn, TurnsConfig, remaining_s, starting_order
from bot.views import Place
from generator.protocol import (
    Cancelled,
    ErrorKind,
    Event,
    Failed,
    Finished,
    Generate,
    Progress,
    Stage,
    Suspended,
    Variant,
)
from storage.jobs import Job, JobState, JobStore, StorageError, UnknownJob, WrongState, utc_now

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
PAUSE_AFTER_TROUBLE_S = 2.0
CHARGE_EVERY_S = 60.0
"""How much GPU time may go unwritten when the bot is killed."""
PLACES_TOLD = 200
"""Who waits further back than this is not told each change of place."""


class Dispatcher:
    """Runs queued jobs one after the other until cancelled; `wake()` says that there is a new one.

    `progress` holds the newest progress of the running job.
    """

    def __init__(
        self,
        store: JobStore,
        backend: Backend,
        publisher: Publisher,
        delivery: Delivery,
        notices: Notices,
        jobs_dir: Path,
        *,
        turns: TurnsConfig = TurnsConfig(),  # noqa: B008  # frozen
        pause_s: float = PAUSE_AFTER_TROUBLE_S,
    ) -> None:
        self._store = store
        self._backend = backend
        self._publisher = publisher
        self._delivery = delivery
        self._notices = notices
        self._jobs_dir = jobs_dir
        self._turns = turns
        self._pause_s = pause_s
        self._loaded: Variant | None = None
        self._speed = 0.0
        self._drawing: float | None = None  # of a second of video, as the last one measured it
        self._rest_s, self._rest_why = 0.0, ""  # before the next turn
        self._failed_starts = 0  # of the generator, since it last had a job
        self._short_s = 0.0  # GPU time of short jobs since the last long one's turn
        self._wake = asyncio.Event()
        self._cancelling: set[str] = set()
        self._looking = asyncio.Lock()
        self._asked = self._answered = 0
        self._places: list[tuple[Job, Place]] = []
        self._finishing: set[str] = set()
        self.progress: dict[str, Progress] = {}

    def wake(self) -> None:
        """There may be a queued job."""
        self._wake.set()

    async def run(self) -> None:
        """Claim and run jobs until cancelled."""
        while True:
            self._wake.clear()
            job = None
            try:
                turn = await self._next_turn()
                if turn is not None:
                    job = turn.job
                    await self._run(turn)
                    await self.tell_queue()
                    await self._rest()
            except Exception:
                log.exception("job %s: the dispatcher stumbled", job.id if job else "-")
                await self._recover(job)
            if job is None:
                await self._wake.wait()

    async def _rest(self) -> None:
        """Leave time for somebody to mend what the last turn met on this machine, if anything."""
        rest_s, self._rest_s = self._rest_s, 0.0
        if rest_s:
            log.error("%s; nothing starts for %g s", self._rest_why, rest_s)
            await asyncio.sleep(rest_s)

    def _plan_rest(self, why: str, times: int) -> None:
        """Before the next turn; the more often it was in vain, the longer."""
        self._rest_s = self._pause_s * 2 ** min(times, MAX_ATTEMPTS - 1)
        self._rest_why = why

    async def cancel(self, job_id: str, *, notice: bool = False) -> Job:
        """Cancel a job of any unfinished state. WrongState and UnknownJob pass through.

        With `notice` its owner, who did not ask for it, is told.
        """
        async with self._leaving_the_queue():
            job = await self._store.request_cancel(job_id, notice=notice)
            self._publisher.show(job, progress=self.progress.get(job.id))
        if job.state is JobState.RUNNING:
            self._cancelling.add(job.id)
            await self._backend.cancel(job.id)
        else:
            self._notices.wake()
            await self.tell_queue()
        return job

    async def finish_early(self, job_id: str) -> Job:
        """Let a job end with the video of the sections that it has. WrongState without any."""
        job = await self._store.request_finish(job_id)
        if job.state is JobState.RUNNING:
            self._finishing.add(job.id)
            self._publisher.show(job, progress=self.progress.get(job.id))
            await self._backend.finish(job.id)
        else:
            await self.tell_queue()
        return job

    async def places(self) -> list[tuple[Job, Place]]:
        """The waiting jobs with position and estimate, next first. May raise StorageError.

        In a crowd not everybody has the queue read: all who ask while it is being read share the
        next reading.
        """
        self._asked += 1
        asked = self._asked
        async with self._looking:
            if self._answered < asked:
                answers = self._asked
                self._places = await self._read_places()
                self._answered = answers
            return self._places

    @asynccontextmanager
    async def _leaving_the_queue(self) -> AsyncIterator[None]:
        """What leaves the queue in the block is told no place that was read before.

        Such a place would be its card's last word: nothing tells of that job any more.
        """
        async with self._looking:  # whoever has read the queue has told it before this begins
            self._answered = 0  # and whoever waits for that reading makes one of their own
            yield

    async def _read_places(self) -> list[tuple[Job, Place]]:
        speed = await self._store.speed()
        running, waiting = await self._store.running(), await self._store.waiting()
        ahead_s = sum(self._remaining_s(job, speed) for job in running)
        if waiting:
            ahead_s = min(ahead_s, max(60 * self._turns.minutes, 1.0))
        short = await self._short_waiting(speed)
        order = starting_order(waiting, short, speed, self._turns, self._drawing)
        is_paused = bool(waiting) and await self._store.next_in_line() is None
        is_broken = self._failed_starts > 0
        now, places = utc_now(), []
        for position, (job, work_s) in enumerate(order, start=1):
            known = speed is not None and not is_paused and not is_broken
            place = Place(
                position=position,
                starts_at=now + timedelta(seconds=ahead_s) if known else None,
                paused=is_paused,
                no_generator=is_broken,
            )
            places.append((job, place))
            ahead_s += work_s
        return places

    async def tell_queue(self) -> None:
        """Show every waiting job its place."""
        try:
            for job, place in (await self.places())[:PLACES_TOLD]:
                self._publisher.show(job, place=place)
        except StorageError as error:
            log.error("the queue can not be told: %s", error)

    async def _next_turn(self) -> Turn | None:
        """Claim a job: a short one, until they have had a turn together; then one of all."""
        await self._store.forget_served(self._turns.share_window)
        self._speed = await self._store.speed() or 0.0
        short, job = self._turns.short(self._speed), None
        async with self._leaving_the_queue():  # `_run` shows it before anybody else gets to speak
            if short is not None and self._short_s < short.turn_s:
                job = await self._store.claim_short(short)
            is_short = job is not None
            job = job or await self._store.claim_next(self._loaded, self._turns.slack)
        if job is None:
            return None
        now_s, after_s = asyncio.get_running_loop().time(), self._short_s
        return Turn(job, self._turns, now_s, is_short=is_short, after_short_s=after_s)

    async def _run(self, turn: Turn) -> None:
        job = turn.job
        log.info("job %s starts, attempt %d", job.id, job.attempts)
        self._loaded = job.request.variant
        self._publisher.show(job)
        await self.tell_queue()
        folder = (self._jobs_dir / job.id).resolve()
        order = Generate(
            job_id=job.id,
            folder=str(folder),
            request=job.request,
            only_finished=job.finish_requested,
        )
        try:
            if job.id in self._cancelling:
                return await self._record(turn, Cancelled(job_id=job.id))
            async with aclosing(self._backend.run(order)) as events:
                async for event in events:
                    self._failed_starts = 0
                    if job.id in self._cancelling:
                        await self._backend.cancel(job.id)
                    elif job.id in self._finishing:  # asked before the child had the job
                        await self._backend.finish(job.id)
                    if isinstance(event, Progress):
                        turn.note(event)
                        await self._note_progress(turn, event)
                        await self._end_turn_if_due(turn)
                    else:
                        await self._record(turn, event)
        except BackendError as error:
            await self._record(turn, error)
        finally:
            worked_s = turn.worked_s(asyncio.get_running_loop().time())
            self._short_s = self._short_s + worked_s if turn.is_short else 0.0
            self.progress.pop(job.id, None)
            self._cancelling.discard(job.id)
            self._finishing.discard(job.id)

    async def _note_progress(self, turn: Turn, progress: Progress) -> None:
        job_id = turn.job.id
        before = self.progress.get(job_id)
        if progress.preview is None and before is not None:
            progress = msgspec.structs.replace(progress, preview=before.preview)
        self.progress[job_id] = progress
        made, is_sampling = progress.section - 1, progress.stage is Stage.SAMPLING
        if is_sampling and made > turn.job.sections_made:
            try:
                turn.job = await self._store.note_sections(job_id, made, progress.sections)
            except StorageError as error:
                log.error("job %s: a finished section is not written down: %s", job_id, error)
        shown = msgspec.structs.replace(
            turn.job,
            cancel_requested=job_id in self._cancelling,
            finish_requested=turn.job.finish_requested or job_id in self._finishing,
        )
        self._publisher.show(shown, progress=progress)

    async def _end_turn_if_due(self, turn: Turn) -> None:
        """Have the job stopped if its turn is over and somebody has more right to the next."""
        now_s = asyncio.get_running_loop().time()
        try:
            if turn.uncharged_s(now_s) >= CHARGE_EVERY_S:
                await self._charge(turn)
                await self.tell_queue()  # what runs may take longer than it was thought
            if not turn.may_be_over(now_s):
                return
            short = await self._short_waiting(self._speed)
            short_work_s = sum(remaining_s(job, self._speed, self._drawing) for job in short)
            if turn.is_over(now_s, short_work_s):
                other = short[0] if short else await self._store.next_in_line()
                if turn.should_pass_to(other, now_s, is_short=bool(short)):
                    await self._backend.suspend(turn.job.id)
        except StorageError as error:
            log.error("job %s: its turn can not be judged: %s", turn.job.id, error)

    async def _short_waiting(self, speed: float | None) -> list[Job]:
        what = self._turns.short(speed)
        return [] if what is None else await self._store.short_waiting(what)

    async def _charge(self, turn: Turn) -> None:
        now_s = asyncio.get_running_loop().time()
        await self._store.charge(turn.job.id, turn.uncharged_s(now_s))
        turn.charged(now_s)

    async def _record(self, turn: Turn, event: Event | Lost | BackendError) -> None:
        """Write down how the turn ended, then tell; a full disk only delays that."""
        job = turn.job
        while True:
            try:
                if not isinstance(event, BackendError):  # what never began costs nobody anything
                    await self._charge(turn)
                await self._record_once(turn, event)
                return self._notices.wake()
            except (WrongState, UnknownJob) as error:
                return log.warning("job %s ended otherwise: %s", job.id, error)
            except StorageError as error:
                log.error("the end of job %s can not be written yet: %s", job.id, error)
            await asyncio.sleep(self._pause_s)

    async def _record_once(self, turn: Turn, event: Event | Lost | BackendError) -> None:
        job = turn.job
        if job.id in self._cancelling or isinstance(event, Cancelled):
            return self._publisher.show(await self._store.cancelled(job.id))
        match event:
            case Finished():
                name = Path(event.video).name
                self._note_drawing(job, event)
                if await asyncio.to_thread((self._jobs_dir / job.id / name).is_file):
                    made, sections = event.sections_made, event.sections
                    words = ", ".join(event.given_up)
                    self._publisher.show(
                        await self._store.finish(job.id, name, made, sections, words)
                    )
                    self._delivery.wake()
                else:
                    await self._fail(job, ErrorKind.INTERNAL, say(Text.NO_VIDEO))
            case Failed(kind=ErrorKind.DISK, message=message):
                changed = await self._try_again(turn, ErrorKind.DISK, message)
                self._plan_rest("the disk is full", changed.attempts)
            case Failed(kind=kind, message=message):
                await self._fail(job, kind, message)
            case Suspended():
                changed = await self._store.suspended(job.id, turn.furthest)
                log.info("job %s waits for its next turn; %.0f %%", job.id, 100 * turn.furthest)
                self._publisher.show(changed)
            case Lost(closed=True):
                self._publisher.show(await self._store.put_back(job.id, turn.furthest))
            case Lost():
                message = say(Text.LOST, attempts=MAX_ATTEMPTS)
                await self._try_again(turn, ErrorKind.INTERNAL, message)
            case BackendError():
                self._publisher.show(await self._store.put_back(job.id))
                self._failed_starts += 1
                why = f"job {job.id} waits: the generator can not be started: {event}"
                self._plan_rest(why, self._failed_starts)

    def _note_drawing(self, job: Job, event: Finished) -> None:
        drawn_s, made = event.stage_s.get(Stage.DECODING), event.sections_made / event.sections
        if drawn_s is not None and made > 0:
            self._drawing = drawn_s / (job.request.seconds * made)

    async def _try_again(self, turn: Turn, kind: ErrorKind, message: str) -> Job:
        """Put it back into the queue, or let it fail with this message if it got no further."""
        async with self._leaving_the_queue():  # at once, if it fails
            changed = await self._store.lost(turn.job.id, turn.furthest, kind)
            log.warning("job %s goes back to the queue", changed.id)
            if changed.state is JobState.QUEUED and changed.attempts >= MAX_ATTEMPTS:
                await self._fail(changed, kind, message)
            else:
                self._publisher.show(changed)
        return changed

    async def _fail(self, job: Job, kind: ErrorKind, message: str) -> None:
        log.warning("job %s failed (%s): %s", job.id, kind, message)
        self._publisher.show(await self._store.fail(job.id, kind, message))

    async def _recover(self, job: Job | None) -> None:
        """After an error nobody foresaw: no job stays 'running', and the loop goes on."""
        await asyncio.sleep(self._pause_s)
        if job is not None:
            turn = Turn(job, self._turns, asyncio.get_running_loop().time())
            await self._record(turn, Lost(job_id=job.id, message="the dispatcher stumbled"))
        self.wake()

    def _remaining_s(self, job: Job, speed: float | None) -> float:
        progress = self.progress.get(job.id)
        is_whole = not job.finish_requested  # else what it says is about steps that are not made
        if is_whole and progress is not None and progress.remaining_s is not None:
            return progress.remaining_s
        return remaining_s(job, speed or 0.0, self._drawing)
