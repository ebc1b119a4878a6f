"""A model's blocks pass through two slots on the device, each copied while the one before computes.

Decides: which block goes into which slot when. Refuses to know: what a block computes, which mode
was chosen and why (`placement`). A block is fetched by the innermost wrapper of its `forward`, so
a block that a step cache skips is not fetched; what such a cache reads past the block (block 0's
norm1) is kept resident by whoever builds the stream.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from generator.block_sources import BlockSource
from generator.devices import Device


@dataclass(kw_only=True)
class _Slot:
    buffer: Tensor
    used: Any  # the mark behind the last computing that saw this slot
    index: int | None = None
    copy: Future[Any] | None = None
    views: dict[int, dict[str, nn.Parameter]] = field(default_factory=dict)


class BlockStream:
    """Lends each streamed block its parameters while it computes, and fetches the next meanwhile.

    `source.layouts` says which blocks are streamed; the others keep their own parameters. Blocks
    must run in ascending order, over and over; another order is right too, but slower. Close it.
    """

    def __init__(self, blocks: Sequence[nn.Module], source: BlockSource, device: Device):
        self._blocks, self._source, self._device = blocks, source, device
        self._order = sorted(source.layouts)
        largest = max((source.layouts[i].nbytes for i in self._order), default=0)
        self._slots = [
            _Slot(buffer=device.allocate(largest), used=device.computed())
            for _ in range(2 if self._order else 0)
        ]
        self._reader = ThreadPoolExecutor(1, "blocks") if source.read_each_time else None
        self._slow = frozenset(source.read_each_time)
        self._owners = {i: self._owners_of(i) for i in self._order}
        for index in self._order:
            self._evict(index)
            block = blocks[index]
            block.forward = functools.partial(self._forward, index, block.forward)

    @property
    def buffers(self) -> list[Tensor]:
        """The slots' bytes on the device."""
        return [slot.buffer for slot in self._slots]

    def close(self) -> None:
        """Give slots and thread back; the source stays open. The blocks can not run any more."""
        if self._reader is not None:
            self._reader.shutdown(wait=True, cancel_futures=True)
        for slot in self._slots:
            with contextlib.suppress(Exception):  # a failed copy was reported where it was awaited
                if slot.copy is not None and not slot.copy.cancelled():
                    self._device.settle(slot.copy.result())
        for index in self._order:
            self._evict(index)
            self._blocks[index].__dict__.pop("forward", None)
        self._slots.clear()

    def _forward(self, index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        slot = self._fetched(index)
        self._prefetch(index, slot)
        try:
            return forward(*args, **kwargs)
        finally:
            slot.used = self._device.computed()

    def _fetched(self, index: int) -> _Slot:
        slot = next((slot for slot in self._slots if slot.index == index), None)
        if slot is None:
            slot = self._slots[0]
            self._start(slot, index)
        assert slot.copy is not None
        try:
            self._device.await_copy(slot.copy.result())
        except BaseException:
            slot.index = None  # what lies there is not the block
            raise
        parameters = self._views(slot, index)
        for owner, leaf, name in self._owners[index]:
            owner._parameters[leaf] = parameters[name]
        return slot

    def _prefetch(self, index: int, busy: _Slot) -> None:
        following = self._after(index)
        other = next(slot for slot in self._slots if slot is not busy)
        if following not in (index, other.index):
            self._start(other, following)
        if self._reader is not None:
            self._reader.submit(self._source.read_ahead, self._device, self._after(following))

    def _start(self, slot: _Slot, index: int) -> None:
        if slot.index is not None:
            self._evict(slot.index)
        if slot.copy is not None and not slot.copy.done():
            wait([slot.copy])  # blocks ran in another order, and the reader is still at the last
        slot.index = index
        fill = functools.partial(self._source.fill, self._device, index, slot.buffer, slot.used)
        if self._reader is not None and index in self._slow:
            slot.copy = self._reader.submit(fill)
        else:
            slot.copy = Future()
            slot.copy.set_result(fill())

    def _after(self, index: int) -> int:
        return self._order[(self._order.index(index) + 1) % len(self._order)]

    def _views(self, slot: _Slot, index: int) -> dict[str, nn.Parameter]:
        layout = self._source.layouts[index]
        if index not in slot.views:
            with torch.inference_mode(mode=False):  # like parameters that were loaded
                slot.views[index] = {
                    one.name: nn.Parameter(one.view(slot.buffer), requires_grad=False)
                    for one in layout.fields
                }
        return slot.views[index]

    def _evict(self, index: int) -> None:
        """Whoever reads a block that is not there fails instead of reading another's bytes."""
        for owner, leaf, name in self._owners[index]:
            shape = next(f for f in self._source.layouts[index].fields if f.name == name).shape
            absent = torch.empty(shape, device="meta")
            owner._parameters[leaf] = nn.Parameter(absent, requires_grad=False)

    def _owners_of(self, index: int) -> list[tuple[nn.Module, str, str]]:
        owners = []
        for one in self._source.layouts[index].fields:
            path, _, leaf = one.name.rpartition(".")
            owners.append((self._blocks[index].get_submodule(path), leaf, one.name))
        return owners


def cast_on_use(module: nn.Module, dtype: torch.dtype, held_in: dict[str, torch.dtype]) -> None:
    """Parameters held in another dtype are cast to `dtype` while their own module computes.

    `held_in`: name of a parameter of `module` → its dtype. Only one such module's parameters exist
    twice at a time.
    """
    for path, owner in module.named_modules():
        held = [
            name
            for name, one in owner._parameters.items()
            if one is not None and held_in[f"{path}.{name}" if path else name] != dtype
        ]
        if held and type(owner) is nn.Linear:
            owner.__class__ = _CastingLinear
        elif held:
            owner.forward = functools.partial(_cast_forward, owner, owner.forward, dtype)


class _CastingLinear(nn.Linear):
    """A Linear whose parameters are held in another dtype than it computes in."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return nn.functional.linear(x, self.weight.to(x.dtype), bias)


def _cast_forward(
    owner: nn.Module, forward: Callable[..., Any], dtype: torch.dtype, *args: Any, **kwargs: Any
) -> Any:
    held = {
        name: parameter
        for name, parameter in owner._parameters.items()
        if parameter is not None and parameter.dtype != dtype
    }
    if not held:
        return forward(*args, **kwargs)
    try:
        for name, parameter in held.items():
            owner._parameters[name] = nn.Parameter(parameter.to(dtype), requires_grad=False)
        return forward(*args, **kwargs)
    finally:
        owner._parameters.update(held)
