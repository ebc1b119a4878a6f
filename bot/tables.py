"""Jobs as a table for a terminal. Pure; knows neither the database nor Discord."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bot.views import clock, shorten
from bot.words import STATES
from storage.jobs import Delivery, Job, JobState

HEAD = ("JOB", "STATE", "ASKED", "TOOK", "TRIES", "USER", "PROMPT")
PROMPT_WIDTH = 40


def queue_table(jobs: Sequence[Job], now: datetime) -> str:
    """The jobs, oldest first, one a line, and how many of each state there are."""
    if not jobs:
        return "There is no job in the database."
    rows = [HEAD, *(_row(job, now) for job in jobs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    counts = {state: sum(job.state is state for job in jobs) for state in JobState}
    summary = ", ".join(f"{count} {STATES[state]}" for state, count in counts.items() if count)
    return "\n".join([*lines, "", summary])


def _row(job: Job, now: datetime) -> tuple[str, ...]:
    ended = job.ended_at or now
    took = "" if job.started_at is None else clock((ended - job.started_at).total_seconds())
    prompt = " ".join(job.request.prompt.split())
    asked = f"{job.created_at:%Y-%m-%d %H:%M}"
    tries, user = str(job.attempts), str(job.user_id)
    return job.id, _state(job), asked, took, tries, user, shorten(prompt, PROMPT_WIDTH)


def _state(job: Job) -> str:
    if job.state is JobState.FINISHED and job.delivery is not Delivery.DELIVERED:
        return f"{STATES[job.state]}, {job.delivery}"
    return STATES[job.state]
