"""What a community keeps besides its jobs: presets, rules, bans and quotas, switches, the audit.

Decides: the SQL of these tables, and what an admin may change about jobs. Refuses to know: who may
do any of it, Discord, what a preset's settings mean. It writes through a connection of its own;
every statement is a transaction of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiosqlite
import msgspec

from storage.job import Job, job_from_row
from storage.jobs import utc_now
from storage.schema import StorageError, open_database, translated_errors

DAY_MS = 24 * 3600 * 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Scope(StrEnum):
    """Whose a preset is: one person's, or a whole server's."""

    USER = "user"
    GUILD = "guild"


class Switch(StrEnum):
    """What an admin may turn on: no job starts, or no new job is taken."""

    PAUSED = "paused"
    DRAINING = "draining"


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """Settings under a name. `settings` holds fields of a JobRequest."""

    scope: Scope
    owner_id: int
    name: str
    settings: dict[str, Any]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What one server allows; None and empty leave it to the config, or allow all."""

    max_waiting: int | None = None
    max_per_day: int | None = None
    max_seconds: float | None = None
    channels: tuple[int, ...] = ()
    roles: tuple[int, ...] = ()
    nsfw_only: bool = False
    blocked: tuple[str, ...] = ()
    log_channel: int | None = None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How one person stands on one server."""

    banned: bool = False
    reason: str = ""
    max_waiting: int | None = None
    max_per_day: int | None = None
    priority: int = 0


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """One admin action: who did what to whom or what, when and why."""

    at: datetime
    guild_id: int
    actor_id: int
    action: str
    target: str
    reason: str


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over all jobs since a time; means are None where there is nothing to mean."""

    jobs: dict[str, int]
    failures: dict[str, int]
    video_s: float
    mean_wait_s: float | None
    mean_work_s: float | None


_rules_from = msgspec.json.Decoder(Rules)
_standing_from = msgspec.json.Decoder(Standing)


