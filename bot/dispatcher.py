"""The one loop that gives jobs to the generator: claim, run, record, tell.

Decides: which job runs when, what each end of it means for its row, what is tried again. Refuses to
know: how messages look or travel, how the child lives. Events are recorded first and told second.

A child that dies under a job has told nothing about whose fault it was, so the job goes back to its
place in the queue, up to `MAX_ATTEMPTS` times; then it fails with a sentence.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from pathlib import Path

import msgspec

from bot.backend import Backend, BackendError, Lost
from bot.delivery import Delivery
from bot.publisher import Publisher
from bot.texts import Text, say
from bot.views import Place
from generator.protocol import (
    Cancelled,
    ErrorKind,
    Event,
    Failed,
    Finished,
    Generate,
    Progress,
)
from storage.jobs import Job, JobState, JobStore, StorageError, UnknownJob, WrongState

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
PAUSE_AFTER_TROUBLE_S = 2.0


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
        jobs_dir: Path,
        *,
        pause_s: float = PAUSE_AFTER_TROUBLE_S,
    ) -> None:
        self._store = store
        self._backend = backend
        self._publisher = publisher
        self._delivery = delivery
        self._jobs_dir = jobs_dir
        self._pause_s = pause_s
        self._wake = asyncio.Event()
        self._cancelling: set[str] = set()
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
                job = await self._store.claim_next()
                if job is not None:
                    await self._run(job)
                    await self.tell_queue()
            except Exception:
                log.exception("job %s: the dispatcher stumbled", job.id if job else "-")
                await self._recover(job)
            if job is None:
                await self._wake.wait()

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job of any unfinished state. WrongState and UnknownJob pass through."""
        job = await self._store.request_cancel(job_id)
        self._publisher.show(job, progress=self.progress.get(job.id))
        if job.state is JobState.RUNNING:
            self._cancelling.add(job.id)
            await self._backend.cancel(job.id)
        else:
            await self.tell_queue()
        return job

    async def places(self) -> list[tuple[Job, Place]]:
        """The waiting jobs with position and estimate, next first. May raise StorageError."""
        speed = await self._store.speed()
        running, waiting = await self._store.running(), await self._store.waiting()
        ahead_s = sum(self._remaining_s(job, speed) for job in running)
        places = []
        for position, job in enumerate(waiting, start=1):
            wait_s = None if speed is None else ahead_s
            places.append((job, Place(position=position, wait_s=wait_s)))
            ahead_s += job.request.seconds * (speed or 0.0)
        return places

    async def tell_queue(self) -> None:
        """Show every waiting job its place."""
        try:
            for job, place in await self.places():
                self._publisher.show(job, place=place)
        except StorageError as error:
            log.error("the queue can not be told: %s", error)

    async def _run(self, job: Job) -> None:
        log.info("job %s starts, attempt %d", job.id, job.attempts)
        self._publisher.show(job)
        await self.tell_queue()
        folder = (self._jobs_dir / job.id).resolve()
        order = Generate(job_id=job.id, folder=str(folder), request=job.request)
        try:
            if job.id in self._cancelling:
                return await self._record(job, Cancelled(job_id=job.id))
            async with aclosing(self._backend.run(order)) as events:
                async for event in events:
                    if job.id in self._cancelling:
                        await self._backend.cancel(job.id)
                    if isinstance(event, Progress):
                        self._note_progress(job, event)
                    else:
                        await self._record(job, event)
        except BackendError as error:
            log.error("job %s: the generator can not be started: %s", job.id, error)
            await self._record(job, _without_generator(job, error))
        finally:
            self.progress.pop(job.id, None)
            self._cancelling.discard(job.id)

    def _note_progress(self, job: Job, progress: Progress) -> None:
        before = self.progress.get(job.id)
        if progress.preview is None and before is not None:
            progress = msgspec.structs.replace(progress, preview=before.preview)
        self.progress[job.id] = progress
        stopping = job.id in self._cancelling
        self._publisher.show(
            msgspec.structs.replace(job, cancel_requested=stopping), progress=progress
        )

    async def _record(self, job: Job, event: Event | Lost) -> None:
        """Write down how the job ended, then tell; a full disk only delays that."""
        while True:
            try:
                return await self._record_once(job, event)
            except (WrongState, UnknownJob) as error:
                return log.warning("job %s ended otherwise: %s", job.id, error)
            except StorageError as error:
                log.error("the end of job %s can not be written yet: %s", job.id, error)
            await asyncio.sleep(self._pause_s)

    async def _record_once(self, job: Job, event: Event | Lost) -> None:
        if job.id in self._cancelling or isinstance(event, Cancelled):
            return self._publisher.show(await self._store.cancelled(job.id))
        match event:
            case Finished(video=video):
                if await asyncio.to_thread((self._jobs_dir / job.id / Path(video).name).is_file):
                    self._publisher.show(await self._store.finish(job.id, Path(video).name))
                    self._delivery.wake()
                else:
                    await self._fail(job, ErrorKind.INTERNAL, say(Text.NO_VIDEO))
            case Failed(kind=kind, message=message):
                await self._fail(job, kind, message)
            case Lost():
                await self._try_again(job)

    async def _try_again(self, job: Job) -> None:
        if job.attempts >= MAX_ATTEMPTS:
            message = say(Text.LOST, attempts=job.attempts)
            return await self._fail(job, ErrorKind.INTERNAL, message)
        for changed in await self._store.requeue_running():
            log.warning("job %s goes back to the queue", changed.id)
            self._publisher.show(changed)

    async def _fail(self, job: Job, kind: ErrorKind, message: str) -> None:
        log.warning("job %s failed (%s): %s", job.id, kind, message)
        self._publisher.show(await self._store.fail(job.id, kind, message))

    async def _recover(self, job: Job | None) -> None:
        """After an error nobody foresaw: no job stays 'running', and the loop goes on."""
        await asyncio.sleep(self._pause_s)
        if job is not None:
            await self._record(job, Lost(job_id=job.id, message="the dispatcher stumbled"))
        self.wake()

    def _remaining_s(self, job: Job, speed: float | None) -> float:
        progress = self.progress.get(job.id)
        if progress is not None and progress.remaining_s is not None:
            return progress.remaining_s
        return job.request.seconds * (speed or 0.0)


def _without_generator(job: Job, error: BackendError) -> Failed | Lost:
    """What says why it is broken stays broken; what just did not start may do so next time."""
    if error.kind is ErrorKind.INTERNAL:
        return Lost(job_id=job.id, message=str(error))
    return Failed(job_id=job.id, kind=error.kind, message=say(Text.NO_GENERATOR))
