"""A store on a real file, with a clock that a test turns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from new_jobs import Clock

from storage.jobs import JobStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bot.sqlite3"


@pytest.fixture
async def store(path: Path, clock: Clock) -> AsyncIterator[JobStore]:
    async with await JobStore.open(path, clock=clock) as opened:
        yield opened
