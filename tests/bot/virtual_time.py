"""An event loop whose clock jumps: instead of waiting for a timer it sets the time forward.

`run(coroutine)` runs on such a loop, so a test of an hour takes milliseconds. What happens in a
thread takes real time, in which the loop's clock stands still: `PatientStore` says so of SQLite's.
"""

import asyncio
import contextlib
import selectors
from collections.abc import AsyncIterator, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from storage.jobs import JobStore

START = datetime(2026, 1, 1, tzinfo=UTC)


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    now = 0.0
    threads = 0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or (self.threads and timeout > 0):
            return super().select(None)
        events = super().select(0)
        if not events:
            self.now += timeout
        return events


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumping = _JumpingSelector()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now

    def run_in_executor(self, executor: Any, func: Any, *values: Any) -> Any:
        """The clock stands still while a thread works, or hours would pass on a busy machine."""
        future = super().run_in_executor(executor, func, *values)
        self.jumping.threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: Any) -> None:
        self.jumping.threads -= 1


@contextlib.contextmanager
def real_time() -> Iterator[None]:
    """The clock stands still while the block waits for a thread."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _JumpingLoop)
    loop.jumping.threads += 1
    try:
        yield
    finally:
        loop.jumping.threads -= 1


class PatientStore(JobStore):
    """The real store; while it works the clock stands still."""

    async def _execute(self, sql: str, values: dict[str, Any], *, redo: bool = False) -> Any:
        with real_time():
            return await super()._execute(sql, values, redo=redo)


@contextlib.asynccontextmanager
async def open_store(path: Path) -> AsyncIterator[PatientStore]:
    with real_time():
        store = await PatientStore.open(path, clock=now)
    try:
        yield store
    finally:
        with real_time():
            await store.close()


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_JumpingLoop) as runner:
        runner.run(coroutine)


def now_s() -> float:
    return asyncio.get_running_loop().time()


def now() -> datetime:
    return START + timedelta(seconds=now_s())
