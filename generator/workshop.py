"""What outlives a job, and how it is opened from the command line's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from generator.conditions import EncodingCache
from generator.machine import give_back_freed_memory
from generator.models import open_model
from generator.placement import Placement
from generator.progress import Pace
from generator.protocol import Mode, Storage
from generator.resume import EVERY_S


class Settings(Protocol):
    """The command line's words about model and machine."""

    model: str
    device: str
    dtype: str
    placement: str
    preserve_vram_gib: float
    storage: str
    attention: str
    compile: bool
    cache_dir: Path | None


@dataclass(kw_only=True)
class Workshop:
    """Where weights lie, what was encoded before, how fast decoding was, when steps are kept, and
    whether values may change before a job fails for want of memory."""

    placement: Placement
    cache: EncodingCache = field(default_factory=lambda: EncodingCache(None))
    pace: Pace = field(default_factory=Pace)
    resume_every_s: float = EVERY_S
    allow_lossy_fallback: bool = False


def open_workshop(settings: Settings) -> Workshop:
    """Check model and device; weights are loaded when a job needs them. Raises GeneratorError."""
    give_back_freed_memory()
    # The same bytes every time: no algorithm is chosen by a stopwatch.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    placement = Placement(
        open_model(settings.model),
        device=settings.device,
        dtype=settings.dtype,
        mode=Mode(settings.placement),
        preserve_vram_gib=settings.preserve_vram_gib,
        storage=Storage(settings.storage),
        attention_backend=settings.attention,
        compiled=settings.compile,
    )
    return Workshop(placement=placement, cache=EncodingCache(settings.cache_dir))
