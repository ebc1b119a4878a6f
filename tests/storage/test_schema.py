"""The file itself: what is made, what is brought up to date, what is refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from storage.schema import StorageError, migrations, open_database, prepare


def described(path: Path) -> tuple[object, ...]:
    """All that makes two databases the same but for their rows."""
    with closing(sqlite3.connect(path)) as database:
        names = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
        return (
            database.execute(names).fetchall(),
            database.execute("PRAGMA user_version").fetchone(),
            database.execute("PRAGMA application_id").fetchone(),
        )


async def test_a_new_file_is_wal_full_sync_and_of_the_newest_version(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "new folder" / "bot.sqlite3")
    try:
        found = {}
        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "user_version"):
            ((found[name],),) = await database.execute_fetchall(f"PRAGMA {name}")
    finally:
        await database.close()
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 5000,
        "user_version": len(migrations()),
    }


@pytest.mark.parametrize("seen", range(len(migrations()) + 1))
def test_a_migrated_file_equals_a_fresh_one(tmp_path: Path, seen: int) -> None:
    prepare(tmp_path / "fresh.sqlite3")
    prepare(tmp_path / "old.sqlite3", migrations()[:seen])
    prepare(tmp_path / "old.sqlite3")
    assert described(tmp_path / "old.sqlite3") == described(tmp_path / "fresh.sqlite3")


def test_preparing_twice_changes_nothing(tmp_path: Path) -> None:
    prepare(tmp_path / "bot.sqlite3")
    before = described(tmp_path / "bot.sqlite3")
    prepare(tmp_path / "bot.sqlite3")
    assert described(tmp_path / "bot.sqlite3") == before


def test_every_migration_is_a_transaction_that_sets_its_own_version() -> None:
    for number, script in enumerate(migrations(), start=1):
        statements = [line for line in script.splitlines() if not line.startswith("--")]
        assert "BEGIN IMMEDIATE;" in statements
        assert f"PRAGMA user_version = {number};" in statements
        assert statements[-1] == "COMMIT;"


def test_a_torn_migration_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "bot.sqlite3"
    prepare(path)
    before = described(path)
    torn = "BEGIN; CREATE TABLE half (a); PRAGMA user_version = 99; CREATE TABLE jobs (b); COMMIT;"
    with pytest.raises(StorageError, match="table jobs already exists"):
        prepare(path, [*migrations(), torn])
    assert described(path) == before


def test_a_newer_version_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = tmp_path / "bot.sqlite3"
    prepare(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 900")
    with pytest.raises(
        StorageError, match=rf"schema 900, this one knows up to {len(migrations())}"
    ):
        prepare(path)


async def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "bot.sqlite3"
    path.write_bytes(b"Dear diary, today " * 100)
    with pytest.raises(StorageError, match="is not an SQLite database; move it away"):
        await open_database(path)
    assert path.read_bytes().startswith(b"Dear diary")


async def test_a_database_of_another_program_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "bot.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE cookies (a)")
    before = described(path)
    with pytest.raises(StorageError, match="another program"):
        await open_database(path)
    assert described(path) == before


async def test_a_folder_that_can_not_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"bot\.sqlite3 can not be made: "):
        await open_database(tmp_path / "file" / "data" / "bot.sqlite3")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="can not be opened"):
        await open_database(tmp_path / "folder")


def test_a_locked_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.schema.PRAGMAS", "PRAGMA busy_timeout = 10;")
    path = tmp_path / "bot.sqlite3"
    prepare(path)
    again = "BEGIN IMMEDIATE; PRAGMA user_version = 99; COMMIT;"
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match="locked by another program"):
            prepare(path, [*migrations(), again])
