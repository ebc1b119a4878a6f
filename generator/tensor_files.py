"""Tensors of a folder of safetensors files, each read on its own when it is wanted.

Decides: nothing but the file format. Refuses to know: what a tensor is for. Plain reads instead of
a memory map: the bytes go where they are wanted in one call, nothing counts as this process's
memory but their destination, and Windows behaves the same. Source: the safetensors format (8 bytes
of length, a JSON header, raw little-endian data).
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from generator.errors import ModelError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MAX_HEADER_BYTES = 100 * 2**20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where one tensor lies: `start` counts from the beginning of the file."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    nbytes: int


class TensorFiles:
    """All tensors of `folder`, by name. A leading `model.` of every name is dropped.

    Close it: it keeps one open handle per file. May be read from several threads. ModelError when a
    file is cut off or is not safetensors.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._handles: dict[Path, IO[bytes]] = {}
        self._lock = threading.Lock()
        self.entries: dict[str, Entry] = {}
        for file in sorted(folder.glob("*.safetensors")):
            self.entries |= read_header(file)
        if self.entries and all(name.startswith("model.") for name in self.entries):
            # A decoder saved with its language-model head puts itself under this name.
            self.entries = {n.removeprefix("model."): e for n, e in self.entries.items()}
        self.bytes_read = 0

    def read_into(self, name: str, destination: Tensor) -> None:
        """Fill `destination` (uint8, as many bytes as the tensor has, on the CPU)."""
        self._read(self.entry(name), 0, destination, name)

    def read(self, name: str) -> Tensor:
        """The tensor on the CPU, in the dtype it is stored in."""
        entry = self.entry(name)
        raw = torch.empty(entry.nbytes, dtype=torch.uint8)
        self.read_into(name, raw)
        return raw.view(entry.dtype).view(entry.shape)

    def read_rows(self, name: str, rows: list[int]) -> Tensor:
        """Some rows of a matrix, in that order: (len(rows), columns)."""
        entry = self.entry(name)
        width = entry.nbytes // entry.shape[0]
        raw = torch.empty(len(rows), width, dtype=torch.uint8)
        for place, row in zip(raw, rows, strict=True):
            if not 0 <= row < entry.shape[0]:
                raise IndexError(f"{name} has {entry.shape[0]} rows, not {row}")
            self._read(entry, row * width, place, name)
        return raw.view(entry.dtype).view(len(rows), *entry.shape[1:])

    def read_spot(self, name: str, count: int) -> Tensor:
        """Some numbers from the middle of a tensor, at most `count`."""
        entry = self.entry(name)
        numbers = entry.nbytes // entry.dtype.itemsize
        count = min(count, numbers)
        raw = torch.empty(count * entry.dtype.itemsize, dtype=torch.uint8)
        self._read(entry, (numbers - count) // 2 * entry.dtype.itemsize, raw, name)
        return raw.view(entry.dtype)

    def _read(self, entry: Entry, offset: int, destination: Tensor, name: str) -> None:
        view = destination.numpy().data
        with self._lock:
            handle = self._handles.get(entry.file)
            if handle is None:
                handle = self._handles[entry.file] = entry.file.open("rb", buffering=0)
            handle.seek(entry.start + offset)
            done = 0
            while done < len(view):
                count = handle.readinto(view[done:])  # type: ignore[attr-defined]
                if not count:
                    raise ModelError(f"{entry.file} ends inside {name}; download it again.")
                done += count
            self.bytes_read += done

    def close(self) -> None:
        for handle in self._handles.values():
            handle.close()
        self._handles.clear()

    def entry(self, name: str) -> Entry:
        """Where the tensor lies. ModelError when there is none of that name."""
        try:
            return self.entries[name]
        except KeyError:
            raise ModelError(
                f"{self.folder} has no tensor {name}; its files belong to another model, or some "
                "are missing."
            ) from None


def read_header(file: Path) -> dict[str, Entry]:
    """The tensors of one safetensors file. ModelError when it is cut off or of another format."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(size, MAX_HEADER_BYTES):
            raise ModelError(f"{file} is not a safetensors file ({size:,} bytes).")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            entries = {name: _entry(file, 8 + length, facts) for name, facts in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{file} is not a safetensors file ({error!r}).") from None
    expected = max((entry.start + entry.nbytes for entry in entries.values()), default=0)
    if expected > size:
        raise ModelError(
            f"{file} is cut off: it has {size:,} of {expected:,} bytes; download it again."
        )
    return entries


def _entry(file: Path, data: int, facts: dict[str, Any]) -> Entry:
    begin, end = facts["data_offsets"]
    return Entry(
        file=file,
        dtype=DTYPES[facts["dtype"]],
        shape=tuple(facts["shape"]),
        start=data + begin,
        nbytes=end - begin,
    )
