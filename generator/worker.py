"""The child process: one thread works, one reads; a job ends with exactly one message.

Decides: how a job's exception becomes `Failed`, how stdin and stdout are kept from others, when the
process ends, when nobody has had work for so long that memory is given back.
Refuses to know: who is at the other end of the pipes. It ends with its parent: when stdin closes,
for whatever reason, nobody waits for the result any more.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from generator.errors import GeneratorError, is_out_of_memory
from generator.protocol import (
    PROTOCOL_VERSION,
    Broken,
    Cancel,
    Cancelled,
    ErrorKind,
    Failed,
    Finish,
    Finished,
    FromGenerator,
    Generate,
    Measure,
    Measured,
    Progress,
    Ready,
    Stage,
    StepCacheKind,
    Suspend,
    Suspended,
    ToGenerator,
    Unload,
    decode_to_generator,
    encode_line,
)

if TYPE_CHECKING:
    from typing import Protocol

    from generator.workshop import Settings, Workshop

    class ServeSettings(Settings, Protocol):
        """The command line's words about a generator that serves."""

        resume_every_s: float
        idle_unload_s: float
        lossy_fallback: str


log = logging.getLogger(__name__)

KEPT_BY_STEP = (StepCacheKind.NONE, StepCacheKind.TEACACHE)
"""The others are a library's caches, which begin anew with a section: only sections are kept."""


class Line:
    """The way out: messages go to the parent, everything else that prints goes to stderr."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self._lock = stream, threading.Lock()

    @classmethod
    def guarding_stdout(cls) -> Line:
        """Take file descriptor 1 for messages and point it at stderr for everybody else."""
        sys.stdout.flush()
        own = os.dup(1)
        os.dup2(2, 1)
        return cls(os.fdopen(own, "wb", buffering=0))

    def send(self, message: FromGenerator) -> None:
        """Write one message, from any thread. A parent that is gone is the reader's business."""
        try:
            with self._lock:
                self._stream.write(encode_line(message))
        except OSError as error:
            log.warning("Nobody reads: %s", error)


def guarding_stdin() -> IO[bytes]:
    """Take file descriptor 0 for messages and leave an empty one to everybody else.

    A child would inherit the pipe, and eat lines of it. On Windows it would not even get that far:
    there whoever asks anything of the pipe, as each child's start does, waits until the thread that
    reads it has read something.
    """
    own = os.dup(0)  # children do not inherit this one
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # on Windows this sets the standard handle, too
    os.close(nothing)
    return os.fdopen(own, "rb")


class Inbox:
    """The way in: jobs in order, the rest at once. The process ends when the pipe does."""

    def __init__(self, stream: IO[bytes], measure: Callable[[], None]):
        """`measure` answers `Measure`, from the thread that reads."""
        self._orders: queue.Queue[Generate | Unload] = queue.Queue()
        self._cancelled: set[str] = set()
        self._suspended: set[str] = set()
        self._finishing: set[str] = set()
        self._stream, self._measure = stream, measure
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self, patience_s: float | None) -> Generate | Unload:
        """The next order; Unload when none came in that time (None: wait for ever)."""
        try:
            return self._orders.get(timeout=patience_s)
        except queue.Empty:
            return Unload()

    def is_cancelled(self, job_id: str) -> bool:
        """Whether somebody asked for the end of this job."""
        return job_id in self._cancelled

    def is_suspended(self, job_id: str) -> bool:
        """Whether somebody asked for the end of this job's turn."""
        return job_id in self._suspended

    def is_finishing(self, job_id: str) -> bool:
        """Whether somebody asked for the video of what this job has so far."""
        return job_id in self._finishing

    def forget(self, job_id: str) -> None:
        """The job has ended; a later one may bear its name."""
        for asked in (self._cancelled, self._suspended, self._finishing):
            asked.discard(job_id)

    def _read(self) -> None:
        for line in self._stream:
            try:
                self._take(decode_to_generator(line))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                log.error("A line was not understood: %s", error)
        log.info("The parent is gone")
        os._exit(0)  # the other thread may be deep in a computation that nobody wants any more

    def _take(self, message: ToGenerator) -> None:
        if isinstance(message, Cancel):
            self._cancelled.add(message.job_id)
        elif isinstance(message, Suspend):
            self._suspended.add(message.job_id)
        elif isinstance(message, Finish):
            self._finishing.add(message.job_id)
        elif isinstance(message, Measure):
            self._measure()
        else:
            if isinstance(message, Generate):
                self.forget(message.job_id)
            self._orders.put(message)


