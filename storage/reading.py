"""The database looked at from outside, without writing, also while a bot runs on the file.

Decides: which files can be read, how a copy is made. Refuses to know: what changes a job
(`storage.jobs` does).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from storage.job import Job, job_from_row
from storage.schema import (
    StorageError,
    check_integrity,
    checked_version,
    migrations,
    translated_errors,
)


def read_jobs(path: Path) -> list[Job]:
    """Every job, oldest first, read without writing, also while a bot runs on the file.

    Raises StorageError where there is no database, or none of this version.
    """
    if not path.is_file():
        raise StorageError(f"there is no database at {path}; the bot makes it when it first runs")
    newest = len(migrations())
    with (
        translated_errors(path),
        closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database,
    ):
        version = checked_version(database, path, newest)
        if version < newest:
            raise StorageError(
                f"{path} is of an older framepack-bot (schema {version}, this one reads {newest}); "
                "start the bot once, it brings the file up to date"
            )
        database.row_factory = sqlite3.Row
        return [job_from_row(row) for row in database.execute("SELECT * FROM jobs ORDER BY number")]


def back_up(path: Path, destination: Path) -> int:
    """Copy the database as it is at one instant, also while a bot writes; returns its jobs' count.

    The copy is checked before it bears its name. Raises StorageError, also for a destination that
    exists.
    """
    if not path.is_file():
        raise StorageError(f"there is no database at {path}; the bot makes it when it first runs")
    if destination.exists():
        raise StorageError(f"{destination} exists already; name a file that does not")
    partial = destination.with_name(destination.name + ".part")
    try:
        with translated_errors(destination):
            partial.unlink(missing_ok=True)
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with (
            translated_errors(path),
            closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(partial)) as copy,
        ):
            checked_version(source, path, len(migrations()))
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, not three
            check_integrity(copy, partial)
            (jobs,) = copy.execute("SELECT count(*) FROM jobs").fetchone()
        with translated_errors(destination):
            partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)
    return int(jobs)
