"""What a job's row promises of its pictures when the power goes, and when the disk is full.

A disk keeps what was synced: the bytes of files and the names in folders. Of what was not it may
keep nothing, so this one does.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from live import png

from bot.config import Config, StorageConfig
from bot.intake import Intake
from bot.orders import Orders, Refusal, Wish
from bot.picture_messages import PictureLimits
from generator.protocol import job_request
from storage.jobs import Job, JobStore, NewJob

NAMES = ("input.png", "end.png")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="folders are not synced there")


class Disk:
    """What of some folders would be there after a power cut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, set[str]] = {}
        self._real = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, handle: int) -> None:
        self._real(handle)
        about = os.fstat(handle)
        if stat.S_ISDIR(about.st_mode):
            self._names[about.st_ino] = set(os.listdir(handle))
        else:
            self._bytes[about.st_ino] = os.pread(handle, about.st_size, 0)

    def holds(self, file: Path) -> bytes | None:
        """The file as it would be found; None without its name or its folder's."""
        for path in (file, file.parent):
            if path.name not in self._names.get(path.parent.stat().st_ino, ()):
                return None
        return self._bytes.get(file.stat().st_ino, b"")


class CutAtTheRow(JobStore):
    """A store that looks at the disk as it is when a row is written."""

    disk: Disk
    found: dict[str, bytes | None]

    async def enqueue(self, new: NewJob) -> Job:
        folder = self.jobs_dir / new.id  # type: ignore[attr-defined]
        self.found = {name: self.disk.holds(folder / name) for name in NAMES}
        return await super().enqueue(new)


async def everybody() -> None:
    """Lets everybody in."""


@pytest.fixture
async def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Orders]:
    config = Config(storage=StorageConfig(data_dir=tmp_path))
    async with (
        await CutAtTheRow.open(tmp_path / "bot.sqlite3") as store,
        Intake(PictureLimits()) as intake,
        aiohttp.ClientSession() as session,
    ):
        store.jobs_dir = tmp_path / "jobs"  # type: ignore[attr-defined]
        store.disk = Disk(monkeypatch)  # type: ignore[attr-defined]
        yield Orders(config, store, intake, session, tmp_path / "jobs")


def wish_of(folder: Path) -> Wish:
    """Again, with the pictures of an earlier job."""
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(png(64 + number))
    return Wish(
        interaction_id=1,
        guild_id=1,
        channel_id=1,
        user_id=7,
        request=job_request(prompt="a cat", seed=1, end_image="end.png"),
        pictures={name: folder / name for name in NAMES},
        max_waiting=5,
    )


async def test_copied_pictures_are_on_the_disk_before_the_row_is(
    orders: Orders, tmp_path: Path
) -> None:
    wish = wish_of(tmp_path / "earlier")
    await orders.take(wish, everybody)
    assert orders._store.found == {name: png(64 + n) for n, name in enumerate(NAMES)}  # type: ignore[attr-defined]


async def test_the_names_of_attached_pictures_are_on_the_disk_before_the_row_is(
    orders: Orders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their bytes were synced by the process that wrote them, which this disk does not see."""

    async def download(*_: Any) -> bytes:
        return png()

    monkeypatch.setattr("bot.orders.download", download)
    wish = wish_of(tmp_path / "earlier")
    wish.pictures.update(dict.fromkeys(NAMES, "http://127.0.0.1/boat.png"))
    await orders.take(wish, everybody)
    assert orders._store.found == dict.fromkeys(NAMES, b"")  # type: ignore[attr-defined]


async def test_a_disk_that_fills_up_while_pictures_are_copied_is_said_and_leaves_nothing(
    orders: Orders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, destination: Path) -> None:
        destination.write_bytes(source.read_bytes()[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    wish = wish_of(tmp_path / "earlier")
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(Refusal, match="disk is full"):
        await orders.take(wish, everybody)
    assert list((tmp_path / "jobs").iterdir()) == []
    assert await orders._store.recent(10) == []
    monkeypatch.undo()
    await orders.take(wish, everybody)