def serve(settings: ServeSettings) -> int:
    """Say Ready, then make one video after another until stdin closes. 1: could not start."""
    # Ctrl-C in a terminal reaches both processes; the parent decides, and closes stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line, stdin = Line.guarding_stdout(), guarding_stdin()
    logging.getLogger("generator").setLevel(logging.INFO)  # what is loaded and given back, and when
    try:
        from generator.inspection import inspect_weights
        from generator.workshop import open_workshop

        workshop = open_workshop(settings)
        inspect_weights(workshop.placement.model)
    except GeneratorError as error:
        line.send(Broken(kind=error.kind, message=str(error)))
        return 1
    except ImportError as error:
        line.send(Broken(kind=ErrorKind.MODEL, message=_missing_package(error)))
        return 1
    workshop.resume_every_s = settings.resume_every_s
    workshop.allow_lossy_fallback = settings.lossy_fallback == "yes"
    line.send(_ready(workshop))
    inbox = Inbox(stdin, lambda: _measure(workshop, line))
    # Seconds of imports that the first job need not wait for.
    import generator.pipeline  # noqa: F401

    patience_s = None  # there is nothing to give back yet
    while True:
        order = inbox.next(patience_s)
        if isinstance(order, Unload):
            workshop.placement.unload()
            patience_s = None
        else:
            line.send(_run(order, workshop, inbox, line))
            inbox.forget(order.job_id)
            patience_s = settings.idle_unload_s or None


def _run(message: Generate, workshop: Workshop, inbox: Inbox, line: Line) -> FromGenerator:
    """Make one video; returns how its turn ended.

    Out of memory it goes on at the last whole step, one placement lower each time. That changes no
    value, and the placement stays, as the next job would meet the same. When there is none it gives
    something up, if the operator allows that, or says what would fit.
    """
    while True:
        end = _attempt(message, workshop, inbox, line)
        if not (isinstance(end, Failed) and end.kind is ErrorKind.MEMORY):
            return end
        from generator.fallback import what_would_fit

        lower = workshop.placement.lower() or _with_sacrifice(message, workshop)
        if lower is None:
            advice = what_would_fit(workshop.placement, message.request.resolution)
            return msgspec.structs.replace(end, message=f"{end.message} {advice}")
        log.warning("Job %s goes on with less memory: %s", message.job_id, lower)


def _with_sacrifice(message: Generate, workshop: Workshop) -> str | None:
    """Give up what helps and is allowed; returns its name, None when there is nothing."""
    from generator.fallback import next_for
    from generator.run import give_up

    placement = workshop.placement
    sacrifice = next_for(placement.short_of, placement.given_up)
    if sacrifice is None or not workshop.allow_lossy_fallback:
        return None
    try:
        give_up(sacrifice, message.request, Path(message.folder), workshop)
    except (OSError, GeneratorError) as error:
        log.error("Job %s can not give up %s: %s", message.job_id, sacrifice, error)
        return None
    return f"with {sacrifice}, which changes its values"


def _attempt(message: Generate, workshop: Workshop, inbox: Inbox, line: Line) -> FromGenerator:
    """Make one video, or what is left of it.

    The process ends without a word where the device answers no more: every later job would fail at
    once. Whoever waits goes on from the resume point in a new one, as after any other sudden end.
    """
    from generator.devices import still_answers
    from generator.resume import discard
    from generator.stopping import NoLongerWanted

    job_id, turn = message.job_id, _Turn(message)
    only_finished = message.only_finished

    def still_wanted() -> None:
        if inbox.is_cancelled(job_id):
            raise NoLongerWanted

    workshop.placement.still_wanted = still_wanted
    try:
        while (end := _follow(message, workshop, inbox, line, turn, only_finished)) is None:
            only_finished = True  # what was made so far lies in the folder
        return end
    except NoLongerWanted:
        discard(Path(message.folder))
        return Cancelled(job_id=job_id)
    except Exception as error:
        end = failure(job_id, error)
        if end.kind is ErrorKind.INTERNAL and not still_answers(workshop.placement.device):
            os._exit(1)  # an orderly exit would wait for the device
        return end


