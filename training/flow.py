"""How the camera moved between two frames, measured on pixels alone.

Decides: one global motion (shift and zoom) per pair of frames, found by direct registration from
coarse to fine. Refuses to know: which motion was asked for. Source: Lucas and Kanade, "An iterative
image registration technique", 1981, with three parameters instead of a displacement per pixel.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data import View

LEVELS = (4, 2, 1)
ITERATIONS = 8
NOWHERE = View(0, 0, 0)
STRIDE = 6
"""Frames between the two of a pair: enough motion to measure, little enough to find."""


def _grey(frame: np.ndarray) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114])
    grey = torch.from_numpy(frame.copy()).float() @ weights / 255
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    padded = F.pad(grey[None, None], (2, 2, 2, 2), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, 5, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, 5))


def _grid(view: View, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where a camera moved by `view` looks: sampling grid, and its x and y from the centre."""
    y = torch.arange(height) - (height - 1) / 2
    x = torch.arange(width) - (width - 1) / 2
    y, x = torch.meshgrid(y, x, indexing="ij")
    zoom = math.exp(-view.log_zoom)
    looked_x, looked_y = view.x + x * zoom, view.y + y * zoom
    grid = torch.stack([looked_x / ((width - 1) / 2), looked_y / ((height - 1) / 2)], -1)
    return grid[None], x, y


def between(first: np.ndarray, second: np.ndarray, guess: View = NOWHERE) -> View:
    """The camera's motion from one frame to a later one, both (H, W, 3) uint8, in pixels.

    `guess` is where the search starts, such as the motion of the pair before.
    """
    a, b = _grey(first), _grey(second)
    view = guess
    for level in LEVELS:
        small_a, small_b = (F.avg_pool2d(t, level) if level > 1 else t for t in (a, b))
        view = View(view.x / level, view.y / level, view.log_zoom)
        for _ in range(ITERATIONS):
            view = _refine(small_a, small_b, view)
        view = View(view.x * level, view.y * level, view.log_zoom)
    return view


def _refine(a: Tensor, b: Tensor, view: View) -> View:
    height, width = a.shape[-2:]
    grid, x, y = _grid(view, height, width)
    warped = F.grid_sample(a, grid, "bilinear", "border", align_corners=True)[0, 0]
    inside = (grid.abs() < 0.97).all(-1)[0].float()
    slope_y, slope_x = torch.gradient(warped)
    error = (b[0, 0] - warped) * inside
    # Differences far above the usual one are things that differ, not things that moved.
    robust = 1 / (1 + (error / (2 * error.abs().mean() + 1e-4)) ** 2) * inside
    columns = torch.stack([slope_x, slope_y, -(slope_x * x + slope_y * y)], -1).flatten(0, 1)
    weighted = columns * robust.flatten()[:, None]
    system = columns.T @ weighted + 1e-3 * torch.diag(torch.tensor([1.0, 1.0, height * width / 12]))
    step = torch.linalg.solve(system, weighted.T @ error.flatten())
    limit = min(1.0, 1.0 / max(float(step[:2].norm()), 1e-6))
    dx, dy, dz = (float(s) * limit for s in step)
    dz = max(-0.05, min(0.05, dz))
    return View(view.x + dx, view.y + dy, view.log_zoom + dz)


def track(frames: np.ndarray, bounds: list[int]) -> list[View]:
    """The motion between neighbouring `bounds` (frame numbers), summed over short steps.

    frames: (T, H, W, 3) uint8. Shifts add up in the pixels of the frame they were seen in.
    """
    moved = []
    guess = NOWHERE
    for start, end in pairwise(bounds):
        total = np.zeros(3)
        stops = [*range(start, end, STRIDE), end]
        for a, b in pairwise(stops):
            seen = between(frames[a], frames[b], guess if b - a == STRIDE else NOWHERE)
            guess = seen
            total += seen
        moved.append(View(*total))
    return moved
