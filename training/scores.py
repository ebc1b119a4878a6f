"""What a video is worth, in numbers: kept picture, told motion, colours, seams.

Decides: the definitions that the table of `training.evaluate` prints. Refuses to know: how a video
was made. Frames are (T, H, W, 3) uint8; frame 0 is the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from training.captions import TOLD, Motion
from training.data import View, view_at
from training.flow import track

STILL_BELOW = 0.2
"""A camera slower than this share of every nominal speed counts as still."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One video's figures. Shares are of the nominal motion of the same frames."""

    told: Motion
    seen: Motion
    section_shares: tuple[float, ...]  # along the told direction; for STILL the largest of any
    first_frame_db: float
    brightness: float  # mean colour of the last frame / of the first
    contrast: float  # standard deviation of the last frame / of the first
    grain: float  # fine detail (mean absolute Laplacian) of the last frame / of the first
    seam: float  # frame difference at section borders / inside sections; nan without a border
    seconds: float  # of wall clock


def psnr(made: np.ndarray, true: np.ndarray) -> float:
    """Peak signal to noise ratio in dB of two uint8 pictures."""
    error = np.mean((made.astype(np.float64) - true) ** 2)
    return 10 * math.log10(255**2 / max(error, 1e-6))


def parts(moved: View, nominal: tuple[float, float]) -> dict[Motion, float]:
    """How much of each told motion's nominal way was gone; opposites differ in sign."""
    pan, zoom = nominal
    x, y, z = moved.x / pan, moved.y / pan, moved.log_zoom / zoom
    return {
        Motion.LEFT: -x, Motion.RIGHT: x, Motion.UP: -y, Motion.DOWN: y,
        Motion.ZOOM_IN: z, Motion.ZOOM_OUT: -z,
    }  # fmt: skip


def nominal_way(first: int, last: int) -> tuple[float, float]:
    """The pan in pixels and the log zoom of a true clip between two frames."""
    pan = view_at(Motion.RIGHT, last).x - view_at(Motion.RIGHT, first).x
    zoom = view_at(Motion.ZOOM_IN, last).log_zoom - view_at(Motion.ZOOM_IN, first).log_zoom
    return pan, zoom


def name_motion(moved: View, nominal: tuple[float, float]) -> Motion:
    """Which of the seven told motions the camera's way looks like."""
    shares = parts(moved, nominal)
    best = max(shares, key=lambda m: shares[m])
    return best if shares[best] >= STILL_BELOW else Motion.STILL


def score(
    frames: np.ndarray, picture: np.ndarray, told: Motion, *, section_frames: int, seconds: float
) -> Score:
    """Measure one video. `picture` is what the first frame should be, (H, W, 3) uint8."""
    if told not in TOLD:
        raise ValueError(f"{told} can not be told in a prompt")
    bounds = list(range(0, len(frames), section_frames))
    moved = track(frames, bounds)
    total = View(*np.sum(moved, axis=0))
    shares = []
    for start, part in zip(bounds, moved, strict=False):
        ways = parts(part, nominal_way(start, start + section_frames))
        shares.append(max(ways.values()) if told is Motion.STILL else ways[told])
    first, last = frames[0].astype(np.float64), frames[-1].astype(np.float64)
    return Score(
        told=told,
        seen=name_motion(total, nominal_way(0, bounds[-1])),
        section_shares=tuple(shares),
        first_frame_db=psnr(frames[0], picture),
        brightness=last.mean() / max(first.mean(), 1.0),
        contrast=last.std() / max(first.std(), 1.0),
        grain=_detail(last) / max(_detail(first), 1e-3),
        seam=seam_ratio(frames, section_frames),
        seconds=seconds,
    )


def _detail(frame: np.ndarray) -> float:
    grey = frame.mean(-1)
    inner = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2]
    return float(np.abs(inner - grey[1:-1, 2:]).mean())


def seam_ratio(frames: np.ndarray, section_frames: int) -> float:
    """Mean difference of neighbouring frames at inner section borders ÷ elsewhere."""
    steps = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))
    borders = list(range(section_frames, len(steps), section_frames))
    if not borders:
        return math.nan
    inside = np.delete(steps, borders)
    return float(steps[borders].mean() / max(inside.mean(), 1e-6))
