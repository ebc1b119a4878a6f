"""The order in which waiting jobs will probably start, and who has more right to the GPU."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from bot.turns import Turn, TurnsConfig, remaining_s, starting_order
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
    return [job.id for job, _ in starting_order(jobs, [], speed, LENGTH)]


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
    order = starting_order(jobs, [], 10.0, LENGTH)
    assert [round(work_s) for _, work_s in order] == [300, 30, 60]


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


def test_short_jobs_are_told_that_they_go_first() -> None:
    jobs = [job("long", 1), job("short", 2, seconds=3, share_ms=9)]
    order = starting_order(jobs, jobs[1:], 10.0, LENGTH)
    assert [(job.id, round(work_s)) for job, work_s in order] == [("short", 30), ("long", 300)]


def test_short_is_what_a_turn_is_enough_for() -> None:
    found = LENGTH.short(10.0)
    assert found is not None and (found.seconds, found.turn_s) == (30, 300)
    slow = LENGTH.short(1000.0)  # two sections take longer than five minutes
    assert slow is not None and slow.seconds == pytest.approx(2.4)
    assert LENGTH.short(None) is None
    assert LENGTH.short(0.0) is None


@pytest.mark.parametrize(
    ("waiting_s", "before_s", "is_short", "ends_at_s"),
    [
        (0, 0, False, 300),
        (50, 0, False, 250),
        (400, 0, False, 60),  # but not before its sections are done
        (400, 200, False, 200),  # what short ones had already, they can not take again
        (400, 500, False, 300),
        (50, 0, True, 300),  # a short job is not put aside for others
    ],
)
def test_short_jobs_that_wait_take_their_time_from_a_long_ones_turn(
    waiting_s: float, before_s: float, is_short: bool, ends_at_s: float
) -> None:
    turn = Turn(job("a", 1), LENGTH, began_s=0, is_short=is_short, after_short_s=before_s)
    turn.note(sampling(1))
    assert not turn.is_over(1000, waiting_s)
    assert not turn.may_be_over(1000)
    turn.note(sampling(3))
    ended = next(now for now in range(60, 1000, 10) if turn.is_over(now, waiting_s))
    assert ended == ends_at_s
    assert turn.may_be_over(ended)  # so nobody's turn is ended later for not having looked


def test_even_ones_own_long_job_lets_a_short_one_go_first() -> None:
    turn = Turn(job("a", 1), LENGTH, began_s=0)
    assert turn.should_pass_to(job("b", 1, share_ms=9_000_000), 400, is_short=True)
    assert not turn.should_pass_to(job("b", 1, priority=-1), 400, is_short=True)


def test_what_is_done_takes_the_time_of_drawing_its_frames() -> None:
    ending = job("a", 1, finish_requested=True, sections_made=2, sections=4, furthest=0.45)
    assert remaining_s(ending, 10.0, drawing=0.5) == 15  # half of 60 s of video
    steps = ending.request.steps
    assert remaining_s(ending, 10.0) == pytest.approx(30 * 10 * 1.5 / (steps + 1.5))
    [(_, work_s)] = starting_order([ending], [], 10.0, LENGTH, 0.5)
    assert work_s == 15
    going_on = msgspec.structs.replace(ending, finish_requested=False)
    assert remaining_s(going_on, 10.0, drawing=0.5) == pytest.approx(330)


def test_the_largest_weight_of_ones_roles_counts() -> None:
    turns = TurnsConfig(role_weights=((1, 2.0), (2, 0.5), (3, 4.0)))
    assert [turns.weight_of(roles) for roles in ([], [9], [2], [1, 2], [3, 1])] == [1, 1, 0.5, 2, 4]
