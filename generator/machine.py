"""What this machine can give: RAM and what limits it, VRAM and who else has it, the disk's speed.

Decides: whose number counts: a container's limit beats /proc, Windows' commit limit beats its RAM.
Refuses to know: what the memory is for. Sources: proc(5), the kernel's cgroup v1 and v2 documents,
Microsoft's `GlobalMemoryStatusEx`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

import torch

GIB = 2**30
M_MMAP_THRESHOLD = -3  # glibc's number for it, malloc.h
RETURNED_ABOVE_BYTES = 2**20
MEASURED_ABOVE_BYTES, MEASURED_BYTES, MEASURED_S = 256 * 2**20, 2**28, 0.3
FASTEST_DISK_GB_S = 16.0  # PCIe 5 x4; what is faster was memory
UNLIMITED = 2**60  # cgroup v1 says "no limit" with a number near 2**63


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Bytes that can be had now. `ram_limit` names what would stop this process first."""

    ram_free: int
    ram_limit: str
    vram_free: int = 0
    vram_total: int = 0
    disk_gb_s: float | None = None  # None: not measured, or faster than a disk can be

    def __str__(self) -> str:
        vram = f"{self.vram_free / GIB:.1f} of {self.vram_total / GIB:.1f} GiB VRAM and "
        ram = f"{self.ram_free / GIB:.1f} GiB RAM ({self.ram_limit}) free"
        disk = f", a disk that reads {self.disk_gb_s:.2g} GB/s" if self.disk_gb_s else ""
        return (vram if self.vram_total else "") + ram + disk


def measure(device: torch.device, weights: Path | None = None) -> Machine:
    """What is free right now, for everybody on this machine or in this container.

    With the folder of some `weights` the speed of their disk, too, measured once in a process.
    """
    free, limit = free_ram()
    vram_free, vram_total = torch.cuda.mem_get_info(device) if device.type == "cuda" else (0, 0)
    return Machine(
        ram_free=free,
        ram_limit=limit,
        vram_free=vram_free,
        vram_total=vram_total,
        disk_gb_s=read_speed(weights) if weights is not None else None,
    )


@functools.cache
def read_speed(folder: Path) -> float | None:
    """GB/s at which a part of the folder's largest file is read, past what is in memory of it.

    Takes a third of a second at most. None for files below 256 MiB, and where the system answered
    out of its memory after all (outside of Linux it can not be asked to forget).
    """
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    if not files or files[-1].stat().st_size < MEASURED_ABOVE_BYTES:
        return None
    middle = files[-1].stat().st_size // 2
    with files[-1].open("rb", buffering=0) as stream:
        if sys.platform == "linux":
            length = files[-1].stat().st_size - middle
            os.posix_fadvise(stream.fileno(), middle, length, os.POSIX_FADV_DONTNEED)
        stream.seek(middle)
        piece, done, began = bytearray(2**22), 0, time.perf_counter()
        while done < MEASURED_BYTES and time.perf_counter() - began < MEASURED_S:
            done += stream.readinto(piece) or MEASURED_BYTES
        speed = done / (time.perf_counter() - began) / 1e9
    return speed if speed < FASTEST_DISK_GB_S else None


def cuda_driver() -> tuple[int, int] | None:
    """The newest CUDA that the driver can run, (12, 4) for 12.4; None without one, or without a
    CUDA build of torch to ask."""
    ask = getattr(torch._C, "_cuda_getDriverVersion", None)
    version = int(ask()) if ask is not None else 0
    return (version // 1000, version % 1000 // 10) if version > 0 else None


def driver_problem() -> str | None:
    """Why torch can not use the NVIDIA GPU that has a driver here; None if it can, or has none."""
    driver, built_for = cuda_driver(), torch.version.cuda
    if driver is None or built_for is None or driver[0] >= int(built_for.split(".")[0]):
        return None
    return (
        f"the NVIDIA driver is too old: it can run CUDA {driver[0]}.{driver[1]}, and this torch "
        f"({torch.__version__}) is built for CUDA {built_for}; update the driver, or install a "
        "torch for an older CUDA"
    )


def vram_users() -> list[str]:
    """Which programs hold memory of the GPU, as `NAME (MiB)`; empty where nobody can say."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    question = ["--query-compute-apps=process_name,used_memory", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [program, *question], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    pairs = (line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line)
    return [f"{PurePath(name.strip()).name} ({used.strip()} MiB)" for name, used in pairs]


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
