"""How long a job may hold the GPU while others wait, and who goes before whom.

Decides: when a turn is over, whether somebody else has more right to the next one, in which order
waiting jobs will probably start. Refuses to know: how a job is stopped, SQL (`JobStore.claim_next`
has the same order as an index).

A turn lasts `sections` sections and `minutes` minutes, whichever is longer: on a fast GPU sections
take seconds, and changing jobs with each would cost more than it gives; on a slow one a job should
not be put aside for less than what its context was made for.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated

from msgspec import Meta, Struct

from generator.protocol import Progress, Stage
from storage.jobs import Job


class TurnsConfig(Struct, frozen=True, kw_only=True):
    """How long a turn is, and how long what somebody was served counts against them."""

    sections: Annotated[int, Meta(ge=1, le=1000)] = 2
    minutes: Annotated[float, Meta(ge=0, le=1440)] = 5.0
    share_hours: Annotated[float, Meta(ge=0.1, le=720)] = 24.0

    @property
    def slack(self) -> timedelta:
        """By how much less somebody must have been served before other weights are loaded."""
        return timedelta(minutes=self.minutes / 2)

    @property
    def share_window(self) -> timedelta:
        """How far back GPU time counts."""
        return timedelta(hours=self.share_hours)


class Turn:
    """One job's time on the GPU, from `began_s` of a clock that never jumps."""

    def __init__(self, job: Job, length: TurnsConfig, began_s: float) -> None:
        self.job = job
        self.furthest = job.furthest
        self._length = length
        self._began_s = self._charged_s = began_s
        self._first_section = 0
        self._sections = 0

    def note(self, progress: Progress) -> None:
        """The job got so far."""
        self.furthest = max(self.furthest, progress.fraction)
        if progress.stage is Stage.SAMPLING and progress.step:
            self._first_section = self._first_section or progress.section
            self._sections = progress.section - self._first_section

    def is_over(self, now_s: float) -> bool:
        """Whether the job has had what it is given while others wait."""
        long_enough = now_s - self._began_s >= 60 * self._length.minutes
        return long_enough and self._sections >= self._length.sections

    def uncharged_s(self, now_s: float) -> float:
        """GPU time of this turn that was not charged yet."""
        return now_s - self._charged_s

    def charged(self, now_s: float) -> None:
        """It is written down up to now."""
        self._charged_s = now_s

    def should_pass_to(self, other: Job | None, now_s: float) -> bool:
        """Whether this waiting job has more right to the GPU than to let this one go on."""
        if other is None:
            return False
        if other.priority != self.job.priority:
            return other.priority > self.job.priority
        worked_ms = 1000 * (now_s - self._began_s) / self.job.weight
        is_change = other.request.variant is not self.job.request.variant
        has_slack = is_change and other.share_ms > 0
        slack_ms = 1000 * self._length.slack.total_seconds() if has_slack else 0.0
        is_served_less = other.share_ms + slack_ms < self.job.share_ms + worked_ms
        return other.user_id != self.job.user_id and is_served_less


def starting_order(
    jobs: Iterable[Job], speed: float | None, length: TurnsConfig
) -> list[tuple[Job, float]]:
    """The waiting jobs in the order in which they will probably start, each with how long its next
    turn is in seconds (0 where the speed is not known).

    `jobs` come as `JobStore.waiting()` has them. Each turn adds to its user's share, so users with
    many jobs see those of others between their own.
    """
    queues: dict[tuple[int, int], list[Job]] = defaultdict(list)
    for job in jobs:
        queues[-job.priority, job.user_id].append(job)
    # Without a speed every job counts as one turn: the order needs some length.
    turn_s = max(60 * length.minutes, 1.0)
    heads = [
        (priority, float(queue[0].share_ms), number, queue[::-1])
        for number, ((priority, _), queue) in enumerate(queues.items())
    ]
    heapq.heapify(heads)
    order = []
    while heads:
        priority, share_ms, number, queue = heapq.heappop(heads)
        job = queue.pop()
        work_s = turn_s if speed is None else min(turn_s, remaining_s(job, speed))
        order.append((job, 0.0 if speed is None else work_s))
        if queue:
            share_ms += 1000 * work_s / job.weight
            heapq.heappush(heads, (priority, share_ms, number, queue))
    return order


def remaining_s(job: Job, speed: float) -> float:
    """GPU time that a job still needs, at this many seconds of work per second of video."""
    return job.request.seconds * speed * (1 - job.furthest)
