"""`python -m training.quality MODEL_FOLDER`: what saving time costs, measured on photos.

Decides: which savings are compared (fewer steps, step caches at several thresholds, 16 and 8 bits),
against what (the model's best: 25 steps, nothing skipped, float32), the page in docs/. Refuses to
know: how a cache works. The defaults of a draft and of a final video follow from this table.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from generator.protocol import Stage, StepCacheKind, Storage
from training.captions import Motion
from training.evaluate import Studio, photos
from training.pages import write_table
from training.scores import Score, psnr

log = logging.getLogger(__name__)

PAGE = Path("docs") / "quality.md"
RESOLUTION = 96
VIDEOS = (
    ("coffee", Motion.LEFT, "i2v"), ("china", Motion.RIGHT, "f1"),
    ("chelsea", Motion.UP, "f1"), ("flower", Motion.DOWN, "i2v"),
)  # fmt: skip
"""Photo, motion told, variant."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """One way of saving time or memory."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    storage: Storage = Storage.NATIVE


def _cache(kind: StepCacheKind, threshold: float, steps: int = 25) -> Saving:
    settings = {"step_cache": kind, "step_cache_threshold": threshold, "steps": steps}
    return Saving(name=f"{kind.value} {threshold:g}, {steps} steps", settings=settings)


BEST = Saving(name="25 steps, nothing skipped")
SAVINGS = (
    BEST,
    *(Saving(name=f"{n} steps", settings={"steps": n}) for n in (20, 15, 10, 8, 5)),
    *(_cache(StepCacheKind.TEACACHE, t) for t in (0.05, 0.1, 0.15, 0.25, 0.4)),
    _cache(StepCacheKind.TEACACHE, 0.15, 10),
    *(_cache(StepCacheKind.MAGCACHE, t) for t in (0.06, 0.12, 0.24)),
    *(_cache(StepCacheKind.FIRST_BLOCK, t) for t in (0.05, 0.1, 0.2, 0.4)),
    Saving(name="bfloat16", dtype="bfloat16"),
    Saving(name="fp8 storage", storage=Storage.FP8),
    Saving(name="fp8 storage, AdaLN kept", storage=Storage.FP8_KEEP_NORMS),
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one saving did to all videos."""

    sampling_cpu_s: float
    videos: list[np.ndarray]
    scores: list[Score]


def measure(saving: Saving, model: str, seeds: int) -> Cost:
    """Make every video of `VIDEOS` with this saving."""
    pictures = photos()
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(model, Path(folder), dtype=saving.dtype, storage=saving.storage)
        videos, scores = [], []
        for seed in range(seeds):
            for name, told, variant in VIDEOS:
                settings = {"steps": 25, "seed": seed, "variant": variant, "resolution": RESOLUTION}
                settings |= saving.settings
                score, frames = studio.judge_and_show(
                    pictures[name], f"the camera {told.replace('pan', 'pans')}", told, **settings
                )
                videos.append(frames)
                scores.append(score)
    spent = studio.cpu_s[Stage.SAMPLING] / len(videos)
    return Cost(sampling_cpu_s=spent, videos=videos, scores=scores)


def row(saving: Saving, cost: Cost, best: Cost) -> str:
    """One line of the table."""
    pairs = list(zip(cost.videos, best.videos, strict=True))
    alike = np.mean([min(psnr(made, true), 99) for made, true in pairs])
    likeness = np.mean([ssim(made, true) for made, true in pairs])
    right = sum(s.seen is s.told for s in cost.scores)
    shares = np.mean([s.section_shares for s in cost.scores], axis=0)
    way = ", ".join(f"{share:.2f}" for share in shares)
    same = cost is best
    return (
        f"| {saving.name} | {best.sampling_cpu_s / cost.sampling_cpu_s:.2f}× "
        f"| {'–' if same else f'{alike:.1f}'} | {'–' if same else f'{likeness:.3f}'} "
        f"| {right} of {len(cost.scores)} | {way} |"
    )


def ssim(made: np.ndarray, true: np.ndarray) -> float:
    """Structural similarity of two videos (T, H, W, 3) uint8, mean of every twelfth frame."""
    from skimage.metrics import structural_similarity

    values = [
        structural_similarity(a, b, channel_axis=-1)
        for a, b in zip(made[::12], true[::12], strict=True)
    ]
    return float(np.mean(values))


def report(command: str, rows: list[str], best: Cost) -> str:
    """The page in Markdown, without the conclusions that a person draws from it."""
    return "\n".join(
        [
            f"Made by `python -m training.quality {command}`: {len(best.videos)} videos of 2.4 s "
            f"at {RESOLUTION} px of held-out photos, pans in all four directions, both variants. "
            "PSNR and SSIM are to the video of the same seed made with 25 steps, nothing skipped, "
            "in float32. Faster: processor time of sampling, "
            f"{best.sampling_cpu_s:.1f} s for the slowest.",
            "",
            "| | faster | PSNR, dB | SSIM | pans right | share of the way, section 1, 2 |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the table. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.quality", description=__doc__)
    parser.add_argument("model", help="demo, or a model folder")
    parser.add_argument("--page", type=Path, default=PAGE, help="its table is replaced")
    parser.add_argument("--seeds", type=int, default=1, help="videos of each kind")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    best, rows = None, []
    for saving in SAVINGS:
        cost = measure(saving, arguments.model, arguments.seeds)
        best = best or cost
        rows.append(row(saving, cost, best))
        log.info("%s", rows[-1])
    assert best is not None
    words = sys.argv[1:] if argv is None else list(argv)
    table = report(" ".join(words), rows, best)
    print(table)
    write_table(arguments.page, "What saving time costs", table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