class Community:
    """The one reader and writer of these tables. `open()` it; `close()` or `async with` ends it.

    Every verb may raise StorageError; then nothing was changed.
    """

    def __init__(
        self, database: aiosqlite.Connection, path: Path, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._path = path
        self._clock = clock
        self._switches: set[Switch] = set()
        self._rules: dict[int, Rules] = {}
        self._standings: dict[tuple[int, int], Standing] = {}

    @classmethod
    async def open(cls, path: Path, *, clock: Callable[[], datetime] = utc_now) -> Community:
        """The tables of this file, which is made or migrated where needed."""
        community = cls(await open_database(path), path, clock)
        try:
            await community._load()
        except BaseException:
            await community.close()
            raise
        return community

    async def close(self) -> None:
        """Let go of the file. May be called twice."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # Presets

    async def save_preset(self, preset: Preset) -> None:
        """Keep a preset; one of the same name is replaced."""
        await self._execute(
            "INSERT INTO presets (scope, owner_id, name, settings, created_ms)"
            " VALUES (:scope, :owner, :name, :settings, :now)"
            " ON CONFLICT DO UPDATE SET settings = :settings, created_ms = :now",
            scope=preset.scope.value,
            owner=preset.owner_id,
            name=preset.name,
            settings=msgspec.json.encode(preset.settings).decode(),
            now=self._now_ms(),
        )

    async def delete_preset(self, scope: Scope, owner_id: int, name: str) -> bool:
        """Forget a preset; False when there was none."""
        rows = await self._execute(
            "DELETE FROM presets WHERE scope = :scope AND owner_id = :owner AND name = :name"
            " RETURNING name",
            scope=scope.value,
            owner=owner_id,
            name=name,
        )
        return bool(rows)

    async def presets(self, user_id: int, guild_id: int | None) -> list[Preset]:
        """One's own presets, then the server's, each by name."""
        rows = await self._execute(
            "SELECT scope, owner_id, name, settings FROM presets"
            " WHERE scope = 'user' AND owner_id = :user OR scope = 'guild' AND owner_id = :guild"
            " ORDER BY scope = 'guild', name",
            user=user_id,
            guild=guild_id,
        )
        return [
            Preset(
                scope=Scope(row["scope"]),
                owner_id=row["owner_id"],
                name=row["name"],
                settings=msgspec.json.decode(row["settings"]),
            )
            for row in rows
        ]

    # Rules and people

    async def rules(self, guild_id: int | None) -> Rules:
        """The server's rules; the empty ones where it made none."""
        return self._rules.get(guild_id or 0, Rules())

    async def save_rules(self, guild_id: int, rules: Rules) -> None:
        """Replace the server's rules."""
        await self._execute(
            "INSERT INTO rules VALUES (:g, :s) ON CONFLICT DO UPDATE SET settings = :s",
            g=guild_id,
            s=msgspec.json.encode(rules).decode(),
        )
        self._rules[guild_id] = rules

    async def standing(self, guild_id: int | None, user_id: int) -> Standing:
        """How somebody stands on a server; the plain standing where nobody changed it."""
        return self._standings.get((guild_id or 0, user_id), Standing())

    async def save_standing(self, guild_id: int, user_id: int, standing: Standing) -> None:
        """Replace how somebody stands on a server."""
        await self._execute(
            "INSERT INTO standings VALUES (:g, :u, :s) ON CONFLICT DO UPDATE SET settings = :s",
            g=guild_id,
            u=user_id,
            s=msgspec.json.encode(standing).decode(),
        )
        self._standings[guild_id, user_id] = standing

    # Switches and the audit

    async def turn(self, switch: Switch, *, on: bool) -> None:
        """Turn a switch on or off. It stays so over restarts."""
        sql = "INSERT OR IGNORE INTO switches VALUES (:n)"
        await self._execute(sql if on else "DELETE FROM switches WHERE name = :n", n=switch.value)
        (self._switches.add if on else self._switches.discard)(switch)

    async def switches(self) -> frozenset[Switch]:
        """The switches that are on."""
        return frozenset(self._switches)

    async def prefer(self, name: str, value: str) -> None:
        """Keep what an admin chose for the whole bot. It stays so over restarts."""
        await self._execute(
            "INSERT INTO preferences VALUES (:n, :v) ON CONFLICT DO UPDATE SET value = :v",
            n=name,
            v=value,
        )

    async def preference(self, name: str) -> str | None:
        """What an admin chose; None where nobody did."""
        rows = await self._execute("SELECT value FROM preferences WHERE name = :n", n=name)
        return rows[0]["value"] if rows else None

    async def note(self, guild_id: int, actor_id: int, action: str, target: str, why: str) -> None:
        """Write an admin action down."""
        await self._execute(
            "INSERT INTO audit (at_ms, guild_id, actor_id, action, target, reason)"
            " VALUES (:now, :guild, :actor, :action, :target, :why)",
            now=self._now_ms(),
            guild=guild_id,
            actor=actor_id,
            action=action,
            target=target,
            why=why,
        )

    async def audit(self, guild_id: int, count: int) -> list[Audit]:
        """The server's newest admin actions, newest first."""
        rows = await self._execute(
            "SELECT * FROM audit WHERE guild_id = :g ORDER BY number DESC LIMIT :n",
            g=guild_id,
            n=count,
        )
        return [
            Audit(
                at=_EPOCH + timedelta(milliseconds=row["at_ms"]),
                guild_id=row["guild_id"],
                actor_id=row["actor_id"],
                action=row["action"],
                target=row["target"],
                reason=row["reason"],
            )
            for row in rows
        ]

    # About jobs

    async def counted_today(self, user_id: int, guild_id: int | None) -> list[datetime]:
        """When each job was asked for that counts in the last 24 hours, oldest first.

        Those that wait or run count, and those whose video was made; a failed or cancelled job
        gives its share back, and so does a video that could not be delivered. What was erased since
        counts on, or erasing would be a way around every limit.
        """
        rows = await self._execute(
            "SELECT created_ms FROM jobs WHERE user_id = :user AND guild_id IS :guild"
            " AND created_ms > :since AND (state IN ('queued', 'running')"
            " OR delivery IN ('pending', 'delivered'))"
            " UNION ALL SELECT created_ms FROM spent WHERE user_id = :user AND guild_id IS :guild"
            " AND created_ms > :since ORDER BY created_ms",
            user=user_id,
            guild=guild_id,
            since=self._now_ms() - DAY_MS,
        )
        return [_EPOCH + timedelta(milliseconds=row["created_ms"]) for row in rows]

    async def jobs_of(self, user_id: int, count: int) -> list[Job]:
        """Somebody's newest jobs, newest first."""
        rows = await self._execute(
            "SELECT * FROM jobs WHERE user_id = :u ORDER BY number DESC LIMIT :n",
            u=user_id,
            n=count,
        )
        return [job_from_row(row) for row in rows]

    async def prioritise(self, job_id: str, priority: int) -> bool:
        """Let a waiting job go before those of a lower priority; False when it waits no more."""
        rows = await self._execute(
            "UPDATE jobs SET priority = :p WHERE id = :id AND state = 'queued' RETURNING id",
            p=priority,
            id=job_id,
        )
        return bool(rows)

    async def top_priority(self) -> int:
        """The largest priority that a waiting job has; 0 when nothing waits."""
        rows = await self._execute("SELECT max(priority) AS p FROM jobs WHERE state = 'queued'")
        return rows[0]["p"] or 0

    async def retry(self, job_id: str) -> Job | None:
        """failed or cancelled → queued, as if it had never begun; None when it is neither."""
        rows = await self._execute(
            "UPDATE jobs SET state = 'queued', cancel_requested = 0, error_kind = NULL,"
            " error = NULL, started_ms = NULL, ended_ms = NULL, attempts = 0, turns = 0,"
            " furthest = 0, sections_made = 0, sections = 0, finish_requested = 0,"
            " notice_due = 0, share_ms = (SELECT total(weighted_ms) FROM served"
            " WHERE served.user_id = jobs.user_id)"
            " WHERE id = :id AND state IN ('failed', 'cancelled') RETURNING *",
            id=job_id,
        )
        return job_from_row(rows[0]) if rows else None

    async def erase(self, user_id: int) -> list[str]:
        """Forget all that is kept of somebody, apart from what still waits or runs.

        Returns the ids of the jobs that are gone, whose folders are to go too. If it fails between
        its statements, asking again does the rest. Bans and the audit stay: they are the server's;
        when videos of the last day were asked for stays until that day is over.
        """
        await self._execute(
            "DELETE FROM presets WHERE scope = 'user' AND owner_id = :u RETURNING name", u=user_id
        )
        rows = await self._execute(
            "DELETE FROM jobs WHERE user_id = :u AND state NOT IN ('queued', 'running')"
            " AND delivery <> 'pending' RETURNING id, guild_id, created_ms, delivery",
            u=user_id,
        )
        for row in rows:
            if row["delivery"] == "delivered" and row["created_ms"] > self._now_ms() - DAY_MS:
                spent = {"u": user_id, "g": row["guild_id"], "c": row["created_ms"]}
                await self._execute("INSERT INTO spent VALUES (:u, :g, :c)", **spent)
        return [row["id"] for row in rows]

    async def forget_spent(self) -> None:
        """Of what was erased nothing is kept that counts no more."""
        await self._execute("DELETE FROM spent WHERE created_ms <= :d", d=self._now_ms() - DAY_MS)

    async def statistics(self, guild_id: int, since: datetime) -> Statistics:
        """Sums over the server's jobs that were asked for since then."""
        values = {"g": guild_id, "since": round(since.timestamp() * 1000)}
        where = " FROM jobs WHERE guild_id = :g AND created_ms > :since"
        states = await self._execute(f"SELECT state, count(*) AS n{where} GROUP BY state", **values)
        kinds = await self._execute(
            f"SELECT error_kind, count(*) AS n{where} AND state = 'failed' GROUP BY error_kind",
            **values,
        )
        (sums,) = await self._execute(
            "SELECT total(json_extract(request, '$.seconds')"
            " * iif(sections, 1.0 * sections_made / sections, 1)) AS video_s,"
            " avg(started_ms - created_ms) / 1000.0 AS wait_s,"
            f" avg(ended_ms - started_ms) / 1000.0 AS work_s{where} AND state = 'finished'",
            **values,
        )
        return Statistics(
            jobs={row["state"]: row["n"] for row in states},
            failures={row["error_kind"]: row["n"] for row in kinds},
            video_s=sums["video_s"],
            mean_wait_s=sums["wait_s"],
            mean_work_s=sums["work_s"],
        )

    async def _load(self) -> None:
        rules = await self._execute("SELECT * FROM rules")
        standings = await self._execute("SELECT * FROM standings")
        switches = await self._execute("SELECT name FROM switches")
        try:
            for row in rules:
                self._rules[row["guild_id"]] = _rules_from.decode(row["settings"])
            for row in standings:
                key = row["guild_id"], row["user_id"]
                self._standings[key] = _standing_from.decode(row["settings"])
        except msgspec.MsgspecError as error:
            sentence = f"a server's rules in {self._path} can not be read: {error}"
            raise StorageError(sentence) from None
        self._switches = {Switch(row["name"]) for row in switches}

    async def _execute(self, sql: str, **values: Any) -> list[sqlite3.Row]:
        with translated_errors(self._path):
            return list(await self._database.execute_fetchall(sql, values))

    def _now_ms(self) -> int:
        return round(self._clock().timestamp() * 1000)
