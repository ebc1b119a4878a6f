"""The two connections of the one writer: what must survive a power cut, and what need not.

Decides: which of them a statement goes through, how errors of SQLite are told. Refuses to know:
what the statements mean. Why there are two: `storage.schema`.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Self

import aiosqlite

from storage.schema import PRAGMAS, REDOABLE, connect, open_database, translated_errors


class Connections:
    """`promises` wait for the disk, `redoable` does not. Both see what the other has written."""

    def __init__(
        self, path: Path, promises: aiosqlite.Connection, redoable: aiosqlite.Connection
    ) -> None:
        self.path, self.promises, self.redoable = path, promises, redoable

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Make or migrate the file where needed. Raises StorageError."""
        promises = await open_database(path)
        try:
            return cls(path, promises, await connect(path, PRAGMAS + REDOABLE))
        except BaseException:
            await promises.close()
            raise

    async def close(self) -> None:
        """Let go of the file, with everything on the disk. May be called twice."""
        await self.redoable.close()
        await self.promises.close()

    async def execute(self, sql: str, values: dict[str, Any], *, redo: bool) -> list[sqlite3.Row]:
        """The statement's rows. `redo`: a power cut may take it back; a mere look always may."""
        database = self.redoable if redo or sql.startswith("SELECT") else self.promises
        with translated_errors(self.path):
            return list(await database.execute_fetchall(sql, values))
