"""The generator's error tree: what can go wrong, and whose business it is.

The text of each is one sentence that a person can act on; the worker sends it on as `Failed`.
"""

from __future__ import annotations

import errno

from generator.protocol import ErrorKind


class GeneratorError(Exception):
    """Something a person can act on; `kind` says who that person is."""

    kind = ErrorKind.INTERNAL


class InputError(GeneratorError):
    """The request or one of its files is wrong."""

    kind = ErrorKind.INPUT


class ModelError(GeneratorError):
    """The model folder is incomplete or does not fit together, or the model computes nonsense."""

    kind = ErrorKind.MODEL


class OutOfMemoryError(GeneratorError):
    """The GPU or the machine has less memory than this job needs."""

    kind = ErrorKind.MEMORY


class DiskError(GeneratorError):
    """The disk is full or the folder can not be written."""

    kind = ErrorKind.DISK


_SHORT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory",
    "alloc_failed", "bad allocation", "paging file is too small",
    # cuDNN, where each of its ways to convolve wants more room than is left.
    "unable to find an engine to execute",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library ran out of memory, of the GPU or the machine; each says it in other words.

    torch has a type for its own allocator on a GPU alone: on the CPU, in cuBLAS, cuDNN and the
    driver it is a RuntimeError, and a file that can not be mapped is an OSError.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    words = str(error).lower() if isinstance(error, (RuntimeError, OSError)) else ""
    return any(known in words for known in _SHORT_OF_MEMORY)
