"""How far a job is, and how long it will still take.

Decides: what a Progress says. Refuses to know: what is computed. Time comes from `clock`, so that
tests can turn it. The estimate: steps so far are fitted with a line (later steps may be slower, a
GPU heats up), the line is followed only where it is clearer than the noise; decoding is reckoned at
what it took last time in this process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from generator.protocol import Progress, Stage

RECENT_STEPS = 5
CLEAR_TREND = 4.5  # standard errors: it is looked for after every step, and followed far
UNKNOWN_CHUNK_STEPS = 1.5  # decoding two sections, in sampling steps, until it was measured once


class Pace:
    """What the last job of this process measured: seconds to decode one latent pixel."""

    def __init__(self) -> None:
        self.decode_s_per_pixel: float | None = None


class Tracker:
    """Makes the Progress messages of one job.

    `chunk_pixels` is the size of one decoded chunk in latent pixels (frames × height × width).
    """

    def __init__(
        self,
        job_id: str,
        *,
        sections: int,
        steps: int,
        chunk_pixels: int,
        pace: Pace,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._job_id, self._sections, self._steps = job_id, sections, steps
        self._chunk_pixels, self._pace, self._clock = chunk_pixels, pace, clock
        self._started = self._stage_began = self._step_began = clock()
        self._stage = Stage.LOADING
        self._stage_s: dict[Stage, float] = {}
        self._step_s: list[float] = []
        self._section = self._step = self._chunks = self._steps_before = 0

    @property
    def stage_s(self) -> dict[Stage, float]:
        """Seconds spent in each stage so far, the current one included."""
        spent = dict(self._stage_s)
        spent[self._stage] = spent.get(self._stage, 0.0) + self._clock() - self._stage_began
        return spent

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._started

    def enter(self, stage: Stage) -> Progress:
        """A stage begins."""
        self._stage_s = self.stage_s
        self._stage, self._stage_began = stage, self._clock()
        self._step_began = self._stage_began
        return self._progress()

    def go_on(self, steps_done: int) -> None:
        """So many steps were made before this process began; they count, but took no time here."""
        self._steps_before = steps_done

    def stepped(self, section: int, step: int, preview: str | None = None) -> Progress:
        """Step `step` of section `section` (both from 1) is done."""
        now = self._clock()
        self._step_s.append(now - self._step_began)
        self._step_began = now
        self._section, self._step = section, step
        return self._progress(preview)

    def decoded(self, chunks: int) -> Progress:
        """So many chunks were decoded and encoded by now."""
        self._chunks = chunks
        spent = self.stage_s[Stage.DECODING] / self._chunks
        self._pace.decode_s_per_pixel = spent / self._chunk_pixels
        return self._progress()

    def _progress(self, preview: str | None = None) -> Progress:
        sampling = self._stage is Stage.SAMPLING
        return Progress(
            job_id=self._job_id,
            stage=self._stage,
            section=self._section if sampling else 0,
            sections=self._sections,
            step=self._step if sampling else 0,
            steps=self._steps,
            fraction=self._fraction(),
            step_s=self._recent_step_s(),
            elapsed_s=self.elapsed_s,
            remaining_s=self._remaining_s(),
            preview=preview,
            stage_s=self.stage_s,
        )

    def _fraction(self) -> float:
        steps, chunks = self._sections * self._steps, self._sections * UNKNOWN_CHUNK_STEPS
        done = self._steps_before + len(self._step_s) + self._chunks * UNKNOWN_CHUNK_STEPS
        return min(done / (steps + chunks), 1.0)

    def _recent_step_s(self) -> float | None:
        recent = self._step_s[-RECENT_STEPS:]
        return sum(recent) / len(recent) if recent else None

    def _remaining_s(self) -> float | None:
        if not self._step_s:
            return None
        left = self._sections * self._steps - self._steps_before - len(self._step_s)
        sampling = forecast(self._step_s, left) if left else 0.0
        return sampling + self._decode_s() * (self._sections - self._chunks)

    def _decode_s(self) -> float:
        if self._pace.decode_s_per_pixel is not None:
            return self._pace.decode_s_per_pixel * self._chunk_pixels
        return UNKNOWN_CHUNK_STEPS * (self._recent_step_s() or 0.0)


def forecast(durations: list[float], count: int) -> float:
    """The sum of the next `count` durations: the mean's, or a clear linear trend's."""
    n = len(durations)
    mean = sum(durations) / n
    slope = _clear_slope(durations, mean)
    middle_of_future = n + (count - 1) / 2
    expected = mean + slope * (middle_of_future - (n - 1) / 2)
    return count * max(expected, min(durations))


def _clear_slope(durations: list[float], mean: float) -> float:
    n = len(durations)
    if n < 2 * RECENT_STEPS:
        return 0.0
    spread = n * (n * n - 1) / 12
    slope = sum((i - (n - 1) / 2) * (d - mean) for i, d in enumerate(durations)) / spread
    residual = sum((d - mean - slope * (i - (n - 1) / 2)) ** 2 for i, d in enumerate(durations))
    error = math.sqrt(residual / (n - 2) / spread)
    return slope if abs(slope) > CLEAR_TREND * error else 0.0
