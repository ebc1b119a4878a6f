"""What a resume point costs: `python benchmarks/resume_cost.py [--every-s S] [--times N]`.

Writes points of the real shape (608 × 640, a window of nine latent frames) as the generator does,
synced and replaced whole, into the system's temporary folder, and says how large they are, how long
one takes, and which share of the time that is where one comes every `resume_every_s`. What is made
between two points is not computed here: the share depends on the clock alone, for a point is
written no more often than that, however fast the steps are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from generator.resume import EVERY_S, POINT_FILE, SavedWork  # noqa: E402
from generator.sampler import UniPC, make_sigmas  # noqa: E402
from generator.step_cache import CacheState  # noqa: E402

LATENTS = (1, 16, 9, 76, 80)
PASSES = {"no cache": (), "TeaCache": ("cond",), "TeaCache, true CFG": ("cond", "uncond")}


class Remembers:
    """A step cache as far as resume points know it."""

    def __init__(self, passes: tuple[str, ...]) -> None:
        tensors = {f"x_computed_{name}": torch.randn(LATENTS) for name in passes}
        if passes:
            tensors["x_previous"] = torch.randn(LATENTS)
        self._state = CacheState(tensors=tensors, notes={"computed_steps": list(range(25))})

    def state(self) -> CacheState:
        return self._state


def solver_at_work() -> UniPC:
    """A solver in the middle of a section, with all that it remembers."""
    solver = UniPC(make_sigmas(25, 3.0), torch.randn(LATENTS))
    solver.predictions, solver.step = [torch.randn(LATENTS) for _ in range(3)], 12
    return solver


def measure(passes: tuple[str, ...], times: int) -> tuple[float, list[float], float]:
    """MiB of a point, sorted seconds of writing one, of which the processor worked so many."""
    cache: Any = Remembers(passes)
    found, solver = [], solver_at_work()
    with tempfile.TemporaryDirectory() as name:
        saved = SavedWork(Path(name), "0" * 64, every_s=0.0)
        before = time.process_time()
        for _ in range(times):
            began = time.perf_counter()
            saved.keep_if_due(1, solver, cache)
            found.append(time.perf_counter() - began)
        worked = (time.process_time() - before) / times
        size = (Path(name) / POINT_FILE).stat().st_size / 2**20
    return size, sorted(found), worked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every-s", type=float, default=EVERY_S)
    parser.add_argument("--times", type=int, default=30)
    arguments = parser.parse_args()
    print("| step cache | MiB | median | longest | of the processor | share of the time |")
    print("|---|---|---|---|---|---|")
    worst = 0.0
    for name, passes in PASSES.items():
        size, found, worked = measure(passes, arguments.times)
        share = sum(found) / len(found) / arguments.every_s
        worst = max(worst, share)
        print(
            f"| {name} | {size:.1f} | {1000 * found[len(found) // 2]:.0f} ms "
            f"| {1000 * found[-1]:.0f} ms | {1000 * worked:.0f} ms | {share:.2%} |",
            flush=True,
        )
    return 0 if worst <= 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
