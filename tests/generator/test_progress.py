"""What a Progress says, with a clock that the test turns."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from generator.progress import Pace, Tracker
from generator.protocol import Progress, Stage

SECTIONS, STEPS, CHUNK_PIXELS = 8, 25, 1000
TOTAL = SECTIONS * STEPS


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Durations = Callable[[int], float]
"""Step number (from 0) → seconds."""


def play(
    step_s: Durations, *, chunk_s: float = 4.0, pace: Pace | None = None, sections: int = SECTIONS
) -> Iterator[tuple[Progress, float]]:
    """A whole job: each Progress with the moment it was made."""
    clock = Clock()
    tracker = Tracker(
        "job",
        sections=sections,
        steps=STEPS,
        chunk_pixels=CHUNK_PIXELS,
        pace=pace or Pace(),
        clock=clock,
    )
    for stage, seconds in ((Stage.TEXT, 3.0), (Stage.IMAGE, 1.0), (Stage.LOADING, 7.0)):
        yield tracker.enter(stage), clock.now
        clock.now += seconds
    yield tracker.enter(Stage.SAMPLING), clock.now
    for number in range(sections * STEPS):
        clock.now += step_s(number)
        yield tracker.stepped(number // STEPS + 1, number % STEPS + 1), clock.now
    yield tracker.enter(Stage.DECODING), clock.now
    for chunk in range(sections):
        clock.now += chunk_s
        yield tracker.decoded(chunk + 1), clock.now
    yield tracker.enter(Stage.ENCODING), clock.now
    clock.now += 0.5
    yield tracker.enter(Stage.ENCODING), clock.now


def estimates_off_by(step_s: Durations, chunk_s: float = 4.0, pace: Pace | None = None) -> float:
    """The worst relative error of `remaining_s` from the end of section 1 to three quarters."""
    events = list(play(step_s, chunk_s=chunk_s, pace=pace))
    end = events[-1][1]
    begin = events[4][1]
    worst = 0.0
    for progress, moment in events[4 + STEPS - 1 :]:
        if moment > begin + 0.75 * (end - begin):
            break  # near the end a second is many percent of what is left
        assert progress.remaining_s is not None
        worst = max(worst, abs(progress.remaining_s - (end - moment)) / (end - moment))
    return worst


def measured(chunk_s: float = 4.0) -> Pace:
    """The pace after a job in this process."""
    pace = Pace()
    list(play(lambda _: 2.0, chunk_s=chunk_s, pace=pace))
    return pace


def noisy(seed: int, spread: float) -> Durations:
    draw = random.Random(seed)
    return lambda _: 2.0 * (1 + draw.uniform(-spread, spread))


def drifting(growth: float) -> Durations:
    """Twice as slow (for a growth of 1) at the end as at the beginning."""
    return lambda number: 2.0 * (1 + growth * number / TOTAL)


# ---- the estimate


def test_steady_steps() -> None:
    assert estimates_off_by(lambda _: 2.0, pace=measured()) < 0.02


@pytest.mark.parametrize("seed", range(40))
def test_noisy_steps(seed: int) -> None:
    assert estimates_off_by(noisy(seed, 0.3), pace=measured()) < 0.20


@pytest.mark.parametrize("growth", [0.2, 0.5, 1.0])
def test_steps_that_become_slower(growth: float) -> None:
    assert estimates_off_by(drifting(growth), pace=measured()) < 0.20


def test_steps_that_become_faster() -> None:
    assert estimates_off_by(drifting(-0.3), pace=measured()) < 0.20


@pytest.mark.parametrize("seed", range(10))
def test_a_little_noise_does_not_hide_a_drift(seed: int) -> None:
    noise, drift = noisy(seed, 0.03), drifting(1.0)
    assert estimates_off_by(lambda n: noise(n) * drift(n) / 2, pace=measured()) < 0.20


def test_a_cache_that_skips_every_other_step() -> None:
    assert estimates_off_by(lambda n: 2.0 if n % 2 else 0.1, pace=measured()) < 0.20


def test_a_slow_first_step_is_no_trend() -> None:
    assert estimates_off_by(lambda n: 10.0 if n == 0 else 2.0, pace=measured()) < 0.20


@pytest.mark.parametrize("chunk_s", [1.0, 4.0, 30.0])
def test_decoding_is_reckoned_with_once_it_was_measured(chunk_s: float) -> None:
    assert estimates_off_by(lambda _: 2.0, chunk_s, measured(chunk_s)) < 0.05


def test_a_larger_picture_takes_longer_to_decode() -> None:
    pace = measured(chunk_s=4.0)
    tracker = Tracker(
        "job", sections=1, steps=1, chunk_pixels=3 * CHUNK_PIXELS, pace=pace, clock=Clock()
    )
    tracker.enter(Stage.SAMPLING)
    assert tracker.stepped(1, 1).remaining_s == pytest.approx(12.0)


def test_before_anything_is_measured_there_is_no_estimate() -> None:
    events = [progress for progress, _ in play(lambda _: 2.0)]
    assert [progress.remaining_s for progress in events[:4]] == [None] * 4
    assert events[4].remaining_s is not None


def test_nothing_remains_at_the_end() -> None:
    *_, (last, _) = play(lambda _: 2.0)
    assert last.remaining_s == 0


# ---- fraction and times


@pytest.mark.parametrize("sections", [1, SECTIONS])
def test_the_fraction_grows_from_nothing_to_all(sections: int) -> None:
    fractions = [progress.fraction for progress, _ in play(noisy(1, 0.5), sections=sections)]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)


def test_stage_times_sum_to_the_whole() -> None:
    start = 1000.0
    for progress, moment in play(noisy(3, 0.5)):
        assert progress.elapsed_s == pytest.approx(moment - start)
        assert sum(progress.stage_s.values()) == pytest.approx(moment - start)


def test_each_stage_has_its_own_time() -> None:
    *_, (last, _) = play(lambda _: 2.0, chunk_s=4.0)
    assert {stage: round(seconds, 6) for stage, seconds in last.stage_s.items()} == {
        Stage.LOADING: 7.0,
        Stage.TEXT: 3.0,
        Stage.IMAGE: 1.0,
        Stage.SAMPLING: 2.0 * TOTAL,
        Stage.DECODING: 4.0 * SECTIONS,
        Stage.ENCODING: 0.5,
    }


def test_sections_and_steps_are_told_while_sampling_only() -> None:
    for progress, _ in play(lambda _: 2.0):
        if progress.stage is not Stage.SAMPLING:
            assert (progress.section, progress.step) == (0, 0)
    steps = [(p.section, p.step) for p, _ in play(lambda _: 2.0) if p.step]
    assert steps == [(s, i) for s in range(1, SECTIONS + 1) for i in range(1, STEPS + 1)]


def test_the_pace_is_that_of_the_last_steps() -> None:
    events = [p for p, _ in play(lambda n: 1.0 if n < 100 else 3.0)]
    assert events[4 + 50].step_s == pytest.approx(1.0)
    assert events[4 + 150].step_s == pytest.approx(3.0)


def test_a_job_that_goes_on_counts_the_steps_made_before() -> None:
    clock = Clock()
    tracker = Tracker(
        "job", sections=4, steps=10, chunk_pixels=CHUNK_PIXELS, pace=measured(), clock=clock
    )
    tracker.enter(Stage.SAMPLING)
    tracker.go_on(25)
    clock.now += 2.0
    progress = tracker.stepped(3, 6)
    assert progress.fraction == pytest.approx(26 / (40 + 4 * 1.5))
    assert progress.remaining_s == pytest.approx(14 * 2.0 + 4 * 4.0)
