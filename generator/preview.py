"""The newest section as a small moving picture while it is sampled.

Decides: how often one is made, and that only the newest two files stay (the older may just be on
its way to somebody). Refuses to know: who looks at them. A preview never changes a value.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from generator.video import preview_rgb, write_preview

EVERY_S = 2.0  # 36 ms of work and one wait for the GPU: at most 2 % of the time
KEPT = 2


class Previews:
    """Writes `preview-N.webp` into the job's folder; close it to remove what is left of them."""

    def __init__(
        self,
        folder: Path,
        map_and_bias: tuple[Tensor, Tensor],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._folder, self._map, self._clock = folder, map_and_bias, clock
        self._last = clock()
        self._files: list[Path] = []
        self._number = 0

    def show(self, x0: Tensor, *, at_once: bool = False) -> str | None:
        """A new preview's file name when one is due, else None. x0: (1, 16, T, h, w)."""
        if not at_once and self._clock() - self._last < EVERY_S:
            return None
        self._number += 1
        path = self._folder / f"preview-{self._number}.webp"
        write_preview(path, preview_rgb(x0, *self._map))
        self._files.append(path)
        while len(self._files) > KEPT:
            self._files.pop(0).unlink(missing_ok=True)
        self._last = self._clock()
        return path.name

    def close(self) -> None:
        """Remove the files."""
        while self._files:
            self._files.pop().unlink(missing_ok=True)
