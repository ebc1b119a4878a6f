"""The database file: how it is opened, and how it grows from version to version.

Decides: the pragmas, the order of the migrations, which files are refused. Refuses to know: jobs
and what they mean. Source: the files `migrations/NNNN_name.sql`, which are append-only.

`synchronous` is FULL where a commit is a promise: in WAL mode NORMAL never tears the file, but may
lose the newest commits in a power cut, and "your job is queued", "a post was begun" and "this is
posted, never post it again" must not be among them. What recovery makes again anyway (that a job
was claimed, that its turn is over, how long it held the GPU) is written with NORMAL and does not
wait for the disk; the next promise takes it along, for the log is one file. Only promises move the
log into the database, so no claim ever waits for that either.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import logging
import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import aiosqlite

log = logging.getLogger(__name__)

APPLICATION_ID = int.from_bytes(b"FPBT", "big")
OLDEST_SQLITE = (3, 37, 0)
"""STRICT tables; RETURNING came two versions earlier."""

CHECKED_S = 0.4
"""How long a start may take for reading the whole file: tens of thousands of jobs."""
PRAGMAS = "PRAGMA busy_timeout = 5000; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
"""Of a connection. WAL is of the file and set once, when it is prepared."""
REDOABLE = "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0;"
"""Of a connection whose commits a power cut may take back."""


class StorageError(Exception):
    """What storage could not do; the text is one sentence for a person, with what to do."""


def migrations() -> list[str]:
    """The scripts in order; number n of the list, from 1, leads to version n."""
    folder = importlib.resources.files("storage") / "migrations"
    scripts = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )
    return [script.read_text(encoding="utf-8") for script in scripts]


async def open_database(path: Path) -> aiosqlite.Connection:
    """A connection to the newest schema, in autocommit: each statement is a transaction of its own.
    What it has committed survives a power cut.

    Makes the file and its folder where they are missing. The caller closes the connection.
    Raises StorageError for a file of another program, of a newer version, or no database at all.
    """
    await asyncio.to_thread(prepare, path)
    return await connect(path, PRAGMAS)


async def connect(path: Path, pragmas: str) -> aiosqlite.Connection:
    """A further connection to a file that is open already. The caller closes it."""
    with translated_errors(path):
        database = await aiosqlite.connect(path, isolation_level=None)
        database.row_factory = sqlite3.Row
        await database.executescript(pragmas)
    return database


def prepare(path: Path, scripts: Sequence[str] | None = None) -> None:
    """Bring the file to the newest version, by the migrations that it has not seen.

    `scripts` are the migrations that ship unless others are given. Raises StorageError, and then
    the file is as it was before the migration that failed.
    """
    scripts = migrations() if scripts is None else scripts
    with translated_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            version = checked_version(database, path, newest=len(scripts))
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(PRAGMAS)
            check_integrity(database, path, within_s=CHECKED_S)
            for script in scripts[version:]:
                database.executescript(script)  # closing the connection rolls back a torn one


def check_integrity(database: sqlite3.Connection, path: Path, within_s: float = math.inf) -> None:
    """Read every page once. StorageError if one is damaged, before anything is built upon it.

    A file too large for the time is taken for whole as far as it was read.
    """
    end_s = time.monotonic() + within_s
    database.set_progress_handler(lambda: time.monotonic() > end_s, 10_000)
    try:
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if "interrupted" not in str(error):
            raise
        log.info("%s is too large to be checked in %g s; a backup checks it", path, within_s)
        return
    finally:
        database.set_progress_handler(None, 0)
    if verdict != "ok":
        raise StorageError(f"{_SENTENCES['malformed'].format(path=path)} ({verdict})")


def checked_version(database: sqlite3.Connection, path: Path, newest: int) -> int:
    """The schema version of our own file, 0 for an empty one. StorageError for a strange one."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StorageError(
            f"this Python has SQLite {sqlite3.sqlite_version}; framepack-bot needs 3.37 or newer: "
            "use a newer Python"
        )
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (owner,) = database.execute("PRAGMA application_id").fetchone()
    if tables and owner != APPLICATION_ID:
        raise StorageError(
            f"{path} is a database of another program; name another data_dir, or move it away"
        )
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > newest:
        raise StorageError(
            f"{path} was written by a newer framepack-bot (schema {version}, this one knows up to "
            f"{newest}); update framepack-bot, or name another data_dir"
        )
    return int(version)


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise into StorageErrors with one clear sentence."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} can not be made: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise StorageError(_sentence(path, str(error))) from error


_SENTENCES = {
    "is full": "the disk that holds {path} is full; free some space, nothing half-done was kept",
    "is locked": "{path} is locked by another program; close whatever else has it open",
    "not a database": "{path} is not an SQLite database; move it away, or name another data_dir",
    "malformed": "{path} is damaged; move it away and put a backup in its place",
    "unable to open": "{path} can not be opened; check that its folder exists and may be written",
    "readonly": "{path} may not be written; check the permissions of the file and its folder",
}


def _sentence(path: Path, reason: str) -> str:
    for part, sentence in _SENTENCES.items():
        if part in reason:
            return sentence.format(path=path)
    return f"the database {path} failed: {reason}"
