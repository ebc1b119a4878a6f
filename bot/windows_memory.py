"""A memory limit on Windows, which has no setrlimit: a job object that holds one's own process.

Decides: nothing. Source: Microsoft's documentation of `SetInformationJobObject` and of
`JOBOBJECT_EXTENDED_LIMIT_INFORMATION`. The handle stays open until the process ends.
"""

from __future__ import annotations

import ctypes
import sys

EXTENDED_LIMIT_INFORMATION = 9  # JobObjectExtendedLimitInformation
LIMIT_PROCESS_MEMORY = 0x100  # JOB_OBJECT_LIMIT_PROCESS_MEMORY
LIMIT_DIE_ON_UNHANDLED_EXCEPTION = 0x400  # no dialog that waits for a click


class _BasicLimits(ctypes.Structure):
    _fields_ = (
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", ctypes.c_uint32),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", ctypes.c_uint32),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", ctypes.c_uint32),
        ("SchedulingClass", ctypes.c_uint32),
    )


class _ExtendedLimits(ctypes.Structure):
    _fields_ = (
        ("BasicLimitInformation", _BasicLimits),
        ("IoInfo", ctypes.c_uint64 * 6),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    )


def limit_own_memory(memory_mib: int) -> str:
    """Bound the committed memory of this process. "" if that worked, else why not."""
    if sys.platform != "win32":
        return "this is not Windows"
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.CreateJobObjectW.restype = ctypes.c_void_p
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.SetInformationJobObject.argtypes = (
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_uint32,
    )
    kernel.AssignProcessToJobObject.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    wanted = _ExtendedLimits()
    wanted.BasicLimitInformation.LimitFlags = (
        LIMIT_PROCESS_MEMORY | LIMIT_DIE_ON_UNHANDLED_EXCEPTION
    )
    wanted.ProcessMemoryLimit = memory_mib * 2**20
    job = kernel.CreateJobObjectW(None, None)
    if (
        job
        and kernel.SetInformationJobObject(
            job, EXTENDED_LIMIT_INFORMATION, ctypes.byref(wanted), ctypes.sizeof(wanted)
        )
        and kernel.AssignProcessToJobObject(job, kernel.GetCurrentProcess())
    ):
        return ""
    return f"Windows refuses it (error {ctypes.get_last_error()})"
