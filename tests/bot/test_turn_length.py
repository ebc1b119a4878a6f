"""The order in which waiting jobs will probably start, and who has more right to the GPU."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from bot.turns import Turn, TurnsConfig, starting_order
from generator.protocol import Progress, Stage, Variant, job_request
from storage.jobs import Delivery, Job, JobState

LENGTH = TurnsConfig(sections=2, minutes=5)


def job(name: str, user: int, *, seconds: float = 60, **changes: Any) -> Job:
    made = Job(
        id=name,
        interaction_id=1,
        ordinal=0,
        guild_id=None,
        channel_id=1,
        user_id=user,
        request=job_request(prompt="a cat", seed=1, seconds=seconds),
        input_note="",
        state=JobState.QUEUED,
        delivery=Delivery.NONE,
        cancel_requested=False,
        status_message_id=None,
        result_message_id=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        started_at=None,
        ended_at=None,
        error_kind=None,
        error=None,
        video=None,
        attempts=0,
        delivery_attempts=0,
    )
    return msgspec.structs.replace(made, **changes)


def names(jobs: list[Job], speed: float | None = 10.0) -> list[str]:
    return [job.id for job, _ in starting_order(jobs, speed, LENGTH)]


@pytest.mark.parametrize("speed", [10.0, None])
def test_users_take_turns_however_many_jobs_one_has(speed: float | None) -> None:
    jobs = [job(f"a{n}", 1) for n in range(3)] + [job(f"b{n}", 2) for n in range(2)]
    assert names(jobs, speed) == ["a0", "b0", "a1", "b1", "a2"]


def test_priority_then_share_then_age() -> None:
    jobs = [job("late", 1, priority=1), job("new", 2), job("old", 3), job("served", 4, share_ms=9)]
    assert names(jobs) == ["late", "new", "old", "served"]


def test_short_jobs_add_less_to_their_users_share() -> None:
    short = [job(f"a{n}", 1, seconds=3) for n in range(3)]
    assert names([*short, job("b0", 2), job("b1", 2)]) == ["a0", "b0", "a1", "a2", "b1"]


def test_a_wait_is_at_most_a_turn_for_each_ahead() -> None:
    jobs = [job("a", 1, seconds=120), job("b", 2, seconds=3), job("c", 3, furthest=0.9)]
    assert [round(work_s) for _, work_s in starting_order(jobs, 10.0, LENGTH)] == [300, 30, 60]


def sampling(section: int, step: int = 1) -> Progress:
    return Progress(job_id="a", stage=Stage.SAMPLING, section=section, step=step)


def test_a_turn_needs_its_sections_and_its_minutes() -> None:
    turn = Turn(job("a", 1), LENGTH, began_s=1000)
    for section, now_s, over in ((4, 1400, False), (5, 1400, False), (6, 1400, True)):
        turn.note(sampling(section))
        assert turn.is_over(now_s) is over
    assert not turn.is_over(1299)


@pytest.mark.parametrize(
    ("other", "passes"),
    [
        (None, False),
        (job("b", 2), True),
        (job("b", 1), False),
        (job("b", 2, share_ms=400_000), False),
        (job("b", 2, share_ms=400_000, priority=1), True),
        (job("b", 1, priority=1), True),
        (job("b", 2, priority=-1), False),
    ],
)
def test_who_has_more_right_to_the_gpu(other: Job | None, passes: bool) -> None:
    turn = Turn(job("a", 1), LENGTH, began_s=0)
    assert turn.should_pass_to(other, now_s=400) is passes


def test_other_weights_are_loaded_only_for_who_was_served_clearly_less() -> None:
    other = job("b", 2, share_ms=250_000)
    other = msgspec.structs.replace(
        other, request=msgspec.structs.replace(other.request, variant=Variant.F1)
    )
    turn = Turn(job("a", 1), LENGTH, began_s=0)
    assert not turn.should_pass_to(other, now_s=390)
    assert turn.should_pass_to(other, now_s=410)
