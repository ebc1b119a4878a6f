"""How long a job may hold the GPU while others wait, and who goes before whom.

Decides: when a turn is over, whether somebody else has more right to the next one, in which order
waiting jobs will probably start. Refuses to know: how a job is stopped, SQL (`JobStore.claim_next`
has the same order as an index).

A short job, one that a turn is enough for, goes before long ones: whoever runs is stopped so early
that the short ones that wait are done one turn after it began. So their wait is a turn at the
most, as long as they need no more than a turn together; after so many a long one has its turn.

A turn lasts `sections` sections and `minutes` minutes, whichever is longer: on a fast GPU sections
take seconds, and changing jobs with each would cost more than it gives; on a slow one a job should
not be put aside for less than what its context was made for.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Annotated

from msgspec import Meta, Struct

from generator.protocol import Progress, Stage
from storage.jobs import Job, Short

SECTION_S = 1.2
"""Seconds of video that a section makes, with the window that the models were trained with."""
DRAWN_STEPS = 1.5
"""What a section's frames cost, in sampling steps, until a video measured it: as the generator
reckons before its first."""


RoleId = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Weight = Annotated[float, Meta(ge=0.1, le=100)]


class TurnsConfig(Struct, frozen=True, kw_only=True):
    """How long a turn is, how long what somebody was served counts against them, and how much."""

    sections: Annotated[int, Meta(ge=1, le=1000)] = 2
    minutes: Annotated[float, Meta(ge=0, le=1440)] = 5.0
    share_hours: Annotated[float, Meta(ge=0.1, le=720)] = 24.0
    role_weights: tuple[tuple[RoleId, Weight], ...] = ()

    @property
    def slack(self) -> timedelta:
        """By how much less somebody must have been served before other weights are loaded."""
        return timedelta(minutes=self.minutes / 2)

    def short(self, speed: float | None) -> Short | None:
        """What is short at this many seconds of work for a second of video; None: not known yet."""
        if not speed:
            return None
        turn_s = max(60 * self.minutes, self.sections * SECTION_S * speed)
        return Short(seconds=turn_s / speed, speed=speed, turn_s=turn_s)

    def weight_of(self, role_ids: Iterable[int]) -> float:
        """What a job of somebody with these roles weighs: the most that one of them gives, or 1."""
        held = set(role_ids)
        return max((weight for role, weight in self.role_weights if role in held), default=1.0)

    @property
    def share_window(self) -> timedelta:
        """How far back GPU time counts."""
        return timedelta(hours=self.share_hours)


class Turn:
    """One job's time on the GPU, from `began_s` of a clock that never jumps.

    `after_short_s` is how long short jobs held the GPU since the last long one.
    """

    def __init__(
        self,
        job: Job,
        length: TurnsConfig,
        began_s: float,
        *,
        is_short: bool = False,
        after_short_s: float = 0.0,
    ) -> None:
        self.job = job
        self.furthest = job.furthest
        self._length = length
        self._began_s = self._charged_s = began_s
        self._first_section = 0
        self._sections = 0
        self.is_short = is_short
        self._after_short_s = after_short_s

    def note(self, progress: Progress) -> None:
        """The job got so far."""
        self.furthest = max(self.furthest, progress.fraction)
        if progress.stage is Stage.SAMPLING and progress.step:
            self._first_section = self._first_section or progress.section
            self._sections = progress.section - self._first_section

    def is_over(self, now_s: float, short_work_s: float = 0.0) -> bool:
        """Whether the job has had what it is given while others wait.

        Short jobs that wait take what they need, `short_work_s`, from a long one's turn, but no
        more than a turn together with those that went before it (`after_short_s`).
        """
        given_s = 60 * self._length.minutes
        if not self.is_short:
            given_s -= min(short_work_s, max(0.0, given_s - self._after_short_s))
        long_enough = now_s - self._began_s >= given_s
        return long_enough and self._sections >= self._length.sections

    def may_be_over(self, now_s: float) -> bool:
        """Whether it would be over if any number of short jobs waited; who does need not be read
        before."""
        return self.is_over(now_s, math.inf)

    def uncharged_s(self, now_s: float) -> float:
        """GPU time of this turn that was not charged yet."""
        return now_s - self._charged_s

    def charged(self, now_s: float) -> None:
        """It is written down up to now."""
        self._charged_s = now_s

    def worked_s(self, now_s: float) -> float:
        """How long it has lasted."""
        return now_s - self._began_s

    def should_pass_to(self, other: Job | None, now_s: float, *, is_short: bool = False) -> bool:
        """Whether this waiting job, which may be a short one, has more right to the GPU."""
        if other is None:
            return False
        if other.priority != self.job.priority:
            return other.priority > self.job.priority
        worked_ms = 1000 * self.worked_s(now_s) / self.job.weight
        if is_short:
            return True  # a short one that runs has had a whole turn, and is no longer one
        is_change = other.request.variant is not self.job.request.variant
        has_slack = is_change and other.share_ms > 0
        slack_ms = 1000 * self._length.slack.total_seconds() if has_slack else 0.0
        is_served_less = other.share_ms + slack_ms < self.job.share_ms + worked_ms
        return other.user_id != self.job.user_id and is_served_less


def starting_order(
    jobs: Iterable[Job],
    short: Sequence[Job],
    speed: float | None,
    length: TurnsConfig,
    drawing: float | None = None,
) -> list[tuple[Job, float]]:
    """The waiting jobs in the order in which they will probably start, each with how long its next
    turn is in seconds (0 where the speed is not known). `drawing` is as `remaining_s` has it.

    `jobs` come as `JobStore.waiting()` has them, the `short` ones among them as `short_waiting()`.
    Each turn adds to its user's share, so users with many jobs see those of others between theirs.
    """
    order = [(job, remaining_s(job, speed or 0.0, drawing)) for job in short]
    first = {job.id for job in short}
    queues: dict[tuple[int, int], list[Job]] = defaultdict(list)
    for job in (job for job in jobs if job.id not in first):
        queues[-job.priority, job.user_id].append(job)
    # Without a speed every job counts as one turn: the order needs some length.
    turn_s = max(60 * length.minutes, 1.0)
    heads = [
        (priority, float(queue[0].share_ms), number, queue[::-1])
        for number, ((priority, _), queue) in enumerate(queues.items())
    ]
    heapq.heapify(heads)
    while heads:
        priority, share_ms, number, queue = heapq.heappop(heads)
        job = queue.pop()
        work_s = turn_s if speed is None else min(turn_s, remaining_s(job, speed, drawing))
        order.append((job, 0.0 if speed is None else work_s))
        if queue:
            share_ms += 1000 * work_s / job.weight
            heapq.heappush(heads, (priority, share_ms, number, queue))
    return order


def remaining_s(job: Job, speed: float, drawing: float | None = None) -> float:
    """GPU time that a job still needs, at this many seconds of work per second of video.

    Of a job that is to end with what is done only the frames are missing: `drawing` seconds of work
    per second of video, None where no video has measured that yet.
    """
    if not job.finish_requested:
        return job.request.seconds * speed * (1 - job.furthest)
    if drawing is None:
        drawing = speed * DRAWN_STEPS / (job.request.steps + DRAWN_STEPS)
    return job.request.seconds * job.share_made * drawing
