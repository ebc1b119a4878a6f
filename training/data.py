"""Moving clips: a camera goes over a picture, and the truth of its motion is known.

Decides: how far the camera has gone at frame t (ease-out, in output pixels), how a picture is cut
and scaled for it, and where the drawn pictures lie. Refuses to know: tensors of models, losses.
Speeds are in pixels of the output, so they are the same at 96 and at 128 px.
"""

from __future__ import annotations

import logging
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from training.captions import PANS, Motion
from training.scenes import SIDE, panoramas, photographs, picture

log = logging.getLogger(__name__)

PAN_PX = 48.0
"""How far a pan goes in the end; it starts at PAN_PX / EASE_FRAMES = 0.8 px a frame."""
ZOOM_LOG = 0.64
"""The natural logarithm of the zoom in the end; it starts at 1.1 % a frame."""
EASE_FRAMES = 60.0
CALM_SHARE = 0.3
"""A calm clip is a zoom in at this share of its speed."""

_DIRECTION = {Motion.LEFT: (-1, 0), Motion.RIGHT: (1, 0), Motion.UP: (0, -1), Motion.DOWN: (0, 1)}
_CHUNK = 25


class View(NamedTuple):
    """Where the camera is: its centre moved by (x, y) output pixels; log_zoom > 0 is closer."""

    x: float
    y: float
    log_zoom: float


def view_at(motion: Motion, frame: float) -> View:
    """The camera's true place at a frame, relative to frame 0. x is right, y is down."""
    gone = 1 - math.exp(-frame / EASE_FRAMES)
    if motion in PANS:
        x, y = _DIRECTION[motion]
        return View(x * PAN_PX * gone, y * PAN_PX * gone, 0.0)
    signs = {Motion.ZOOM_IN: 1.0, Motion.ZOOM_OUT: -1.0, Motion.STILL: 0.0, Motion.CALM: CALM_SHARE}
    return View(0.0, 0.0, signs[motion] * ZOOM_LOG * gone)


def _needed(views: list[View], height: int, width: int) -> tuple[float, float]:
    """Height and width in output pixels (at log_zoom 0) that the whole trajectory covers."""
    widest = math.exp(-min(v.log_zoom for v in views))
    x = max(v.x for v in views) - min(v.x for v in views)
    y = max(v.y for v in views) - min(v.y for v in views)
    return height * widest + y + 4, width * widest + x + 4


def render(
    source: np.ndarray,
    motion: Motion,
    frames: range,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> torch.Tensor:
    """The clip of `motion` over one picture, (T, 3, height, width) in -1..1.

    `frames` are frame numbers on the motion's own clock, so a clip may start in its middle. The
    picture is scaled to cover the whole trajectory, closer by chance where it has pixels to spare.
    """
    height, width = size
    views = [view_at(motion, frame) for frame in frames]
    need_h, need_w = _needed(views, height, width)
    smallest = max(need_h / source.shape[0], need_w / source.shape[1])
    # Beyond one source pixel an output pixel a picture only gets softer: stop at 1.25 times.
    scale = math.exp(rng.uniform(math.log(smallest), math.log(max(smallest, 1.25))))
    big = Image.fromarray(source).resize(
        (math.ceil(source.shape[1] * scale), math.ceil(source.shape[0] * scale)),
        Image.Resampling.LANCZOS,
    )
    if rng.random() < 0.5 and motion not in _DIRECTION:
        big = big.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    slack_x, slack_y = max(big.width - need_w, 0), max(big.height - need_h, 0)
    left = rng.uniform(0, slack_x) - min(v.x for v in views) + need_w / 2 - _span(views, 0) / 2
    top = rng.uniform(0, slack_y) - min(v.y for v in views) + need_h / 2 - _span(views, 1) / 2
    return _sample(big, views, (left, top), size)


def _span(views: list[View], axis: int) -> float:
    return max(v[axis] for v in views) - min(v[axis] for v in views)


def _sample(
    image: Image.Image, views: list[View], centre: tuple[float, float], size: tuple[int, int]
) -> torch.Tensor:
    height, width = size
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    ys = torch.arange(height) - (height - 1) / 2
    xs = torch.arange(width) - (width - 1) / 2
    grids = []
    for view in views:
        zoom = math.exp(-view.log_zoom)
        y = (centre[1] + view.y + ys * zoom) / (image.height - 1) * 2 - 1
        x = (centre[0] + view.x + xs * zoom) / (image.width - 1) * 2 - 1
        grids.append(torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1))
    grid = torch.stack(grids)
    moved = F.grid_sample(
        pixels.expand(len(views), -1, -1, -1), grid, "bicubic", "border", align_corners=True
    )
    return moved.clamp(-1, 1)


def sparkle(clip: torch.Tensor) -> float:
    """How much in a clip could be seen to move: the mean spatial gradient of its first frame."""
    first = clip[:1]
    return float((first.diff(dim=-1).abs().mean() + first.diff(dim=-2).abs().mean()) / 2)


def _draw_chunk(path: Path, first: int) -> None:
    pictures = np.stack([picture(seed) for seed in range(first, first + _CHUNK)])
    partial = path.with_suffix(".partial.npy")
    np.save(partial, pictures)
    partial.replace(path)


def draw_pictures(folder: Path, count: int, *, processes: int = 2) -> None:
    """Draw the procedural pictures that are not there yet, in chunks that survive a kill."""
    folder.mkdir(parents=True, exist_ok=True)
    todo = [n for n in range(0, count, _CHUNK) if not (folder / f"{n:05}.npy").exists()]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_draw_chunk, folder / f"{n:05}.npy", n) for n in todo]
        for done, job in enumerate(jobs, 1):
            job.result()
            log.info("pictures: %d of %d chunks drawn", done, len(jobs))


def load_drawn(folder: Path) -> list[np.ndarray]:
    """Every drawn picture, (SIDE, SIDE, 3) uint8. FileNotFoundError when nothing was drawn yet."""
    chunks = sorted(folder.glob("?????.npy"))
    if not chunks:
        raise FileNotFoundError(f"no pictures in {folder}; run `python -m training data` first")
    drawn = [image for chunk in chunks for image in np.load(chunk)]
    assert drawn[0].shape == (SIDE, SIDE, 3)
    return drawn


class Pictures:
    """Draws a picture by chance: a panorama, a photograph or (the rest) a drawn one."""

    def __init__(self, folder: Path, shares: tuple[float, float] = (0.3, 0.3)) -> None:
        self.kinds = (panoramas(), photographs(), load_drawn(folder))
        self.shares = (*shares, 1 - sum(shares))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One picture; panoramas are turned round their axis; mirrored, dimmed by chance."""
        kind = int(rng.choice(len(self.kinds), p=self.shares))
        chosen = self.kinds[kind][rng.integers(len(self.kinds[kind]))]
        if kind == 0:
            chosen = np.roll(chosen, int(rng.integers(chosen.shape[1])), 1)
        if rng.random() < 0.5:
            chosen = chosen[:, ::-1]
        if rng.random() < 0.6:
            gain = rng.uniform(0.6, 1.5) * rng.uniform(0.9, 1.1, 3)
            curve = (np.arange(256)[:, None] / 255) ** np.exp(rng.normal(0, 0.25)) * gain
            table = np.clip(curve * 255 + 0.5, 0, 255).astype(np.uint8)
            chosen = np.stack([table[chosen[..., c], c] for c in range(3)], -1)
        return np.ascontiguousarray(chosen)
