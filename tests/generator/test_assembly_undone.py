"""A part that could not be put together leaves no pinned byte behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from generator.assembly import Recipe, assemble
from generator.devices import HostDevice
from generator.models import ModelFolder

NO_ROOM = RuntimeError("CUDA out of memory")


class FullDevice(HostDevice):
    """Pins so many buffers, and has no room for a slot."""

    staged = True

    def __init__(self, pins: int) -> None:
        self.pins, self.pinned = pins, 0

    def allocate(self, nbytes: int) -> Tensor:
        raise NO_ROOM

    def pin(self, buffer: Tensor) -> Callable[[], None]:
        if self.pins == 0:
            raise NO_ROOM
        self.pins -= 1
        self.pinned += buffer.nbytes

        def unpin() -> None:
            self.pinned -= buffer.nbytes

        return unpin


@pytest.mark.parametrize("pins", [0, 1, 2, 3, 100])
def test_a_failure_at_any_place_unpins_what_was_pinned(tiny_model: Path, pins: int) -> None:
    """Memory freed while registered may come back at the same address, with old pages behind it."""
    recipe = Recipe(
        device=torch.device("cpu"), dtype=torch.float32, resident=0, in_ram=frozenset({0, 1})
    )
    device = FullDevice(pins)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        assemble(ModelFolder(tiny_model), "transformer", recipe, device)
    assert device.pinned == 0
