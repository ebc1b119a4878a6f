"""How much memory this machine can give: RAM, what limits it, VRAM.

Decides: whose number counts: a container's limit beats /proc, Windows' commit limit beats its RAM.
Refuses to know: what the memory is for. Sources: proc(5), the kernel's cgroup v1 and v2 documents,
Microsoft's `GlobalMemoryStatusEx`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

GIB = 2**30
M_MMAP_THRESHOLD = -3  # glibc's number for it, malloc.h
RETURNED_ABOVE_BYTES = 2**20
UNLIMITED = 2**60  # cgroup v1 says "no limit" with a number near 2**63


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Bytes that can be had now. `ram_limit` names what would stop this process first."""

    ram_free: int
    ram_limit: str
    vram_free: int = 0
    vram_total: int = 0

    def __str__(self) -> str:
        vram = f"{self.vram_free / GIB:.1f} of {self.vram_total / GIB:.1f} GiB VRAM and "
        ram = f"{self.ram_free / GIB:.1f} GiB RAM ({self.ram_limit}) free"
        return (vram if self.vram_total else "") + ram


def measure(device: torch.device) -> Machine:
    """What is free right now, for everybody on this machine or in this container."""
    free, limit = free_ram()
    if device.type != "cuda":
        return Machine(ram_free=free, ram_limit=limit)
    vram_free, vram_total = torch.cuda.mem_get_info(device)
    return Machine(ram_free=free, ram_limit=limit, vram_free=vram_free, vram_total=vram_total)


def vram_held(device: torch.device) -> int:
    """Bytes of the GPU that this process keeps for its tensors; 0 without one."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0


def own_ram(root: Path = Path("/")) -> int:
    """Bytes of RAM that this process takes now, mapped files included; 0 where nobody says."""
    if sys.platform == "win32":
        return _windows_own()
    fields = _read(root / "proc/self/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def free_ram(root: Path = Path("/")) -> tuple[int, str]:
    """Bytes of RAM that a process can still take, and what sets that bound."""
    if sys.platform == "win32":
        return _windows_free()
    bounds = [*_linux_bounds(root)]
    if not bounds:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages // 2, "half of what is built in; this system does not say what is free"
    return min(bounds)


def _linux_bounds(root: Path) -> Iterator[tuple[int, str]]:
    meminfo = _read(root / "proc/meminfo")
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024, "what the machine has left"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            yield from _cgroup_bounds(root / "sys/fs/cgroup", path, _VERSION_2)
        elif "memory" in controllers.split(","):
            yield from _cgroup_bounds(root / "sys/fs/cgroup/memory", path, _VERSION_1)


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def _cgroup_bounds(base: Path, path: str, names: tuple[str, str, str]) -> Iterator[tuple[int, str]]:
    """The group's own limit and those of the groups around it."""
    inner = base / path.lstrip("/")
    for group in [inner, *inner.parents]:
        if not group.is_relative_to(base):
            return
        limit = _read(group / names[0]).strip()
        if not limit.isdigit() or int(limit) >= UNLIMITED:
            continue
        used = int(_read(group / names[1]).strip() or 0)
        # File pages that nobody touched lately go as soon as somebody needs the room.
        cached = dict(line.split(" ", 1) for line in _read(group / "memory.stat").splitlines())
        free = int(limit) - used + int(cached.get(names[2], 0))
        yield max(free, 0), f"the container's limit of {int(limit) / GIB:.1f} GiB"


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except OSError:
        return ""


class _MemoryStatus(ctypes.Structure):
    _fields_ = (
        ("dwLength", ctypes.c_uint32),
        ("dwMemoryLoad", ctypes.c_uint32),
        ("ullTotalPhys", ctypes.c_uint64),
        ("ullAvailPhys", ctypes.c_uint64),
        ("ullTotalPageFile", ctypes.c_uint64),
        ("ullAvailPageFile", ctypes.c_uint64),
        ("ullTotalVirtual", ctypes.c_uint64),
        ("ullAvailVirtual", ctypes.c_uint64),
        ("ullAvailExtendedVirtual", ctypes.c_uint64),
    )


def _windows_free() -> tuple[int, str]:
    status = _MemoryStatus()
    status.dwLength = ctypes.sizeof(status)
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
    if not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        return 8 * GIB, "assumed; Windows did not say"
    physical = (int(status.ullAvailPhys), "what the machine has left")
    limit = f"Windows' commit limit of {status.ullTotalPageFile / GIB:.1f} GiB"
    return min(physical, (int(status.ullAvailPageFile), limit))


class _MemoryCounters(ctypes.Structure):
    _fields_ = (
        ("cb", ctypes.c_uint32),
        ("PageFaultCount", ctypes.c_uint32),
        ("PeakWorkingSetSize", ctypes.c_size_t),
        ("WorkingSetSize", ctypes.c_size_t),
        ("rest", ctypes.c_size_t * 6),
    )


def _windows_own() -> int:
    counters = _MemoryCounters()
    counters.cb = ctypes.sizeof(counters)
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    own = ctypes.c_void_p(kernel.GetCurrentProcess())
    known = kernel.K32GetProcessMemoryInfo(own, ctypes.byref(counters), counters.cb)
    return int(counters.WorkingSetSize) if known else 0


def give_back_freed_memory() -> None:
    """Have the C library return freed tensors to the system at once.

    glibc raises its limit for that up to 32 MiB by itself, and then keeps passing tensors of
    decoding on its heap, the more the longer the video. Other systems do not; there this does
    nothing.
    """
    if sys.platform.startswith("linux"):
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            set_option(M_MMAP_THRESHOLD, RETURNED_ABOVE_BYTES)
