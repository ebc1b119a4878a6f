"""The database looked at from outside, without writing, also while a bot runs on the file.

Decides: which files can be read. Refuses to know: what changes a job (`storage.jobs` does).
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from storage.job import Job, job_from_row
from storage.schema import StorageError, checked_version, migrations, translated_errors


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
