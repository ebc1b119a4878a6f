"""What a job gives up when no placement that keeps its values has room for it.

Decides: what may be given up, for which part, how it is remembered in the job's folder. Refuses to
know: whether the operator allows it (`worker`), how weights lie. What is given up changes values:
it is one job's only, stands in the record of its result, and the digest of its work is another.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from generator.machine import measure
from generator.modes import SAMPLING_BYTES, TILED_DECODING_BYTES, WHOLE_DECODING_BYTES
from generator.protocol import limits
from generator.whole_file import write_whole

if TYPE_CHECKING:
    from generator.placement import Placement

log = logging.getLogger(__name__)

FILE = "fallback.json"
COUNTED_SIDE = 624
"""The square's side of the 608 × 640 pixels for which `modes` knows what computing needs."""


class Sacrifice(StrEnum):
    """What is given up; the words are shown to people."""

    SMALL_TILES = "smaller VAE tiles"
    FP8 = "8-bit weights"


FOR_PART = {"vae": Sacrifice.SMALL_TILES, "transformer": Sacrifice.FP8}
"""What helps a part that found no room. Nothing helps the others."""


def next_for(part: str | None, given_up: Iterable[Sacrifice]) -> Sacrifice | None:
    """What to give up for this part; None when nothing is left that would help."""
    sacrifice = FOR_PART.get((part or "").removesuffix("_f1"))
    return None if sacrifice in tuple(given_up) else sacrifice


def what_would_fit(placement: Placement, resolution: int | None) -> str:
    """For the owner of a job that found no room: the resolution that probably would, counted from
    what is free now."""
    asked, machine = resolution or placement.model.resolution(), measure(placement.device)
    room, needed = machine.vram_free or machine.ram_free, WHOLE_DECODING_BYTES
    if placement.vae_tile:
        needed = TILED_DECODING_BYTES
    if placement.short_of == "transformer":
        room, needed = room - placement.needs.rest - placement.needs.slots, SAMPLING_BYTES
    side = COUNTED_SIDE * math.sqrt(max(0, room) / max(1, placement.needs.working(needed)))
    fits = int(min(side, 0.75 * asked)) // 32 * 32
    if fits < limits("resolution").low:
        return "No smaller resolution would fit on this machine."
    return f"A resolution of {fits} instead of {asked} would probably fit."


def given_up_by(folder: Path) -> tuple[Sacrifice, ...]:
    """What the job of this folder has given up so far, also in an earlier process."""
    try:
        return tuple(Sacrifice(word) for word in json.loads((folder / FILE).read_text("utf-8")))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        log.warning("%s is damaged (%s): the job starts anew with nothing given up", FILE, error)
        return ()


def note(folder: Path, given_up: Iterable[Sacrifice]) -> None:
    """Remember it, in one piece."""
    words = json.dumps([str(sacrifice) for sacrifice in given_up])
    write_whole(folder / FILE, words.encode())


def forget(folder: Path) -> None:
    """The job has ended."""
    (folder / FILE).unlink(missing_ok=True)
