"""The generator's error tree: what can go wrong, and whose business it is.

The text of each is one sentence that a person can act on; the worker sends it on as `Failed`.
"""

from __future__ import annotations

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