def _follow(
    message: Generate,
    workshop: Workshop,
    inbox: Inbox,
    line: Line,
    turn: _Turn,
    only_finished: bool,
) -> FromGenerator | None:
    """Progress goes out as it comes, until the turn ends. None: go on with what is finished."""
    from generator.pipeline import generate

    job_id, request, folder = message.job_id, message.request, Path(message.folder)
    with closing(
        generate(job_id, request, folder, workshop, only_finished=only_finished)
    ) as events:
        for event in events:
            workshop.placement.still_wanted()
            if isinstance(event, Finished):
                return event
            line.send(event)
            if not only_finished and inbox.is_finishing(job_id) and turn.may_be_cut_at(event):
                return None
            if turn.may_end_after(event) and inbox.is_suspended(job_id):
                return Suspended(job_id=job_id)
    raise AssertionError("a job ends with Finished or an exception")


class _Turn:
    """Where a job's turn may end: after a step that is kept, so that every turn gets further."""

    def __init__(self, order: Generate) -> None:
        self._by_step = order.request.step_cache in KEPT_BY_STEP
        self._first_section = 0

    @staticmethod
    def may_be_cut_at(event: Progress) -> bool:
        """Whether steps are left to be saved. A section whose last step is done is kept first."""
        is_drawing = event.stage in (Stage.DECODING, Stage.ENCODING)
        return not is_drawing and (event.step == 0 or event.step < event.steps)

    def may_end_after(self, event: Progress) -> bool:
        """Whether what was made up to this event is not lost by stopping now.

        Of a job whose sections only are kept it is the first step after one, which is made again.
        """
        if event.stage is not Stage.SAMPLING or event.step == 0:
            return False
        self._first_section = self._first_section or event.section
        return self._by_step or (event.step == 1 and event.section > self._first_section)


def failure(job_id: str, error: Exception) -> Failed:
    """What to tell the asker about this exception; the traceback goes to the log."""
    if isinstance(error, GeneratorError):
        log.warning("Job %s: %s", job_id, error)
        return Failed(job_id=job_id, kind=error.kind, message=str(error))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        log.error("Job %s: %s", job_id, error)
        sentence = "The disk of the bot's machine is full; its operator must free some space."
        return Failed(job_id=job_id, kind=ErrorKind.DISK, message=sentence)
    if is_out_of_memory(error):
        log.error("Job %s: %s", job_id, error)
        sentence = "The machine ran out of memory; ask for a smaller resolution."
        return Failed(job_id=job_id, kind=ErrorKind.MEMORY, message=sentence)
    log.exception("Job %s failed", job_id)
    sentence = f"The generator failed ({type(error).__name__}); the log says why under {job_id}."
    return Failed(job_id=job_id, kind=ErrorKind.INTERNAL, message=sentence)


def _ready(workshop: Workshop) -> Ready:
    from generator.record import library_versions

    placement = workshop.placement
    return Ready(
        protocol_version=PROTOCOL_VERSION,
        model=placement.model.path.name,
        device=str(placement.device),
        device_name=placement.device_name,
        dtype=str(placement.transformer_dtype).removeprefix("torch."),
        placement=placement.why,
        versions=library_versions(),
    )


def _measure(workshop: Workshop, line: Line) -> None:
    """Answer `Measure`. What fails here must not end the thread that reads."""
    from generator.machine import measure, own_ram, vram_held

    placement = workshop.placement
    try:
        machine = measure(placement.device)
        answer = Measured(
            placement=placement.why,
            variant=placement.loaded_variant(),
            ram_used=own_ram(),
            ram_free=machine.ram_free,
            ram_limit=machine.ram_limit,
            vram_used=vram_held(placement.device),
            vram_free=machine.vram_free,
            vram_total=machine.vram_total,
        )
    except (RuntimeError, OSError) as error:  # a GPU in trouble is the job's to tell
        log.warning("Memory can not be measured: %s", error)
    else:
        line.send(answer)


def _missing_package(error: ImportError) -> str:
    return (
        f"The generator's packages are not installed ({error.name or error}); "
        'run: pip install "framepack-bot[generator]"'
    )
