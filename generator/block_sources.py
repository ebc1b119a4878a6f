"""Where streamed blocks come from: pinned RAM, or their files each time.

Decides: how the parameters of a block lie behind each other, what is cast when it is read, what is
read ahead. Refuses to know: slots and their order (`streaming`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from generator.devices import Device
from generator.stopping import always
from generator.tensor_files import TensorFiles

ALIGNMENT = 256  # bytes; what GPU copies and vector loads like


@dataclass(frozen=True, kw_only=True)
class Field:
    """One parameter of a block: its place in the block's bytes."""

    name: str  # in the block
    source: str  # in the files
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        count = self.dtype.itemsize
        for side in self.shape:
            count *= side
        return count

    def view(self, raw: Tensor) -> Tensor:
        """The parameter within the block's bytes."""
        return raw[self.start : self.start + self.nbytes].view(self.dtype).view(self.shape)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the parameters of a block lie behind each other."""

    fields: tuple[Field, ...]
    nbytes: int


def lay_out(names: dict[str, str], files: TensorFiles, dtype_of: Callable[[str], Any]) -> Layout:
    """A block's layout. `names` maps its parameters to names in the files; `dtype_of` says in which
    dtype to hold one (None: as stored)."""
    fields, start = [], 0
    for name, source in names.items():
        entry = files.entry(source)
        dtype = dtype_of(source) or entry.dtype
        one = Field(name=name, source=source, start=start, shape=entry.shape, dtype=dtype)
        fields.append(one)
        start += -(-one.nbytes // ALIGNMENT) * ALIGNMENT
    return Layout(fields=tuple(fields), nbytes=start)


def read_block(layout: Layout, files: TensorFiles, destination: Tensor) -> None:
    """Fill `destination` (uint8 on the CPU) with a block; what is held in another dtype is cast."""
    for one in layout.fields:
        place = destination[one.start : one.start + one.nbytes]
        if files.entry(one.source).dtype == one.dtype:
            files.read_into(one.source, place)
        else:
            place.view(one.dtype).view(one.shape).copy_(files.read(one.source))


@dataclass(kw_only=True)
class _Staging:
    buffer: Tensor
    unpin: Callable[[], None]
    index: int | None = None
    copy: Any = None
    age: int = 0


class BlockSource:
    """The bytes of streamed blocks: those `in_ram` were read once into pinned RAM, the others are
    read from their files each time, one block more than is being copied.

    `files` may be replaced by an equal one. Close it.
    """

    def __init__(
        self,
        layouts: dict[int, Layout],
        files: TensorFiles,
        device: Device,
        in_ram: Collection[int],
        still_wanted: Callable[[], None] = always,
    ):
        """`still_wanted` is called before each of `in_ram` is read; raising, it leaves none."""
        self.layouts, self.files = layouts, files
        self._held: dict[int, Tensor] = {}
        self._unpin: list[Callable[[], None]] = []
        self._staging, self._clock = list[_Staging](), 0
        try:
            for index in sorted(in_ram):
                still_wanted()
                buffer = torch.empty(layouts[index].nbytes, dtype=torch.uint8)
                read_block(layouts[index], files, buffer)
                self._unpin.append(device.pin(buffer))
                self._held[index] = buffer
            self.read_each_time = [index for index in sorted(layouts) if index not in self._held]
            largest = max((layouts[index].nbytes for index in self.read_each_time), default=0)
            for _ in range(2 if device.staged and largest else 0):
                buffer = torch.empty(largest, dtype=torch.uint8)
                self._staging.append(_Staging(buffer=buffer, unpin=device.pin(buffer)))
        except BaseException:
            self.close()
            raise

    @property
    def holds(self) -> bool:
        """Whether anything waits in RAM."""
        return bool(self._held)

    @property
    def buffers(self) -> list[Tensor]:
        """Everything that is held in RAM."""
        return [*self._held.values(), *(staging.buffer for staging in self._staging)]

    def fill(self, device: Device, index: int, slot: Tensor, after: Any) -> Any:
        """Begin to fill the slot with a block; returns the device's mark. Takes as long as a read
        for a block of `read_each_time` that was not read ahead."""
        if index in self._held:
            return device.start_copy(slot, self._held[index], after)
        layout = self.layouts[index]
        if not device.staged:
            read_block(layout, self.files, slot)
            return device.start_copy(slot, slot[: layout.nbytes], after)
        staging = self._staged(device, index)
        staging.copy = device.start_copy(slot, staging.buffer[: layout.nbytes], after)
        return staging.copy

    def read_ahead(self, device: Device, index: int) -> None:
        """Read the next block of `read_each_time` from `index` on, if it is not there already."""
        if device.staged and self.read_each_time:
            later = [i for i in self.read_each_time if i >= index] or self.read_each_time
            self._staged(device, later[0])

    def close(self) -> None:
        """Give all RAM back."""
        for unpin in [*self._unpin, *(staging.unpin for staging in self._staging)]:
            unpin()
        self._unpin.clear()
        self._staging.clear()
        self._held.clear()

    def _staged(self, device: Device, index: int) -> _Staging:
        self._clock += 1
        found = next((s for s in self._staging if s.index == index), None)
        if found is None:
            found = min(self._staging, key=lambda s: s.age)
            if found.copy is not None:
                device.settle(found.copy)  # it may still be read from
            found.copy, found.index = None, None
            read_block(self.layouts[index], self.files, found.buffer)
            found.index = index
        found.age = self._clock
        return found
